"""Cases that are sums of what they state: money, energy, carbon of accelerator-hours; nodes of a fleet."""

import re
from collections.abc import Mapping
from typing import Any

from mythos.plan import cases as read
from mythos.plan import run
from mythos.plan.cases import Case, NoData

# Meta's model cards: the accelerators' design power times this, so many kg a kWh (Llama 2, arXiv 2307.09288).
_BESIDE_POWER, _KG_PER_KWH = 1.1, 0.385
_SECONDS_OF_DAY = 86_400.0


def predict_sum(case: Case) -> float | None:
    """None for a case of another sort; NoData when one of this sort gives too little."""
    words = f"{case.kind} {case.metric} {case.unit}".lower()
    inputs = case.inputs
    hours = named(inputs, r"(gpu|accelerator|chip)_?hours")
    if "co2" in words or "carbon" in words:
        carbon = named(inputs, r"kg_?(co2\w*)?_?per_?kwh") or _KG_PER_KWH
        return _energy(case, hours) * carbon / (1.0 if "kg" in case.unit.lower() else 1e3)
    if "energy" in words or "wh" in case.unit.lower().split():
        scale = {"mwh": 1e3, "gwh": 1e6}.get(case.unit.lower(), 1.0)
        return _energy(case, hours) / scale
    if "usd" in words or "dollar" in words or "$" in words:
        rate = named(inputs, r"(usd|dollars?)_per_(gpu|accelerator)?_?h(ou)?r?|price_per_(gpu_)?hour")
        if hours is None or rate is None:
            raise NoData("the case gives no accelerator-hours and price of one")
        return hours * rate * (1e-6 if "million" in words else 1.0)
    interruptions, days = named(inputs, r"interruptions|failures$"), named(inputs, r"days$")
    if case.metric.startswith(("mtbf", "mtti")) and interruptions and days:
        return days * _SECONDS_OF_DAY / interruptions / run.HOUR
    if "node" in case.unit.lower() or "nodes" in case.metric:
        return _fleet(inputs)
    return None


def _energy(case: Case, hours: float | None) -> float:
    """kWh: accelerator-hours by power, with what the case or Meta's cards add for everything beside it."""
    power = named(case.inputs, r"tdp(_w)?|power_w")
    if power is None and "hardware" in case.inputs:
        power = read.machine({**case.inputs, "hardware": {"count": 1, **case.inputs["hardware"]}})[0].tdp_w
    if hours is None or power is None:
        raise NoData("the case gives no accelerator-hours and power")
    return hours * power / 1e3 * (named(case.inputs, r"pue") or _BESIDE_POWER)


def _fleet(inputs: Mapping[str, Any]) -> float | None:
    """Nodes for a day's tokens, prefill and decode apart (arXiv 2505.09343 gives DeepSeek's)."""
    nodes = 0.0
    for kind, worker in (("input", "prefill"), ("output", "decode")):
        tokens = named(inputs, rf"{kind}_tokens(_per_day)?")
        rate = named(inputs, rf"({worker}|{kind})_tokens_per_s(ec|econd)?(_per_node)?")
        if tokens is None or rate is None:
            return None
        nodes += tokens / _SECONDS_OF_DAY / rate
    return nodes


def named(inputs: Mapping[str, Any], pattern: str) -> float | None:
    """The number among the case's own whose name is the pattern, or ends with it after an underscore."""
    for key in inputs:
        if isinstance(key, str) and re.search(rf"(^|_)({pattern})$", key.lower()):
            value = read.number(inputs, key)
            if value is not None:
                return value
    return None
