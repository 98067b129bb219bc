"""How well serving times are foreseen, beside simpler ways, and for configurations that no fit has seen.

    python bench/serving_plan.py RUNS.csv [--folds N]

RUNS.csv has the form of aiconfigurator's `silicon_sample.csv`. On the held-out rows (30% of configurations,
by hash) stand: one roofline with 70% of bandwidth, 60% of peak and 12 microseconds a layer; factors for each
engine on each accelerator alone; the factors that come with the package. With `--folds`, the fitted rows are
divided by configuration into five parts, N times over, and each part is foreseen by a fit to the others.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from mythos.plan.calibrate_serving import TPOT_PLANS, tpot_data, usable
from mythos.plan.factors import packaged
from mythos.plan.serving import TERMS
from mythos.plan.serving_fit import Plan, fit_law, predicted
from mythos.plan.serving_runs import read_serving_runs

PARTS = 5
ROOFLINE = dict(zip(TERMS, (12, 0, 0, 1 / 0.7, 1 / 0.7, 1 / 0.7, 1 / 0.6, 0, 1 / 0.6, 0), strict=True))
PAIR = (Plan("engine|part", tuple(range(len(TERMS))), 0.02),)


def told(name: str, data, found) -> None:
    errors = np.abs(found / data.seconds_N - 1)
    apart = np.array([bool(run.deployment.prefill) for run in data.runs])
    for title, chosen in (("all", apart >= 0), ("aggregated", ~apart), ("disaggregated", apart)):
        part = errors[chosen]
        if len(part):
            print(
                f"{name:34s} {title:14s} n {len(part):5d}"
                f"  median {np.median(part):6.1%}  mean {part.mean():6.1%}"
            )


def folded(data, seed: int) -> np.ndarray:
    """Seconds of each run by a fit to the other parts."""
    found = np.zeros(len(data.runs))
    part = np.array(
        [hashlib.sha256(f"{seed}|{run.configuration}".encode()).digest()[0] % PARTS for run in data.runs]
    )
    for fold in range(PARTS):
        inside = np.flatnonzero(part == fold)
        seen = {data.runs[at].measurement for at in inside}
        outside = np.array(
            [at for at in np.flatnonzero(part != fold) if data.runs[at].measurement not in seen]
        )
        learn, test = data.of(outside), data.of(inside)
        law = fit_law(TERMS, learn.ideal_NK, learn.seconds_N, learn.cases, learn.weights_N, TPOT_PLANS)
        found[inside] = predicted(law, test.ideal_NK, test.cases)
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("runs", type=Path)
    asked.add_argument("--folds", type=int, default=0)
    options = asked.parse_args()
    runs = read_serving_runs(options.runs)
    fitted = tpot_data(usable(runs))
    held = tpot_data([run for run in runs if run.held_out and run.status == "predicted" and run.tpot])
    told("held out: one roofline", held, held.ideal_NK @ np.array(list(ROOFLINE.values())))
    law = fit_law(TERMS, fitted.ideal_NK, fitted.seconds_N, fitted.cases, fitted.weights_N, PAIR)
    told("held out: by engine on accelerator", held, predicted(law, held.ideal_NK, held.cases))
    told("held out: packaged", held, predicted(packaged().tpot, held.ideal_NK, held.cases))
    for seed in range(options.folds):
        told(f"five folds of the fitted, {seed}", fitted, folded(fitted, seed))


if __name__ == "__main__":
    main()
