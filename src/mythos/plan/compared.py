"""Two plans side by side, under the same draws of what both assume."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mythos.plan.errors import PlanError
from mythos.plan.tier import UNITS, TierPlan, outcome
from mythos.plan.uncertain import Answer, Array, Assumption, answers


@dataclass(frozen=True, slots=True)
class Compared:
    name: str
    first: Answer
    second: Answer
    ratio: Answer  # first by second


def compare(first: TierPlan, second: TierPlan, *, seed: int = 0) -> tuple[Compared, ...]:
    """Each answer that both plans have, and their ratio with its own interval.

    What is uncertain for both alike (failures, research, the scaling law) is drawn once, and cancels out as
    far as it moves both. Prices of two parts are drawn apart.
    """
    if first == second:
        raise PlanError("Both plans are the same.", "Name another tier, or hardware as in FAMILY/TIER@H100.")
    shared = {one.name: one for one in first.assumptions}
    names: dict[str, str] = {}  # of the second plan's assumptions, among all
    apart: list[Assumption] = []
    for one in second.assumptions:
        names[one.name] = one.name
        if one.name == "step" or shared.get(one.name) != one:
            names[one.name] = f"{one.name} ({second.tier}, {second.part.name})"
            apart.append(replace(one, name=names[one.name]))

    def model(inputs: Mapping[str, Array]) -> dict[str, Array | float]:
        mine = _of(first, inputs)
        other = _of(second, {name: inputs[alias] for name, alias in names.items()})
        return {name: mine[name] / other[name] for name in mine if name in other and _divides(other[name])}

    ratios = answers(model, (*shared.values(), *apart), seed=seed)
    return tuple(
        Compared(name, first.answers[name], second.answers[name], ratios[name])
        for name in UNITS
        if name in ratios
    )


def _of(plan: TierPlan, inputs: Mapping[str, Array]) -> dict[str, Array | float]:
    return outcome(plan.config, plan.part, plan.accelerators, plan.tokens, plan.search, inputs)


def _divides(value: Array | float) -> bool:
    return bool(np.all(np.asarray(value) > 0))
