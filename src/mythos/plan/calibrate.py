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
from mythos.plan.efficiencies import Efficiencies, LeftOut, starting
from mythos.plan.errors import PlanError
from mythos.plan.moves import WIDTHS as ALL_WIDTHS
from mythos.plan.moves import moved
from mythos.plan.predict import Group, predict
from mythos.plan.validate import is_held_out
from mythos.records.errors import MythosError

Array = NDArray[np.float64]
WIDTHS = np.array(ALL_WIDTHS)

_CASE_WIDTH: dict[Group, float] = {"dense": 0.08, "moe": 0.15, "hours": 0.15}
_ROBUST = 1.5  # errors beyond this many widths count linearly
_WORTH = 3
_Z80 = NormalDist().inv_cdf(0.9)
_ROUNDS = 6
_NUDGE = 0.05


@dataclass(frozen=True, slots=True)
class Calibration:
    efficiencies: Efficiencies
    used: tuple[str, ...]  # ids of the cases that the fit saw
    before: float  # median absolute error of their predictions
    after: float
    unseen: float  # the same, each case foreseen by a fit without it


@dataclass(frozen=True, slots=True)
class _Fit:
    theta: Array  # in units of WIDTHS
    errors: Array  # of each case, in units of its width
    slope: Array  # of each error, by each of theta


def calibrate(cases: Sequence[Case], start: Efficiencies | None = None) -> Calibration:
    """Efficiencies for the training cases that are not held out; PlanError when there is none.

    Each case is also foreseen by the fit without it. The spread of intervals comes from these errors, and
    `left_out` keeps those fits, so that nothing is later held against a value that its prediction has seen.
    """
    start = start or starting()
    used = [case for case in cases if not is_held_out(case.id) and _is_timed(case, start)]
    if not used:
        raise PlanError(
            "The file has no training runs to fit.", "Every case needs inputs and a published value."
        )
    groups: list[Group] = [_group(case, start) for case in used]
    zero = np.zeros(len(WIDTHS))
    weights = np.array([1 / _CASE_WIDTH[group] for group in groups])
    before = float(np.median(np.abs(_errors(used, start, zero, weights) / weights)))
    whole = _fit(used, start, weights)
    left_out: dict[str, LeftOut] = {}
    unseen = np.zeros(len(used))
    for place, case in enumerate(used):
        kept = np.arange(len(used)) != place
        theta, leverage = _next(whole.theta, whole.errors[kept], whole.slope[kept])
        unseen[place] = _log_error(case, moved(start, (theta * WIDTHS).tolist()))
        # what the others' errors would be without each of them (Hastie et al. 2009, section 7.10)
        others = whole.errors[kept] + whole.slope[kept] @ (theta - whole.theta)
        spread = _spreads(
            [*groups[:place], *groups[place + 1 :]],
            others / weights[kept] / (1 - leverage),
            start,
        )
        left_out[case.id] = LeftOut(tuple(float(f"{move:.4g}") for move in theta * WIDTHS), spread)
    eff = moved(start, (whole.theta * WIDTHS).tolist())
    return Calibration(
        replace(eff, spread=start.spread | _spreads(groups, unseen, start), left_out=left_out),
        tuple(case.id for case in used),
        before,
        float(np.median(np.abs(whole.errors / weights))),
        float(np.median(np.abs(unseen))),
    )


def _fit(used: Sequence[Case], start: Efficiencies, weights: Array) -> _Fit:
    """Gauss-Newton from the starting values."""
    theta = np.zeros(len(WIDTHS))
    found, slope = _errors(used, start, theta, weights), np.zeros((len(used), len(WIDTHS)))
    for _ in range(_ROUNDS):
        nudged = [_errors(used, start, theta + nudge, weights) for nudge in _NUDGE * np.eye(len(theta))]
        slope = np.stack([(errors - found) / _NUDGE for errors in nudged], 1)
        move = _next(theta, found, slope)[0] - theta
        size, best = 1.0, _loss(found, theta)
        tried = _errors(used, start, theta + move, weights)
        while size > 0.05 and _loss(tried, theta + size * move) > best:
            size /= 2
            tried = _errors(used, start, theta + size * move, weights)
        theta, found = theta + size * move, tried
    return _Fit(theta, found, slope)


def _next(theta: Array, found: Array, slope: Array) -> tuple[Array, Array]:
    """One Gauss-Newton step, and the leverage of each case; the prior is a row of the identity for each
    coefficient. From the end of a fit and without one of its rows, it leads to the fit without that case."""
    robust = np.sqrt(_ROBUST / np.maximum(np.abs(found), _ROBUST))
    rows = np.concatenate([slope * robust[:, None], np.eye(len(theta))])
    goal = np.concatenate([-found * robust, -theta])
    seen = rows[: len(found)]
    leverage = np.einsum("ij,ji->i", seen, np.linalg.solve(rows.T @ rows, seen.T))
    return theta + np.linalg.lstsq(rows, goal, rcond=None)[0], leverage


def _errors(used: Sequence[Case], start: Efficiencies, theta: Array, weights: Array) -> Array:
    eff = moved(start, (theta * WIDTHS).tolist())
    return np.array([_log_error(case, eff) for case in used]) * weights


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


def _spreads(groups: Sequence[Group], unseen: Array, start: Efficiencies) -> dict[str, float]:
    """By group, the standard deviation of which an 80% interval holds 80% of these log errors of cases that
    their fit had not seen. A group of few is held to the starting spread, as if that were `_WORTH` cases."""
    found: dict[str, list[float]] = {}
    for group, error in zip(groups, unseen.tolist(), strict=True):
        found.setdefault(group, []).append(abs(error))
    spread = {}
    for group, sizes in found.items():
        own, many = float(np.quantile(sizes, 0.8)) / _Z80, len(sizes)
        spread[group] = math.exp(
            (many * math.log(max(own, 1e-3)) + _WORTH * math.log(start.spread[group])) / (many + _WORTH)
        )
    return spread
