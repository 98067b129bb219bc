"""A tier's plan: what a budget buys, that intervals follow the assumptions, that money is accounted for."""

import math
from dataclasses import replace

import pytest

from mythos.plan.assumed import given, packaged, prices
from mythos.plan.budget import Budget, parse_budget
from mythos.plan.compared import compare
from mythos.plan.efficiencies import packaged as efficiencies
from mythos.plan.errors import PlanError
from mythos.plan.hardware import hardware
from mythos.plan.scales import between, magnitude, sentences, spent, targets
from mythos.plan.tier import UNITS, plan_tier
from mythos.plan.uncertain import AssumptionError
from mythos.records.errors import MythosError
from mythos.spec.counting import active_parameters, kv_bytes_per_token, parameters, training_flops_per_token
from mythos.spec.load import FamilyError, load_family, parse_family

FAMILY = load_family("mythos-10t")
LARGEST, SMALLEST = FAMILY.tiers[-1], FAMILY.tiers[0]


def test_the_ladder_to_ten_trillion() -> None:
    """The totals of the design, by exact counting: 30.1B-A3.5B, 283B-A14.3B, 2.25T-A60.6B, 9.88T-A197B."""
    counts = [(parameters(tier.config), active_parameters(tier.config)) for tier in FAMILY.tiers]
    assert counts == [
        (30_093_617_152, 3_480_758_272),
        (282_705_958_912, 14_337_611_776),
        (2_245_484_747_776, 60_562_742_272),
        (9_884_143_314_944, 197_062_682_624),
    ]
    moe = LARGEST.config.moe
    assert moe is not None and moe.routed // moe.top_k == 64
    assert kv_bytes_per_token(LARGEST.config, 2) == 108 * 1024
    assert all(tier.price.input == tier.price.output == 0 for tier in FAMILY.tiers)


def test_a_planned_tier_states_its_tokens() -> None:
    with pytest.raises(FamilyError, match="made_by.tokens should be of type float"):
        parse_family(_text().replace("tokens = 40e12", "tokens = 40", 1).encode(), "x.toml")
    with pytest.raises(FamilyError, match="tokens should be from 1e6 to 1e16"):
        parse_family(_text().replace("tokens = 40e12", "tokens = 4e20", 1).encode(), "x.toml")


def _text() -> str:
    from importlib.resources import files

    return (files("mythos") / "families" / "mythos-10t.toml").read_text()


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("300M$", "dollars", 3e8),
        ("$2.5B", "dollars", 2.5e9),
        ("1e26FLOP", "flops", 1e26),
        ("1e26 flops", "flops", 1e26),
        ("90d", "days", 90),
        ("1 day", "days", 1),
        ("1,000,000$", "dollars", 1e6),
    ],
)
def test_budgets(text, kind, amount) -> None:
    assert parse_budget(text) == Budget(kind, pytest.approx(amount))


@pytest.mark.parametrize(
    "text", ["", "300", "-3M$", "nan$", "inf$", "0d", "1e99FLOP", "$$", "ten$", "90e9d", "M$"]
)
def test_budgets_that_are_none(text) -> None:
    with pytest.raises(PlanError) as error:
        parse_budget(text)
    assert error.value.cure


def test_a_budget_of_compute_buys_tokens_and_one_of_money_too() -> None:
    flops = plan_tier(SMALLEST, budget=parse_budget("1e24FLOP"), explain=False)
    assert flops.flops == pytest.approx(1e24)
    assert flops.flops_per_token == training_flops_per_token(SMALLEST.config, 4096)
    assert flops.answers["days"].value <= 90
    few = plan_tier(SMALLEST, budget=parse_budget("1M$"), explain=False)
    assert few.answers["rented"].value == pytest.approx(1e6, rel=1e-6)
    more = plan_tier(SMALLEST, budget=parse_budget("2M$"), accelerators=few.accelerators, explain=False)
    assert more.tokens == pytest.approx(2 * few.tokens, rel=0.05)


