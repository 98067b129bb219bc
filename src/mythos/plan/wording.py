"""A plan in words and round numbers, the same on the terminal and in a report."""

from mythos.plan.search import GIB, PARTS, Other, Search
from mythos.plan.svg import short
from mythos.plan.tier import UNITS, TierPlan
from mythos.plan.uncertain import Answer

LABELS = {
    "step_seconds": "a step",
    "mfu": "MFU, in the layout's precision",
    "goodput": "goodput",
    "checkpoint_minutes": "best checkpoint interval",
    "interruptions": "interruptions",
    "spares": "spare accelerators",
    "days": "calendar",
    "accelerator_hours": "accelerator-hours, with spares",
    "rented": "final run, rented",
    "owned": "final run, owned",
    "programme": "programme (final run x research)",
    "mwh": "energy",
    "tonnes": "carbon",
    "loss": "loss (Epoch's law, extrapolated)",
}


def value(name: str, number: float, with_unit: bool = True) -> str:
    """An answer in three figures, with its unit."""
    unit = UNITS[name]
    if unit == "$":
        return f"${short(number)}"
    if unit.startswith("of "):
        return f"{number:.1%}"
    digits = f"{number:.3f}" if name == "loss" else short(number)
    return f"{digits} {unit}".strip() if with_unit else digits


def ends(name: str, answer: Answer) -> str:
    """The interval: `47.7 to 71.1`."""
    return f"{value(name, answer.low, False)} to {value(name, answer.high, False)}"


def work(plan: TierPlan) -> str:
    return (
        f"{plan.tier}: {short(plan.tokens)} tokens ({plan.tokens_from}) at {plan.flops_per_token:.3g} FLOP"
        f" each: {plan.flops:.3g} FLOP, on {plan.accelerators:,} {plan.part.name}"
    )


def layout(plan: TierPlan) -> str:
    """`tp 4, pp 4, ep 128, dp 512, micro-batch 1, fp8, no recomputation`."""
    of = plan.search.best.layout
    axes = {"tp": of.tp, "pp": of.pp, "cp": of.cp, "ep": of.ep, "dp": of.dp}
    used = [f"{name} {many}" for name, many in axes.items() if many > 1]
    used += [f"{of.virtual} chunks a rank"] * (of.virtual > 1)
    again = "no" if of.recompute == "none" else of.recompute
    return ", ".join([*used, f"micro-batch {of.micro_batch}", of.precision, f"{again} recomputation"])


def memory(plan: TierPlan) -> str:
    best = plan.search.best
    tokens = best.layout.global_batch * best.layout.sequence
    return (
        f"{best.bytes / GIB:.0f} of {plan.part.usable_bytes / GIB:.0f} GiB on the fullest accelerator;"
        f" {short(tokens)} tokens a step"
    )


def step(plan: TierPlan) -> str:
    """How long a step takes, what share of peak that is, and its parts of 1% or more."""
    of = plan.search.best.step
    parts = ", ".join(f"{name} {share:.0%}" for name, share in shares(plan))
    peak = f"{of.mfu:.1%} of the {plan.search.best.layout.precision} peak"
    if of.hfu > of.mfu:
        peak += f" ({of.hfu:.1%} with recomputation)"
    return f"{of.seconds:.3g} s, {peak}: {parts}"


def shares(plan: TierPlan) -> list[tuple[str, float]]:
    """The parts of a step and their shares, largest first; none below 1%."""
    step = plan.search.best.step
    found = [(name, getattr(step, name) / step.seconds) for name in PARTS]
    return sorted((one for one in found if one[1] >= 0.01), key=lambda one: -one[1])


def alternatives(search: Search, most: int) -> list[Other]:
    """For each axis the nearest other value that fits, the closest first; then what does not fit."""
    fitting = sorted((one for one in search.others if one.found), key=lambda one: one.slower)
    nearest = {one.axis: one for one in reversed(fitting)}
    missing = [one for one in search.others if one.found is None]
    return [*sorted(nearest.values(), key=lambda one: one.slower), *missing][:most]


def alternative(other: Other) -> list[str]:
    """Another value of an axis, how much slower, because of what, and its GiB."""
    need = f"{other.least_bytes / GIB:,.0f}"
    if other.found is None:
        return [f"{other.axis} {other.value}", "does not fit", other.because, f"{need} or more"]
    return [f"{other.axis} {other.value}", f"+{other.slower:.1%}", other.because, need]
