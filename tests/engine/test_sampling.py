"""Choosing tokens: greedy, filters, seeds, and that the distribution is the one asked for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mythos.engine.request import Sampling
from mythos.engine.sampling import choose, generator_for, logprob_of


def draws(logits, sampling: Sampling, n: int) -> list[int]:
    generator = generator_for(sampling)
    return [choose(logits, sampling, generator) for _ in range(n)]


def test_greedy_takes_the_first_of_the_best():
    assert choose(torch.tensor([0.0, 3.0, 3.0]), Sampling(0.0), None) == 1


def test_a_seed_repeats_and_another_differs():
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    one, same, other = (draws(logits, Sampling(1.0, seed=s), 50) for s in (5, 5, 6))
    assert one == same != other


@given(st.integers(min_value=-(2**70), max_value=2**70))
def test_any_integer_is_a_seed(seed):
    assert generator_for(Sampling(1.0, seed=seed)) is not None


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=400),
    st.floats(0.05, 2),
    st.floats(0.01, 1),
    st.integers(0, 40),
)
def test_only_tokens_inside_the_filters_are_drawn(values, temperature, top_p, top_k):
    logits = torch.tensor(values)
    probs = torch.softmax(logits.double() / temperature, -1)
    if top_k:
        kept = torch.topk(probs, min(top_k, len(values))).values
        probs = torch.where(probs >= kept[-1], probs, 0.0)
        probs = probs / kept.sum()
    for token in draws(logits, Sampling(temperature, top_p, top_k, seed=1), 20):
        better = float(probs[probs > probs[token]].sum())
        assert probs[token] > 0 and better < top_p + 1e-4


def test_forbidden_tokens_are_never_drawn():
    logits = torch.full((1000,), float("-inf"))
    logits[[3, 700]] = torch.tensor([0.0, 1.0])
    for sampling in (Sampling(1.0, seed=0), Sampling(1.0, 0.9, 50, seed=0), Sampling(5.0, 0.99, seed=0)):
        assert set(draws(logits, sampling, 300)) == {3, 700}


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0, seed=3), Sampling(0.7, 0.9, seed=3), Sampling(1.3, 1.0, 4, seed=3)]
)
def test_frequencies_fit_the_distribution(sampling):
    logits = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0, -3.0])
    probs = torch.softmax(logits / sampling.temperature, -1)
    if sampling.top_k:
        probs[sampling.top_k :] = 0
    probs = torch.where(probs.cumsum(0) - probs < sampling.top_p * probs.sum(), probs, 0.0)
    probs = probs / probs.sum()
    n = 20_000
    counts = torch.bincount(torch.tensor(draws(logits, sampling, n)), minlength=6)
    kept = probs > 0
    assert not counts[~kept].any()
    chi2 = float((((counts - n * probs) ** 2) / (n * probs))[kept].sum())
    assert chi2 < 25  # 5 degrees of freedom: passed by chance less than once in 7,000


def test_logprobs_are_of_the_model_not_of_the_sampler():
    logits = torch.tensor([0.0, math.log(3.0), float("-inf")])
    got = logprob_of(logits, 0, 2, lambda token: bytes([token]))
    assert got.logprob == pytest.approx(math.log(0.25)) and got.text == b"\x00"
    assert [t for t, _, _ in got.top] == [1, 0] and got.top[0][2] == pytest.approx(math.log(0.75))
