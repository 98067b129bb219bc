"""The HTML report of a plan: every drawing with its numbers beside it, in one file that needs no network."""

import numpy as np

from mythos.plan import wording
from mythos.plan.laws import EPOCH
from mythos.plan.page import Section, page
from mythos.plan.report_serving import serving_sections
from mythos.plan.scales import sentences, spent, targets
from mythos.plan.search import GIB, PARTS
from mythos.plan.svg import curves, short, stacked, tornado
from mythos.plan.tier import TierPlan, loss
from mythos.plan.uncertain import answers
from mythos.spec.counting import active_parameters, kv_bytes_per_token, parameters
from mythos.spec.family import Family

RANK_PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "workspace", "outside")
MOST_RANKS = 32  # of the pipeline that are drawn
LOSS_POINTS = 17


def report(family: Family, plan: TierPlan) -> str:
    """The whole page. The same plan gives the same bytes."""
    planned = any(tier.made_by.kind == "planned" for tier in family.tiers)
    lead = [
        "A plan, computed before anything runs: nothing here was measured on this model."
        + (" It was never trained by this project." if planned else ""),
        wording.work(plan) + ".",
        f"Layout: {wording.layout(plan)}. Memory: {wording.memory(plan)}.",
        *sentences(plan),
        "Intervals hold the true value four times in five if the assumptions do as stated; the last column"
        " names the input that moves an answer most.",
    ]
    sections = [
        _answers(plan),
        _ladder(family),
        _loss(plan),
        *_cost(plan),
        _step(plan),
        _memory(plan),
        *serving_sections(family, plan),
        *_tornados(plan),
        _layouts(plan),
        _assumptions(plan),
    ]
    source = f"Made by mythos plan show {family.name} --tier {plan.tier} --hardware {plan.part.name}."
    return page(
        f"{plan.family}/{plan.tier} on {plan.accelerators:,} {plan.part.name}", lead, sections, source
    )


def _answers(plan: TierPlan) -> Section:
    rows = [
        [wording.LABELS[name], wording.value(name, one.value), wording.ends(name, one), one.moved_by]
        for name, one in plan.answers.items()
    ]
    return Section("What it takes", "", ["", "value", "80% interval", "moved most by"], rows)


def _ladder(family: Family) -> Section:
    rows = []
    for tier in family.tiers:
        whole, active = parameters(tier.config), active_parameters(tier.config)
        kv = kv_bytes_per_token(tier.config, 2)
        rows.append([tier.name, f"{whole:,}", f"{active:,}", f"{whole / active:.1f}", f"{kv:,}"])
    heads = ["tier", "parameters", "active", "all by active", "KV bytes per token, 16 bits"]
    return Section("The family", "Exact counts.", heads, rows)


def _loss(plan: TierPlan) -> Section:
    tokens = plan.tokens * np.logspace(-1.5, 1, LOSS_POINTS)
    told = answers(
        lambda inputs: {
            str(n): loss(plan.active, plan.parameters, float(many), inputs) for n, many in enumerate(tokens)
        },
        plan.assumptions,
    )
    flops = [float(many) * plan.flops_per_token for many in tokens]
    dense = [_best_dense(total) for total in flops]
    band = [(total, one.low, one.high) for total, one in zip(flops, told.values(), strict=True)]
    drawing = curves(
        {
            plan.tier: [(total, one.value) for total, one in zip(flops, told.values(), strict=True)],
            "best dense model": list(zip(flops, dense, strict=True)),
        },
        "FLOP of training",
        "loss, nats per token",
        band=band,
        marks={"the plan": (plan.flops, plan.answers["loss"].value)},
        log_across=True,
    )
    rows = [
        [
            f"{total:.3g}",
            short(float(many)),
            f"{one.value:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
            f"{best:.3f}",
            one.moved_by,
        ]
        for total, many, one, best in zip(flops, tokens, told.values(), dense, strict=True)
    ]
    return Section(
        "Loss against compute",
        "Epoch's refit of Hoffmann's law, far beyond the runs that it was fitted to, for this model at more"
        " and at fewer tokens; the best dense model spends the same compute at the law's best split.",
        ["FLOP", "tokens", "loss", "80% interval", "best dense", "moved most by"],
        rows,
        drawing,
    )


def _best_dense(flops: float) -> float:
    grow = (EPOCH.alpha * EPOCH.a / (EPOCH.beta * EPOCH.b)) ** (1 / (EPOCH.alpha + EPOCH.beta))
    size = grow * (flops / 6) ** (EPOCH.beta / (EPOCH.alpha + EPOCH.beta))
    return EPOCH.loss(size, flops / 6 / size)


def _cost(plan: TierPlan) -> list[Section]:
    parts = spent(plan)
    if not parts:
        return []
    whole = sum(parts.values())
    scale, unit = _dollars(whole)
    drawing = stacked([("final run", [(name, dollars / scale) for name, dollars in parts.items()])], unit)
    rows = [[name, f"${short(dollars)}", f"{dollars / whole:.1%}"] for name, dollars in parts.items()]
    reach = [
        [
            one.what,
            f"${short(one.dollars)}",
            f"x{one.factor:.3g}",
            short(one.tokens),
            short(one.active),
            ", ".join(one.ends) or "none",
        ]
        for one in targets(plan)
    ]
    sections = [
        Section(
            "Where the money goes",
            "The rented final run at its median. Parts of a step as predicted for the slowest pipeline rank.",
            ["for", "dollars", "share"],
            rows,
            drawing,
        )
    ]
    if reach:
        sections += [_reach(reach)]
    return sections


