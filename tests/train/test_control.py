"""What a tier is held against is made from as many tokens and measured as it is. Tiny and real."""

from dataclasses import replace
from typing import Any

import pytest

from mythos.cli.local import open_records
from mythos.cli.rungs import Rung
from mythos.cli.won_back import WonBack, won_back
from mythos.evaluate.reasoning_gym import suite
from mythos.records.clock import Clock
from mythos.records.principal import OPERATOR
from mythos.spec.family import Family, Tier
from mythos.spec.load import FamilyError, load_family, parse_family
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.weights import registered
from mythos.train.build import build_control, build_pruned, run_of
from mythos.train.control import control_of, gap_closed, more_right, tokens_of
from mythos.train.ladder import measure
from mythos.train.loop import Metrics
from mythos.train.material import Material
from mythos.train.recipes import recipe
from mythos.train.settings import Budget
from tests.train.test_build_family import FAMILY, SMALL, family, make, material, of

assert family and material  # fixtures


def test_each_kind_of_tier_has_its_rival() -> None:
    pocket = load_family("pocket")
    capybara, sonnet = pocket.tier("capybara"), pocket.tier("sonnet")
    dense = control_of(pocket, capybara)
    assert dense is not None and dense.made_by.kind == "continue" and dense.parents == ("opus",)
    assert dense.config == pocket.tier("opus").config
    assert recipe(dense, 3) == replace(recipe(capybara, 3), expert_rates=())
    scratch = control_of(pocket, sonnet)
    assert scratch is not None and scratch.made_by.kind == "pretrain" and not scratch.parents
    assert scratch.config == sonnet.config and "sft" not in dict(scratch.made_by.options)
    assert recipe(scratch).step_tokens == recipe(sonnet).step_tokens
    assert control_of(load_family("nano"), load_family("nano").tier("opus")) is None


