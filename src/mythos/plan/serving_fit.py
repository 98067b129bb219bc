"""Fits the factors of serving times: positive, by levels, robust against runs that went wrong.

Minimised over logarithms of factors (so that none is negative) is the sum over runs of the Huber loss of
log(measured / predicted), plus a ridge that pulls each level's factors to 1: what a level does not need, it
does not have. Gauss-Newton with iteratively reweighted residuals, all levels at once.

Letters: N runs, K terms, P parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mythos.plan.factors import Case, Law, Level

Array = NDArray[np.float64]
Ints = NDArray[np.intp]

DELTA = 0.05  # of the log residual, where the Huber loss turns from square to straight
_COMMON_RIDGE = 0.02
_ROUNDS = 40
_LARGEST_STEP = 0.7
_STILL = 2e-3


@dataclass(frozen=True, slots=True)
class Plan:
    """A level to fit: which terms share a value, and how strongly it is pulled to 1."""

    name: str
    blocks: tuple[int, ...]
    ridge: float


def fit_law(
    terms: tuple[str, ...],
    ideal_NK: Array,
    seconds_N: Array,
    cases: Sequence[Case],
    weights_N: Array,
    plans: Sequence[Plan],
    delta: float = DELTA,
) -> Law:
    """The law without its intervals. `ideal_NK` are the terms of each run, `seconds_N` what was measured."""
    count, width = ideal_NK.shape
    keys = [[case.key(plan.name) for case in cases] for plan in plans]
    names = [{key: place for place, key in enumerate(sorted(set(column) - {""}))} for column in keys]
    starts, total = [], width
    for plan, known in zip(plans, names, strict=True):
        starts.append(total)
        total += len(known) * (max(plan.blocks) + 1)
    ridge_P = np.full(total, _COMMON_RIDGE)
    columns = []  # per plan: first column of each run, -1 for none
    for plan, known, column, start in zip(plans, names, keys, starts, strict=True):
        values = max(plan.blocks) + 1
        ridge_P[start : start + len(known) * values] = plan.ridge
        columns.append(np.array([start + known[key] * values if key else -1 for key in column]))
    groups = _groups(count, width, plans, columns)
    theta_P, logs_N = np.zeros(total), np.log(seconds_N)
    for _ in range(_ROUNDS):
        scaled_NK = ideal_NK * np.exp(_logs(theta_P, width, plans, columns, count))
        sum_N = scaled_NK.sum(1)
        residual_N = logs_N - np.log(sum_N)
        slope_NK = scaled_NK / sum_N[:, None]
        trust_N = weights_N / np.maximum(np.abs(residual_N) / delta, 1.0)
        curve_PP = np.diag(ridge_P + 1e-3)
        gradient_P = -ridge_P * theta_P
        for rows, places, chosen in groups:
            slope = slope_NK[rows] @ chosen
            trusted = slope * trust_N[rows, None]
            curve_PP[np.ix_(places, places)] += slope.T @ trusted
            gradient_P[places] += trusted.T @ residual_N[rows]
        step_P = np.clip(np.linalg.solve(curve_PP, gradient_P), -_LARGEST_STEP, _LARGEST_STEP)
        theta_P = theta_P + step_P
        if np.abs(step_P).max() < _STILL:
            break
    levels = []
    for plan, known, start in zip(plans, names, starts, strict=True):
        values = max(plan.blocks) + 1
        found = {
            key: tuple(theta_P[start + at * values : start + (at + 1) * values].tolist())
            for key, at in known.items()
        }
        levels.append(Level(plan.name, plan.blocks, found))
    return Law(terms, tuple(theta_P[:width].tolist()), tuple(levels), {})


def predicted(law: Law, ideal_NK: Array, cases: Sequence[Case]) -> Array:
    """Seconds of every run (N)."""
    return np.array(
        [float(ideal_K @ law.factors(case)) for ideal_K, case in zip(ideal_NK, cases, strict=True)]
    )


def _logs(theta_P: Array, width: int, plans: Sequence[Plan], columns: Sequence[Ints], count: int) -> Array:
    logs_NK = np.tile(theta_P[:width], (count, 1))
    for plan, first_N in zip(plans, columns, strict=True):
        known = first_N >= 0
        logs_NK[known] += theta_P[first_N[known][:, None] + np.array(plan.blocks)]
    return logs_NK


def _groups(
    count: int, width: int, plans: Sequence[Plan], columns: Sequence[Ints]
) -> list[tuple[Ints, Ints, Array]]:
    """Runs that share all their keys: their rows, their parameters' places, and which terms (K) each of those
    stands for. What a step of the fit costs then hangs on keys, not on runs times parameters."""
    if not plans:
        return [(np.arange(count), np.arange(width), np.eye(width))]
    firsts = np.stack(columns, axis=1)
    kinds, member_N = np.unique(firsts, axis=0, return_inverse=True)
    found = []
    for at, starts in enumerate(kinds):
        places, chosen = [np.arange(width)], [np.eye(width)]
        for plan, start in zip(plans, starts, strict=True):
            if start >= 0:
                values = max(plan.blocks) + 1
                places.append(start + np.arange(values))
                chosen.append(np.eye(values)[list(plan.blocks)])
        rows = np.flatnonzero(member_N.ravel() == at)
        found.append((rows, np.concatenate(places), np.concatenate(chosen, axis=1)))
    return found
