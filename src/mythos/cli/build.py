"""`mythos build`: make one tier's weights and register them, or make good what is damaged."""

from mythos.cli.local import Records, open_records, standing
from mythos.cli.models import buildable, made_by, row
from mythos.cli.naming import chosen_tier
from mythos.cli.output import CommandError, Exit, emit, json_wanted, note
from mythos.cli.progress import progress
from mythos.records.principal import OPERATOR
from mythos.spec.family import Family, Tier, TierState
from mythos.spec.load import load_family


def run(tier_name: str | None, family_name: str) -> int:
    records = open_records()
    family = load_family(family_name)
    names = [tier.name for tier in family.tiers]
    if tier_name is None:
        built = build_missing(records, family)
    else:
        tier = family.tier(chosen_tier(tier_name, names, names))
        if not buildable(tier):
            possible = ", ".join(t.name for t in family.tiers if buildable(t)) or "none"
            raise CommandError(
                f"{tier.name} is made by {made_by(tier)}, which this version cannot do yet",
                f"tiers that can be built: {possible}",
                Exit.NOT_BUILT,
            )
        build(records, family, tier)
        built = [tier.name]
    state = standing(records, family).family
    if json_wanted():
        emit({"family": family.name, "built": [row(state.tier(name)) for name in built]})
    elif not built:
        note("nothing to build")
    for name in built:
        note(f"{family.name}/{name} is built: root {(state.tier(name).root or '')[:12]}")
    return 0


def build_missing(records: Records, family: Family) -> list[str]:
    """Build every tier that is fetched and not registered yet; their names."""
    state = standing(records, family).family
    missing = [t for t in state.tiers if t.state is not TierState.BUILT and t.made_by.kind == "fetch"]
    for tier in missing:
        build(records, family, tier)
    return [tier.name for tier in missing]


def build(records: Records, family: Family, tier: Tier) -> None:
    from mythos.train.build import build_tier

    with progress(f"{family.name}/{tier.name}") as report:
        build_tier(records.home, records.store, records.clock, OPERATOR, family, tier, report)
