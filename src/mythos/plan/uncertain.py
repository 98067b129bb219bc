"""Inputs that are not known exactly, and what that does to an answer.

An input is three numbers: a value that is as likely too high as too low, and the ends of the interval that
holds it four times in five. Answers are computed for many draws of all inputs at once (Monte Carlo over a
Latin hypercube, McKay et al. 1979), and for each input alone at its two ends: which of them moves an answer
most.

Shape letters: S draws.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mythos.plan.scaling import Estimate
from mythos.records.errors import MythosError

Array = NDArray[np.float64]

CONFIDENCE = 0.8  # of every interval here, two-sided
DRAWS = 4000
_NORMAL = NormalDist()
_Z90 = _NORMAL.inv_cdf(0.9)


class AssumptionError(MythosError):
    """An input that is no number, out of order, or unknown."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """One uncertain input. `low` and `high` are its 10% and 90% quantiles, `value` its median.

    `form` says how it is distributed beyond the three: `log` as a normal distribution of the logarithm,
    `plain` as a normal distribution, each with its own width to either side of the median. Draws stay within
    `least` and `most`. AssumptionError when the numbers are not finite, not in order, or (`log`) not
    positive.
    """

    name: str
    low: float
    value: float
    high: float
    unit: str
    source: str
    dated: str
    form: Literal["log", "plain"] = "log"
    least: float = -math.inf
    most: float = math.inf

    def __post_init__(self) -> None:
        numbers = (self.low, self.value, self.high)
        if not all(map(math.isfinite, numbers)):
            raise AssumptionError(
                f"{self.name} is {self.low}:{self.value}:{self.high}", "give finite numbers"
            )
        if not self.least <= self.low <= self.value <= self.high <= self.most:
            raise AssumptionError(
                f"{self.name} is {self.low:g}:{self.value:g}:{self.high:g}",
                f"give low, middle and high in rising order{self._limits()}",
            )
        if self.form == "log" and self.low <= 0:
            raise AssumptionError(f"{self.name} has the low end {self.low:g}", "it must be above 0")

    def _limits(self) -> str:
        if math.isinf(self.least) and math.isinf(self.most):
            return ""
        return f", within {self.least:g} to {self.most:g}"


@dataclass(frozen=True, slots=True)
class Effect:
    """An answer with one input at its 10% and its 90% quantile, all others at their medians."""

    name: str
    at_low: float
    at_high: float

    @property
    def swing(self) -> float:
        return abs(self.at_high - self.at_low)


@dataclass(frozen=True, slots=True)
class Answer:
    """The median of an answer, its 80% interval, and what moves it, most first."""

    value: float
    low: float
    high: float
    central: float  # with every input at its median: where the effects begin
    effects: tuple[Effect, ...]

    @property
    def moved_by(self) -> str:
        """The input that moves the answer most; "" when none does."""
        return self.effects[0].name if self.effects and self.effects[0].swing > 0 else ""


Model = Callable[[Mapping[str, Array]], Mapping[str, Array | float]]
"""From inputs by name (each an array of one shape) to answers by name (arrays of that shape, or a number)."""


def answers(
    model: Model, assumptions: Sequence[Assumption], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Answer]:
    """Every answer of `model` with its interval and the inputs that move it. The same seed, the same answers.

    Each input has a stream of its own, known by its name: two plans under one assumption are compared under
    the same draws of it, and a further input leaves the draws of the others as they are.
    """
    if draws < 100:
        raise ValueError(f"no interval from {draws} draws")
    names = [one.name for one in assumptions]
    if len(set(names)) < len(names):
        raise ValueError("two assumptions have one name")
    rows = 1 + 2 * len(assumptions)  # the medians, then each input alone at its ends
    inputs: dict[str, Array] = {}
    for place, one in enumerate(assumptions):
        alone = np.full(rows, float(one.value))
        alone[1 + 2 * place], alone[2 + 2 * place] = one.low, one.high
        inputs[one.name] = np.concatenate([alone, draw(one, draws, seed)])
    found = {}
    for name, values in model(inputs).items():
        line = np.broadcast_to(np.asarray(values, dtype=float), (rows + draws,))
        if not np.isfinite(line).all():
            raise AssumptionError(f"{name} has no finite value under these assumptions", "narrow them")
        effects = [
            Effect(one.name, float(line[1 + 2 * place]), float(line[2 + 2 * place]))
            for place, one in enumerate(assumptions)
        ]
        effects.sort(key=lambda effect: -effect.swing)
        middle = interval(line[rows:])
        found[name] = Answer(middle.value, middle.low, middle.high, float(line[0]), tuple(effects))
    return found


def draw(one: Assumption, draws: int, seed: int) -> Array:
    """`draws` values of the input (S), one from each of as many equally likely slices, in random order."""
    random = np.random.default_rng([seed, zlib.crc32(one.name.encode())])
    share_S = (random.permutation(draws) + random.random(draws)) / draws
    z_S = np.array([_NORMAL.inv_cdf(share) for share in share_S.clip(1e-12, 1 - 1e-12)])
    if one.form == "log":
        below, above = math.log(one.value / one.low) / _Z90, math.log(one.high / one.value) / _Z90
        drawn_S = one.value * np.exp(z_S * np.where(z_S < 0, below, above))
    else:
        below, above = (one.value - one.low) / _Z90, (one.high - one.value) / _Z90
        drawn_S = one.value + z_S * np.where(z_S < 0, below, above)
    return np.clip(drawn_S, one.least, one.most)


def interval(values_S: Array) -> Estimate:
    """Median and 80% interval of draws."""
    edge = (1 - CONFIDENCE) / 2
    low, middle, high = np.quantile(values_S, [edge, 0.5, 1 - edge]).tolist()
    return Estimate(middle, low, high)


def changed(
    assumptions: Sequence[Assumption], changes: Mapping[str, tuple[float, float, float]]
) -> tuple[Assumption, ...]:
    """The assumptions with other numbers for those named. AssumptionError for a name that is not among
    them."""
    known = {one.name: one for one in assumptions}
    for name, (low, value, high) in changes.items():
        if name not in known:
            raise AssumptionError(f"no assumption is called {name}", f"one of {', '.join(sorted(known))}")
        known[name] = replace(
            known[name], low=low, value=value, high=high, source="given on the command line", dated=""
        )
    return tuple(known.values())
