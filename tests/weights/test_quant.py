"""The int8 form: its error, its bits at any number of rows, and what it costs in perplexity."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from tiny_gguf import LLAMA, random_weights

from mythos.data.tokenizer import Tokenizer
from mythos.model.attention import causal_attend
from mythos.model.errors import WeightsError
from mythos.model.gguf import GGUF, iter_weights, model_config
from mythos.model.quant import (
    INT8_ROWS,
    Int8Embedding,
    Int8Linear,
    dequantise,
    load_served,
    quantise,
    served_form,
    to_int8,
)
from mythos.model.transformer import Transformer
from mythos.spec.config import MLAConfig, MoEConfig

MOE = dataclasses.replace(
    LLAMA, qk_norm=True, dense_layers=(0,), moe=MoEConfig(routed=4, top_k=2, width=32, shared=1, bias=True)
)
LATENT = dataclasses.replace(
    MOE,
    qk_norm=False,
    head_dim=40,
    mla=MLAConfig(kv_rank=32, nope_dim=24, rope_dim=16, value_dim=20),
    mtp=1,
    moe=MoEConfig(routed=4, top_k=2, width=32, shared=1, latent=32),
)
BIASED = dataclasses.replace(LLAMA, attention_bias=True, tied=False)
TOKENS = torch.arange(3, 40)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def served(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v for name, weight in weights.items() for k, v in served_form(name, weight).items()}


def logits(model: Transformer, tokens: torch.Tensor = TOKENS, absorbed: bool = False) -> torch.Tensor:
    with torch.inference_mode():
        attend = causal_attend([len(tokens)])
        return model(tokens, torch.arange(len(tokens)), attend, absorbed=absorbed).float()


def test_every_value_is_within_half_a_step() -> None:
    weight = random(700, 96) * torch.logspace(-6, 6, 700)[:, None]
    weight[3] = 0
    q, scale = quantise(weight)
    assert q.dtype == torch.int8 and scale.dtype == torch.float32
    assert torch.equal(scale, scale.bfloat16().float())  # the kernel takes scales in bf16
    # Rounding the scale to bf16 may put the largest value just above 127 steps: half a step more there.
    error = (dequantise(q, scale) - weight).abs() / scale[:, None]
    assert error.max() <= 1.0 and error.median() < 0.5
    assert (error > 0.5 + 1e-4).float().mean() < 0.01
    assert torch.equal(dequantise(q, scale)[3], torch.zeros(96))


def test_what_moved_by_less_than_half_a_step_is_kept_on_average() -> None:
    """To the nearest, all of it would be lost; at random, the mean of what is stored is what was learnt."""
    q, scale = quantise(random(40, 4096))
    moved = (q.abs() < 127) * 0.3
    weight = (q + moved) * scale[:, None]
    assert torch.equal(quantise(weight)[0], q)
    kept, same_scale = quantise(weight, torch.Generator().manual_seed(1))
    assert torch.equal(same_scale, scale)
    assert set((kept - q).unique().tolist()) == {0, 1}
    assert ((kept - q).float().mean() - 0.3).abs() < 0.01  # of 163,840 draws, whose deviation is 0.0011


@pytest.mark.parametrize("seed", [0, 1])
def test_at_random_the_error_is_less_than_a_step_and_has_no_bias(seed: int) -> None:
    weight = random(600, 512, seed=seed) * torch.logspace(-6, 6, 600)[:, None]
    weight[3] = 0
    q, scale = quantise(weight, torch.Generator().manual_seed(seed))
    assert torch.equal(scale, quantise(weight)[1])
    error = (dequantise(q, scale) - weight) / scale[:, None]
    assert error.abs().max() < 1 and error.mean().abs() < 0.004  # of 307,200, whose deviation is 0.0007
    again, _ = quantise(weight, torch.Generator().manual_seed(seed))
    assert torch.equal(again, q)


def test_at_random_what_was_int8_is_the_same_int8_again() -> None:
    q, scale = quantise(random(600, 512) * torch.logspace(-6, 6, 600)[:, None])
    again, same_scale = quantise(dequantise(q, scale), torch.Generator().manual_seed(2))
    assert torch.equal(again, q) and torch.equal(same_scale, scale)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_quantised(value: float) -> None:
    weight = random(4, 32)
    weight[2, 5] = value
    with pytest.raises(ValueError, match="not finite"):
        quantise(weight)


@pytest.mark.parametrize("bias", [None, random(80)])
def test_linear_is_the_product_with_the_dequantised_weight(bias) -> None:
    weight, x = random(80, 96), random(40, 96, seed=1).bfloat16()
    q, scale = quantise(weight)
    layer, right = Int8Linear(q, scale, bias), F.linear(x.float(), dequantise(q, scale), bias)
    few, many = layer(x[:INT8_ROWS]), layer(x)
    assert few.dtype == many.dtype == torch.bfloat16
    torch.testing.assert_close(few.float(), right[:INT8_ROWS], rtol=0.02, atol=0.05)
    torch.testing.assert_close(many.float(), right, rtol=0.02, atol=0.1)


def test_a_row_has_the_same_bits_beside_any_others() -> None:
    """What exact mode rests on: up to INT8_ROWS rows, and in the head at any number."""
    q, scale = quantise(random(1536, 576))
    x = random(40, 576, seed=1).bfloat16()
    linear, embedding = Int8Linear(q, scale), Int8Embedding(q, scale)
    alone = torch.cat([linear(row) for row in x.split(1)])
    for rows in range(1, INT8_ROWS + 1):
        assert torch.equal(torch.cat([linear(part) for part in x.split(rows)]), alone), rows
    assert torch.equal(embedding.head(x), torch.cat([embedding.head(row) for row in x.split(1)]))
    assert torch.equal(embedding(torch.tensor([5, 5, 7])), dequantise(q, scale, torch.bfloat16)[[5, 5, 7]])


@pytest.mark.parametrize("config", [LLAMA, BIASED, MOE, LATENT], ids=["dense", "biased", "experts", "latent"])
def test_served_model_is_close_to_the_float_one(config) -> None:
    weights = random_weights(config)
    model = Transformer(config)
    model.load_state_dict(weights)
    right = logits(model)
    quick = load_served(config, served(weights))
    found = logits(quick)
    assert F.cosine_similarity(found, right, dim=-1).min() > (0.9 if config.moe else 0.99)
    assert F.cosine_similarity(logits(quick, absorbed=True), right, dim=-1).min() > (
        0.9 if config.moe else 0.99
    )
    assert torch.equal(logits(to_int8(model)), found)  # both ways to the served form agree
    kinds = {name: tensor.dtype for name, tensor in quick.state_dict().items()}
    assert kinds["layers.1.self_attn.q_proj.weight"] == torch.int8
    assert kinds["norm.weight"] == torch.float32
    if config.moe:
        assert kinds["layers.1.mlp.experts.gate_up_proj"] == torch.int8
        assert kinds["layers.1.mlp.gate.weight"] == torch.float32
    if config.mla:
        assert kinds["layers.1.self_attn.kv_b_proj.weight"] == torch.int8
        assert kinds["mtp.0.block.mlp.fc1_latent_proj.weight"] == torch.int8


def test_a_served_model_holds_the_tensors_it_was_given() -> None:
    tensors = served(random_weights(LLAMA))
    model = load_served(LLAMA, tensors)
    state = model.state_dict()
    assert all(state[name].data_ptr() == tensor.data_ptr() for name, tensor in tensors.items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("norm.weight", lambda t: t[:-1]),
        ("embed.weight", lambda t: t.float()),
        ("embed.scale", lambda t: t.bfloat16()),
        ("layers.0.self_attn.q_proj.weight", lambda t: t[:, :-1]),
        ("layers.0.self_attn.q_proj.scale", lambda t: None),
        ("layers.1.mlp.up_proj.weight", lambda t: None),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name: str, change) -> None:
    tensors = served(random_weights(LLAMA))
    changed = change(tensors.pop(name))
    with pytest.raises(WeightsError, match=name):
        load_served(LLAMA, tensors if changed is None else tensors | {name: changed})
    narrow = dataclasses.replace(LLAMA, ffn=104)
    with pytest.raises(WeightsError, match="104 input channels"):
        load_served(narrow, served(random_weights(narrow)))
    with pytest.raises(WeightsError, match="few"):
        load_served(dataclasses.replace(LLAMA, layers=10**9), served(random_weights(LLAMA)))


def test_perplexity_is_within_one_percent(real_gguf: GGUF, real_tokenizer: Tokenizer) -> None:
    """On fixed text from the language reference of Python, 1,024 tokens in two sequences."""
    from pydoc_data.topics import topics

    text = " ".join(topics[name] for name in ("lambda", "if", "while", "try", "class"))
    ids = torch.tensor(real_tokenizer.encode(text)[:1024])
    config = model_config(real_gguf)
    weights = dict(iter_weights(real_gguf, config))

    def perplexity(model: Transformer) -> float:
        losses = [F.cross_entropy(logits(model, part)[:-1], part[1:]).item() for part in ids.split(512)]
        return math.exp(sum(losses) / len(losses))

    model = Transformer(config)
    model.load_state_dict(weights, assign=True)
    right = perplexity(model)
    found = perplexity(load_served(config, served(weights)))
    print(
        f"perplexity of {len(ids)} tokens: {right:.4f} in float32, "
        f"{found:.4f} served ({found / right - 1:+.2%})"
    )
    assert abs(found / right - 1) < 0.01
