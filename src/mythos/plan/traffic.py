"""Traffic from a file: one line for each request."""

import csv
import math
from pathlib import Path

import numpy as np

from mythos.plan.errors import PlanError, reason
from mythos.plan.fleet import Traffic
from mythos.plan.simulate import Requests

COLUMNS = ("arrival", "prompt", "answer")
MOST_LINES = 1_000_000


def read_traffic(path: Path) -> tuple[Requests, Traffic]:
    """Requests of a CSV file with columns arrival (seconds), prompt, answer and, where known, cached (prompt
    tokens that a prefix cache spares), in any order of time; and their means. PlanError naming the line."""
    rows: list[tuple[float, int, int, int]] = []
    try:
        with path.open(newline="") as source:
            reader = csv.DictReader(source)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or [])]:
                raise PlanError(
                    f"{path.name} lacks the column {missing[0]}.", f"Needed are {', '.join(COLUMNS)}."
                )
            for row in reader:
                if len(rows) == MOST_LINES:
                    raise PlanError(f"{path.name} has over {MOST_LINES:,} requests.", "Give a part of it.")
                rows.append(_row(row, f"{path.name}, line {reader.line_num}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PlanError(
            f"{path} cannot be read ({reason(error)}).", "Give a CSV file with a line of heads."
        ) from None
    if len(rows) < 2:
        raise PlanError(f"{path.name} has {len(rows)} requests.", "Give two or more.")
    rows.sort()
    arrivals, prompts, answers, cached = (np.array(column) for column in zip(*rows, strict=True))
    lasting = float(arrivals[-1] - arrivals[0])
    if lasting <= 0:
        raise PlanError(f"All requests of {path.name} arrive at one time.", "Give arrivals in seconds.")
    asked = Requests(arrivals - arrivals[0], prompts, answers, prompts - cached)
    traffic = Traffic(
        rate=(len(rows) - 1) / lasting,
        prompt=float(prompts.mean()),
        answer=float(answers.mean()),
        hits=float(cached.sum() / prompts.sum()),
    )
    return asked, traffic


def _row(row: dict[str, str], where: str) -> tuple[float, int, int, int]:
    try:
        arrival = float(row["arrival"])
        prompt, answer = int(row["prompt"]), int(row["answer"])
        cached = int(row.get("cached") or 0)
    except (TypeError, ValueError):
        raise PlanError(f"{where} is not understood.", "Write seconds and whole numbers of tokens.") from None
    if not (math.isfinite(arrival) and arrival >= 0 and prompt >= 1 and answer >= 1 and 0 <= cached < prompt):
        raise PlanError(f"{where} has no possible request.", "Tokens of 1 or more, fewer cached than asked.")
    return arrival, prompt, answer, cached
