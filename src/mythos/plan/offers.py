"""What an answer costs at each speed, in a steady state: the least cost for each time between tokens, and how
many times dearer one tier is than another.

Closed form: as many sequences as the batch run all the time, and each brings its share of prompt tokens into
the steps. Queues and bursts are not in it; `serve_tier` simulates them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mythos.plan.assumed import prices
from mythos.plan.errors import PlanError
from mythos.plan.factors import Factors
from mythos.plan.factors import packaged as packaged_factors
from mythos.plan.hardware import Hardware
from mythos.plan.serve_tier import layouts
from mythos.plan.serving import Deployment, Precision, largest_batch, step_terms
from mythos.plan.serving_predict import case_of
from mythos.plan.uncertain import Answer, Array, Assumption, answers
from mythos.spec.config import ModelConfig

PROMPT, ANSWER = 4000, 1000  # tokens of the answer that is priced
TPOT = 0.05  # seconds: the speed at which tiers are compared
_BATCHES = 24


@dataclass(frozen=True, slots=True)
class Offer:
    """One layout at one batch. Dollars are the machines' own, without a margin."""

    deployment: Deployment
    batch: float
    tpot: float  # seconds, as predicted
    seconds: float  # of one accelerator, for one answer and its prompt
    low: float  # what both times are multiplied with for the ends of their 80% interval
    high: float


@dataclass(frozen=True, slots=True)
class Priced:
    offer: Offer
    tpot: Answer  # milliseconds
    dollars: Answer  # of a million answer tokens, their prompts included


def precision_of(part: Hardware) -> Precision:
    """The smallest that the part computes in."""
    return "fp4" if part.fp4 else "fp8" if part.fp8 else "bf16"


def offers(config: ModelConfig, part: Hardware, factors: Factors | None = None) -> tuple[Offer, ...]:
    """The offers that no other beats in both time and cost, fastest first. PlanError when no replica within a
    scale-up domain holds the weights."""
    factors = factors or packaged_factors()
    found: list[Offer] = []
    for one in layouts(config, part, Deployment(precision=precision_of(part))):
        room = largest_batch(config, one, PROMPT + ANSWER, part)
        if room < 1:
            continue
        case = case_of(config, one, part)
        factors_K = factors.tpot.factors(case)
        low, high = factors.tpot.interval(case)
        for batch in np.unique(np.rint(np.geomspace(1, room, _BATCHES))):
            terms_K = step_terms(
                config, one, batch, PROMPT + ANSWER / 2, part, PROMPT / ANSWER * batch, PROMPT
            )
            step = float(terms_K @ factors_K)
            seconds = step * ANSWER / batch * one.accelerators
            found.append(Offer(one, float(batch), step, seconds, low, high))
    if not found:
        raise PlanError(
            f"No replica within {part.domain} {part.name} holds the weights in {precision_of(part)}.",
            "Choose an accelerator with more memory, or a larger domain.",
        )
    kept: list[Offer] = []
    for one in sorted(found, key=lambda one: (one.tpot, one.seconds)):
        if not kept or one.seconds < kept[-1].seconds:
            kept.append(one)
    return tuple(kept)


def priced(offer: Offer, part: Hardware, seed: int = 0) -> Priced:
    """Time and cost of an offer with their intervals."""
    known = (_step_time(offer), _price(part))
    told = answers(
        lambda inputs: {"tpot": 1e3 * offer.tpot * inputs["step_time"], "dollars": _dollars(offer, inputs)},
        known,
        seed=seed,
    )
    return Priced(offer, told["tpot"], told["dollars"])


def at_speed(found: Sequence[Offer], tpot: float = TPOT) -> Offer:
    """The cheapest of those that take at most `tpot` seconds between tokens, else the fastest."""
    fast = [one for one in found if one.tpot <= tpot]
    return min(fast or found[:1], key=lambda one: one.seconds)


def premium(offer: Offer, other: Offer, part: Hardware, seed: int = 0) -> Answer:
    """How many times what an answer of `other` costs one of `offer` costs: one price for both, the two step
    times err apart."""
    known = (_step_time(offer), replace(_step_time(other), name="step_time of the other"), _price(part))

    def model(inputs: Mapping[str, Array]) -> dict[str, Array | float]:
        mine, theirs = offer.seconds * inputs["step_time"], other.seconds * inputs["step_time of the other"]
        return {"premium": mine / theirs}

    return answers(model, known, seed=seed)["premium"]


def _dollars(offer: Offer, inputs: Mapping[str, Array]) -> Array:
    """Of a million answer tokens."""
    return offer.seconds * inputs["step_time"] / 3600 * inputs["price"] * 1e6 / ANSWER


def _step_time(offer: Offer) -> Assumption:
    return Assumption(
        name="step_time",
        low=min(offer.low, 1.0),
        value=1.0,
        high=max(offer.high, 1.0),
        unit="true time of a step by the predicted one",
        source="measured runs known as well as this case (serving_factors.json)",
        dated="",
    )


def _price(part: Hardware) -> Assumption:
    """Owned accelerators where their cost is known, else rented ones."""
    seen = {one.name: one for one in prices(part)}
    for name in ("own", "rent"):
        if name in seen:
            return replace(seen[name], name="price")
    raise PlanError(f"No price of {part.name} is known.", "Choose another accelerator.")
