"""`mythos models`, and the table of tiers that `up` prints too."""

from typing import TYPE_CHECKING, Any

from mythos.cli.local import open_records, standing
from mythos.cli.output import amount, emit, json_wanted, show
from mythos.spec.counting import active_parameters, parameters
from mythos.spec.family import TRAINED, Family, Tier, TierState
from mythos.spec.load import load_family

if TYPE_CHECKING:
    from rich.console import Group


def run(family_name: str) -> int:
    family = standing(open_records(), load_family(family_name)).family
    if json_wanted():
        emit(
            {"family": family.name, "licence": family.licence, "tiers": [row(tier) for tier in family.tiers]}
        )
        return 0
    show(f"family {family.name}: {family.description}", f"licence {family.licence}", "", table(family))
    return 0


def row(tier: Tier) -> dict[str, Any]:
    return {
        "name": tier.name,
        "state": str(tier.state),
        "description": tier.description,
        "made_by": made_by(tier),
        "cure": cure(tier),
        "parameters": parameters(tier.config),
        "active_parameters": active_parameters(tier.config),
        "context": tier.context,
        "max_output": tier.max_output,
        "price": {"input": tier.price.input, "output": tier.price.output, "currency": tier.price.currency},
        "root": tier.root,
    }


def table(family: Family) -> "Group":
    """One line per tier, and under them what would build those that are not built."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    currencies = sorted({tier.price.currency for tier in family.tiers})
    lines = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("tier", "state"):
        lines.add_column(heading, no_wrap=True)
    for heading in ("parameters", "active", "context", f"{'/'.join(currencies)} per 1M\nin / out"):
        lines.add_column(heading, justify="right", no_wrap=True)
    lines.add_column("root", no_wrap=True)
    unbuilt: dict[str, list[str]] = {}
    for tier in family.tiers:
        built = tier.state is TierState.BUILT
        if not built:
            unbuilt.setdefault(f"{made_by(tier)}; {cure(tier)}", []).append(tier.name)
        lines.add_row(
            tier.name,
            str(tier.state),
            amount(parameters(tier.config)),
            amount(active_parameters(tier.config)),
            f"{tier.context:,}",
            f"{tier.price.input:.2f} / {tier.price.output:.2f}",
            (tier.root or "")[:12],
            style="" if built else "dim",
        )
    notes = [f" {', '.join(names)}: {how}" for how, names in unbuilt.items()]
    return Group(lines, *notes, *[""] * bool(notes))


def made_by(tier: Tier) -> str:
    """How the weights come to be, in a few words."""
    if tier.made_by.kind == "planned":
        return "a plan only"
    if tier.made_by.kind == "pretrain":
        return "training from scratch"
    if tier.made_by.kind == "continue":
        return f"training on from {tier.parents[0]}"
    return f"{tier.made_by.kind} {tier.made_by.source or 'from ' + ', '.join(tier.parents)}"


def buildable(tier: Tier) -> bool:
    """Whether `mythos build` can make the tier: not yet what comes from the hub."""
    return tier.made_by.kind in ("fetch", "experts", *TRAINED)


def cure(tier: Tier) -> str:
    """What builds a tier that is not built; never names a command that does not exist."""
    if tier.state is TierState.BUILT:
        return ""
    if tier.made_by.kind == "fetch":
        return f"mythos up {tier.family}"
    if tier.made_by.kind == "pretrain":
        return f"mythos build {tier.family}"
    if tier.made_by.kind in ("continue", "distil"):
        return f"mythos build {tier.family} --tier {tier.name} --budget 1h"
    return (
        f"mythos build {tier.name} --family {tier.family}" if buildable(tier) else "no command builds it yet"
    )
