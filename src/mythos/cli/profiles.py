"""`mythos profile`: make safeguard profiles for a tier's weights; list what is stored."""

from mythos.cli.desk import Desk, listing, open_desk, table
from mythos.cli.local import require, standing
from mythos.cli.output import CommandError, Exit, emit, json_wanted, note
from mythos.cli.progress import progress
from mythos.records.permit import Action
from mythos.records.profile import Profile
from mythos.spec.load import load_family
from mythos.store.profiles import put_profile, stored_profiles


def train(family: str, tier: str, fallback: str) -> int:
    """Under the tier's handling decision, as anything that loads weights."""
    desk = open_desk()
    declared, _ = desk.tier(family, tier)
    if fallback and fallback not in [one.name for one in declared.tiers if one.name != tier]:
        raise CommandError(
            f"{fallback} is no other tier of {declared.name}", f"mythos models {family}", Exit.USAGE
        )
    state = standing(desk.records, load_family(family))
    require(state, tier, Action.ANSWER, desk.records.clock.now())
    from mythos.data.prompts import everyday, refusal_set
    from mythos.engine.loader import Loader
    from mythos.train.probe import profiles_of, train_probe

    loaded = Loader(desk.records.home).load(state.family.tier(tier), state.decisions[tier])
    with progress(f"{declared.name}/{tier}") as report:
        probe = train_probe(loaded, [*refusal_set(), *everyday()], report)
    made = profiles_of(probe, loaded.root, fallback)
    for profile in made:
        put_profile(desk.records.home, profile)
    if json_wanted():
        emit({"profiles": [row(profile) for profile in made]})
        return 0
    table([row(profile) for profile in made], "stored")
    note(
        f"next: mythos evaluate plan {tier} --suite refusal_held_out --profile {made[0].name} --as EVALUATOR"
    )
    return 0


def list_() -> int:
    desk: Desk = open_desk()
    rows = [row(profile) for profile in stored_profiles(desk.records.home)]
    return listing(desk, "profiles", rows, "none yet: mythos profile train TIER")


def row(profile: Profile) -> dict[str, object]:
    return {
        "id": profile.identity,
        "weights": profile.root[:12],
        "layer": profile.layer,
        "watches": ", ".join(profile.categories),
        "exempt": ", ".join(profile.exempt),
        "fallback": profile.fallback,
        "hold_back": profile.hold_back,
    }