def test_a_budget_of_days_buys_accelerators_or_else_tokens() -> None:
    slow = plan_tier(SMALLEST, budget=parse_budget("80d"), explain=False)
    fast = plan_tier(SMALLEST, budget=parse_budget("20d"), explain=False)
    assert slow.tokens == fast.tokens == 40e12 and fast.accelerators > slow.accelerators
    assert fast.answers["days"].value <= 20
    fixed = plan_tier(SMALLEST, budget=parse_budget("20d"), accelerators=slow.accelerators, explain=False)
    assert fixed.answers["days"].value == pytest.approx(20, rel=1e-6) and fixed.tokens < slow.tokens


def test_answers_hang_together() -> None:
    plan = plan_tier(LARGEST, accelerators=8192)
    told = {name: one.central for name, one in plan.answers.items()}
    assert set(told) == set(UNITS)
    hours = (8192 + told["spares"]) * told["days"] * 24
    assert told["accelerator_hours"] == pytest.approx(hours)
    rent = next(one.value for one in plan.assumptions if one.name == "rent")
    assert told["rented"] == pytest.approx(hours * rent)
    assert 6 * plan.active * plan.tokens < plan.flops < 6.6 * plan.active * plan.tokens
    work = plan.flops / (told["mfu"] * plan.search.best.step.peak)  # seconds
    rerun = next(one.value for one in plan.assumptions if one.name == "rerun")
    assert told["days"] * 86400 == pytest.approx(work * rerun / told["goodput"])
    assert told["tonnes"] == pytest.approx(told["mwh"] * 0.385)
    for answer in plan.answers.values():
        assert answer.low <= answer.value <= answer.high and answer.moved_by
    assert sum(spent(plan).values()) == pytest.approx(plan.answers["rented"].value)
    assert plan_tier(LARGEST, accelerators=8192) == plan


def test_the_hidden_dispatch_is_an_assumption_where_a_recipe_may_hide_it() -> None:
    usual = plan_tier(LARGEST, part_name="H100", accelerators=32768, explain=False)
    told = {name: (0.1, 0.5, 0.9) for name in ("dispatch",)}
    assert {one.name for one in usual.answers["days"].effects if one.swing > 0} >= {"dispatch", "step"}
    effect = next(one for one in usual.answers["days"].effects if one.name == "dispatch")
    assert effect.at_high < usual.answers["days"].central < effect.at_low  # more hidden, fewer days
    assert plan_tier(LARGEST, part_name="H100", accelerators=32768, explain=False, assume=told).answers == (
        usual.answers
    )
    middle = next(one.value for one in packaged() if one.name == "dispatch")
    assert middle == efficiencies().overlap_dispatch  # the layout is chosen at the middle
    near = plan_tier(SMALLEST, accelerators=256, explain=False)  # within a domain of 72
    assert all(one.swing == 0 for one in near.answers["days"].effects if one.name == "dispatch")


def test_a_wider_assumption_widens_what_it_moves_and_nothing_else() -> None:
    usual = plan_tier(SMALLEST, accelerators=256, explain=False)
    wide = plan_tier(SMALLEST, accelerators=256, explain=False, assume={"research": (1.0, 3.0, 30.0)})
    assert wide.answers["programme"].high > usual.answers["programme"].high
    assert wide.answers["programme"].low < usual.answers["programme"].low
    assert wide.answers["rented"] == usual.answers["rented"]
    sure = {one.name: (one.value,) * 3 for one in usual.assumptions}
    certain = plan_tier(SMALLEST, accelerators=256, explain=False, assume=sure).answers["rented"]
    assert certain.low == certain.value == certain.high == pytest.approx(usual.answers["rented"].central)


