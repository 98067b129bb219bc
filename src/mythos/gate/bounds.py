"""Exact one-sided bounds of a success rate, and what may be said when samples hang together or a judge errs.

Clopper and Pearson (1934): the upper bound of k successes in n at confidence 1-a is the p with
P(X <= k; n, p) = a, the lower bound the p with P(X >= k; n, p) = a. Both are quantiles of a beta
distribution, whose distribution function is the regularised incomplete beta, by its continued fraction
(Abramowitz and Stegun 26.5.8, by Lentz's method); the quantile by bisection. Plain Python: no library can
change under it.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache

_TINY = 1e-300


@cache
def upper(k: float, n: float, confidence: float) -> float:
    """Upper bound of the rate after `k` successes in `n` samples; 1.0 when nothing is known (n = 0).

    Non-integer counts (effective sample sizes) are taken as they are.
    """
    _check(k, n, confidence)
    return 1.0 if k >= n else _quantile(confidence, k + 1, n - k)


@cache
def lower(k: float, n: float, confidence: float) -> float:
    """Lower bound of the rate; 0.0 when nothing is known."""
    _check(k, n, confidence)
    return 0.0 if k <= 0 else _quantile(1 - confidence, k, n - k + 1)


def clustered_upper(clusters: Mapping[str, Sequence[bool]], confidence: float) -> float:
    """Upper bound when samples of one cluster may hang together: taken as if they were copies of one.

    With m samples in each cluster, n^2 / sum(m^2) of them count (Kish, 1965): all n when each stands alone,
    the number of clusters when they are of one size. How much they do hang together is not estimated: such
    an estimate falls when successes spread, so that one success more could lower the bound. For the mean of
    independent values in [0, 1] the binomial tail is the worst (Hoeffding, 1956).
    """
    n = sum(map(len, clusters.values()))
    if n == 0:
        return 1.0
    k = sum(map(sum, clusters.values()))
    size = n * n / sum(len(values) ** 2 for values in clusters.values())
    return max(upper(k, n, confidence), upper(min(k / n * size, size), size, confidence))


def corrected_upper(
    observed: float, true_calls: tuple[int, int], false_calls: tuple[int, int], confidence: float
) -> float:
    """An upper bound of the true rate, given one (`observed`) of the rate at which a judge says yes.

    Rogan and Gladen (1978): true = (observed + specificity - 1) / (sensitivity + specificity - 1), taken at
    the lower bound of the sensitivity and at the upper bound of the specificity, which make it largest.
    `true_calls` are (yes, all) on labelled positives, `false_calls` (yes, all) on labelled negatives. The
    correction only raises: a judge's false alarms are no reason to believe in fewer successes.
    """
    sensitivity = lower(true_calls[0], true_calls[1], confidence)
    specificity = 1 - lower(false_calls[0], false_calls[1], confidence)
    if sensitivity + specificity <= 1:
        return 1.0
    return min(1.0, max(observed, (observed + specificity - 1) / (sensitivity + specificity - 1)))


def selftest() -> bool:
    """Known values; False when arithmetic on this machine cannot be trusted."""
    known = {(40, 100): 0.487024, (42, 100): 0.507159, (0, 299): 0.009969, (3, 10): 0.606624}
    return all(abs(upper(k, n, 0.95) - value) < 1e-6 for (k, n), value in known.items())


def _check(k: float, n: float, confidence: float) -> None:
    if not (0 <= k <= n < 1e9 and 0.5 <= confidence < 1):
        raise ValueError(f"no bound for {k} of {n} at {confidence}")


def _quantile(p: float, a: float, b: float) -> float:
    """The x at which the beta distribution (a, b) reaches p; bisection down to neighbouring floats."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if incomplete_beta(middle, a, b) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), the distribution function of the beta distribution."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return front * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > _TINY else _TINY)
    value = d
    for m in range(1, 10_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + numerator * d
            d = 1 / (d if abs(d) > _TINY else _TINY)
            c = 1 + numerator / c
            c = c if abs(c) > _TINY else _TINY
            step = c * d
            value *= step
        if abs(step - 1) < 1e-15:
            break
    return value