def _reach(rows: list[list[str]]) -> Section:
    return Section(
        "What buys hundreds of millions, what billions",
        "The factor by which the cost would have to change, and what gives it alone: tokens, active"
        " parameters at the same share of peak, or one assumption within its own interval.",
        [
            "cost of",
            "to reach",
            "factor",
            "tokens",
            "active parameters",
            "assumptions that reach it alone",
        ],
        rows,
    )


def _dollars(whole: float) -> tuple[float, str]:
    """What to divide dollars by for an axis that ends at `whole`, and its name."""
    for scale, unit in ((1e6, "million dollars"), (1e3, "thousand dollars")):
        if whole >= scale:
            return scale, unit
    return 1.0, "dollars"


def _step(plan: TierPlan) -> Section:
    step = plan.search.best.step
    parts = [(name, getattr(step, name)) for name in PARTS if getattr(step, name) > 0]
    rows = [[name, f"{seconds:.3g}", f"{seconds / step.seconds:.1%}"] for name, seconds in parts]
    return Section(
        "Where the time of a step goes",
        f"{step.seconds:.3g} s for {short(step.tokens)} tokens: {step.mfu:.1%} of peak without recomputation,"
        f" {step.hfu:.1%} with. Communication counts as far as nothing hides it.",
        ["part", "seconds", "share"],
        rows,
        stacked([("step", parts)], "seconds"),
    )


def _memory(plan: TierPlan) -> Section:
    ranks = plan.search.best.memory.ranks
    bars = [
        (f"rank {rank.rank}", [(part, getattr(rank, part) / GIB) for part in RANK_PARTS])
        for rank in ranks[:MOST_RANKS]
    ]
    rows = [
        [
            str(rank.rank),
            *[f"{getattr(rank, part) / GIB:.1f}" for part in RANK_PARTS],
            f"{rank.needed / GIB:.1f}",
        ]
        for rank in ranks
    ]
    return Section(
        "Memory per pipeline rank",
        f"GiB of one accelerator; the dashed line is what {plan.part.name} has:"
        f" {plan.part.usable_bytes / GIB:.0f} GiB."
        + (f" Drawn are the first {MOST_RANKS} ranks." if len(ranks) > MOST_RANKS else ""),
        ["rank", *RANK_PARTS, "needed"],
        rows,
        stacked(bars, "GiB", plan.part.usable_bytes / GIB),
    )


def _tornados(plan: TierPlan) -> list[Section]:
    found = []
    for name in ("rented", "programme", "days"):
        if name not in plan.answers:
            continue
        answer = plan.answers[name]
        effects = [one for one in answer.effects if one.swing > 0][:10]
        if not effects:
            continue
        scale, unit = (1.0, "days") if name == "days" else _dollars(answer.central)
        drawing = tornado(
            [(one.name, one.at_low / scale, one.at_high / scale) for one in effects],
            answer.central / scale,
            unit,
        )
        rows = [
            [
                one.name,
                wording.value(name, one.at_low),
                wording.value(name, one.at_high),
                _range(plan, one.name),
            ]
            for one in effects
        ]
        found.append(
            Section(
                f"What moves it: {wording.LABELS[name]}",
                f"Each input alone at the ends of its range, all others at their medians, where the answer is"
                f" {wording.value(name, answer.central)}.",
                ["input", "at its low end", "at its high end", "range"],
                rows,
                drawing,
            )
        )
    return found


def _range(plan: TierPlan, name: str) -> str:
    one = next(one for one in plan.assumptions if one.name == name)
    return f"{one.low:.4g} to {one.high:.4g}"


def _layouts(plan: TierPlan) -> Section:
    pareto = plan.search.pareto
    rows = [wording.alternative(other) for other in plan.search.others]
    counts = "; ".join(f"{many:,} {what}" for what, many in plan.search.counts.items())
    drawing = curves(
        {"best layouts": [(one.bytes / GIB, one.step.seconds) for one in pareto]},
        "GiB on the fullest accelerator",
        "seconds of a step",
        dots=True,
    )
    return Section(
        "Why this layout",
        f"{counts}. The drawing has the layouts that no other beats in both time and memory; the table,"
        " for each other value of each setting, the best layout found with it and the part of the step that"
        " grew most.",
        ["instead", "step", "because of", "GiB"],
        rows,
        drawing,
    )


def _assumptions(plan: TierPlan) -> Section:
    rows = [
        [one.name, f"{one.low:.4g}", f"{one.value:.4g}", f"{one.high:.4g}", one.unit, one.source, one.dated]
        for one in plan.assumptions
    ]
    return Section(
        "What is taken for granted",
        "10% quantile, median, 90% quantile. Any of them can be changed with --assume NAME=LOW:MIDDLE:HIGH.",
        ["name", "low", "median", "high", "of", "source", "dated"],
        rows,
    )
