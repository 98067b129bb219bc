"""What may be spent: money, compute, or time."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from mythos.plan.errors import PlanError

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_LIMITS = {"dollars": (1.0, 1e15), "flops": (1e12, 1e32), "days": (0.01, 36525.0)}
_CURE = "Write money as 300M$, compute as 1e26FLOP, or time as 90d."


@dataclass(frozen=True, slots=True)
class Budget:
    kind: Literal["dollars", "flops", "days"]
    amount: float


def parse_budget(text: str) -> Budget:
    """`300M$`, `$2.5B`, `1e26FLOP`, `90d`; PlanError for anything else, and for amounts that make no
    sense."""
    plain = text.strip().lower().replace(",", "").replace(" ", "")
    kind: Literal["dollars", "flops", "days"]
    if "$" in plain:
        kind, number = "dollars", plain.replace("$", "", 1)
    elif match := re.fullmatch(r"(.*?)flops?", plain):
        kind, number = "flops", match[1]
    elif match := re.fullmatch(r"(.*?)d(ays?)?", plain):
        kind, number = "days", match[1]
    else:
        raise PlanError(f"The budget {text[:40]!r} has no unit that is known.", _CURE)
    unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        amount = float(number.removesuffix(unit)) * _UNITS[unit]
    except ValueError:
        raise PlanError(f"The budget {text[:40]!r} is not understood.", _CURE) from None
    low, high = _LIMITS[kind]
    if not (math.isfinite(amount) and low <= amount <= high):
        raise PlanError(f"The budget {text[:40]!r} makes no plan.", f"Plan for {low:g} to {high:g} {kind}.")
    return Budget(kind, amount)
