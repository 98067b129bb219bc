"""Scaling laws: how a model's loss falls with parameters and tokens, and what the next one will reach.

    L(N, D) = E + A / N^alpha + B / D^beta                   Hoffmann et al. 2022, arXiv 2203.15556, eq. 2
    L(N, D, X) = E + A X^-mu / N^alpha + B / D^beta          with mixtures of experts among the runs

N is the parameters active for a token, D the training tokens, X all parameters by active ones (1 for a dense
model), L nats per token. X^-mu follows the separable law of routed models (Clark et al. 2022, arXiv
2202.01169: a power of the number of experts beside one of N), with X in place of that number, which does not
compare between models with shared or narrow experts. Tian et al. 2025 (arXiv 2507.17702) find a power law in
the activation ratio, too. When every run has the same X, nothing is known of mu and the term is absent.

`fit` minimises the Huber loss of log residuals (see `huber`); intervals come from a bootstrap of whole runs
(Efron and Tibshirani 1993, chapter 13: percentiles). Besiroglu et al. 2024 (arXiv 2404.10102) show how far a
fit of this form can go astray without them.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

import numpy as np

from mythos.plan.huber import Array, Column, log_loss, minimise
from mythos.records.errors import MythosError

FLOPS_PER_PARAMETER_AND_TOKEN = 6  # forward and backward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)
LEAST_VALUES = 3  # of N and of D: two would leave E open
NORMAL_MAD = 1.4826  # a normal distribution's standard deviation by the median size of its values
SPARE_RUNS = 4  # more runs than coefficients: nine of a dense sweep, three sizes by three budgets
_ROUNDS = 400
_SCREENING_ROUNDS = 40
_FINALISTS = 12


class ScalingError(MythosError):
    """Runs that no law can be fitted to, or a question that a fit cannot answer."""


@dataclass(frozen=True, slots=True)
class ScalingRun:
    """One training run and the loss it ended with. ScalingError when a value is no positive finite number."""

    params: float  # all parameters
    tokens: float  # seen in training
    loss: float  # nats per token on the validation set
    active: float | None = None  # parameters active for a token; None: all of them
    run: str = ""  # rows of one run (its checkpoints, say) are resampled together; "": a run of its own

    def __post_init__(self) -> None:
        active = self.params if self.active is None else self.active
        _positive(params=self.params, tokens=self.tokens, loss=self.loss, active=active)
        if active > self.params:
            raise ScalingError(
                f"a run has {active:g} active of {self.params:g} parameters",
                "params counts all parameters, active those that one token passes through",
            )


@dataclass(frozen=True, slots=True)
class Law:
    """The coefficients of the formula above; N and D in single parameters and tokens."""

    e: float
    a: float
    alpha: float
    b: float
    beta: float
    mu: float = 0.0

    def loss(self, active: float, tokens: float, ratio: float = 1.0) -> float:
        """L in nats per token, of `active` parameters, `ratio` times as many in all, after `tokens`."""
        return self.e + self.a * ratio**-self.mu * active**-self.alpha + self.b * tokens**-self.beta


@dataclass(frozen=True, slots=True)
class ScalingFit:
    """A law, and how far the runs determine it: `low` and `high` are the ends of each interval."""

    law: Law
    low: Law
    high: Law
    confidence: float  # of every interval, two-sided
    runs: int
    scatter: float  # standard deviation of log(loss / law) of a run, from the median of its size
    largest_active: float
    largest_tokens: float
    ratio: float | None  # of every run, when it is the same; None: the term of X is fitted
    draws: tuple[Law, ...] = field(repr=False)  # one law for each resample of the runs


@dataclass(frozen=True, slots=True)
class Estimate:
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """The loss a run will end with. The interval is one for the run, not for the mean of many such runs."""

    params: float
    active: float
    tokens: float
    loss: Estimate
    size_reach: float  # active parameters by the most that a fitted run has: above 1 is extrapolation
    token_reach: float  # tokens likewise


@dataclass(frozen=True, slots=True)
class Split:
    """The parameters and tokens with the least loss for a training compute of 6 N D FLOPs."""

    flops: float
    ratio: float
    active: Estimate
    tokens: Estimate
    loss: Estimate


def fit(
    runs: Sequence[ScalingRun], *, confidence: float = 0.95, draws: int = 400, seed: int = 0
) -> ScalingFit:
    """The law of `runs`, with bootstrap intervals from `draws` resamples. The order of runs does not matter.

    ScalingError when the runs do not determine a law: fewer than nine (ten with the term of X), fewer than
    three values of N or of D, or D (or X) a fixed power of N.
    """
    if not (0.5 <= confidence < 1 and draws >= 50):
        raise ValueError(f"no interval at {confidence} from {draws} draws")
    ordered = sorted(runs, key=lambda run: (run.params, run.tokens, run.loss, run.active or 0, run.run))
    ratio_R = np.array([run.params / _active(run) for run in ordered])
    ratio = float(ratio_R[0]) if len(ordered) and np.allclose(ratio_R, ratio_R[0], rtol=1e-6) else None
    coefficients = len(Column) - (ratio is not None)
    shown_R = ratio_R if ratio is None else np.ones(len(ordered))
    points_R3 = np.log(
        np.array([[_active(run) for run in ordered], [run.tokens for run in ordered], shown_R]).T
    )
    keys = [run.run or place for place, run in enumerate(ordered)]
    _check(points_R3, len(set(keys)), coefficients)
    logs_R = np.log([run.loss for run in ordered])
    centre_3 = points_R3.mean(0)
    points_R3 = points_R3 - centre_3

    once_R = np.ones(len(ordered))
    starts_FP = _starts(logs_R, coefficients)
    found_FP, value_F = minimise(points_R3, logs_R, _repeat(once_R, starts_FP), starts_FP, _SCREENING_ROUNDS)
    best_FP = found_FP[np.argsort(value_F, kind="stable")[:_FINALISTS]]
    best_FP, value_F = minimise(points_R3, logs_R, _repeat(once_R, best_FP), best_FP, _ROUNDS)
    theta_P = best_FP[np.argmin(value_F)]

    counts_FR = _resamples(keys, points_R3, coefficients, draws, seed)
    drawn_FP, _ = minimise(points_R3, logs_R, counts_FR, _repeat(theta_P, counts_FR), _ROUNDS)
    laws = [_law(drawn_P, centre_3) for drawn_P in drawn_FP]
    ends = _ends(np.array([astuple(law) for law in laws]), confidence)
    # A robust fit passes nearly through as many runs as it has coefficients; these say nothing of the scatter
    # (DuMouchel and O'Brien 1989).
    sizes = np.sort(np.abs(logs_R - log_loss(theta_P[None], points_R3)[0]))[coefficients:]
    return ScalingFit(
        law=_law(theta_P, centre_3),
        low=Law(*ends[0].tolist()),
        high=Law(*ends[1].tolist()),
        confidence=confidence,
        runs=len(ordered),
        scatter=float(np.median(sizes)) * NORMAL_MAD,
        largest_active=max(map(_active, ordered)),
        largest_tokens=max(run.tokens for run in ordered),
        ratio=ratio,
        draws=tuple(laws),
    )


def forecast(fitted: ScalingFit, params: float, tokens: float, active: float | None = None) -> Forecast:
    """The loss of a run of `params` parameters and `tokens` tokens.

    The interval holds what the resamples say of the law, and the scatter of a run that went as most of those
    fitted. What no interval holds is that the law itself may bend beyond the runs. ScalingError for a ratio
    that the fit cannot know.
    """
    active = params if active is None else active
    _positive(params=params, tokens=tokens, active=active)
    ratio = _known_ratio(fitted, params / active)
    scatter = np.random.default_rng(0).normal(0, fitted.scatter, len(fitted.draws))
    drawn = np.array([law.loss(active, tokens, ratio) for law in fitted.draws]) * np.exp(scatter)
    low, high = _ends(drawn, fitted.confidence)
    return Forecast(
        params=params,
        active=active,
        tokens=tokens,
        loss=Estimate(fitted.law.loss(active, tokens, ratio), float(low), float(high)),
        size_reach=active / fitted.largest_active,
        token_reach=tokens / fitted.largest_tokens,
    )


def optimal(fitted: ScalingFit, flops: float, ratio: float | None = None) -> Split:
    """The best split of `flops` of training, for models with `ratio` times as many parameters as active ones.

    Without a ratio it is that of the runs, or 1 (dense) when theirs differ.

    With C = 6 N D, dL/dN = 0 at N = G (C/6)^(beta/(alpha+beta)), D = (C/6)^(alpha/(alpha+beta)) / G, where
    G = (alpha A X^-mu / (beta B))^(1/(alpha+beta)) (Hoffmann et al. 2022, eq. 4).
    """
    ratio = (fitted.ratio or 1.0) if ratio is None else ratio
    _positive(flops=flops, ratio=ratio)
    ratio = _known_ratio(fitted, ratio)
    best = _split(fitted.law, flops, ratio)
    low, high = _ends(np.array([_split(law, flops, ratio) for law in fitted.draws]), fitted.confidence)
    active, tokens, loss = map(Estimate, best, low.tolist(), high.tolist())
    return Split(flops, ratio, active, tokens, loss)


def _split(law: Law, flops: float, ratio: float) -> tuple[float, float, float]:
    both = law.alpha + law.beta
    product = flops / FLOPS_PER_PARAMETER_AND_TOKEN
    lean = (law.alpha * law.a * ratio**-law.mu / (law.beta * law.b)) ** (1 / both)
    active = lean * product ** (law.beta / both)
    return active, product / active, law.loss(active, product / active, ratio)


def _active(run: ScalingRun) -> float:
    return run.params if run.active is None else run.active


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ScalingError(f"{name} is {value}", "it must be a positive finite number")


def _known_ratio(fitted: ScalingFit, ratio: float) -> float:
    if ratio < 1:
        raise ScalingError(f"{ratio:g} times as many parameters as active ones", "no model has fewer than 1")
    if fitted.ratio is None or math.isclose(ratio, fitted.ratio, rel_tol=1e-6):
        return ratio
    raise ScalingError(
        f"every run fitted has {fitted.ratio:g} times as many parameters as active ones; asked was {ratio:g}",
        "add runs with another ratio, so that the term of the ratio can be fitted",
    )


def _check(points_R3: Array, independent: int, coefficients: int) -> None:
    """ScalingError unless the runs can determine that many coefficients."""
    least = coefficients + SPARE_RUNS
    if independent < least:
        raise ScalingError(
            f"{independent} runs are too few for {coefficients} coefficients",
            f"train at least {least}, such as three sizes with three token budgets each;"
            " rows of one run count once",
        )
    for column, name in ((0, "active parameters"), (1, "tokens")):
        values = len(np.unique(np.round(points_R3[:, column], 6)))
        if values < LEAST_VALUES:
            raise ScalingError(
                f"the runs have {values} value{'s'[: values > 1]} of {name}",
                f"add runs until there are at least {LEAST_VALUES}, spread over a factor of ten or more",
            )
    settings = len(np.unique(np.round(points_R3, 6), axis=0))
    if settings <= coefficients:
        raise ScalingError(
            f"the runs have {settings} settings, too few for {coefficients} coefficients",
            "add runs of other sizes and token budgets",
        )
    for other, name in ((1, "tokens are"), (2, "the ratio of parameters is")):
        pair_R2 = points_R3[:, [0, other]] - points_R3[:, [0, other]].mean(0)
        large, small = np.linalg.svd(pair_R2 / np.maximum(pair_R2.std(0), 1e-12), compute_uv=False)
        if other < coefficients - 3 and small < 1e-4 * large:
            raise ScalingError(
                f"{name} a fixed power of the parameters in every run: their effects cannot be told apart",
                "add runs in which one varies and the other does not",
            )


def _starts(logs_R: Array, coefficients: int) -> Array:
    """A grid over exponents, the share of E in the smallest loss, and how N and D share the rest."""
    smallest, middle = float(np.exp(logs_R.min())), float(np.exp(np.median(logs_R)))
    grid = []
    for alpha in (0.1, 0.25, 0.5, 1.0):
        for beta in (0.1, 0.25, 0.5, 1.0):
            for share in (0.1, 0.5, 0.8, 0.95):
                for size in (0.2, 0.5, 0.8):
                    floor = share * smallest
                    rest = middle - floor
                    start = [size * rest, (1 - size) * rest, floor, alpha, beta]
                    grid += [[*np.log(start), mu][:coefficients] for mu in (0.0, alpha)[: coefficients - 4]]
    return np.array(grid)


def _resamples(
    keys: Sequence[str | int], points_R3: Array, coefficients: int, draws: int, seed: int
) -> Array:
    """How often each resample (F) holds each row (R).

    Rows of one key are drawn together, with replacement. Resamples that do not show every term are drawn
    again; since `_check` passed, there are others.
    """
    random = np.random.default_rng(seed)
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    groups_R = np.array([number[key] for key in keys])
    least_3 = np.array([LEAST_VALUES, LEAST_VALUES, 2 if coefficients > Column.MU else 1])
    kept: list[Array] = []
    while len(kept) < draws:
        drawn = np.bincount(random.integers(0, len(number), len(number)), minlength=len(number))
        counts_R = drawn[groups_R].astype(float)
        seen_R3 = np.unique(np.round(points_R3[counts_R > 0], 6), axis=0)
        values_3 = np.array([len(np.unique(column)) for column in seen_R3.T])
        if len(seen_R3) > coefficients and (values_3 >= least_3).all():
            kept.append(counts_R)
    return np.array(kept)


def _repeat(row: Array, like: Array) -> Array:
    return np.tile(row, (len(like), 1))


def _law(theta_P: Array, centre_3: Array) -> Law:
    """From coefficients at the centre of the runs to those of the formula."""
    alpha, beta = np.exp(theta_P[Column.LOG_ALPHA]), np.exp(theta_P[Column.LOG_BETA])
    mu = theta_P[Column.MU] if len(theta_P) > Column.MU else 0.0
    a = theta_P[Column.A] + alpha * centre_3[0] + mu * centre_3[2]
    b = theta_P[Column.B] + beta * centre_3[1]
    return Law(*map(float, (np.exp(theta_P[Column.E]), np.exp(a), alpha, np.exp(b), beta, mu)))


def _ends(values: Array, confidence: float) -> Array:
    return np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
