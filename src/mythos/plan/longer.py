"""What a longer run would still win, from how the loss of one run fell.

    l = E + B / S^beta + H r                S: the sum of r over the tokens so far

r is the factor on the learning rate of a step, 1 on the stable part, so that S counts tokens by it. The first
two terms are those of the law of Tissue et al. 2024 (arXiv 2408.11029). For what annealing gains stands the
simplest that may be: noise that grows with the rate and goes when it does. A run of n times the tokens with
the same schedule ends at n times the S and the same r, so that H falls out of what it wins more.

The coefficients minimise squares and are not negative (for each beta of a grid every choice of terms is
tried). Each step has other text, so one run's loss is noisy and the terms are told apart badly: what counts
is not the coefficients but the interval, over runs put together from blocks of steps, drawn with replacement
(after Künsch 1989, Annals of Statistics 17, 1217, whose blocks overlap; these do not).

Shape letters: N steps, G blocks, F resamples, C terms
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from mythos.plan.huber import Array
from mythos.plan.scaling import Estimate, ScalingError

BLOCK = 8  # steps; losses of neighbours hardly hang together, and these are enough where they do
LEAST_BLOCKS = 8
FIRST = 3  # steps whose mean loss is what a run began with: of one alone the text decides too much
# The part of the resamples that an interval of 95% takes. Few blocks vary less than runs do: for runs by a
# known law, of 90 to 600 steps, the middle 95% hold the truth 76 to 96 times in a hundred, these 91 to 99.
MIDDLE = 0.995
BETAS = np.geomspace(0.05, 2.0, 30)
TIE = 1e-9  # of the sum of squares: where the steps drawn do not tell two choices apart, the simpler stays


def still_won(
    tokens: Sequence[float],
    losses: Sequence[float],
    rates: Sequence[float],
    times: Sequence[float],
    draws: int = 1000,
) -> list[Estimate]:
    """For each of `times` what a run of so many times the tokens wins beyond this one, as a share of what
    this one won: 0.1 is a tenth more. `losses` (nats) and `rates` (0 to 1) of each step, `tokens` up to it.

    The value is the median of the resamples, low and high are the ends of a 95% interval, none below 0. Steps
    without a finite loss, from which nothing was learnt, count for nothing. ScalingError for fewer than 64
    others from the first at the full rate on, or a loss that did not fall.
    """
    known_N = np.isfinite(np.array(losses, dtype=float))
    tokens_N, losses_N, rates_N = (
        np.array(column, dtype=float)[known_N] for column in (tokens, losses, rates)
    )
    warm = int(np.argmax(rates_N >= 1)) if (rates_N >= 1).any() else len(rates_N)
    steps = len(rates_N) - warm
    if steps < LEAST_BLOCKS * BLOCK:
        raise ScalingError(
            f"{steps} steps after the warm-up are too few to foresee a longer run.",
            f"Train for at least {LEAST_BLOCKS * BLOCK}.",
        )
    spent_N = np.cumsum(np.diff(tokens_N, prepend=0.0) * rates_N)
    blocks = steps // BLOCK
    late = slice(len(rates_N) - blocks * BLOCK, None)  # whole blocks
    random = np.random.default_rng(0)
    counts_FG = random.multinomial(blocks, np.full(blocks, 1 / blocks), size=draws).astype(float)
    found_FC, beta_F = _fit(spent_N[late] / spent_N[-1], losses_N[late], rates_N[late], counts_FG)
    end_F = found_FC @ np.array([1.0, 1.0, rates_N[-1]])
    won_F = losses_N[:FIRST].mean() - end_F
    if np.median(won_F) <= 0:
        raise ScalingError("The loss of this run did not fall.", "Look at its curve.")
    more = []
    for n in times:
        share_F = found_FC[:, 1] * (1 - float(n) ** -beta_F) / np.maximum(won_F, 1e-9)
        low, high = np.quantile(share_F, [(1 - MIDDLE) / 2, (1 + MIDDLE) / 2])
        more.append(Estimate(float(np.median(share_F)), float(low), float(high)))
    return more


def _fit(spent_N: Array, losses_N: Array, rates_N: Array, counts_FG: Array) -> tuple[Array, Array]:
    """(E, B, H) of each resample (F, C), with S in units of its end, and its beta (F)."""
    best_F = np.zeros(len(counts_FG))  # below 0 is better than no term at all
    found_FC, beta_F = np.zeros((len(counts_FG), 3)), np.zeros(len(counts_FG))
    for beta in BETAS:
        terms_NC = np.stack([np.ones_like(spent_N), spent_N**-beta, rates_N], 1)
        terms_GBC, losses_GB = terms_NC.reshape(-1, BLOCK, 3), losses_N.reshape(-1, BLOCK)
        square_FCC = np.tensordot(counts_FG, np.einsum("gbc,gbd->gcd", terms_GBC, terms_GBC), 1)
        along_FC = counts_FG @ np.einsum("gbc,gb->gc", terms_GBC, losses_GB)
        for size in (1, 2, 3):
            for chosen in map(list, combinations(range(3), size)):
                part = np.ix_(range(len(counts_FG)), chosen, chosen)
                ridge = 1e-9 * np.trace(square_FCC, axis1=1, axis2=2)[:, None, None] * np.eye(size)
                some_FC = np.linalg.solve(square_FCC[part] + ridge, along_FC[:, chosen, None])[:, :, 0]
                # The sum of squares without that of the losses, which all choices share.
                value_F = np.einsum("fc,fcd,fd->f", some_FC, square_FCC[part], some_FC)
                value_F = value_F - 2 * (some_FC * along_FC[:, chosen]).sum(1)
                better_F = (some_FC >= 0).all(1) & (value_F < best_F * (1 + TIE))
                best_F[better_F], beta_F[better_F] = value_F[better_F], beta
                found_FC[better_F] = 0.0
                found_FC[np.ix_(better_F, chosen)] = some_FC[better_F]
    return found_FC, beta_F
