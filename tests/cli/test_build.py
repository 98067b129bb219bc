"""`mythos build`: what is asked for, in which order, and how long training may take. Training
itself: tests/train.
"""

import pytest

from mythos.cli.build import in_order
from mythos.spec.load import load_family

from .conftest import Run


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nonsense", "--tier", "haiku"], 2, "there is no family nonsense"),
        (["nano", "--tier", "nonsense"], 3, "nonsense"),
        (["qwen3", "--tier", "qwen3-0.6b"], None, "cannot do yet"),
        (["pocket", "--tier", "opus", "--budget", "5m"], 2, "nothing of pocket that is asked for is trained"),
        (["nano", "--budget", "soon"], 1, "'soon' is no budget"),
        (["pocket", "--tier", "opus", "--seeds", "3"], 2, "leave --seeds out"),
    ],
)
def test_what_cannot_be_built_is_told_at_once(
    mythos: Run, arguments: list[str], code: int | None, told: str
) -> None:
    done = mythos("build", *arguments)
    assert done.returncode == code or (code is None and done.returncode)
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["pocket"], 1, "pocket has no tier that is trained from scratch"),
        (["nano", "--tier", "nonsense"], 1, "nano has no tier 'nonsense'"),
        (["nano", "--budgets", "500k,1M"], 2, "a law takes at least 3 budgets; here are 2"),
        (["nano", "--budgets", "1M,2M,1m"], 1, "'1m' is no number of tokens"),
        (["nano", "--tier", "sonnet"], 2, "a law takes at least 3 smaller tiers from scratch; here are 1"),
    ],
)
def test_a_sweep_that_could_tell_nothing_is_refused_at_once(
    mythos: Run, arguments: list[str], code: int, told: str
) -> None:
    done = mythos("sweep", *arguments)
    assert done.returncode == code and told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["pocket", "nano"])
def test_parents_come_first(name: str) -> None:
    tiers = load_family(name).tiers
    order = in_order(list(tiers))
    assert sorted(tier.name for tier in order) == sorted(tier.name for tier in tiers)
    for index, tier in enumerate(order):
        assert set(tier.parents) <= {before.name for before in order[:index]}
    assert [tier.name for tier in in_order([tiers[0]])] == [
        tiers[0].name
    ]  # a parent that is not asked for is there


def test_the_models_table_names_what_trains_a_tier(mythos: Run) -> None:
    said = mythos("models", "nano").stdout
    assert "mythos build nano" in said and "declared" in said
    assert "mythos build pocket --tier haiku" in mythos("models", "pocket").stdout
