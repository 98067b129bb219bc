"""Which tier a rank or a wanted name leads to."""

import pytest

from mythos.cli.naming import chosen_tier, default_tier, nearest
from mythos.cli.output import CommandError, Exit

FOUR = ("small", "middle", "large", "special")


def test_only_existing_tiers_are_ever_named():
    for existing in ({"large"}, {"small", "special"}, {"middle"}, set(FOUR)):
        for rank in (0, 1 / 3, 2 / 3, 1):
            assert nearest(rank, FOUR, existing) in existing


def test_each_rank_has_its_own_tier_when_all_exist():
    assert [nearest(rank, FOUR, FOUR) for rank in (0, 1 / 3, 2 / 3, 1)] == list(FOUR)


def test_a_gap_is_filled_by_the_cheaper_neighbour():
    assert nearest(1 / 3, FOUR, {"small", "large"}) == "small"
    assert default_tier(FOUR, {"middle", "special"}) == "middle"


def test_one_tier_families():
    assert [nearest(rank, ("only",), {"only"}) for rank in (0, 0.5, 1)] == ["only"] * 3


def test_errors_name_what_exists():
    with pytest.raises(CommandError) as caught:
        chosen_tier("huge", FOUR, {"small", "large"})
    assert caught.value.code is Exit.NOT_BUILT and "small, large" in caught.value.cure
    with pytest.raises(CommandError) as caught:
        chosen_tier(None, FOUR, ())
    assert "mythos up" in caught.value.cure
