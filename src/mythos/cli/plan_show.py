"""`mythos plan show`, `mythos plan compare`, `mythos plan choose`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mythos.cli.output import CommandError, Exit, amount, emit, json_wanted, note, show, table
from mythos.plan import wording
from mythos.plan.assumed import given
from mythos.plan.budget import Budget, parse_budget
from mythos.plan.choose import choose, choose_with_answers, sparsest
from mythos.plan.compared import compare
from mythos.plan.laws import DEFAULT_LAW
from mythos.plan.scales import sentences, spent, targets
from mythos.plan.tier import UNITS, TierPlan, plan_tier
from mythos.plan.uncertain import Answer
from mythos.spec.counting import active_parameters, kv_bytes_per_token, parameters
from mythos.spec.family import Family, Tier
from mythos.spec.load import load_family

MOST_OTHERS = 8


def run_show(
    family_name: str,
    tier_name: str | None,
    part_name: str,
    accelerators: int | None,
    budget: str | None,
    assume: list[str],
    html: Path | None,
    seed: int,
) -> int:
    family = load_family(family_name)
    tier = tier_of(family, tier_name)
    asked = None if budget is None else parse_budget(budget)
    plan = _plan(tier, part_name, accelerators, asked, assume, seed)
    if html is not None:
        from mythos.plan.report import report

        _write(html, report(family, plan))
    if json_wanted():
        emit(_plain(plan))
    else:
        _show(family, plan)
    if html is not None:
        note(f"the report is in {html}")
    return 0


def run_compare(
    names: tuple[str, str],
    part_name: str,
    accelerators: int | None,
    budget: str | None,
    assume: list[str],
    seed: int,
) -> int:
    asked = None if budget is None else parse_budget(budget)
    plans = []
    for text in names:
        spec, _, part = text.partition("@")
        family, _, tier = (
            spec.rpartition("/") if "/" in spec and not spec.endswith(".toml") else (spec, "", "")
        )
        found = tier_of(load_family(family), tier or None)
        plans.append(_plan(found, part or part_name, accelerators, asked, assume, seed))
    first, second = plans
    rows = compare(first, second, seed=seed)
    titles = [f"{plan.family}/{plan.tier} on {plan.accelerators:,} {plan.part.name}" for plan in plans]
    if json_wanted():
        emit(
            {
                "first": _head(first),
                "second": _head(second),
                "answers": {
                    row.name: {
                        "unit": UNITS[row.name],
                        "first": _answer(row.first),
                        "second": _answer(row.second),
                        "ratio": _answer(row.ratio),
                    }
                    for row in rows
                },
            }
        )
        return 0
    table(
        ["", *titles, "ratio", "80% interval", "moved most by"],
        [
            [
                wording.LABELS[row.name],
                wording.value(row.name, row.first.value),
                wording.value(row.name, row.second.value),
                f"x{row.ratio.value:.3g}",
                f"x{row.ratio.low:.3g} to x{row.ratio.high:.3g}",
                row.ratio.moved_by,
            ]
            for row in rows
        ],
    )
    note("what both assume alike is drawn once for both: it cancels in the ratio as far as it moves both")
    return 0


def run_choose(
    budget: str, law: str, served: str | None, unique: str | None, memory: str | None, ratio: float
) -> int:
    asked = parse_budget(budget)
    if asked.kind != "flops":
        raise CommandError("a model is chosen for a compute", "write it as 1e26FLOP", Exit.USAGE)
    served_tokens, unique_tokens = _number(served, "--served"), _number(unique, "--unique")
    found = choose(
        asked.amount, named=law, ratio=ratio, served_tokens=served_tokens or 0.0, unique_tokens=unique_tokens
    )
    told = {}
    if law == DEFAULT_LAW:
        told = choose_with_answers(
            asked.amount, ratio=ratio, served_tokens=served_tokens or 0.0, unique_tokens=unique_tokens
        )
    sparse = sparsest(asked.amount, most) if (most := _number(memory, "--parameters")) else ()
    if json_wanted():
        intervals = {name: _answer(one) for name, one in told.items()}
        emit({"choice": asdict(found), "intervals": intervals, "sparsity": [asdict(one) for one in sparse]})
        return 0
    heads = ["law", "active parameters", "tokens", "tokens each", "loss", "training FLOPs", "epochs"]
    table(heads, [_choice(found)])
    if told:
        texts = {"active": amount, "tokens": amount, "loss": lambda loss: f"{loss:.4f}"}
        rows = [
            [name, f"{texts[name](one.low)} to {texts[name](one.high)}", one.moved_by]
            for name, one in told.items()
        ]
        table(["", "80% interval", "moved most by"], rows)
    else:
        note(f"no interval: {law} comes without the errors of its coefficients")
    if sparse:
        heads = [
            "law",
            "active parameters",
            "tokens",
            "tokens each",
            "loss",
            "training FLOPs",
            "all by active",
        ]
        table(heads, [[*_choice(one)[:-1], f"{one.ratio:.3g}"] for one in sparse])
        note("the joint law was fitted to 1 to 32 experts and 5B parameters: beyond, it is extrapolated")
    return 0


def _choice(found: Any) -> list[str]:
    return [
        found.law,
        amount(found.active),
        amount(found.tokens),
        f"{found.tokens / found.active:.3g}",
        "-" if found.loss is None else f"{found.loss:.4f}",
        f"{found.flops:.3g}",
        f"{found.epochs:.2g}",
    ]


def _plan(
    tier: Tier, part: str, accelerators: int | None, budget: Budget | None, assume: list[str], seed: int
) -> TierPlan:
    return plan_tier(
        tier,
        part_name=part,
        accelerators=accelerators,
        budget=budget,
        assume=dict(given(text) for text in assume),
        seed=seed,
    )


def tier_of(family: Family, name: str | None) -> Tier:
    """The tier of that name; without one the last, which is the largest."""
    if name is None:
        return family.tiers[-1]
    try:
        return family.tier(name)
    except KeyError:
        names = ", ".join(tier.name for tier in family.tiers)
        raise CommandError(f"{family.name} has no tier {name}", f"one of {names}", Exit.USAGE) from None


def _number(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    units = {"M": 1e6, "B": 1e9, "T": 1e12}
    try:
        unit = units.get(text[-1:].upper())
        return float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        raise CommandError(f"{option} {text} is not understood", "write 15T or 1.5e13", Exit.USAGE) from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be written ({error.strerror})", "choose another place") from None


def _show(family: Family, plan: TierPlan) -> None:
    table(
        ["tier", "parameters", "active", "one in", "KV per token", "made by"],
        [_ladder(tier) for tier in family.tiers],
        family.description,
    )
    show(
        wording.work(plan),
        f"layout: {wording.layout(plan)}",
        f"memory: {wording.memory(plan)}",
        f"a step: {wording.step(plan)}",
    )
    table(
        ["", "value", "80% interval", "moved most by"],
        [
            [wording.LABELS[name], wording.value(name, one.value), wording.ends(name, one), one.moved_by]
            for name, one in plan.answers.items()
        ],
    )
    table(
        ["instead", "step", "because of", "GiB"],
        [wording.alternative(other) for other in wording.alternatives(plan.search, MOST_OTHERS)],
        f"why this layout: the best of {plan.search.counts['combinations']:,} combinations",
    )
    show(*sentences(plan))
    note("every interval follows from the ranges of its inputs: --json lists them, --assume changes them")


def _ladder(tier: Tier) -> list[str]:
    whole, active = parameters(tier.config), active_parameters(tier.config)
    made = "planned, not trained" if tier.made_by.kind == "planned" else tier.made_by.kind
    kv = kv_bytes_per_token(tier.config, 2) / 1024
    return [tier.name, amount(whole), amount(active), f"{whole / active:.1f}", f"{kv:.0f} KiB", made]


def _head(plan: TierPlan) -> dict[str, Any]:
    return {
        "family": plan.family,
        "tier": plan.tier,
        "parameters": plan.parameters,
        "active": plan.active,
        "tokens": plan.tokens,
        "tokens_from": plan.tokens_from,
        "flops": plan.flops,
        "hardware": plan.part.name,
        "accelerators": plan.accelerators,
    }


def _plain(plan: TierPlan) -> dict[str, Any]:
    best = plan.search.best
    return _head(plan) | {
        "layout": asdict(best.layout),
        "step": asdict(best.step),
        "memory": [asdict(rank) | {"needed": rank.needed} for rank in best.memory.ranks],
        "usable_bytes": plan.part.usable_bytes,
        "answers": {name: {"unit": UNITS[name]} | _answer(one) for name, one in plan.answers.items()},
        "combinations": plan.search.counts,
        "other_layouts": [
            {
                "axis": other.axis,
                "value": other.value,
                "slower": other.slower if other.found else None,
                "because": other.because,
                "bytes": other.least_bytes,
            }
            for other in plan.search.others
        ],
        "spent": spent(plan),
        "targets": [asdict(target) for target in targets(plan)],
        "says": sentences(plan),
        "assumptions": [_assumption(one) for one in plan.assumptions],
    }


def _assumption(one: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(one).items() if key not in ("least", "most")}


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "value": answer.value,
        "low": answer.low,
        "high": answer.high,
        "moved_by": answer.moved_by,
        "effects": [asdict(effect) for effect in answer.effects if effect.swing > 0],
    }
