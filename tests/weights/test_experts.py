"""Experts copied from a dense model: the same function, the same bits served, and exact in any company."""

import dataclasses
import random

import pytest
import torch
from test_quant import logits, served
from tests.tiny import CONFIG, tiny_home
from tiny_gguf import LLAMA, random_weights

from mythos.engine.request import Delta, Request, Sampling
from mythos.model.moe import FEW_ROWS
from mythos.model.quant import load_served, scale_name
from mythos.model.transformer import Transformer
from mythos.spec.config import MLAConfig, ModelConfig, MoEConfig
from mythos.train.experts import expand, expanded_config

MOE = dataclasses.replace(LLAMA, moe=MoEConfig(routed=4, top_k=2, width=LLAMA.ffn))


def floats(config: ModelConfig, tensors: dict[str, torch.Tensor]) -> Transformer:
    """The model in fp32 whose weights are exactly those that the served `tensors` stand for."""
    state = {}
    for name in Transformer(config).state_dict():
        tensor, scale = tensors[name], tensors.get(scale_name(name))
        state[name] = tensor if scale is None else tensor.float() * scale[..., None]
    model = Transformer(config)
    model.load_state_dict(state)
    return model


def test_a_model_of_copies_computes_what_the_dense_one_does() -> None:
    dense = served(random_weights(LLAMA))
    tensors = expand(dense, MOE)
    right = logits(floats(LLAMA, dense))
    found = logits(floats(MOE, tensors))  # the weights of two experts sum to 1 +- 2^-23
    assert (found - right).abs().max() <= 2e-5 * right.abs().max()
    for name in tensors:
        if name.endswith("mlp.gate.weight"):
            tensors[name] = torch.zeros_like(tensors[name])  # equal scores: two halves, which add up exactly
    assert torch.equal(logits(floats(MOE, tensors)), right)


@pytest.mark.parametrize("rows", [1, 2, 5, FEW_ROWS, FEW_ROWS + 1, 40, 200])
def test_served_copies_give_the_bits_of_the_dense_model(rows: int) -> None:
    config = dataclasses.replace(LLAMA, width=128, ffn=256)
    moe = dataclasses.replace(config, moe=MoEConfig(routed=4, top_k=2, width=256))
    dense = served(random_weights(config))
    tokens = torch.arange(rows) % 250
    right = logits(load_served(config, dense), tokens)
    assert torch.equal(logits(load_served(moe, expand(dense, moe)), tokens), right)


def test_only_experts_that_hold_the_dense_layer_can_be_copied() -> None:
    assert expanded_config(LLAMA, MOE.moe) == MOE
    assert MOE.moe is not None
    for wrong in (
        None,
        dataclasses.replace(MOE.moe, width=8),
        dataclasses.replace(MOE.moe, shared=1),
        dataclasses.replace(MOE.moe, renormalise=False),
        dataclasses.replace(MOE.moe, scale=2.0),
        dataclasses.replace(MOE.moe, latent=8),
    ):
        assert expanded_config(LLAMA, wrong) is None
    assert expanded_config(MOE, MOE.moe) is None
    assert expanded_config(dataclasses.replace(LLAMA, mtp=1), MOE.moe) is None


LATENT = {  # latent attention, experts in a latent width, and a prediction module that nothing runs
    "head_dim": 48,
    "kv_heads": 4,
    "mla": MLAConfig(kv_rank=64, nope_dim=32, rope_dim=16, value_dim=24, q_rank=48),
    "mtp": 1,
    "moe": MoEConfig(routed=8, top_k=3, width=96, shared=1, score="sigmoid", bias=True, latent=64),
}
SCORES = {
    "softmax": MoEConfig(routed=8, top_k=2, width=96),
    "sigmoid, biased, grouped": MoEConfig(
        routed=8, top_k=3, width=96, shared=1, score="sigmoid", bias=True, groups=2, top_groups=2
    ),
}


@pytest.mark.parametrize("scores", [*SCORES, "latent"])
def test_different_experts_are_exact_in_any_company(scores: str, tmp_path, monkeypatch) -> None:
    """Greedy tokens of random experts behind a random router: alone, and among others in a random order."""
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    changes = LATENT if scores == "latent" else {"moe": SCORES[scores]}
    tiny = tiny_home(tmp_path, config=dataclasses.replace(CONFIG, **changes))
    rng = random.Random(4)
    prompts = [
        tuple(rng.choices(range(3, 259), k=n)) for n in (1, 5, 16, 17, 40, 255, 256, 257, 300, 520) * 2
    ]
    requests = [Request(prompt, 24, Sampling(0.0), stop_at_eos=False) for prompt in prompts]
    with tiny.engine() as engine:
        alone = [_tokens(engine.submit(tiny.permit(), request)) for request in requests]
    order = rng.sample(range(len(prompts)), len(prompts))
    with tiny.engine() as engine:
        running = {i: engine.submit(tiny.permit(), requests[i]) for i in order}
        assert {i: _tokens(generation) for i, generation in running.items()} == dict(enumerate(alone))


def _tokens(generation) -> list[int]:
    return [token for event in generation if isinstance(event, Delta) for token in event.tokens]
