"""Many robust fits of L = E + A X^-mu / N^alpha + B / D^beta at once.

Hoffmann et al. 2022 (arXiv 2203.15556, approach 3) minimise the sum over runs of

    Huber(log L - LSE(a - alpha log N - mu log X, b - beta log D, e)),  A = exp a, B = exp b, E = exp e

with delta = 1e-3. They used L-BFGS from a grid of starts. Here all starts, or all resamples of a bootstrap,
take their steps together: Levenberg-Marquardt on the quadratic that touches the Huber loss from above, with
weights min(1, delta / |residual|) (Huber 1981, chapter 7). Only steps that lower the objective are taken.

Shape letters: F fits (starts or resamples), R runs, P coefficients in the order of `Column`.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DELTA = 1e-3  # of the log residual: about 0.1 % of a loss
EXPONENTS = (0.01, 3.0)  # alpha and beta stay within these
SMALLEST_FLOOR = 1e-4  # E stays above this share of the smallest loss: below it, it is as good as none
_STALLED = 1e-10  # a step that gains less than this share of the objective counts as none
_PATIENCE = 6


class Column(IntEnum):
    """Where a coefficient stands; exponents are kept as logarithms, so that they stay positive."""

    A = 0
    B = 1
    E = 2
    LOG_ALPHA = 3
    LOG_BETA = 4
    MU = 5  # absent when the runs cannot show it


def minimise(
    points_R3: Array, logs_R: Array, counts_FR: Array, starts_FP: Array, rounds: int
) -> tuple[Array, Array]:
    """Where each start leads in at most `rounds` steps: coefficients (F, P) and the objective there (F).

    `points_R3` holds log N, log D and log X of each run, `logs_R` log L, `counts_FR` how often a fit counts a
    run. The points should be centred: the coefficients are those at the point 0, and far from it they hang
    together.
    """
    low, high = _box(starts_FP.shape[1], logs_R)
    best_FP = np.clip(starts_FP, low, high)
    best_F = np.full(len(best_FP), np.inf)
    damping_F = np.full(len(best_FP), 1e-2)
    idle_F = np.zeros(len(best_FP), dtype=int)
    trial_FP, moving = best_FP.copy(), np.arange(len(best_FP))
    gradient_FP, curve_FPP = np.zeros_like(best_FP), np.zeros((*best_FP.shape, best_FP.shape[1]))
    for _ in range(rounds):
        fitted_FR, slope_FRP = _model(trial_FP, points_R3)
        residual_FR = logs_R - fitted_FR
        size_FR = np.abs(residual_FR)
        inside_FR = np.minimum(size_FR, DELTA)
        value_F = (counts_FR[moving] * inside_FR * (size_FR - inside_FR / 2)).sum(1)
        better_F = value_F < best_F[moving]
        gain_F = best_F[moving] - value_F
        idle_F[moving] = np.where(gain_F > _STALLED * value_F, 0, idle_F[moving] + 1)
        damping_F[moving] = np.clip(damping_F[moving] * np.where(better_F, 0.3, 5.0), 1e-9, 1e9)
        won = moving[better_F]
        best_FP[won], best_F[won] = trial_FP[better_F], value_F[better_F]
        weight_FR = counts_FR[won] * DELTA / np.maximum(size_FR[better_F], DELTA)
        weighted_FPR = (slope_FRP[better_F] * weight_FR[:, :, None]).transpose(0, 2, 1)
        gradient_FP[won] = (weighted_FPR @ residual_FR[better_F][:, :, None])[:, :, 0]
        curve_FPP[won] = weighted_FPR @ slope_FRP[better_F]
        moving = moving[idle_F[moving] < _PATIENCE]
        if not len(moving):
            break
        trial_FP = np.clip(
            best_FP[moving] + _step(curve_FPP[moving], gradient_FP[moving], damping_F[moving]), low, high
        )
    return best_FP, best_F


def log_loss(theta_FP: Array, points_R3: Array) -> Array:
    """log L of every fit at every point (F, R)."""
    return _model(theta_FP, points_R3)[0]


def _model(theta_FP: Array, points_R3: Array) -> tuple[Array, Array]:
    """log L (F, R) and its derivatives by the coefficients (F, R, P)."""
    n_R, d_R, x_R = points_R3.T
    column_PF1 = theta_FP.T[:, :, None]
    alpha_F1, beta_F1 = np.exp(column_PF1[Column.LOG_ALPHA]), np.exp(column_PF1[Column.LOG_BETA])
    size_FR = column_PF1[Column.A] - alpha_F1 * n_R
    if theta_FP.shape[1] > Column.MU:
        size_FR = size_FR - column_PF1[Column.MU] * x_R
    data_FR = column_PF1[Column.B] - beta_F1 * d_R
    fitted_FR = np.logaddexp(np.logaddexp(size_FR, data_FR), column_PF1[Column.E])
    size_FR, data_FR = (
        np.exp(size_FR - fitted_FR),
        np.exp(data_FR - fitted_FR),
    )  # each term's share of the loss
    slopes = [size_FR, data_FR, 1 - size_FR - data_FR, -size_FR * alpha_F1 * n_R, -data_FR * beta_F1 * d_R]
    if theta_FP.shape[1] > Column.MU:
        slopes.append(-size_FR * x_R)
    return fitted_FR, np.stack(slopes, axis=-1)


def _step(curve_FPP: Array, gradient_FP: Array, damping_F: Array) -> Array:
    diagonal_FP = np.einsum("fpp->fp", curve_FPP)
    ridge_FP = damping_F[:, None] * diagonal_FP + 1e-12 * diagonal_FP.max(1, keepdims=True) + 1e-300
    damped_FPP = curve_FPP + ridge_FP[:, :, None] * np.eye(curve_FPP.shape[1])
    return np.clip(np.linalg.solve(damped_FPP, gradient_FP[:, :, None])[:, :, 0], -2.0, 2.0)


def _box(coefficients: int, logs_R: Array) -> tuple[Array, Array]:
    """Limits that keep a coefficient without influence from running away."""
    low, high = np.full(coefficients, -np.inf), np.full(coefficients, np.inf)
    low[Column.LOG_ALPHA] = low[Column.LOG_BETA] = np.log(EXPONENTS[0])
    high[Column.LOG_ALPHA] = high[Column.LOG_BETA] = np.log(EXPONENTS[1])
    low[[Column.A, Column.B, Column.E]] = logs_R.min() + np.log(SMALLEST_FLOOR)
    return low, high
