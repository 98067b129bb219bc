"""The sections of a report about serving: what an answer costs at each speed, and how much dearer a tier
is."""

from mythos.plan.errors import PlanError
from mythos.plan.offers import ANSWER, PROMPT, TPOT, Offer, at_speed, offers, precision_of, premium, priced
from mythos.plan.page import Section
from mythos.plan.svg import curves, ranges, short
from mythos.plan.tier import TierPlan
from mythos.spec.family import Family

POINTS = 10  # of a tier's curve, in its table


def serving_sections(family: Family, plan: TierPlan) -> list[Section]:
    """Cost against speed, and the premium of the planned tier over each below it; a sentence where none can
    be."""
    part, found = plan.part, {}
    try:
        for tier in family.tiers:
            found[tier.name] = offers(tier.config, part)
            priced(found[tier.name][0], part)
            if tier.name == plan.tier:
                break
    except PlanError as error:
        return [Section("What an answer costs", f"{error.message} {error.cure}", [], [])]
    return [_cost(plan, found), *_premium(plan, found)]


def _cost(plan: TierPlan, found: dict[str, tuple[Offer, ...]]) -> Section:
    lines, rows = {}, []
    for name, kept in found.items():
        step = max(1, -(-len(kept) // POINTS))
        told = [(one, priced(one, plan.part)) for one in (*kept[:-1:step], kept[-1])]
        lines[name] = [(one.tpot.value, one.dollars.value) for _, one in told]
        for offer, one in told:
            of = offer.deployment
            rows.append(
                [
                    name,
                    f"{one.tpot.value:.1f}",
                    f"{one.tpot.low:.1f} to {one.tpot.high:.1f}",
                    f"${short(one.dollars.value)}",
                    f"${short(one.dollars.low)} to ${short(one.dollars.high)}",
                    one.dollars.moved_by,
                    f"tp {of.tp} x dp {of.dp}, ep {of.ep}".replace(" ", "\u00a0"),  # on one line
                    f"{offer.batch:.0f}",
                ]
            )
    return Section(
        "Cost and latency of an answer",
        f"Dollars of a million answer tokens with their prompts ({PROMPT:,} tokens in, {ANSWER:,} out), by"
        f" the time between tokens, in {precision_of(plan.part)} on {plan.part.name}: the layouts that none"
        " beats in both. A steady state, always busy, without queues or a margin: mythos plan serve simulates"
        " these.",
        [
            "tier",
            "ms a token",
            "80% interval",
            "per million",
            "80% interval",
            "moved most by",
            "layout",
            "sequences",
        ],
        rows,
        curves(
            lines,
            "milliseconds between tokens",
            "dollars per million",
            dots=True,
            log_across=True,
            log_up=True,
        ),
    )


def _premium(plan: TierPlan, found: dict[str, tuple[Offer, ...]]) -> list[Section]:
    mine = at_speed(found[plan.tier])
    told = {
        name: premium(mine, at_speed(kept), plan.part)
        for name, kept in reversed(found.items())
        if name != plan.tier
    }
    if not told:
        return []
    rows = [
        [f"over {name}", f"x{one.value:.2g}", f"x{one.low:.2g} to x{one.high:.2g}", one.moved_by]
        for name, one in told.items()
    ]
    nearest = next(iter(told))
    return [
        Section(
            f"Premium over {nearest}",
            f"How many times what the same answer costs on each smaller tier it costs on {plan.tier}, both at"
            f" their cheapest with at most {1e3 * TPOT:.0f} ms between tokens (or at their fastest), at one"
            " price of an accelerator-hour.",
            ["premium", "times", "80% interval", "moved most by"],
            rows,
            ranges(
                [(f"over {name}", one.low, one.value, one.high) for name, one in told.items()],
                "times the cost",
            ),
        )
    ]
