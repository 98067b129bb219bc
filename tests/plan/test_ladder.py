"""What is trained to foresee a family's largest tier."""

from dataclasses import replace

import pytest

from mythos.plan.ladder import counted, ladder_below, target_of
from mythos.plan.scaling import ScalingError
from mythos.spec.counting import active_parameters, parameters
from mythos.spec.load import load_family


def test_what_is_swept_is_smaller_and_tells_what_experts_add() -> None:
    nano = load_family("nano")
    target = target_of(nano, None)
    found = ladder_below(nano, target)
    assert [tier.name for tier in found] == ["haiku", "sonnet", "opus", "haiku-x16", "sonnet-x16"]
    assert all(tier.config != target.config for tier in found)
    for tier in found[3:]:
        moe = tier.config.moe
        assert moe is not None and (moe.routed, moe.top_k) == (16, 2) and moe.width * 2 == tier.config.ffn
        assert parameters(tier.config) > 3 * active_parameters(tier.config)
    dense = target_of(nano, "opus")
    assert [tier.name for tier in ladder_below(nano, dense)] == ["haiku", "sonnet"]
    with pytest.raises(ScalingError, match="trained from scratch"):
        target_of(load_family("pocket"), None)


def test_an_embedding_that_only_looks_up_does_not_count() -> None:
    tier = load_family("nano").tier("haiku")
    assert counted(tier) == (parameters(tier.config), active_parameters(tier.config))
    apart = replace(tier, config=replace(tier.config, tied=False))
    assert counted(apart) == counted(tier)
