"""Published laws give their published numbers; a budget's best split is one; nonsense is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.plan.choose import choose, choose_with_answers, smallest, sparsest, student
from mythos.plan.laws import (
    EPOCH,
    HOFFMANN,
    LAWS,
    MUENNIGHOFF,
    distilled_loss,
    effective_parameters,
    effective_tokens,
    joint_loss,
    law,
    optimal_parameters,
    supervised_loss,
    turned,
)
from mythos.plan.scaling import ScalingError

SPLITTING = [name for name, one in LAWS.items() if one.fixed_tokens is None]


def test_chinchilla_and_its_refit_disagree_as_published() -> None:
    """At 5.76e23 the rounded law says 32B and 93 tokens a parameter, Epoch's 72B and 18."""
    rounded, refit = choose(5.76e23, named="hoffmann"), choose(5.76e23)
    assert rounded.active == pytest.approx(32.2e9, rel=0.01)
    assert rounded.tokens / rounded.active == pytest.approx(93, rel=0.01)
    assert refit.law == "epoch" and refit.active == pytest.approx(72.2e9, rel=0.01)
    assert refit.tokens / refit.active == pytest.approx(18.4, rel=0.01)


@pytest.mark.parametrize(
    ("name", "of", "size", "saved"), [("hoffmann", HOFFMANN, 15.9e9, 0.18), ("epoch", EPOCH, 11.6e9, 0.43)]
)
def test_a_model_that_serves_a_lot_is_smaller(name, of, size, saved) -> None:
    """The loss of a 30B model trained at its best, with ten trillion tokens to serve (arXiv 2401.00448)."""
    tokens = (of.beta * of.b / (of.alpha * of.a)) ** (1 / of.beta) * 30e9 ** (of.alpha / of.beta)
    loss = of.loss(30e9, tokens)
    assert smallest(loss, named=name).active == pytest.approx(30e9, rel=1e-3)
    found = smallest(loss, named=name, served_tokens=1e13)
    assert found.active == pytest.approx(size, rel=0.01) and found.loss == pytest.approx(loss, rel=1e-6)
    whole = 6 * 30e9 * tokens + 2 * 30e9 * 1e13
    assert 1 - (found.flops + found.served_flops) / whole == pytest.approx(saved, abs=0.01)


def test_intervals_of_a_choice_follow_the_errors_of_the_law() -> None:
    told = choose_with_answers(1e24, draws=100)
    best = choose(1e24)
    assert told["active"].central == pytest.approx(best.active, rel=1e-6)
    assert told["active"].low < 0.95 * best.active < 1.05 * best.active < told["active"].high
    assert told["loss"].moved_by == "floor" and told["active"].moved_by in ("size_exponent", "data_exponent")
    near = turned(EPOCH.alpha + 0.02, EPOCH.beta - 0.03, EPOCH.e)
    assert near.loss(1e9, 2e10) == pytest.approx(EPOCH.loss(1e9, 2e10))
    with pytest.raises(ScalingError, match="must be a number from"):
        choose_with_answers(-1.0)


def test_repeated_data() -> None:
    """178B tokens of 25B different ones, 8.7B parameters (huggingface/datablations)."""
    tokens, size = effective_tokens(178e9, 25e9), effective_parameters(8.7e9, 25e9)
    assert tokens == pytest.approx(151.24e9, rel=1e-3) and size == pytest.approx(5.783e9, rel=1e-3)
    assert MUENNIGHOFF.loss(float(size), float(tokens)) == pytest.approx(2.2268, rel=1e-3)
    assert effective_tokens(1e9, 25e9) == 1e9
    free, tight = choose(1e23, named="muennighoff"), choose(1e23, named="muennighoff", unique_tokens=2e10)
    assert tight.epochs > 1 == free.epochs
    assert tight.loss is not None and free.loss is not None and tight.loss > free.loss
    assert choose(1e23, named="muennighoff", unique_tokens=1e15).loss == free.loss


