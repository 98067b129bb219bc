"""`mythos build`: make the weights of a family, or of one tier, and register them; make good what
is damaged.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mythos.cli.controls import Beside, beside_controls, show_beside
from mythos.cli.forecasts import beside
from mythos.cli.local import Records, open_records, standing
from mythos.cli.models import buildable, made_by, row
from mythos.cli.naming import chosen_tier
from mythos.cli.output import CommandError, Exit, emit, json_wanted, note
from mythos.cli.progress import progress
from mythos.cli.rungs import Rung, over_seeds, rungs, show_rungs
from mythos.cli.training import give_way, prepared, reporter
from mythos.cli.won_back import WonBack, show_won_back, won_back
from mythos.records.principal import OPERATOR
from mythos.spec.family import TRAINED, Family, Tier, TierState
from mythos.spec.load import load_family, packaged_families
from mythos.train.settings import Budget, parse_budget

if TYPE_CHECKING:
    from mythos.train.run import Training

DEFAULT_BUDGET = "45m"


def run(
    name: str | None,
    tier_name: str | None,
    family_name: str,
    budget: str | None,
    seeds: int = 1,
    control: bool = False,
) -> int:
    records = open_records()
    if name is not None and (name in packaged_families() or name.endswith(".toml")):
        family_name = name
    elif name is not None and tier_name is None:
        tier_name = name
    elif name is not None:
        raise CommandError(
            f"there is no family {name}", f"one of {', '.join(packaged_families())}", Exit.USAGE
        )
    family = load_family(family_name)
    if tier_name is not None:
        chosen = [_checked(family, tier_name)]
    elif budget is not None or all(tier.made_by.kind in TRAINED for tier in family.tiers):
        chosen = in_order([tier for tier in family.tiers if buildable(tier)])
    else:
        chosen = _missing(records, family)
    whole = parse_budget(budget or DEFAULT_BUDGET)
    trained = [t for t in chosen if t.made_by.kind in TRAINED or (budget and t.made_by.kind == "experts")]
    if not trained and (budget is not None or seeds > 1 or control):
        option = "--budget" if budget is not None else "--seeds" if seeds > 1 else "--control"
        raise CommandError(
            f"nothing of {family.name} that is asked for is trained", f"leave {option} out", Exit.USAGE
        )
    if not trained:
        for tier in chosen:
            build(records, family, tier)
        return _told(records, family, chosen, [], [], [], [])
    give_way()  # before anything starts threads: they have the priority that they begin with
    found: list[Rung] = []
    held: list[Beside] = []
    back: list[WonBack] = []
    training = _training(records, family, trained, whole)
    for seed in reversed(range(seeds)):  # the first one last: it is the one that stays in use
        for tier in chosen:
            build(records, family, tier, training(tier, seed) if tier in trained else None)
        state = standing(records, family).family
        _draw(records, family, trained, training, seed)
        here = rungs(records, state, training(trained[0], seed).material, seed)
        found = here + found
        ways = {tier.name: training(tier, seed) for tier in trained}
        back = won_back(records, state, ways, here) + back
        beside_it = beside_controls(records, state, ways, here) if control else []
        held = beside_it + held
        if seeds > 1:  # hours may lie between the first seed's figures and the table
            for line in [*(rung.line() for rung in here), *(one.line() for one in beside_it)]:
                note(f"seed {seed}: " + ", ".join(f"{key} {value}" for key, value in line.items() if value))
    ahead = beside(records, family, {tier.name: training(tier, 0) for tier in trained}, found)
    return _told(records, family, chosen, found, back, held, ahead)


def _told(
    records: Records,
    family: Family,
    chosen: list[Tier],
    found: list[Rung],
    back: list[WonBack],
    held: list[Beside],
    ahead: list[dict[str, Any]],
) -> int:
    state = standing(records, family).family
    if json_wanted():
        several = len({rung.seed for rung in found}) > 1
        emit(
            {
                "family": family.name,
                "built": [row(state.tier(tier.name)) for tier in chosen],
                "ladder": [{"seed": rung.seed} | rung.line() for rung in found],
                "over_seeds": over_seeds(found) if several else [],
                "pruned": [one.told() for one in back],
                "controls": [one.line() for one in held],
                "forecasts": ahead,
            }
        )
    elif not chosen:
        note("nothing to build")
    for tier in chosen:
        note(f"{family.name}/{tier.name} is built: root {(state.tier(tier.name).root or '')[:12]}")
    if found and not json_wanted():
        show_rungs(found)
        show_won_back(back)
        show_beside(held)
        for line in ahead:
            note(line["text"])
    return 0


def build_missing(records: Records, family: Family) -> list[str]:
    """Build every tier that is fetched and not registered yet; their names."""
    missing = _missing(records, family)
    for tier in missing:
        build(records, family, tier)
    return [tier.name for tier in missing]


def build(records: Records, family: Family, tier: Tier, training: "Training | None" = None) -> None:
    from mythos.train.build import build_tier

    with progress(f"{family.name}/{tier.name}") as report:
        build_tier(records.home, records.store, records.clock, OPERATOR, family, tier, report, training)


def _missing(records: Records, family: Family) -> list[Tier]:
    state = standing(records, family).family
    return [t for t in state.tiers if t.state is not TierState.BUILT and t.made_by.kind == "fetch"]


def _checked(family: Family, tier_name: str) -> Tier:
    names = [tier.name for tier in family.tiers]
    tier = family.tier(chosen_tier(tier_name, names, names))
    if not buildable(tier):
        possible = ", ".join(t.name for t in family.tiers if buildable(t)) or "none"
        raise CommandError(
            f"{tier.name} is made by {made_by(tier)}, which this version cannot do yet",
            f"tiers that can be built: {possible}",
            Exit.NOT_BUILT,
        )
    return tier


def _training(
    records: Records, family: Family, trained: list[Tier], whole: Budget
) -> "Callable[[Tier, int], Training]":
    """What the training of each tier takes. The tiers that are trained share the budget as the
    family says.
    """
    from mythos.train.run import Training

    stuff, idle, compiled = prepared(records, family)

    def training(tier: Tier, seed: int) -> Training:
        shares = {one.name: float(dict(one.made_by.options)["share"]) for one in trained}
        part = _part(whole, shares[tier.name] / sum(shares.values()))
        return Training(stuff, part, reporter(f"{family.name}/{tier.name}"), idle, compiled, seed)

    return training


def _draw(
    records: Records,
    family: Family,
    trained: list[Tier],
    training: "Callable[[Tier, int], Training]",
    seed: int,
) -> None:
    """The loss of each tier that was trained, over its tokens, in one picture; what became of its pairs."""
    from mythos.train.build import run_of
    from mythos.train.plot import loss_curve, loss_svg
    from mythos.train.stages import OUTCOME

    runs = {}
    for tier in trained:
        run = run_of(records.home, records.store, family, tier, training(tier, seed))
        for place in sorted(run.glob("**/metrics.jsonl")):
            part = place.parent.name if place.parent != run else ""
            if part != "dpo":  # whose loss is of pairs, not of tokens
                runs[f"{tier.name} {part}".strip()] = place.parent
        if (run / "dpo" / OUTCOME).exists():
            of = json.loads((run / "dpo" / OUTCOME).read_bytes())
            principles = ", ".join(f"{name} {count}" for name, count in of["principles"].items())
            note(
                f"{tier.name}: {of['pairs']} pairs of answers, {of['in_order']} in order after training, "
                f"{of['too_long']} left out as too long; rejected for: {principles or 'nothing'}"
            )
    if not runs:
        return  # their directories were removed
    name = f"{family.name}-{seed}" if seed else family.name  # no seed draws over another
    picture = records.home.path / "runs" / f"{name}.svg"
    picture.write_text(loss_svg(f"{name}: loss in training", {n: loss_curve(run) for n, run in runs.items()}))
    note(f"curves: {picture}")


def in_order(tiers: list[Tier]) -> list[Tier]:
    """Parents first, else as the family has them."""
    done: list[Tier] = []
    while len(done) < len(tiers):
        names = {tier.name for tier in done}
        waiting = {tier.name for tier in tiers} - names
        done += [tier for tier in tiers if tier.name in waiting and not waiting.intersection(tier.parents)]
    return done


def _part(budget: Budget, share: float) -> Budget:
    if budget.tokens is not None:
        return replace(budget, tokens=max(1, round(budget.tokens * share)))
    assert budget.seconds is not None
    return replace(budget, seconds=budget.seconds * share)
