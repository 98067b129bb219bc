"""Forecasts of the largest models of a published sweep, from fits that never saw them.

    python bench/scaling_fit.py RUNS.csv [--params COLUMN] [--second] [--json]

RUNS.csv has one line for each run and validation set: `train_set`, `val_set`, `tokens`, `loss`, and a column
that counts parameters. The runs of Gadre et al. 2024 (arXiv 2403.08540, github.com/mlfoundations/scaling) can
be written so. Each pair of train and validation set is fitted by itself, by the same rule, without the runs
of the largest size. `--second` leaves out the two largest sizes and forecasts the smaller of them: so may a
rule be chosen without having seen what it will be judged by.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from mythos.plan.scaling import fit, forecast
from mythos.plan.sweep import read_runs


@dataclass(frozen=True)
class Cell:
    train_set: str
    val_set: str
    params: float
    tokens: float
    loss: float
    forecast: float
    low: float
    high: float

    @property
    def error(self) -> float:
        return self.forecast / self.loss - 1


def cells(path: Path, params: str, second: bool) -> list[Cell]:
    """A forecast for every run of the held-out size."""
    found = []
    for (train_set, val_set), runs in read_runs(path, ("train_set", "val_set"), params).items():
        sizes = sorted({run.params for run in runs})
        held = sizes[-2 if second else -1]
        fitted = fit([run for run in runs if run.params < held])
        for run in runs:
            if run.params == held:
                ahead = forecast(fitted, run.params, run.tokens).loss
                found.append(
                    Cell(train_set, val_set, held, run.tokens, run.loss, ahead.value, ahead.low, ahead.high)
                )
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("runs", type=Path)
    asked.add_argument("--params", default="params_no_embed", help="the column that counts parameters")
    asked.add_argument("--second", action="store_true", help="leave out two sizes, forecast the smaller")
    asked.add_argument("--json", action="store_true")
    told = asked.parse_args()
    begun = time.perf_counter()
    found = cells(told.runs, told.params, told.second)
    seconds = time.perf_counter() - begun
    errors = [abs(cell.error) for cell in found]
    summary = {
        "median_error": statistics.median(errors),
        "largest_error": max(errors),
        "inside_interval": sum(cell.low <= cell.loss <= cell.high for cell in found),
        "largest_error_by_val_set": {
            name: max(abs(cell.error) for cell in found if cell.val_set == name)
            for name in dict.fromkeys(cell.val_set for cell in found)
        },
        "seconds": seconds,
    }
    if told.json:
        print(json.dumps({"cells": [{**asdict(c), "error": c.error} for c in found], **summary}))
        return
    wide = max(len(cell.val_set) for cell in found)
    heads = f"{'train set':12} {'validation set':{wide}} {'params':>9} {'tokens':>9}"
    print(f"{heads} loss   forecast interval         error")
    for c in found:
        print(
            f"{c.train_set:12} {c.val_set:{wide}} {c.params:9.3g} {c.tokens:9.3g}"
            f" {c.loss:.4f} {c.forecast:.4f}   {c.low:.4f}-{c.high:.4f}  {c.error:+.2%}"
        )
    print()
    for name, error in summary["largest_error_by_val_set"].items():
        print(f"largest error, {name:{wide}} {error:.2%}")
    median, largest, inside = (summary[key] for key in ("median_error", "largest_error", "inside_interval"))
    print(f"{len(found)} cells: median error {median:.2%}, largest {largest:.2%}")
    print(f"{inside} of {len(found)} losses lie in their 95% intervals; {seconds:.1f} s")


if __name__ == "__main__":
    main()
