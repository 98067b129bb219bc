"""`mythos plan validate-serving` and `mythos plan calibrate-serving`."""

import json
import re
import time
from pathlib import Path
from typing import Any

from mythos.cli.output import CommandError, emit, json_wanted, note, table
from mythos.plan import factors as files
from mythos.plan.calibrate_serving import calibrate
from mythos.plan.factors import Factors
from mythos.plan.scaling import Estimate
from mythos.plan.serving_predict import Prediction, predict_run
from mythos.plan.serving_runs import ServingRun, read_serving_runs
from mythos.plan.serving_score import LAYOUTS, LEAST, Pair, Score, rank_by_model, scores

TARGETS = {
    "median": "median <= 15%",
    "mean": "mean <= 20%",
    "inside": "TPOT inside 70-95%",
    "ttft_inside": "TTFT inside 70-95%",
    "rank": "rank >= 0.9",
}


def run_validate_serving(path: Path, factors: Path | None) -> int:
    known = files.packaged() if factors is None else files.load(factors)
    runs = read_serving_runs(path)
    found = [(run, predict_run(run, known)) for run in runs]
    if json_wanted():
        for run, prediction in found:
            emit(_plain(run, prediction))
        return 0
    pairs = [(run, prediction) for run, prediction in found if prediction is not None]
    for status in sorted({run.status for run in runs} - {"predicted"}):
        rows = [run for run in runs if run.status == status]
        names = {"unknown-model": "model", "unknown-hardware": "system"}.get(status, "id")
        told = ", ".join(sorted({getattr(run, names) for run in rows}))
        note(f"{status}: {len(rows)} rows ({told[:200]})")
    _show(scores(pairs), pairs, known)
    return 0


def run_calibrate_serving(path: Path, output: Path | None, source: str) -> int:
    started = time.monotonic()
    target = f" --output {output.name}" if output else ""
    found = calibrate(
        read_serving_runs(path),
        dated=time.strftime("%Y-%m-%d", time.gmtime()),
        provenance=source,
        command=f"mythos plan calibrate-serving {path.name}{target}",
    )
    text = json.dumps(files.as_table(found), indent=1) + "\n"
    text = re.sub(r"\[[^][{}]*\]", lambda numbers: " ".join(numbers.group().split()), text)
    if output is None:
        print(text, end="")
    else:
        try:
            output.write_text(text)
        except OSError as error:
            raise CommandError(f"cannot write {output}: {error.strerror}", "name another --output") from error
    note(f"fitted in {time.monotonic() - started:.0f} s; rows of held-out configurations were not used")
    return 0


def _plain(run: ServingRun, prediction: Prediction | None) -> dict[str, Any]:
    """One line of `--json`: milliseconds."""
    line: dict[str, Any] = {"id": run.id}
    for name in ("ttft", "tpot"):
        estimate: Estimate | None = getattr(prediction, name) if prediction else None
        for key, field in (("", "value"), ("_low", "low"), ("_high", "high")):
            line[f"{name}_ms{key}"] = None if estimate is None else 1e3 * getattr(estimate, field)
    return line | {"status": run.status, "held_out": run.held_out}


def _show(found: list[Score], pairs: list[Pair], known: Factors) -> None:
    table(
        [
            "rows",
            "n",
            "TPOT median",
            "mean",
            "within 20%",
            "inside 80% interval",
            "TTFT inside",
            "rank (models)",
        ],
        [_row(one) for one in found],
    )
    for one in found[:4:3]:
        if not one.rows:
            continue
        told = ", ".join(f"{TARGETS[name]}: {'yes' if met else 'no'}" for name, met in one.verdicts.items())
        note(f"{one.name}: {told or f'no verdict from fewer than {LEAST} rows'}")
    ranks = rank_by_model(pairs)
    if ranks:
        table(
            ["model", "rank correlation over its layouts"],
            [(model, f"{rank:.3f}") for model, rank in sorted(ranks.items(), key=lambda pair: -pair[1])],
            f"all rows, models with at least {LAYOUTS} layouts",
        )
    note(f"factors of {known.dated}: {known.provenance}")


def _row(one: Score) -> list[str]:
    if not one.rows:
        return [one.name, "0", *["-"] * 6]
    return [
        one.name,
        str(one.rows),
        f"{one.median:.1%}",
        f"{one.mean:.1%}",
        f"{one.within:.0%}",
        f"{one.inside:.0%}",
        f"{one.ttft_inside:.0%}",
        f"{one.rank:.3f} ({one.ranked})" if one.ranked else "-",
    ]
