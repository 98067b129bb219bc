"""How large a model, how many tokens, how sparse: what a compute is best spent on under a published law.

`choose` spends a compute; `smallest` finds the least compute for a loss; `student` spends it on distilling;
`sparsest` asks how many experts a memory allows. Everything is searched on a grid of sizes that is refined
once, so that any law of `mythos.plan.laws` will do.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mythos.plan.assumed import packaged
from mythos.plan.laws import (
    DEFAULT_LAW,
    SHARE_OF_EXPERTS,
    Loss,
    Number,
    PublishedLaw,
    distilled_loss,
    effective_parameters,
    effective_tokens,
    joint_loss,
    law,
    supervised_loss,
    turned,
)
from mythos.plan.scaling import FLOPS_PER_PARAMETER_AND_TOKEN, Law, ScalingError
from mythos.plan.uncertain import Answer, answers

Array = NDArray[np.float64]

FLOPS_PER_SERVED_TOKEN = 2  # per parameter: a forward pass
SIZES = (1e5, 1e16)  # parameters that are looked at
TOKENS = (1e3, 1e20)
MOST_FLOPS = 1e32
EXPERTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # of which one is used; the joint law was fitted to at most 32
_GRID = 2001


@dataclass(frozen=True, slots=True)
class Choice:
    """`flops` counts training; `served_flops` the tokens served over a lifetime."""

    law: str
    active: float
    tokens: float
    ratio: float  # all parameters by active ones
    loss: float | None  # nats per token; None for a law that only splits compute
    flops: float
    served_flops: float = 0.0
    epochs: float = 1.0  # how often the unique tokens are seen


@dataclass(frozen=True, slots=True)
class Student:
    """A distilled model, and what the same compute gives without a teacher, under the same authors' law."""

    active: float
    tokens: float
    loss: float
    alone_tokens: float
    alone_loss: float

    @property
    def pays(self) -> bool:
        return self.loss < self.alone_loss


def choose(
    flops: float,
    *,
    named: str = DEFAULT_LAW,
    ratio: float = 1.0,
    served_tokens: float = 0.0,
    unique_tokens: float | None = None,
) -> Choice:
    """The model with the least loss when `flops` pay for training, and for serving `served_tokens` after it.

    `unique_tokens`: there are no more different ones; those seen again are worth less, and so are parameters
    beyond what they feed (Muennighoff et al. 2023, arXiv 2305.16264). ScalingError for a law that knows no
    loss when more than a split is asked, and for numbers outside what any law could mean.
    """
    _within("the compute", flops, 1e9, MOST_FLOPS, "FLOPs")
    _within("the ratio of all to active parameters", ratio, 1, 1e4, "")
    if served_tokens:
        _within("the tokens served", served_tokens, *TOKENS, "tokens")
    if unique_tokens is not None:
        _within("the unique tokens", unique_tokens, *TOKENS, "tokens")
    asked = law(named)
    if asked.loss is None:
        assert asked.split is not None
        if served_tokens or unique_tokens is not None:
            raise ScalingError(f"the law {named} only splits a training compute", "choose another law")
        active, tokens = map(float, asked.split(flops))
        return Choice(named, active, tokens, ratio, None, flops)
    return _choose(_told(asked), named, flops, ratio, served_tokens, unique_tokens)


