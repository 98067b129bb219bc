"""Counting against real tensors, torch's own FLOP counter and published totals."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import growing_cache
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mythos.model.attention import causal_attend
from mythos.model.moe import Experts, Router
from mythos.model.transformer import Transformer
from mythos.spec.config import MLAConfig, ModelConfig, MoEConfig
from mythos.spec.counting import (
    active_parameters,
    flops_per_token,
    kv_bytes_per_token,
    mtp_parameters,
    parameters,
)


@st.composite
def configs(draw: st.DrawFn, expert_widths: st.SearchStrategy[int]) -> ModelConfig:
    layers = draw(st.integers(1, 3))
    kv_heads = draw(st.integers(1, 3))
    moe = None
    if draw(st.booleans()):
        groups = draw(st.integers(1, 2))
        size = draw(st.integers(2, 4))
        moe = MoEConfig(
            routed=groups * size,
            top_k=draw(st.integers(1, size)),
            width=draw(expert_widths),
            shared=draw(st.integers(0, 2)),
            score=draw(st.sampled_from(["softmax", "sigmoid"])),
            bias=draw(st.booleans()),
            groups=groups,
            latent=draw(st.none() | expert_widths),
        )
    mla = None
    if draw(st.booleans()):
        mla = MLAConfig(
            kv_rank=draw(st.integers(1, 12)),
            nope_dim=2 * draw(st.integers(1, 4)),
            rope_dim=2 * draw(st.integers(1, 4)),
            value_dim=draw(st.integers(1, 9)),
            q_rank=draw(st.integers(0, 12)),
        )
    return ModelConfig(
        vocab=draw(st.integers(1, 50)),
        layers=layers,
        width=draw(st.integers(1, 24)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 6)) if mla is None else mla.nope_dim + mla.rope_dim,
        ffn=draw(st.integers(1, 40)),
        context=32,
        tied=draw(st.booleans()),
        qk_norm=mla is None and draw(st.booleans()),
        moe=moe,
        dense_layers=tuple(draw(st.sets(st.integers(0, layers - 1)))) if moe else (),
        attention_bias=mla is None and draw(st.booleans()),
        mla=mla,
        mtp=draw(st.integers(0, 2)),
    )


@settings(max_examples=60, deadline=None)
@given(configs(st.integers(1, 24)))
def test_parameters_are_the_tensors(config: ModelConfig) -> None:
    with torch.device("meta"):
        model = Transformer(config)
    predictions = sum(p.numel() for p in model.mtp.parameters())
    assert mtp_parameters(config) == predictions
    assert parameters(config) == sum(p.numel() for p in model.parameters()) - predictions
    model.mtp = nn.ModuleList()  # one token makes no use of them
    idle = 0
    for experts in model.modules():
        if isinstance(experts, Experts) and config.moe is not None:
            unused = config.moe.routed - config.moe.top_k
            idle += unused * sum(p[0].numel() for p in experts.parameters())
    assert active_parameters(config) == parameters(config) - idle


@settings(max_examples=40, deadline=None)
@given(configs(st.integers(1, 24).filter(lambda width: width % 4 > 0)), st.integers(0, 9))
def test_flops_and_cache_are_what_one_decode_step_does(config: ModelConfig, past: int) -> None:
    """Experts of a width that takes the loop: torch's counter does not know the grouped kernel."""
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    attend, cached = growing_cache(), []

    def watched(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        cached.append(k.nbytes if k is v else k.nbytes + v.nbytes)
        return attend(layer, q, k, v)

    with torch.no_grad():
        if past:
            model(torch.zeros(past, dtype=torch.long), torch.arange(past), attend)
        with FlopCounterMode(display=False) as counter:
            logits = model(torch.tensor([0]), torch.tensor([past]), watched)
    assert logits.shape == (1, config.vocab)
    # Few rows are routed by a sum of products, row by row, which the counter does not know either.
    routers = [module for module in model.layers.modules() if isinstance(module, Router)]
    routed = sum(2 * router.weight.numel() for router in routers)
    assert counter.get_total_flops() + routed == flops_per_token(config, past + 1)
    cached.clear()
    attend = growing_cache()
    with torch.no_grad():
        model(torch.tensor([0]), torch.tensor([past]), watched, absorbed=True)
    assert sum(cached) == kv_bytes_per_token(config, 4)


@settings(max_examples=25, deadline=None)
@given(configs(st.integers(1, 24)), st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_any_configuration_runs_trains_and_keeps_its_shapes(config: ModelConfig, lengths: list[int]) -> None:
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(n) for n in lengths])
    logits = model(torch.zeros_like(positions), positions, causal_attend(lengths))
    assert logits.shape == (sum(lengths), config.vocab)
    assert logits.isfinite().all()
    (logits * torch.randn_like(logits)).sum().backward()
    assert model.embed.weight.grad is not None


SMOLLM2_135M = ModelConfig(
    vocab=49152, layers=30, width=576, heads=9, kv_heads=3, head_dim=64, ffn=1536, context=8192
)
LLAMA_3_1_8B = ModelConfig(
    vocab=128256,
    layers=32,
    width=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    ffn=14336,
    context=131072,
    tied=False,
)
QWEN3_0_6B = ModelConfig(
    vocab=151936,
    layers=28,
    width=1024,
    heads=16,
    kv_heads=8,
    head_dim=128,
    ffn=3072,
    context=40960,
    qk_norm=True,
)
QWEN3_30B_A3B = ModelConfig(
    vocab=151936,
    layers=48,
    width=2048,
    heads=32,
    kv_heads=4,
    head_dim=128,
    ffn=6144,
    context=40960,
    tied=False,
    qk_norm=True,
    moe=MoEConfig(routed=128, top_k=8, width=768),
)


def test_published_totals() -> None:
    """Model cards: SmolLM2-135M and Llama 3.1 8B to the last parameter, Qwen3 as rounded there."""
    assert parameters(SMOLLM2_135M) == active_parameters(SMOLLM2_135M) == 134_515_008
    assert parameters(LLAMA_3_1_8B) == 8_030_261_248
    assert parameters(QWEN3_0_6B) == 596_049_920  # "0.6B, 0.44B non-embedding"
    assert round((parameters(QWEN3_0_6B) - 151936 * 1024) / 1e9, 2) == 0.44
    assert round(parameters(QWEN3_30B_A3B) / 1e9, 1) == 30.5
    assert active_parameters(QWEN3_30B_A3B) // 10**8 == 33  # 3.353e9, published as 3.3B


def test_published_cache_size() -> None:
    """Llama 3.1 8B in bf16: 128 KiB a token, 16 GiB at its full context."""
    assert kv_bytes_per_token(LLAMA_3_1_8B, 2) == 128 << 10
    assert kv_bytes_per_token(LLAMA_3_1_8B, 2) * LLAMA_3_1_8B.context == 16 << 30
