"""From measured serving runs to the factors of `mythos.plan.factors`, with intervals from runs held back.

Only runs outside the held-out configurations are used, and none that repeats a measurement of those under
another layout. Intervals are the spread of predictions for configurations, models and engines that a fit had
not seen.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mythos.plan.errors import PlanError
from mythos.plan.factors import FORMAT, Case, Factors, Law
from mythos.plan.serving import TERMS, closed_loop_terms
from mythos.plan.serving_fit import Plan, fit_law, predicted
from mythos.plan.serving_predict import TTFT_TERMS, case_of, ttft_terms
from mythos.plan.serving_runs import ServingRun

Array = NDArray[np.float64]

LEAST_RUNS = 30
FOLDS = 5
EDGES = (0.1, 0.9)
_LEAST_OF_CLASS = 40  # residuals from which an interval is taken; with fewer, of the next wider class

_EACH = tuple(range(len(TERMS)))
_BLOCKS = (0, 0, 0, 1, 1, 1, 2, 3, 2, 3)  # waits, memory, products, exchange
TPOT_PLANS = (
    Plan("engine", _EACH, 0.3),
    Plan("part", _EACH, 0.3),
    Plan("engine|part", _EACH, 0.6),
    Plan("kind", _EACH, 0.1),
    Plan("kind|engine", _EACH, 0.2),
    Plan("engine|model", _BLOCKS, 0.5),
    Plan("engine|model|precision", _BLOCKS, 0.2),
    Plan("engine|version", _BLOCKS, 0.5),
)
_FIRST = tuple(range(len(TTFT_TERMS)))
_ALL = (0,) * len(TTFT_TERMS)
TTFT_PLANS = (
    Plan("engine", _FIRST, 0.3),
    Plan("kind", _FIRST, 0.1),
    Plan("kind|engine", _FIRST, 0.2),
    Plan("engine|part", _FIRST, 0.5),
    Plan("engine|model", _ALL, 0.5),
    Plan("engine|version", _ALL, 0.5),
)


@dataclass(frozen=True, slots=True)
class Data:
    """Runs as arrays: N runs, K terms."""

    runs: list[ServingRun]
    cases: list[Case]
    ideal_NK: Array
    seconds_N: Array
    weights_N: Array  # a measurement that several rows repeat counts once

    def of(self, chosen: NDArray[np.intp]) -> "Data":
        return Data(
            [self.runs[at] for at in chosen],
            [self.cases[at] for at in chosen],
            self.ideal_NK[chosen],
            self.seconds_N[chosen],
            self.weights_N[chosen],
        )


def calibrate(runs: Sequence[ServingRun], *, dated: str, provenance: str, command: str) -> Factors:
    """PlanError when fewer than `LEAST_RUNS` usable runs are outside the held-out part."""
    used = usable(runs)
    if len(used) < LEAST_RUNS:
        raise PlanError(
            f"{len(used)} measured runs outside the held-out configurations.", f"Give {LEAST_RUNS} or more."
        )
    tpot, ttft = tpot_data(used), ttft_data(used)
    return Factors(
        FORMAT,
        dated,
        provenance,
        command,
        with_intervals(TERMS, tpot, TPOT_PLANS),
        with_intervals(TTFT_TERMS, ttft, TTFT_PLANS),
    )


def usable(runs: Sequence[ServingRun]) -> list[ServingRun]:
    """Measured runs of known models that nothing held out repeats."""
    held = {run.measurement for run in runs if run.held_out}
    return [
        run
        for run in runs
        if not run.held_out
        and run.measurement not in held
        and run.status == "predicted"
        and None not in run.measurement
    ]


def with_intervals(terms: tuple[str, ...], data: Data, plans: Sequence[Plan]) -> Law:
    """The law of all runs; its intervals from folds by configuration, by model and by engine on a part."""
    law = _fit(terms, data, plans)
    errors: dict[str, list[float]] = defaultdict(list)
    ways: list[Callable[[ServingRun], str]] = [
        lambda run: run.configuration,
        lambda run: run.model,
        lambda run: f"{run.deployment.engine}|{run.system}",
    ]
    for way in ways:
        for name, error in _unseen(terms, data, plans, way):
            errors[name].append(error)
    return replace(law, intervals=_intervals(errors))


def _unseen(
    terms: tuple[str, ...], data: Data, plans: Sequence[Plan], way: Callable[[ServingRun], str]
) -> list[tuple[str, float]]:
    """Class and log(measured / predicted) of each run, by a fit without what `way` puts in its fold."""
    folds_N = np.array([_fold(way(run)) for run in data.runs])
    found = []
    for fold in range(FOLDS):
        inside = np.flatnonzero(folds_N == fold)
        repeated = {data.runs[at].measurement for at in inside}
        outside = np.array(
            [at for at in np.flatnonzero(folds_N != fold) if data.runs[at].measurement not in repeated]
        )
        if not len(inside) or len(outside) < LEAST_RUNS:
            continue
        law, test = _fit(terms, data.of(outside), plans), data.of(inside)
        errors_N = np.log(test.seconds_N / predicted(law, test.ideal_NK, test.cases))
        found += [(law.class_of(case), float(e)) for case, e in zip(test.cases, errors_N, strict=True)]
    return found


def _intervals(errors: dict[str, list[float]]) -> dict[str, tuple[float, ...]]:
    """For each class its 10% and 90% quantiles; a class with few residuals takes those of all of its kind
    and of the classes known less, and never a narrower interval than a class known better."""
    found = {}
    for kind in ("aggregated", "disaggregated", "guessed"):
        widest = (0.0, 0.0)
        for known in ("model", "engine", "new"):
            name = f"{kind}, {known}"
            values = errors.get(name, [])
            if len(values) < _LEAST_OF_CLASS:
                values = [e for other in errors if other.startswith(kind) for e in errors[other]]
            if len(values) < _LEAST_OF_CLASS:
                values = [e for other in errors for e in errors[other]]
            low, high = np.quantile(values, EDGES).tolist() if values else (-1.0, 1.0)
            widest = (min(low, widest[0]), max(high, widest[1]))
            found[name] = widest
    return found


def _fold(text: str) -> int:
    return hashlib.sha256(f"fold|{text}".encode()).digest()[0] % FOLDS


def _fit(terms: tuple[str, ...], data: Data, plans: Sequence[Plan]) -> Law:
    return fit_law(terms, data.ideal_NK, data.seconds_N, data.cases, data.weights_N, plans)


def tpot_data(runs: list[ServingRun]) -> Data:
    """Terms and measured TPOT of runs whose model and accelerator are known."""
    return _data(runs, closed_loop_terms, [run.tpot or 0.0 for run in runs])


def ttft_data(runs: list[ServingRun]) -> Data:
    """The same of TTFT."""
    return _data(runs, ttft_terms, [run.ttft or 0.0 for run in runs])


def _data(runs: list[ServingRun], terms: Callable[..., Array], seconds: list[float]) -> Data:
    repeats = Counter(run.measurement for run in runs)
    return Data(
        runs,
        [
            case_of(run.config, run.deployment, run.part, run.guessed)
            for run in runs
            if run.config and run.part
        ],
        np.array(
            [
                terms(run.config, run.deployment, run.concurrency, run.prompt, run.answer, run.part)
                for run in runs
            ]
        ),
        np.array(seconds),
        np.array([1 / repeats[run.measurement] for run in runs]),
    )
