"""The search against trying everything; what must be monotone in memory and in accelerators; clear
refusals."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.plan import search as searching
from mythos.plan.errors import PlanError
from mythos.plan.hardware import hardware
from mythos.plan.layout import Layout
from mythos.plan.memory import memory
from mythos.plan.search import PARTS, search
from mythos.plan.step import step
from mythos.spec.load import load_family

FAMILY = load_family("mythos-10t")
H100, GB300 = hardware("H100"), hardware("GB300")
SMALL = load_family("qwen3").tier("qwen3-30b-a3b").config


def everything(config, part, accelerators, batch, sequence, precisions=("bf16", "fp8")):
    """The best of all combinations, each one evaluated."""
    best = None
    for group in searching._groups(config, part, accelerators, batch, sequence, precisions):
        for of in group:
            layout = Layout(**of._asdict(), global_batch=batch, sequence=sequence)
            if memory(config, layout).worst.needed <= part.usable_bytes:
                seconds = step(config, layout, part).seconds
                best = seconds if best is None else min(best, seconds)
    return best


@pytest.mark.parametrize(("accelerators", "batch"), [(8, 16), (12, 24)])
def test_nothing_is_faster_than_what_the_search_finds(accelerators, batch) -> None:
    found = search(SMALL, H100, accelerators, batch, 4096)
    assert found.best.step.seconds == pytest.approx(everything(SMALL, H100, accelerators, batch, 4096))
    assert found.best.layout.accelerators == accelerators
    assert found.best.bytes <= H100.usable_bytes


def test_ten_trillion_parameters_on_16_384() -> None:
    found = search(FAMILY.tiers[-1].config, GB300, 16384, 16384, 4096)
    best = found.best
    assert best.layout.accelerators == 16384 and best.bytes <= GB300.usable_bytes
    assert sum(getattr(best.step, name) for name in PARTS) == pytest.approx(best.step.seconds)
    counts = found.counts
    assert counts["combinations"] == sum(counts.values()) - counts["combinations"]
    times, needs = zip(*((one.step.seconds, one.bytes) for one in found.pareto), strict=True)
    assert times[0] == best.step.seconds and list(times) == sorted(times)
    assert list(needs) == sorted(needs, reverse=True)
    alone = {other.axis: other for other in found.others if other.value == 1}
    assert alone["ep"].found is None and alone["ep"].least_bytes > GB300.usable_bytes
    assert all(other.slower >= 0 for other in found.others)
    quick = search(FAMILY.tiers[-1].config, GB300, 16384, 16384, 4096, explain=False)
    assert quick.best.layout == best.layout and quick.others == ()


@given(share=st.floats(0.2, 1.0), less=st.floats(0.3, 0.99))
@settings(max_examples=5, deadline=None)
def test_less_memory_never_helps(share, less) -> None:
    """What does not fit into a memory does not fit into a smaller one, and the best never gets faster."""

    def best_in(memory_share):
        part = replace(H100, usable_bytes=H100.usable_bytes * memory_share)
        try:
            return search(SMALL, part, 32, 128, 4096, explain=False).best.step.seconds
        except PlanError as error:
            assert "Nothing fits" in error.message
            return float("inf")

    assert best_in(share * less) >= best_in(share)


@pytest.mark.parametrize("name", ["haiku", "opus"])
def test_more_accelerators_never_slow_a_step(name) -> None:
    """Twice as many do a step of the same batch no slower; the accelerator-seconds of a step never fall by
    more than what a memory that fits better saves in recomputation."""
    config = FAMILY.tier(name).config
    times = [
        search(config, GB300, many, 4096, 4096, explain=False).best.step.seconds for many in (1024, 2048)
    ]
    assert times[1] <= times[0]


@pytest.mark.parametrize(
    ("accelerators", "batch", "sequence", "says"),
    [
        (0, 64, 4096, "0 accelerators"),
        (-8, 64, 4096, "-8 accelerators"),
        (10**9, 64, 4096, "accelerators were asked"),
        (16, 0, 4096, "0 sequences"),
        (16, 64, 0, "0 tokens"),
        (1013, 64, 4096, "divides the model and a batch"),
        (8, 64, 1 << 20, "Nothing fits"),
    ],
)
def test_nonsense_is_refused(accelerators, batch, sequence, says) -> None:
    with pytest.raises(PlanError, match=says):
        search(SMALL, H100, accelerators, batch, sequence)


def test_a_precision_that_the_part_lacks() -> None:
    with pytest.raises(PlanError, match="computes in none of fp4"):
        search(SMALL, H100, 16, 64, 4096, precisions=("fp4",))
