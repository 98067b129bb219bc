"""Attention over pages: the logits of one pass over the whole text, and bits that no neighbour changes."""

import pytest
import torch

from mythos.engine.attention import bucket, chunk_attend, decode_attend
from mythos.engine.cache import BLOCK, CHUNK, PagedCache, cache_for
from mythos.model.attention import causal_attend
from mythos.model.transformer import Transformer
from mythos.spec.config import MLAConfig, ModelConfig
from mythos.spec.counting import kv_bytes_per_token


def model_of(heads: int, kv_heads: int, mla: MLAConfig | None = None) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(97, 2, 64, heads, kv_heads, 16, 96, 2048, mla=mla))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return model.eval().requires_grad_(False)


def cache_of(model: Transformer, blocks: int = 64, dtype: torch.dtype = torch.float32) -> PagedCache:
    return cache_for(model.config, blocks, dtype, b"s")


def prefill(model, cache, table, tokens, upto):
    out = []
    for start in range(0, upto, CHUNK):
        count = min(CHUNK, upto - start)
        out.append(
            model(
                tokens[start : start + count],
                torch.arange(start, start + count),
                chunk_attend(cache, table, start, count),
                absorbed=True,
            )
        )
    return torch.cat(out)


MLA = MLAConfig(kv_rank=24, nope_dim=10, rope_dim=6, value_dim=12)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "mla"), [(4, 4, None), (4, 2, None), (9, 3, None), (4, 1, None), (4, 4, MLA)]
)
def test_pages_equal_one_pass(heads, kv_heads, mla):
    """The whole is computed in the naive form, the pages in the absorbed one, where there are two."""
    model = model_of(heads, kv_heads, mla)
    tokens = torch.randint(0, 97, (CHUNK + BLOCK + 70,))
    whole = model(tokens, torch.arange(len(tokens)), causal_attend([len(tokens)]))
    cache = cache_of(model)
    cache.reserve([], 5 * BLOCK)  # so that this sequence's blocks do not start at 0
    table, _ = cache.reserve([], len(tokens)) or ([], 0)
    upto = CHUNK + 20
    paged = [prefill(model, cache, table, tokens, upto)]
    for n in range(upto, len(tokens)):
        attend = decode_attend(cache, [table], [n + 1])
        paged.append(model(tokens[n : n + 1], torch.tensor([n]), attend, absorbed=True))
    torch.testing.assert_close(torch.cat(paged), whole, atol=2e-5, rtol=1e-4)


def test_a_row_does_not_see_its_neighbours():
    """Sequences of very different lengths, in the served bf16: bits equal one by one and together.

    (In float32 torch's kernel gives other bits in other batches, on some processors.)
    """
    model = model_of(9, 3)
    cache = cache_of(model, 160, torch.bfloat16)
    lengths = [1, 5, 64, 65, 200, 300, 301, 640, 2040, 2041]
    tables = []
    for n in lengths:
        table, _ = cache.reserve([], n) or ([], 0)
        tables.append(table)
    for layer in cache.kv:
        layer.normal_()
    q = torch.randn(len(lengths), 9, 16).bfloat16()
    k, v = torch.randn(2, len(lengths), 3, 16).bfloat16()
    together = decode_attend(cache, tables, lengths)(0, q, k, v)
    for i, n in enumerate(lengths):
        alone = decode_attend(cache, [tables[i]], [n])(0, q[i : i + 1], k[i : i + 1], v[i : i + 1])
        assert torch.equal(alone[0], together[i])


def test_a_cache_of_latents_holds_no_values():
    model = model_of(4, 4, MLA)
    cache = cache_of(model, 3)
    assert [layer.shape for layer in cache.kv] == [(1, 3, BLOCK, 30)] * 2
    assert cache.bytes() == 3 * BLOCK * kv_bytes_per_token(model.config, 4)


def test_buckets_are_few_and_near():
    sizes = [bucket(n) for n in range(1, 200)]
    assert all(n <= size <= n * 1.34 for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) < 25
