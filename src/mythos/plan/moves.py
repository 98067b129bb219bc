"""What a fit may move of the efficiencies, how well each is known before it, and efficiencies so moved.

A move is the logarithm of a factor, or of the factor of a share's odds. The order is that of `WIDTHS`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from mythos.plan.efficiencies import Efficiencies, starting
from mythos.plan.errors import PlanError

# Standard deviation of the logarithm (of a share's odds) around the starting value.
_SHARES = {
    "grouped": 0.5, "attention": 0.4, "bandwidth": 0.3, "scale_up": 0.3, "scale_out": 0.4, "all_to_all": 0.5,
    "overlap_tp": 0.7, "overlap_ep": 0.7,
}  # fmt: skip
_FACTORS = {"collective": 0.3, "whole_run": 0.06}
_GAP_WIDTH = 0.5
_GENERATIONS = {
    "A100": ("A100", "A100 40GB"),
    "Hopper": ("H100", "H800", "H200"),
    "Blackwell": ("B200", "B300", "GB200", "GB300"),
}
_GENERATION_WIDTH = 0.08  # of each generation's rate of products, and of that below 16 bits
WIDTHS = (*_SHARES.values(), *_FACTORS.values(), _GAP_WIDTH, *[_GENERATION_WIDTH] * (len(_GENERATIONS) + 1))


def moved(start: Efficiencies, by: Sequence[float]) -> Efficiencies:
    """`start` with each of `WIDTHS` moved by so much."""
    values: dict[str, float] = {}
    names = [*_SHARES, *_FACTORS]
    for name, step in zip(names, by, strict=False):
        value = getattr(start, name)
        if name in _FACTORS:
            values[name] = value * math.exp(step)
        else:
            odds = value / (1 - value) * math.exp(step)
            values[name] = odds / (1 + odds)
    gap = {part: value * math.exp(by[len(names)]) for part, value in start.gap.items()}
    steps = by[len(names) + 1 :]
    matmul = {}
    for part, shares in start.matmul.items():
        place = next((n for n, parts in enumerate(_GENERATIONS.values()) if part in parts), None)
        own = 0.0 if place is None else steps[place]
        matmul[part] = {
            kind: min(share * math.exp(own + (0.0 if kind == "bf16" else steps[-1])), 0.95)
            for kind, share in shares.items()
        }
    return replace(start, matmul=matmul, gap=gap, **values)


def without(eff: Efficiencies, case_id: str) -> Efficiencies:
    """As the fit would be without that case; `eff` itself when the fit did not see it. PlanError when the
    file holds another number of moves than this version fits."""
    left = eff.left_out.get(case_id)
    if left is None:
        return eff
    if len(left.moves) != len(WIDTHS):
        raise PlanError(
            f"The efficiencies hold {len(left.moves)} moves for {case_id[:80]}, not {len(WIDTHS)}.",
            "Write them with plan calibrate.",
        )
    return replace(moved(starting(), left.moves), spread=eff.spread | left.spread)
