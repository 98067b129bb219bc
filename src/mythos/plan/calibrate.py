"""Efficiencies fitted to published runs, held to their starting values where the runs say little.

The fit minimises the squared errors of log(published / predicted), each beyond `_ROBUST` counted linearly,
plus the squared distance of every coefficient from its starting value in units of how well that is known. So
a coefficient that no run bears on keeps its value, and no single run moves one far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mythos.plan.cases import Case
from mythos.plan.efficiencies import Efficiencies, starting
from mythos.plan.errors import PlanError
from mythos.plan.predict import Group, predict
from mythos.plan.validate import is_held_out
from mythos.records.errors import MythosError

Array = NDArray[np.float64]

# Standard deviation of the logarithm (of a share's odds) around the starting value.
_SHARES = {
    "grouped": 0.5, "attention": 0.4, "bandwidth": 0.3, "scale_up": 0.3, "scale_out": 0.4, "all_to_all": 0.5,
    "overlap_tp": 0.7, "overlap_ep": 0.7,
}  # fmt: skip
_FACTORS = {"collective": 0.3, "whole_run": 0.06}
_GAP_WIDTH = 0.5
_GENERATIONS = {
    "A100": ("A100", "A100 40GB"),
    "Hopper": ("H100", "H800", "H200"),
    "Blackwell": ("B200", "B300", "GB200", "GB300"),
}
_GENERATION_WIDTH = 0.08  # of each generation's rate of products, and of that below 16 bits
_CASE_WIDTH: dict[Group, float] = {"dense": 0.08, "moe": 0.15, "hours": 0.15}
_ROBUST = 1.5  # errors beyond this many widths count linearly
_WORTH = 3
_Z80 = NormalDist().inv_cdf(0.9)
_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Calibration:
    efficiencies: Efficiencies
    used: tuple[str, ...]  # ids of the cases that the fit saw
    before: float  # median absolute error of their predictions
    after: float


def calibrate(cases: Sequence[Case], start: Efficiencies | None = None) -> Calibration:
    """Efficiencies for the training cases that are not held out; PlanError when there is none."""
    start = start or starting()
    used = [case for case in cases if not is_held_out(case.id) and _is_timed(case, start)]
    if not used:
        raise PlanError(
            "The file has no training runs to fit.", "Every case needs inputs and a published value."
        )
    rates = [_GENERATION_WIDTH] * (len(_GENERATIONS) + 1)
    widths = np.array([*_SHARES.values(), *_FACTORS.values(), _GAP_WIDTH, *rates])
    theta, leverage = np.zeros(len(widths)), np.zeros(len(used))
    weights = np.array([1 / _CASE_WIDTH[_group(case, start)] for case in used])

    def errors(at: Array) -> Array:
        eff = _moved(start, at * widths)
        return np.array([_log_error(case, eff) for case in used]) * weights

    found = errors(theta)
    before = float(np.median(np.abs(found / weights)))
    for _ in range(_ROUNDS):  # Gauss-Newton; the prior is a row of the identity for each coefficient
        slope = np.stack([(errors(theta + nudge) - found) / 0.05 for nudge in 0.05 * np.eye(len(theta))], 1)
        robust = np.sqrt(_ROBUST / np.maximum(np.abs(found), _ROBUST))
        rows = np.concatenate([slope * robust[:, None], np.eye(len(theta))])
        goal = np.concatenate([-found * robust, -theta])
        seen = rows[: len(found)]
        leverage = np.einsum("ij,ji->i", seen, np.linalg.solve(rows.T @ rows, seen.T))
        move = np.linalg.lstsq(rows, goal, rcond=None)[0]
        size, best = 1.0, _loss(found, theta)
        while size > 0.05 and _loss(errors(theta + size * move), theta + size * move) > best:
            size /= 2
        theta = theta + size * move
        found = errors(theta)
    eff = _moved(start, theta * widths)
    eff = replace(eff, spread=start.spread | _spreads(used, eff, leverage, start))
    return Calibration(
        eff, tuple(case.id for case in used), before, float(np.median(np.abs(found / weights)))
    )


def _loss(found: Array, theta: Array) -> float:
    size = np.abs(found)
    rows = np.where(size <= _ROBUST, size**2, 2 * _ROBUST * size - _ROBUST**2)
    return float(rows.sum() + (theta**2).sum())


def _is_timed(case: Case, eff: Efficiencies) -> bool:
    if case.value is None or case.value <= 0 or not case.kind.startswith("train"):
        return False
    try:
        return predict(case, eff).group in _CASE_WIDTH
    except MythosError:
        return False


def _group(case: Case, eff: Efficiencies) -> Group:
    return predict(case, eff).group


def _log_error(case: Case, eff: Efficiencies) -> float:
    """log(published / predicted), of a time; turned round for what falls as time grows."""
    found = predict(case, eff)
    assert case.value is not None
    error = math.log(case.value / found.value)
    return -error if found.detail == "throughput" else error


def _moved(start: Efficiencies, by: Array) -> Efficiencies:
    values: dict[str, float] = {}
    names = [*_SHARES, *_FACTORS]
    for name, step in zip(names, by, strict=False):
        value = getattr(start, name)
        if name in _FACTORS:
            values[name] = value * math.exp(step)
        else:
            odds = value / (1 - value) * math.exp(step)
            values[name] = odds / (1 + odds)
    gap = {part: value * math.exp(by[len(names)]) for part, value in start.gap.items()}
    steps = by[len(names) + 1 :]
    matmul = {}
    for part, shares in start.matmul.items():
        place = next((n for n, parts in enumerate(_GENERATIONS.values()) if part in parts), None)
        own = 0.0 if place is None else steps[place]
        matmul[part] = {
            kind: min(share * math.exp(own + (0.0 if kind == "bf16" else steps[-1])), 0.95)
            for kind, share in shares.items()
        }
    return replace(start, matmul=matmul, gap=gap, **values)


def _spreads(
    used: Sequence[Case], eff: Efficiencies, leverage: Array, start: Efficiencies
) -> dict[str, float]:
    """By group, what an 80% interval of the log errors spans, were each case left out of the fit.

    Leaving case i out of a linear fit divides its residual by 1 - h, h its leverage (Hastie et al. 2009,
    section 7.10). A group of few cases is held to the starting spread, as if that were `_WORTH` cases.
    """
    found: dict[str, list[float]] = {}
    for case, share in zip(used, leverage, strict=True):
        found.setdefault(_group(case, start), []).append(abs(_log_error(case, eff)) / (1 - share))
    spread = {}
    for group, sizes in found.items():
        own, many = float(np.quantile(sizes, 0.8)) / _Z80, len(sizes)
        spread[group] = math.exp(
            (many * math.log(max(own, 1e-3)) + _WORTH * math.log(start.spread[group])) / (many + _WORTH)
        )
    return spread
