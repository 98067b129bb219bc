"""Which assumption buys "hundreds of millions" and which "billions", and where the money of a run goes."""

import math
from dataclasses import dataclass

from mythos.plan.svg import short
from mythos.plan.tier import TierPlan
from mythos.plan.uncertain import Answer

TARGETS = (1e8, 1e9)
_FAR = 1e4  # times the plan: beyond it is another plan
STEP_GROUPS = {
    "products": ("matmul", "experts", "attention", "head"),
    "memory traffic, waiting, optimizer": ("elementwise", "waiting", "optimizer"),
    "communication": ("tp", "ep", "cp", "pp", "dp"),
    "bubble and imbalance": ("bubble", "imbalance"),
    "recomputation": ("recompute",),
}


@dataclass(frozen=True, slots=True)
class Target:
    """What it takes until the median cost is `dollars`, each alone, all else as planned."""

    what: str  # the final run, or the programme around it
    answer: str  # its name among the plan's answers
    dollars: float
    factor: float  # by the planned cost
    tokens: float
    active: float  # parameters, at the same share of peak
    ends: tuple[str, ...]  # assumptions whose own interval reaches it alone


def magnitude(dollars: float) -> str:
    """The order of an amount in words."""
    power = math.floor(math.log10(max(dollars, 1.0)) + 1e-9)
    words = ("", "tens of ", "hundreds of ")[power % 3]
    return (
        words
        + ("dollars", "thousands", "millions", "billions", "trillions", "quadrillions")[min(power // 3, 5)]
    )


def between(answer: Answer) -> str:
    """The orders that the interval spans: `tens of millions`, `tens to hundreds of millions`."""
    low, high = magnitude(answer.low), magnitude(answer.high)
    if low == high:
        return low
    first, last = low.rsplit(" ", 1), high.rsplit(" ", 1)
    if len(first) == 2 and first[-1] == last[-1]:
        return f"{first[0].removesuffix(' of')} to {high}"
    return f"{low} to {high}"


def targets(plan: TierPlan) -> tuple[Target, ...]:
    """For the final run and for the programme, what reaches each of `TARGETS`; none without a price, or more
    than `_FAR` times away."""
    found = []
    for name, what in (("rented", "final run"), ("programme", "programme")):
        if name not in plan.answers:
            continue
        answer = plan.answers[name]
        for dollars in TARGETS:
            factor = dollars / answer.value
            if factor > _FAR:
                continue
            reach = tuple(
                one.name
                for one in answer.effects
                if min(one.at_low, one.at_high) <= dollars <= max(one.at_low, one.at_high)
            )
            found.append(
                Target(what, name, dollars, factor, plan.tokens * factor, plan.active * factor, reach)
            )
    return tuple(found)


def spent(plan: TierPlan) -> dict[str, float]:
    """Dollars of the final run by what they pay for; they sum to the median. Empty without a price.

    Parts of a step are as predicted; failures are what goodput leaves, reruns and spares at their medians.
    """
    if "rented" not in plan.answers:
        return {}
    whole = plan.answers["rented"].value
    at_work = plan.accelerators / (plan.accelerators + plan.answers["spares"].value)
    kept = at_work * plan.answers["goodput"].value
    rerun = next(one.value for one in plan.assumptions if one.name == "rerun")
    step = plan.search.best.step
    parts = {
        name: whole * kept / rerun * sum(getattr(step, part) for part in group) / step.seconds
        for name, group in STEP_GROUPS.items()
    }
    parts["steps run again"] = whole * kept * (1 - 1 / rerun)
    parts["failures and checkpoints"] = whole * (at_work - kept)
    parts["spares"] = whole * (1 - at_work)
    return {name: dollars for name, dollars in parts.items() if dollars > 0}


def sentences(plan: TierPlan) -> list[str]:
    """What the costs amount to, and what would make them hundreds of millions or billions."""
    if "rented" not in plan.answers:
        return [f"No price of {plan.part.name} is known: give one with --assume, or choose another part."]
    run, programme = plan.answers["rented"], plan.answers["programme"]
    lines = [f"The final run costs {between(run)}; the programme around it {between(programme)}."]
    for target in targets(plan):
        word = "Hundreds of millions" if target.dollars < 1e9 else "Billions"
        if target.ends:
            effects = {one.name: one for one in plan.answers[target.answer].effects}
            first, *more = target.ends
            low, high = sorted((effects[first].at_low, effects[first].at_high))
            also = f" Others that reach it alone: {', '.join(more)}." if more else ""
            lines.append(
                f"{word} for the {target.what}: {first} decides, from ${short(low)} to ${short(high)}"
                f" within its interval.{also}"
            )
        elif target.factor > 1:
            lines.append(
                f"{word} for the {target.what} would take {target.factor:.2g} times as much:"
                f" {short(target.tokens)} tokens, or {short(target.active)} active parameters."
                " No single assumption does it within its interval."
            )
    return lines