def test_a_family_that_states_no_tokens() -> None:
    tier = load_family("qwen3").tier("qwen3-4b")
    plan = plan_tier(tier, part_name="H100", explain=False)
    assert "Epoch's law" in plan.tokens_from and 10 < plan.tokens / plan.active < 30


@pytest.mark.parametrize("part", ["H100", "MI300X", "TPU7x", "Trainium3"])
def test_parts_of_every_maker_give_a_plan(part) -> None:
    """Also those without a price or a power draw, which then have no answer of money or energy."""
    plan = plan_tier(SMALLEST, part_name=part, explain=False)
    assert ("rented" in plan.answers) == any(one.name == "rent" for one in prices(hardware(part)))
    assert ("mwh" in plan.answers) == (hardware(part).all_in_kw is not None)
    assert sentences(plan) and (bool(targets(plan)) == ("rented" in plan.answers))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"part_name": "H900"}, "No accelerator is called"),
        ({"accelerators": 1013}, "Nothing fits"),
        ({"accelerators": 16}, "Nothing fits"),
        ({"budget": Budget("dollars", 1.0)}, "would buy"),
        ({"budget": Budget("flops", 1e12)}, "would buy"),
        ({"part_name": "Trainium3", "budget": Budget("dollars", 1e8)}, "No price of Trainium3"),
        ({"assume": {"rents": (1.0, 2.0, 3.0)}}, "no assumption is called"),
        ({"assume": {"rent": (-1.0, 2.0, 3.0)}}, "above 0"),
        ({"assume": {"load": (0.5, 0.9, 1.5)}}, "within"),
        ({"assume": {"failures": (1e6, 1e7, 1e8)}}, "century"),
    ],
)
def test_nonsense_is_refused(wrong, says) -> None:
    with pytest.raises(MythosError, match=says) as error:
        plan_tier(LARGEST, **wrong)
    assert error.value.cure


def test_assumptions_on_the_command_line() -> None:
    assert given("rent=2:3:5") == ("rent", (2, 3, 5)) and given("rent=3") == ("rent", (3, 3, 3))
    for text in ("rent", "rent=", "=3", "rent=1:2", "rent=a:b:c"):
        with pytest.raises(AssumptionError, match="not understood"):
            given(text)
    assert all(one.source and one.unit for one in packaged())


def test_comparing_draws_once_what_both_assume() -> None:
    large, small = plan_tier(LARGEST, explain=False), plan_tier(SMALLEST, explain=False)
    rows = {row.name: row for row in compare(large, small)}
    ratio = rows["programme"].ratio
    assert ratio.value == pytest.approx(
        large.answers["rented"].value / small.answers["rented"].value, rel=0.05
    )
    apart = (large.answers["programme"].high / large.answers["programme"].low) ** math.sqrt(2)
    assert ratio.high / ratio.low < apart / 3  # research and rent cancel
    assert "research" not in [one.name for one in ratio.effects if one.swing > 1e-9]
    with pytest.raises(PlanError, match="the same"):
        compare(small, small)
    other = plan_tier(LARGEST, part_name="H100", explain=False)
    assert "H100" in {row.name: row for row in compare(large, other)}["rented"].ratio.moved_by


def test_orders_of_magnitude_in_words() -> None:
    assert [magnitude(10.0**power) for power in range(6, 11)] == [
        "millions", "tens of millions", "hundreds of millions", "billions", "tens of billions",
    ]  # fmt: skip
    plan = plan_tier(LARGEST, explain=False)
    answer = replace(plan.answers["rented"], low=4e7, high=3e8)
    assert between(answer) == "tens to hundreds of millions"
    assert between(replace(answer, high=3e9)) == "tens of millions to billions"
    assert between(replace(answer, high=5e7)) == "tens of millions"
    programme = [one for one in targets(plan) if one.what == "programme"]
    assert programme[0].ends == ("research",)
    assert any(
        line.startswith("Hundreds of millions for the programme: research decides")
        for line in sentences(plan)
    )
