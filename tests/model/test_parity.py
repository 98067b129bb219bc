"""The same weights give the same logits as `transformers` 5.23, in fp32 on tiny random models.

Largest differences measured on x86 with AVX-512, logits of standard deviation over 1: prefill 6.7e-6, cached
decode 2.1e-6 with experts and none without; with latent attention 4.3e-6 and 3.8e-6.
"""

from pathlib import Path

import pytest
import torch
from tiny_models import KINDS, LATENT, growing_cache, ours, theirs, tokens, transformers

from mythos.model.attention import causal_attend
from mythos.model.checkpoint import config_to_hf
from mythos.model.moe import Router
from mythos.model.rope import rope_frequencies
from mythos.spec.config import ModelConfig, RopeConfig

BOUND = 2e-5  # in logits


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_transformers(kind: str, tmp_path: Path, record_property) -> None:
    reference = theirs(kind)
    model = ours(reference, tmp_path)
    ids = tokens(2, 50)
    with torch.no_grad():
        want = reference(ids).logits.flatten(0, 1)
        got = model(ids.flatten(), torch.arange(50).repeat(2), causal_attend([50, 50]))
    assert want.std() > 1.0, "logits too flat to tell anything"
    record_property("max_difference", (got - want).abs().max().item())
    torch.testing.assert_close(got, want, atol=BOUND, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_decode_equals_prefill_and_transformers(kind: str, tmp_path: Path, record_property) -> None:
    reference = theirs(kind, seed=3)
    model = ours(reference, tmp_path)
    ids = tokens(30, seed=4)
    attend, cache, got, want = growing_cache(), None, [], []
    with torch.no_grad():
        prefill = model(ids, torch.arange(30), causal_attend([30]))
        for start, stop in [(0, 11), (11, 18), *((i, i + 1) for i in range(18, 30))]:
            got.append(model(ids[start:stop], torch.arange(start, stop), attend))
            out = reference(ids[None, start:stop], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            want.append(out.logits[0])
    record_property("max_difference", (torch.cat(got) - torch.cat(want)).abs().max().item())
    torch.testing.assert_close(torch.cat(got), prefill, atol=BOUND, rtol=0)
    torch.testing.assert_close(torch.cat(got), torch.cat(want), atol=BOUND, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "qwen3-moe"])
def test_packed_sequences_do_not_see_each_other(kind: str, tmp_path: Path) -> None:
    model = ours(theirs(kind), tmp_path)
    parts = [tokens(n, seed=n) for n in (7, 1, 19)]
    with torch.no_grad():
        alone = [model(p, torch.arange(len(p)), causal_attend([len(p)])) for p in parts]
        positions = torch.cat([torch.arange(len(p)) for p in parts])
        packed = model(torch.cat(parts), positions, causal_attend([7, 1, 19]))
    torch.testing.assert_close(packed, torch.cat(alone), atol=BOUND, rtol=0)


def test_rows_select_what_reaches_the_head(tmp_path: Path) -> None:
    model = ours(theirs("qwen3"), tmp_path)
    ids, positions = tokens(12), torch.arange(12)
    with torch.no_grad():
        everything = model(ids, positions, causal_attend([12]))
        some = model(ids, positions, causal_attend([12]), rows=torch.tensor([11, 4]))
        none = model(ids, positions, causal_attend([12]), rows=torch.tensor([], dtype=torch.long))
    torch.testing.assert_close(some, everything[[11, 4]], atol=BOUND, rtol=0)
    assert none.shape == (0, 96)


def test_rotary_frequencies_survive_a_cast(tmp_path: Path) -> None:
    """`LlamaForCausalLM.to(bfloat16)` rounds them for good; at position 5,000 it shows."""
    reference = theirs("llama")
    model = ours(reference, tmp_path)
    exact = model.frequencies_R.clone()
    assert torch.equal(exact, reference.model.rotary_emb.inv_freq)
    assert torch.equal(model.to(torch.bfloat16).frequencies_R, exact)
    assert model(tokens(3), torch.arange(5000, 5003), causal_attend([3])).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["qwen3-moe", "qwen3-moe-some-dense", *LATENT])
def test_routing_free_and_pinned(kind: str, tmp_path: Path) -> None:
    reference = theirs(kind, seed=5)
    model = ours(reference, tmp_path)
    ids, positions = tokens(40, seed=6), torch.arange(40)
    chosen, routing = [], []
    for router in model.modules():
        if isinstance(router, Router):
            router.register_forward_hook(lambda _m, _x, out: chosen.append(out[0]))
    for name, router in reference.named_modules():
        if name.endswith("mlp.gate"):
            router.register_forward_hook(lambda _m, _x, out: routing.append(out[2]))
    with torch.no_grad():
        out = reference(ids[None])
        model(ids, positions, causal_attend([40]))
        free = list(chosen)
        pinned = model(ids, positions, causal_attend([40]), routing=routing)
        moved = model(ids, positions, causal_attend([40]), routing=[(r + 1) % 8 for r in routing])
    assert len(routing) == len(free) > 0
    for mine, yours in zip(free, routing, strict=True):
        assert torch.equal(mine.sort(-1).values, yours.sort(-1).values)
    torch.testing.assert_close(pinned, out.logits[0], atol=BOUND, rtol=0)
    assert (moved - pinned).abs().max() > 0.1, "a pinned choice must matter"


@pytest.mark.parametrize(
    "rope",
    [
        RopeConfig(base=1e6),
        RopeConfig(kind="llama3", base=5e5, factor=8.0, original_context=8192),
        RopeConfig(kind="llama3", base=5e5, factor=32.0, original_context=8192),
        RopeConfig(kind="yarn", base=1e6, factor=4.0, original_context=32768),
        RopeConfig(kind="yarn", base=1.5e5, factor=32.0, original_context=4096, truncate=False),
    ],
)
def test_rotary_frequencies_of_published_settings(rope: RopeConfig) -> None:
    """Llama 3.1 and 3.2, Qwen3 and its yarn, gpt-oss' yarn; a last-bit difference is allowed."""
    config = ModelConfig(
        vocab=8, layers=1, width=128, heads=1, kv_heads=1, head_dim=128, ffn=8, context=131072, rope=rope
    )
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**config_to_hf(config))
    )
    theirs_R, (ours_R, scale) = model.model.rotary_emb.inv_freq, rope_frequencies(rope, 128)
    torch.testing.assert_close(ours_R, theirs_R, rtol=2.5e-7, atol=0)
    assert scale == model.model.rotary_emb.attention_scaling
    assert rope.kind == "plain" or not torch.allclose(
        ours_R, rope_frequencies(RopeConfig(base=rope.base), 128)[0]
    )