def test_laws_that_only_split() -> None:
    deepseek, llama = choose(1e20, named="deepseek"), choose(3.8e25, named="llama3")
    assert 6 * deepseek.active == pytest.approx(5.251e9, rel=5e-3)
    assert deepseek.tokens == pytest.approx(1.905e10, rel=5e-3)
    assert llama.tokens == pytest.approx(16.55e12, rel=0.02) and llama.loss is None
    with pytest.raises(ScalingError, match="only splits"):
        choose(1e20, named="deepseek", served_tokens=1e12)


@pytest.mark.parametrize("name", SPLITTING)
def test_the_split_is_the_best_and_spends_all(name) -> None:
    best = choose(1e23, named=name)
    assert 6 * best.active * best.tokens == pytest.approx(1e23, rel=1e-3)
    told = law(name).loss
    if told is not None:
        around = best.active * np.array([0.5, 0.9, 1.1, 2.0])
        assert (told(around, 1e23 / 6 / around, 1.0) > best.loss).all()


@pytest.mark.parametrize("name", [name for name, one in LAWS.items() if one.loss])
def test_losses_fall_with_size_and_tokens(name) -> None:
    told = law(name).loss
    sizes = np.logspace(8, 12, 30)
    assert (np.diff(told(sizes, 1e12, 1.0)) < 0).all()
    assert (np.diff(told(1e10, np.logspace(9, 14, 30), 1.0)) <= 0).all()


@given(flops=st.floats(1e18, 1e27), share=st.floats(1e-15, 1e-9))
@settings(max_examples=40, deadline=None)
def test_serving_never_enlarges_the_model_nor_lowers_the_loss(flops, share) -> None:
    served = max(1e3, flops * share)
    alone, lifetime = choose(flops), choose(flops, served_tokens=served)
    assert lifetime.active <= alone.active * 1.001
    assert lifetime.loss is not None and alone.loss is not None and lifetime.loss >= alone.loss - 1e-9
    assert lifetime.flops + lifetime.served_flops == pytest.approx(flops, rel=1e-6)


def test_more_memory_never_raises_the_loss_and_buys_experts() -> None:
    found = [sparsest(1e22, memory)[0] for memory in (3e9, 1e10, 3e10, 1e11, 1e12)]
    losses = [one.loss for one in found]
    assert losses == sorted(losses, reverse=True)
    assert found[0].ratio < found[-1].ratio
    assert all(
        one.active * one.ratio <= m * 1.001
        for one, m in zip(found, (3e9, 1e10, 3e10, 1e11, 1e12), strict=True)
    )
    assert joint_loss(1e9, 2e10, 8) < joint_loss(1e9, 2e10, 1)


def test_a_student_of_a_teacher_that_exists() -> None:
    """Distilling pays for a small student and little compute; the same teacher must also be paid for
    otherwise."""
    teacher = float(supervised_loss(7.75e9, 5.12e11))
    given_, paid = student(1e20, 5e8, teacher), student(1e20, 5e8, teacher, teacher_active=7.75e9)
    assert given_.pays and paid.tokens < given_.tokens == given_.alone_tokens
    assert not student(1e24, 5e8, teacher).pays  # so much compute teaches a small model as well by itself
    assert distilled_loss(1e9, 1e11, 1.5) > distilled_loss(1e9, 1e11, 1.93)  # too strong a teacher


@pytest.mark.parametrize(
    "bad", [-1.0, 0.0, math.nan, math.inf, 1e40], ids=["negative", "zero", "nan", "infinite", "absurd"]
)
def test_nonsense_is_refused(bad) -> None:
    with pytest.raises(ScalingError, match="must be a number from"):
        choose(bad)
    with pytest.raises(ScalingError):
        sparsest(1e20, bad)
    with pytest.raises(ScalingError):
        student(1e20, bad, 2.0)


def test_unknown_laws_and_losses_out_of_reach() -> None:
    with pytest.raises(ScalingError, match="one of busbridge, clark, deepseek, epoch"):
        choose(1e20, named="chinchila")
    with pytest.raises(ScalingError, match="no model reaches"):
        smallest(1.0)
    with pytest.raises(ScalingError, match="do not pay for serving"):
        choose(1e15, served_tokens=1e15)
    with pytest.raises(ScalingError, match="1.3e\\+11 tokens only"):
        choose(1e20, named="clark")
    assert optimal_parameters(EPOCH, 1.33e12) == pytest.approx(72e9, rel=0.01)
