"""The dated assumptions and prices that come with this package, as `uncertain.Assumption`."""

import math
import tomllib
from functools import cache
from importlib.resources import files
from statistics import NormalDist
from typing import Any

from mythos.plan.efficiencies import packaged as efficiencies
from mythos.plan.hardware import Hardware
from mythos.plan.uncertain import Assumption, AssumptionError
from mythos.spec.config import ModelConfig

# A price that was seen only once, or in one place, is no more certain than a range of them.
_SPREAD = 1.25


@cache
def packaged() -> tuple[Assumption, ...]:
    """What every plan takes for granted, whatever the accelerator."""
    table = _read("assumptions.toml")
    return tuple(Assumption(**{"dated": table["dated"], **row}) for row in table["assumptions"])


def step_error(config: ModelConfig) -> Assumption:
    """True step time by the predicted one: the spread of published runs around their prediction, each left
    out of the fit in turn (`efficiencies.toml`), for models with or without experts."""
    eff = efficiencies()
    group = "dense" if config.moe is None else "moe"
    end = math.exp(NormalDist().inv_cdf(0.9) * eff.spread[group])
    return Assumption(
        name="step",
        low=1 / end,
        value=1.0,
        high=end,
        unit="true step time by the predicted one",
        source=f"spread of published runs around their predictions, {group}: {eff.provenance}",
        dated=eff.dated,
    )


def prices(part: Hardware) -> tuple[Assumption, ...]:
    """Dollars per accelerator-hour of `part`, rented (`rent`) and owned (`own`); none of what nobody
    published.

    The middle is the geometric mean. A single figure gets a quarter to either side.
    """
    table = _read("prices.toml")
    found = []
    for name, meaning in (("rent", "rented"), ("own", "owned: capital over its life, hosting, power")):
        seen = table["parts"].get(part.name, {}).get(name)
        if seen is None:
            continue
        low, high = seen
        if low == high:
            low, high = low / _SPREAD, high * _SPREAD
        found.append(
            Assumption(
                name=name,
                low=low,
                value=math.sqrt(low * high),
                high=high,
                unit=f"dollars per {part.name}-hour, {meaning}",
                source="prices.toml: lowest and highest seen"
                + (" (one figure, a quarter to either side)" if seen[0] == seen[1] else ""),
                dated=table["dated"],
            )
        )
    return tuple(found)


def given(text: str) -> tuple[str, tuple[float, float, float]]:
    """`rent=2:3:5` as a name and low, middle, high; `rent=3` as three times 3. AssumptionError otherwise."""
    name, _, numbers = text.partition("=")
    try:
        parts = [float(number) for number in numbers.split(":")]
    except ValueError:
        parts = []
    if not name or len(parts) not in (1, 3):
        raise AssumptionError(
            f"the assumption {text[:80]!r} is not understood", "write NAME=LOW:MIDDLE:HIGH or NAME=VALUE"
        )
    low, value, high = parts * 3 if len(parts) == 1 else parts
    return name.strip(), (low, value, high)


@cache
def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((files("mythos.plan") / name).read_text())
