"""Smaller and larger models from trained ones: pruning, distillation, experts from several sources."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.model.attention import causal_attend
from mythos.spec.config import MoEConfig
from mythos.spec.load import load_family
from mythos.train import distil
from mythos.train.batch import Batch, next_tokens, packed_rows
from mythos.train.distil import TOP, distilling, likely_tokens, top_logits
from mythos.train.domains import domain_routers, mlp_inputs
from mythos.train.experts import expand
from mythos.train.loop import train
from mythos.train.prune import channel_importance, layers_to_keep, mean_loss, without_channels, without_layers
from mythos.train.settings import Budget
from mythos.train.weights import computing, fresh_model, model_from, plain_tensors, rounding, served_tensors
from tests.train.runs import SETTINGS, TINY, batches, keyring

DEEP = replace(TINY, layers=4)


def floats(config=DEEP, seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in fresh_model(config, seed).state_dict().items()}


def test_layers_that_do_nothing_go_first() -> None:
    tensors = floats()
    for layer in (1, 2):
        tensors[f"layers.{layer}.self_attn.o_proj.weight"].zero_()
        tensors[f"layers.{layer}.mlp.down_proj.weight"].zero_()
    model = model_from(DEEP, tensors)
    before = mean_loss(model, [batches(0, 4)])
    assert layers_to_keep(model, 2, [batches(0, 4)]) == [0, 3]
    assert len(model.layers) == 4  # the model is as it was
    kept = model_from(replace(DEEP, layers=2), without_layers(tensors, [0, 3]))
    assert mean_loss(kept, [batches(0, 4)]) == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("config", [DEEP, replace(DEEP, moe=MoEConfig(4, 2, 32))])
def test_the_search_finds_what_trying_all_whole_models_finds(config, seed: int) -> None:
    tensors, sample = floats(config, seed), [batches(0, 2), batches(8, 2)]
    left = list(range(4))
    while len(left) > 1:
        tried = {}
        for layer in left:
            rest = [other for other in left if other != layer]
            shallow = model_from(replace(config, layers=len(rest)), without_layers(tensors, rest))
            tried[layer] = mean_loss(shallow, sample)
        left.remove(min(tried, key=lambda layer: tried[layer]))
        assert layers_to_keep(model_from(config, tensors), len(left), sample) == left


def test_channels_that_do_nothing_go_first() -> None:
    tensors = floats()
    dead = torch.arange(0, 64, 2)
    for layer in range(4):
        tensors[f"layers.{layer}.mlp.down_proj.weight"][:, dead] = 0
    model = model_from(DEEP, tensors)
    importance = channel_importance(model, [batches(0, 4)])
    assert [len(values) for values in importance] == [64] * 4
    narrow = model_from(replace(DEEP, ffn=32), without_channels(tensors, importance, 32))
    assert mean_loss(narrow, [batches(0, 4)]) == pytest.approx(mean_loss(model, [batches(0, 4)]), rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.sampled_from([1024, 1280, 1000, 128]), st.integers(1, 70), st.integers(0, 2**16))
def test_the_two_stage_search_is_exact(rows: int, vocab: int, count: int, seed: int) -> None:
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))
    values, indices = top_logits(logits, count)
    want = logits.topk(count, -1)
    assert torch.equal(values, want.values) and torch.equal(indices, want.indices)


def test_likely_tokens_of_two_teachers_are_their_mean() -> None:
    teachers = [fresh_model(TINY, seed).requires_grad_(False) for seed in (0, 1)]
    batch = batches(0, 2)
    indices, shares = likely_tokens(teachers, batch)
    assert indices.shape == (128, TOP)
    torch.testing.assert_close(shares.sum(-1), torch.ones(128))
    positions = torch.arange(64).repeat(2)
    tokens, attend = batch.packed.tokens_RL.flatten(), causal_attend([64, 64])
    mean = torch.stack([model(tokens, positions, attend).softmax(-1) for model in teachers]).mean(0)
    picked = mean.gather(-1, indices)
    torch.testing.assert_close(shares, picked / picked.sum(-1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_a_student_learns_from_its_teacher_and_asks_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student that begins with one of the teacher's layers comes nearer to it; a second run
    reads the cache.
    """
    keen, budget = replace(SETTINGS, optimiser="muon"), Budget(tokens=250 * SETTINGS.step_tokens)
    taught = train(tmp_path / "t", keyring(), fresh_model(DEEP, 0), batches, keen, budget, {}, compiled=False)
    teacher = computing(model_from(DEEP, taught.tensors)).requires_grad_(False)
    begun = without_layers(dict(taught.tensors), [1])
    shallow = replace(DEEP, layers=1)
    asked = []

    def counted(*arguments):
        asked.append(1)
        return likely_tokens(*arguments)

    monkeypatch.setattr(distil, "likely_tokens", counted)
    ends = []
    for name in ("first", "second"):
        rows = distilling(batches, [teacher], 0.2, tmp_path / "cache", keyring())
        model = model_from(shallow, begun)
        few = Budget(tokens=25 * SETTINGS.step_tokens)
        trained = train(tmp_path / name, keyring(), model, rows, keen, few, {}, compiled=False)
        ends.append(dict(trained.tensors))
    assert len(asked) == 25
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in begun)
    sample = [
        distilling(batches, [teacher], 0.0, tmp_path / "sample", keyring())(800, 8)
    ]  # not met in training
    far, near, own = (
        mean_loss(model_from(config, tensors), sample)
        for config, tensors in ((shallow, begun), (shallow, ends[0]), (DEEP, taught.tensors))
    )
    assert own < near < far - 0.2 * (far - own)


