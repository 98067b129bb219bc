"""How well predictions of serving runs hold: errors, intervals and ranks, for each half of the rows apart."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mythos.plan.serving_predict import Prediction
from mythos.plan.serving_runs import ServingRun

Array = NDArray[np.float64]

LEAST = 5  # rows below which there is no verdict
LAYOUTS = 10  # a model with fewer has no rank correlation
MEDIAN_TARGET, MEAN_TARGET, COVERAGE, RANK_TARGET = 0.15, 0.20, (0.70, 0.95), 0.9


@dataclass(frozen=True, slots=True)
class Score:
    """Of the rows called `name`. Errors are |predicted / measured - 1|."""

    name: str
    rows: int
    median: float
    mean: float
    within: float  # share with an error of at most 20%
    inside: float  # share of measured TPOT inside the interval
    ttft_inside: float
    ranked: int  # models with at least LAYOUTS layouts
    rank: float  # median over these of Spearman's correlation, layout by layout

    @property
    def verdicts(self) -> dict[str, bool]:
        """Which targets are met; empty with fewer than LEAST rows."""
        if self.rows < LEAST:
            return {}
        found = {
            "median": self.median <= MEDIAN_TARGET,
            "mean": self.mean <= MEAN_TARGET,
            "inside": COVERAGE[0] <= self.inside <= COVERAGE[1],
            "ttft_inside": COVERAGE[0] <= self.ttft_inside <= COVERAGE[1],
        }
        return found | ({"rank": self.rank >= RANK_TARGET} if self.ranked else {})


Pair = tuple[ServingRun, Prediction]


def scores(pairs: Sequence[Pair]) -> list[Score]:
    """Held-out and fitted halves, each whole and by whether prompts share the decode steps."""
    found = []
    for half, held in (("held out", True), ("fitted", False)):
        rows = [pair for pair in pairs if pair[0].held_out == held and None not in pair[0].measurement]
        apart = [pair for pair in rows if pair[0].deployment.prefill]
        together = [pair for pair in rows if not pair[0].deployment.prefill]
        for name, part in (
            (half, rows),
            (f"{half}, aggregated", together),
            (f"{half}, disaggregated", apart),
        ):
            found.append(score(name, part))
    return found


def score(name: str, pairs: Sequence[Pair]) -> Score:
    if not pairs:
        nothing = float("nan")
        return Score(name, 0, nothing, nothing, nothing, nothing, nothing, 0, nothing)
    errors = np.array([abs(found.tpot.value / (run.tpot or 1) - 1) for run, found in pairs])
    inside = [found.tpot.low <= (run.tpot or 0) <= found.tpot.high for run, found in pairs]
    ttft = [found.ttft.low <= (run.ttft or 0) <= found.ttft.high for run, found in pairs]
    ranks = list(rank_by_model(pairs).values())
    return Score(
        name=name,
        rows=len(pairs),
        median=float(np.median(errors)),
        mean=float(errors.mean()),
        within=float((errors <= 0.2).mean()),
        inside=float(np.mean(inside)),
        ttft_inside=float(np.mean(ttft)),
        ranked=len(ranks),
        rank=float(np.median(ranks)) if ranks else float("nan"),
    )


def rank_by_model(pairs: Sequence[Pair]) -> dict[str, float]:
    """Spearman's correlation of measured and predicted TPOT over the layouts of each model that has at least
    LAYOUTS of them. A layout (with its system, engine and precision) stands with the median of its rows."""
    layouts: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for run, found in pairs:
        layouts[run.model][run.configuration].append((run.tpot or 0.0, found.tpot.value))
    return {
        model: spearman(np.array([np.median(rows, axis=0) for rows in of.values()]))
        for model, of in layouts.items()
        if len(of) >= LAYOUTS
    }


def spearman(pairs_N2: Array) -> float:
    """Pearson's correlation of the ranks, ties sharing theirs."""
    measured, found = (_ranks(column) for column in pairs_N2.T)
    return float(np.corrcoef(measured, found)[0, 1])


def _ranks(values_N: Array) -> Array:
    _, place_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place_N]
