"""Training runs from a CSV file, for one fit or, split by columns, for several."""

import csv
from collections.abc import Sequence
from pathlib import Path

from mythos.plan.errors import reason
from mythos.plan.scaling import ScalingError, ScalingRun

NEEDED = ("tokens", "loss")


def read_runs(
    path: Path, by: Sequence[str] = (), params: str = "params"
) -> dict[tuple[str, ...], tuple[ScalingRun, ...]]:
    """The runs of each series, in the order in which the series appear; one series `()` without `by`.

    Columns: `params` (or the one named so), `tokens`, `loss`; if present and not empty, `active_params` and
    `run`; `by` names the columns whose values tell series apart. Others are ignored. ScalingError names the
    line of a value that is no positive number, or the column that is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            heads = reader.fieldnames or ()
            for column in (params, *NEEDED, *by):
                if column not in heads:
                    raise ScalingError(
                        f"{path} has no column {column!r}",
                        f"its columns are {', '.join(heads)}"
                        if heads
                        else "the first line names the columns",
                    )
            series: dict[tuple[str, ...], list[ScalingRun]] = {}
            for row in reader:
                key = tuple(row[column] or "" for column in by)
                series.setdefault(key, []).append(_run(row, params, f"{path}, line {reader.line_num}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScalingError(
            f"{path} cannot be read: {reason(error)}", "give a CSV file with a line of heads"
        ) from None
    if not series:
        raise ScalingError(f"{path} holds no runs", "one line for each run, below the heads")
    return {key: tuple(runs) for key, runs in series.items()}


def _run(row: dict[str, str], params: str, where: str) -> ScalingRun:
    active = row.get("active_params")
    try:
        return ScalingRun(
            params=float(row[params]),
            tokens=float(row["tokens"]),
            loss=float(row["loss"]),
            active=float(active) if active else None,
            run=row.get("run") or "",
        )
    except ScalingError as error:
        raise ScalingError(f"{where}: {error.message}", error.cure) from None
    except (TypeError, ValueError) as error:
        raise ScalingError(f"{where}: {error}", "write plain numbers such as 124628544 or 1.2e8") from None