@pytest.mark.parametrize(("tier", "kind"), [("wide", "continue"), ("student", "pretrain")])
def test_a_control_gets_as_many_tokens_and_is_not_registered(
    family: Family, material: Material, tier: str, kind: str
) -> None:
    pytest.importorskip("reasoning_gym")
    asked = suite(lambda *_: None)
    asked = replace(asked, items=asked.items[::100])
    parent = "small" if tier == "wide" else "large"
    make(family, parent, of(material, SMALL))
    told: list[Metrics] = []
    budget = Budget(tokens=2048 * 20)
    training = of(material, budget, told)
    make(family, tier, training)
    home, before = Home.open(), len(told)
    store = Store.open(home)
    spent = tokens_of(run_of(home, store, family, family.tier(tier), training))
    assert spent == pytest.approx(2048 * 20, abs=2048 * 5)  # the parts are rounded, each
    rows = registered(store)
    here: Any = (home, store, Clock(), OPERATOR, family, family.tier(tier), training, asked, lambda *_: None)
    found = build_control(*here)
    assert found is not None and found.tokens == told[-1].tokens
    assert found.tokens == -(-spent // 2048) * 2048  # an expert's steps are smaller than the control's
    assert set(found.quality) == set(material.held_out) and set(found.right) == {i.id for i in asked.items}
    assert registered(store) == rows
    after = len(told)
    assert after > before
    again = build_control(*here)  # measured once
    assert again is not None and again.right == found.right and len(told) == after
    if tier == "student":
        pruned = build_pruned(
            home, store, Clock(), OPERATOR, family, family.tier(tier), training, lambda *_: None
        )
        (own, above), quiet = (family.tier(tier), family.tier(parent)), lambda *_: None
        made, best = (
            measure(home, store, Clock(), OPERATOR, family, one, material.held_out, quiet)
            for one in (own, above)
        )
        share, low, high = gap_closed(made, pruned, best)
        assert low <= share <= high and share > 0
        assert gap_closed(best, pruned, best)[0] == 1.0
        assert gap_closed(pruned, pruned, best) == (0.0, 0.0, 0.0)
    assert control_of(family, family.tier(tier)).made_by.kind == kind  # pyright: ignore[reportOptionalMemberAccess]


def test_a_longer_budget_is_foreseen_from_the_run_that_there_is(family: Family, material: Material) -> None:
    make(family, "large", of(material, SMALL))

    def foreseen(budget: Budget, tier: Tier) -> WonBack:
        training = of(material, budget)
        make(family, tier.name, training)
        records, quiet, found = open_records(), lambda *_: None, []
        for one in (family.tier("large"), tier):
            quality = measure(
                records.home, records.store, Clock(), OPERATOR, family, one, material.held_out, quiet
            )
            bits = {name: of.bits_per_byte for name, of in quality.items()}
            found.append(Rung(one, 0, bits, None, quality, {}, ("", "")))
        (line,) = won_back(records, family, {tier.name: training}, found)
        for one in line.longer if isinstance(line.longer, tuple) else ():
            # What more is won back is what the bits per byte fall by, in units of what pruning cost.
            for won, bits in zip(one.won_back, (one.bits[0], *one.bits[:0:-1]), strict=True):
                assert (won - line.closed[0]) * line.cost == pytest.approx(found[1].loss - bits, abs=1e-9)
        return line

    student, long = family.tier("student"), Budget(tokens=2048 * 100)
    line = foreseen(long, student)
    assert isinstance(line.longer, tuple)
    assert [(one.times, one.tokens) for one in line.longer] == [(n, 2048 * 100 * n) for n in (2, 4, 8)]
    values = [line.closed, *(one.won_back for one in line.longer)]
    assert all(less[0] <= more[0] for less, more in zip(values, values[1:], strict=False))
    assert all(one.won_back[0] >= one.won_back[1] >= line.closed[0] for one in line.longer)
    assert [one["budget"] for one in line.told()["longer"]] == ["2 times", "4 times", "8 times"]

    (place,) = (Home.open().path / "runs").glob("steps-student-*/metrics.jsonl")
    place.unlink()
    assert "are gone" in str(foreseen(long, student).longer)
    short = foreseen(Budget(tokens=2048 * 20), student)
    assert "19 steps after the warm-up are too few" in str(short.longer)
    assert short.told()["not_foreseen"] == short.longer
    staged = foreseen(Budget(tokens=2048 * 20), family.tier("taught"))
    assert staged.longer == "what follows its distillation has a loss of another kind"


def test_a_tier_goes_on_from_one_parent_of_its_shape(family: Family, material: Material) -> None:
    how = 'kind = "continue", share = 0.5, optimiser = "adamw", learning_rate = 1e-3'
    experts = 'kind = "experts", copies = 5, share = 0.5, optimiser = "adamw", learning_rate = 3e-3'
    text = FAMILY.replace(experts, how)
    assert text != FAMILY
    with pytest.raises(FamilyError, match="goes on from one parent; it names 2"):
        parse_family(text.replace('parents = ["small"]', 'parents = ["small", "large"]').encode(), "x.toml")
    own = parse_family(text.replace('name = "wide"', 'name = "longer"').encode(), "steps.toml")
    make(own, "small", of(material, SMALL))
    with pytest.raises(Exception, match="longer goes on from small and has another shape"):
        make(own, "longer", of(material, SMALL))
    same = text.replace("moe = { routed = 5, top_k = 2, width = 64, bias = true } }", "}").replace(
        "ffn = 64, }", "ffn = 64 }"
    )
    same = same.replace('name = "wide"', 'name = "longer"')
    root = make(parse_family(same.encode(), "steps.toml"), "longer", of(material, SMALL))
    assert registered(Store.open(Home.open()))[-1].root == root


def test_more_right_is_paired() -> None:
    names = [str(n) for n in range(200)]
    worse = {name: int(name) % 4 == 0 for name in names}
    better = {name: int(name) % 4 < 2 for name in names}
    estimate, low, high = more_right(better, worse)
    assert estimate == 0.25 and 0.15 < low < 0.25 < high < 0.35
    assert more_right(worse, worse) == (0.0, 0.0, 0.0)