def test_places_without_a_target_learn_nothing_of_a_teacher(tmp_path: Path) -> None:
    teacher = fresh_model(TINY, 0).requires_grad_(False)

    def masked(first: int, rows: int) -> Batch:
        batch = batches(first, rows)
        targets = batch.targets_TA.clone()
        targets[::2] = -1
        return replace(batch, targets_TA=targets, count=int((targets >= 0).sum()))

    batch = distilling(masked, [teacher], 0.5, tmp_path, keyring())(0, 2)
    assert batch.targets_TA.shape == (128, 1 + TOP)
    assert (batch.targets_TA[::2] == -1).all() and (batch.targets_TA[1::2, 1:] >= 0).all()
    torch.testing.assert_close(batch.weights_TA[1::2].sum(-1), torch.ones(64), rtol=0, atol=2e-3)


def test_weights_rounded_at_random_are_the_same_in_any_order() -> None:
    tensors, family = floats(TINY), load_family("pocket")
    served = served_tensors(family.tier("capybara"), tensors)
    turned = served_tensors(family.tier("capybara"), dict(reversed(tensors.items())))
    assert served.keys() == turned.keys()
    assert all(torch.equal(turned[name], tensor) for name, tensor in served.items())
    nearest = served_tensors(family.tier("opus"), tensors)
    name = "layers.0.mlp.up_proj.weight"
    assert not torch.equal(served[name], nearest[name])
    assert torch.equal(served["norm.weight"], nearest["norm.weight"])


def test_what_is_made_from_a_parent_is_rounded_at_random() -> None:
    family = load_family("pocket")
    assert rounding(family.tier("capybara")) == rounding(family.tier("sonnet")) == "stochastic"
    assert {rounding(tier) for tier in load_family("nano").tiers if not tier.parents} == {"nearest"}


@pytest.mark.parametrize("served", [False, True])
def test_a_merge_of_untrained_experts_is_the_parent(served: bool) -> None:
    """Before an expert or the router is trained the merge computes what the parent does, whatever
    is routed.
    """
    config = replace(TINY, moe=MoEConfig(routed=4, top_k=2, width=64, bias=True))
    tensors = floats(TINY)
    if served:
        tensors = served_tensors(load_family("pocket").tier("opus"), tensors)
    merged = expand(tensors, config, [tensors] * 4)
    if served:
        merged, tensors = plain_tensors(merged), plain_tensors(tensors)
    positions, tokens = torch.arange(100), torch.arange(100) % 256
    outs = [
        model_from(of, t)(tokens, positions, causal_attend([100]))
        for of, t in ((TINY, tensors), (config, merged))
    ]
    torch.testing.assert_close(outs[1], outs[0], rtol=1e-5, atol=1e-6)


def test_a_merge_takes_each_expert_from_its_source() -> None:
    config = replace(TINY, moe=MoEConfig(routed=4, top_k=2, width=64, bias=True))
    parent, sources = floats(TINY), [floats(TINY, seed) for seed in range(4)]
    merged = expand(parent, config, sources)
    for index, source in enumerate(sources):
        gate, up = merged["layers.1.mlp.experts.gate_up_proj"][index].chunk(2)
        assert torch.equal(gate, source["layers.1.mlp.gate_proj.weight"])
        assert torch.equal(up, source["layers.1.mlp.up_proj.weight"])
        assert torch.equal(
            merged["layers.1.mlp.experts.down_proj"][index], source["layers.1.mlp.down_proj.weight"]
        )
    assert torch.equal(merged["layers.0.self_attn.q_proj.weight"], parent["layers.0.self_attn.q_proj.weight"])


def test_routers_begin_as_classifiers_of_the_domains() -> None:
    """Letters apart from digits: of texts that no router saw, tokens go to their own domain's expert."""
    model = model_from(TINY, floats(TINY))

    def batch(low: int, high: int, seed: int) -> Batch:
        tokens = np.random.default_rng(seed).integers(low, high, (4, 64))
        positions = np.tile(np.arange(64), (4, 1))
        return next_tokens(packed_rows(tokens, positions), tokens)

    domains = [(97, 123), (48, 58)]
    weights = domain_routers(model, [batch(*of, seed=1) for of in domains])
    assert [weight_ED.shape for weight_ED in weights] == [(2, TINY.width)] * TINY.layers
    for expert, of in enumerate(domains):
        for states_TD, weight_ED in zip(mlp_inputs(model, batch(*of, seed=2)), weights, strict=True):
            assert ((states_TD @ weight_ED.T).argmax(-1) == expert).float().mean() > 0.9