def choose_with_answers(
    flops: float,
    *,
    ratio: float = 1.0,
    served_tokens: float = 0.0,
    unique_tokens: float | None = None,
    draws: int = 150,
    seed: int = 0,
) -> dict[str, Answer]:
    """`active`, `tokens` and `loss` of `choose` under Epoch's law, with 80% intervals over its exponents and
    floor (`assumptions.toml`), turned around the runs that they were fitted to. No other law here states its
    errors.
    """
    choose(flops, ratio=ratio, served_tokens=served_tokens, unique_tokens=unique_tokens)  # refuses nonsense
    known = [one for one in packaged() if one.name in ("size_exponent", "data_exponent", "floor")]

    def model(inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows = zip(*(inputs[one.name] for one in known), strict=True)
        found = []
        for values in rows:
            drawn = turned(**dict(zip((one.name for one in known), map(float, values), strict=True)))

            def told(n: Number, d: Number, _: Number, drawn: Law = drawn) -> Number:
                return drawn.e + drawn.a * n**-drawn.alpha + drawn.b * d**-drawn.beta

            found.append(_choose(told, DEFAULT_LAW, flops, ratio, served_tokens, unique_tokens))
        return {
            name: np.array([getattr(one, name) for one in found]) for name in ("active", "tokens", "loss")
        }

    return answers(model, known, draws=draws, seed=seed)


def _choose(
    told: Loss,
    named: str,
    flops: float,
    ratio: float,
    served_tokens: float,
    unique_tokens: float | None,
) -> Choice:
    def tokens_for(n: Array) -> Array:
        left = flops - FLOPS_PER_SERVED_TOKEN * n * served_tokens
        return np.maximum(left, 0) / (FLOPS_PER_PARAMETER_AND_TOKEN * n)

    def loss(n: Array) -> Array:
        d = tokens_for(n)
        seen = np.maximum(d, 1.0)
        if unique_tokens is None:
            return np.where(d >= 1.0, told(n, seen, ratio), np.inf)
        used, worth = effective_parameters(n, unique_tokens), effective_tokens(seen, unique_tokens)
        return np.where(d >= 1.0, told(used, worth, ratio), np.inf)

    active = _least(loss)
    tokens = float(tokens_for(np.array([active]))[0])
    if tokens < TOKENS[0]:
        raise ScalingError(
            f"{flops:g} FLOPs do not pay for serving {served_tokens:g} tokens", "plan more, or serve less"
        )
    return Choice(
        law=named,
        active=active,
        tokens=tokens,
        ratio=ratio,
        loss=float(loss(np.array([active]))[0]),
        flops=FLOPS_PER_PARAMETER_AND_TOKEN * active * tokens,
        served_flops=FLOPS_PER_SERVED_TOKEN * active * served_tokens,
        epochs=max(1.0, tokens / unique_tokens) if unique_tokens else 1.0,
    )


def smallest(
    loss: float, *, named: str = DEFAULT_LAW, ratio: float = 1.0, served_tokens: float = 0.0
) -> Choice:
    """The model that reaches `loss` with the least compute for training and serving together (Sardana et al.
    2023, arXiv 2401.00448). ScalingError when the law never goes so low, or starts below."""
    told = _told(law(named))

    def tokens_for(n: Array) -> Array:
        low, high = np.full(n.shape, math.log(TOKENS[0])), np.full(n.shape, math.log(TOKENS[1]))
        reached = told(n, np.exp(high), ratio) <= loss
        for _ in range(60):
            middle = (low + high) / 2
            enough = told(n, np.exp(middle), ratio) <= loss
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.where(reached, np.exp(high), np.inf)

    def spent(n: Array) -> Array:
        return n * (FLOPS_PER_PARAMETER_AND_TOKEN * tokens_for(n) + FLOPS_PER_SERVED_TOKEN * served_tokens)

    if not math.isfinite(loss) or not np.isfinite(spent(_grid(*SIZES))).any():
        raise ScalingError(
            f"under the law {named} no model reaches a loss of {loss:g}", "ask for a higher one"
        )
    active = _least(spent)
    tokens = float(tokens_for(np.array([active]))[0])
    return Choice(
        law=named,
        active=active,
        tokens=tokens,
        ratio=ratio,
        loss=float(told(active, tokens, ratio)),
        flops=FLOPS_PER_PARAMETER_AND_TOKEN * active * tokens,
        served_flops=FLOPS_PER_SERVED_TOKEN * active * served_tokens,
    )


def student(flops: float, size: float, teacher_loss: float, teacher_active: float = 0.0) -> Student:
    """What `flops` make of a student of `size` parameters, distilled and by itself.

    A teacher of `teacher_active` parameters answers each token as it is learnt (2 FLOPs per parameter); 0:
    its answers are there already. `teacher_loss` is in the unit of Busbridge et al.'s law, as is the result.
    The law was fitted to students of 143M to 7.75B parameters.
    """
    _within("the compute", flops, 1e9, MOST_FLOPS, "FLOPs")
    _within("the student", size, *SIZES, "parameters")
    _within("the teacher's loss", teacher_loss, 1.0, 15.0, "nats per token")
    if teacher_active:
        _within("the teacher", teacher_active, *SIZES, "parameters")
    alone = flops / (FLOPS_PER_PARAMETER_AND_TOKEN * size)
    taught = flops / (FLOPS_PER_PARAMETER_AND_TOKEN * size + FLOPS_PER_SERVED_TOKEN * teacher_active)
    _within("the tokens that the compute pays for", taught, *TOKENS, "tokens")
    return Student(
        active=size,
        tokens=taught,
        loss=float(distilled_loss(size, taught, teacher_loss)),
        alone_tokens=alone,
        alone_loss=float(supervised_loss(size, alone)),
    )


def sparsest(flops: float, most_parameters: float) -> tuple[Choice, ...]:
    """The best model with each number of experts, least loss first, none above `most_parameters` in all.

    Under the joint law (`laws.joint_loss`). One expert is used per token; the MLP, two thirds of a dense
    block, is what they multiply. A larger memory can only lower the first loss. ScalingError when nothing
    fits.
    """
    _within("the parameters in all", most_parameters, *SIZES, "parameters")
    _within("the compute", flops, 1e9, MOST_FLOPS, "FLOPs")
    found = []
    for experts in EXPERTS:
        ratio = 1 + (experts - 1) * SHARE_OF_EXPERTS
        largest = most_parameters / ratio
        if largest <= SIZES[0]:
            continue

        def loss(n: Array, ratio: float = ratio, largest: float = largest) -> Array:
            d = flops / (FLOPS_PER_PARAMETER_AND_TOKEN * n)
            return np.where((d >= 1.0) & (n <= largest), joint_loss(n, np.maximum(d, 1.0), ratio), np.inf)

        active = _least(loss, largest)
        tokens = flops / (FLOPS_PER_PARAMETER_AND_TOKEN * active)
        found.append(Choice("joint", active, tokens, ratio, float(loss(np.array([active]))[0]), flops))
    if not found:
        raise ScalingError(f"nothing fits into {most_parameters:g} parameters", "allow more")
    return tuple(sorted(found, key=lambda choice: choice.loss or 0.0))


def _told(asked: PublishedLaw) -> Loss:
    if asked.loss is None:
        raise ScalingError(f"the law {asked.name} tells no loss", "choose another law")
    if asked.fixed_tokens is not None:
        raise ScalingError(
            f"the law {asked.name} holds for {asked.fixed_tokens:g} tokens only", "choose another law"
        )
    return asked.loss


def _least(of: Callable[[Array], Array], most: float = SIZES[1]) -> float:
    """Where the function of sizes is least: a grid over all of them, then one within its best cell."""
    grid = _grid(SIZES[0], most)
    for _ in range(3):
        best = int(np.argmin(of(grid)))
        grid = _grid(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    return float(grid[_GRID // 2])


def _grid(low: float, high: float) -> Array:
    return np.exp(np.linspace(math.log(low), math.log(high), _GRID))


def _within(what: str, value: float, low: float, high: float, unit: str) -> None:
    if not (isinstance(value, int | float) and low <= value <= high):
        raise ScalingError(
            f"{what} is {value:g}", f"it must be a number from {low:g} to {high:g} {unit}".rstrip()
        )
