"""`mythos build`: make the weights of a family, or of one tier, and register them; make good what
is damaged.
"""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mythos.cli.local import Records, open_records, standing
from mythos.cli.models import buildable, made_by, row
from mythos.cli.naming import chosen_tier
from mythos.cli.output import CommandError, Exit, amount, emit, json_wanted, note, table
from mythos.cli.progress import progress
from mythos.records.principal import OPERATOR
from mythos.spec.counting import active_parameters, parameters
from mythos.spec.family import TRAINED, Family, Tier, TierState
from mythos.spec.load import load_family, packaged_families
from mythos.train.settings import Budget, parse_budget

if TYPE_CHECKING:
    from mythos.train.build import Training
    from mythos.train.material import Material

DEFAULT_BUDGET = "45m"
REFUSALS = ("made from", "harmful declined", "fair declined")


def run(name: str | None, tier_name: str | None, family_name: str, budget: str | None) -> int:
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
    if budget is not None and not trained:
        raise CommandError(
            f"nothing of {family.name} that is asked for is trained", "leave --budget out", Exit.USAGE
        )
    if trained:
        give_way()  # before anything starts threads: they have the priority that they begin with
    training = None
    for tier in chosen:
        if tier in trained and training is None:  # not before: the data need the tokenizer of what is fetched
            training = _training(records, family, trained, whole)
        build(records, family, tier, training(tier) if training and tier in trained else None)
    names = [tier.name for tier in chosen]
    state = standing(records, family).family
    ladder = _ladder(records, state, training(trained[0]).material) if training and trained else []
    if training:
        _draw(records, family, trained, training)
    if json_wanted():
        emit({"family": family.name, "built": [row(state.tier(one)) for one in names], "ladder": ladder})
    elif not names:
        note("nothing to build")
    for one in names:
        note(f"{family.name}/{one} is built: root {(state.tier(one).root or '')[:12]}")
    if ladder and not json_wanted():
        heads = [head for head in ladder[0] if head not in REFUSALS]
        table(heads, [[line[head] for head in heads] for line in ladder])
        table(["tier", *REFUSALS], [[line[head] for head in ("tier", *REFUSALS)] for line in ladder])
        note(
            "bits per byte of held-out text; gain: what is saved against the tier before, "
            "mean of the domains, 95% interval; declined: of 80 harmful and 80 fair prompts, "
            "on topics that no tier was taught, as a program judges, 95% interval"
        )
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
) -> "Callable[[Tier], Training]":
    """What the training of each tier takes. The tiers that are trained share the budget as the
    family says.
    """
    from mythos.cli.training import compiler, reporter
    from mythos.data.train_tokenizer import CHAT_TEMPLATE
    from mythos.evaluate.items import evaluation_items
    from mythos.store.answering import Idle
    from mythos.train.build import Training
    from mythos.train.material import material, own_tokenizer

    with progress(f"{family.name}: data") as report:
        fetched = [tier for tier in family.tiers if tier.made_by.kind == "fetch"]
        if fetched:
            tokenizer, template = _tokenizer_of(records, family, fetched[0])
        else:
            vocab = family.tiers[0].config.vocab
            tokenizer, template = own_tokenizer(records.home, family.name, vocab, report), CHAT_TEMPLATE
        stuff = material(records.home, family.name, tokenizer, template, evaluation_items, report)

    idle, compiled = Idle(records.home), compiler(records.home)

    def training(tier: Tier) -> Training:
        shares = {one.name: float(dict(one.made_by.options)["share"]) for one in trained}
        part = _part(whole, shares[tier.name] / sum(shares.values()))
        return Training(stuff, part, reporter(f"{family.name}/{tier.name}"), idle, compiled)

    return training


def _draw(
    records: Records, family: Family, trained: list[Tier], training: "Callable[[Tier], Training]"
) -> None:
    """The loss of each tier that was trained, over its tokens, in one picture; what became of its pairs."""
    from mythos.train.build import run_of
    from mythos.train.plot import loss_curve, loss_svg
    from mythos.train.stages import OUTCOME

    runs = {}
    for tier in trained:
        run = run_of(records.home, records.store, family, tier, training(tier))
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
    picture = records.home.path / "runs" / f"{family.name}.svg"
    picture.write_text(
        loss_svg(f"{family.name}: loss in training", {n: loss_curve(run) for n, run in runs.items()})
    )
    note(f"curves: {picture}")


def _tokenizer_of(records: Records, family: Family, tier: Tier) -> tuple[bytes, str]:
    """Tokenizer and chat template of a tier that is fetched, which is built first if it is not there."""
    from mythos.gate.authorize import authorize
    from mythos.model.weights_dir import TEMPLATE, TOKENIZER, read_weights
    from mythos.records.permit import Action, Refusal
    from mythos.store.weights_key import weights_keyring

    build(records, family, tier)
    now = records.clock.now()
    answer = authorize(standing(records, family), OPERATOR, Action.LOAD, tier.name, "training", now)
    if isinstance(answer, Refusal):
        raise CommandError(f"{tier.name} cannot be used: {answer.message}", f"mythos build {tier.name}")
    directory = records.home.weights_dir(answer.root)
    files = read_weights(directory, weights_keyring(records.home), answer.root).files
    return files[TOKENIZER], files[TEMPLATE].decode()


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


def give_way() -> None:
    """All else on this machine goes first."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


def _tasks(records: Records, family: Family, tier: Tier) -> str:
    """Share of reasoning_gym's questions that the tier answers rightly, with the exact 95% interval."""
    from mythos.evaluate.run import run_suite
    from mythos.gate.bounds import lower, upper
    from mythos.records.evidence import Outcome

    place = records.home.path / "runs" / "quality" / f"{(tier.root or '')[:16]}-tasks"
    with progress(f"{tier.name}: tasks") as report:
        result = run_suite(
            records.home, records.store, records.clock, OPERATOR, family, tier.name, "reasoning_gym", "chat",
            place, progress=report,
        )  # fmt: skip
    right, count = sum(one.outcome is Outcome.SUCCESS for one in result.samples), len(result.samples)
    low, high = lower(right, count, 0.975), upper(right, count, 0.975)
    return f"{right / count:.3f} [{low:.3f}, {high:.3f}]"


def _ladder(records: Records, family: Family, stuff: "Material") -> list[dict[str, Any]]:
    """One line for each tier that is built: size, bits per byte of each domain, gain over the tier before."""
    from mythos.train.behaviour import measure_refusals, record_refusals, share
    from mythos.train.ladder import measure, step_up

    lines, before, declined = [], None, {}
    with progress(family.name) as report:
        for tier in family.tiers:
            if tier.state is not TierState.BUILT:
                before = None
                continue
            here = (records.home, records.store, records.clock, OPERATOR, family, tier)
            quality = measure(*here, stuff.held_out, report)
            declined[tier.name] = of = measure_refusals(*here, report)
            line: dict[str, Any] = {
                "tier": tier.name,
                "parameters": amount(parameters(tier.config)),
                "active": amount(active_parameters(tier.config)),
            }
            line |= {name: f"{prediction.bits_per_byte:.4f}" for name, prediction in quality.items()}
            gain = step_up(quality, before) if before else None
            line["reasoning tasks"] = _tasks(records, family, tier)
            line["gain"] = f"{gain[0]:.4f} [{gain[1]:.4f}, {gain[2]:.4f}]" if gain else ""
            shares = (share(of.declined, of.harmful), share(of.fair_declined, of.fair))
            line |= dict(zip(REFUSALS, (", ".join(tier.parents), *shares), strict=True))
            lines.append(line)
            before = quality
    record_refusals(records.store, records.clock, OPERATOR, family, declined)
    return lines
