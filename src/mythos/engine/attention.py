"""Attention over the paged cache: the `attend` that the engine hands to the Transformer.

Shape letters: T rows of this pass, H query heads, G kv heads, Q = H/G query heads per kv head, K head dim,
B sequences, N positions gathered (whole blocks), C rows of a prompt chunk.

Bit-identity: what a sequence's row gets depends on that sequence alone. A decoding row and a prompt chunk are
attended to by themselves, over a number of blocks that follows from the sequence's length. Absorbed latent
attention has all heads as rows of one product: few of them are filled up to a number from which on a head's
bits do not depend on how many others are there, since a rank (`mythos.engine.split`) has some of them only.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from mythos.engine.cache import BLOCK, PagedCache

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
# torch packs keys from 64 query rows on (`need_pack` in FlashAttentionKernel.cpp); with fewer than 16
# other bits were seen.
FEW_HEADS, FEW_ROWS = 16, 64


def bucket(blocks: int) -> int:
    """Blocks gathered for a sequence that holds `blocks`: few sizes, at most a third above what is needed."""
    size = 1
    while size < blocks:
        size += max(1, size // 4)
    return size


def _slots(table: list[int], start: int, count: int) -> list[int]:
    return [table[p // BLOCK] * BLOCK + p % BLOCK for p in range(start, start + count)]


def _write(cache: PagedCache, layer: int, slots_T: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> None:
    kv = k_TGK.transpose(0, 1)
    if cache.values:
        kv = torch.cat((kv, v_TGK.transpose(0, 1)))
    cache.flat[layer].index_copy_(1, slots_T, kv)


def decode_attend(cache: PagedCache, tables: list[list[int]], lengths: list[int]) -> Attend:
    """One new position for each sequence; `lengths` count it.

    One kernel call for each sequence: torch's attention gives a sequence other bits, once in some hundred
    thousand values, when others are in the same call.
    """
    slots_T = torch.tensor([_slots(t, n - 1, 1)[0] for t, n in zip(tables, lengths, strict=True)])
    plans = []
    for table, n in zip(tables, lengths, strict=True):
        blocks = bucket(-(-n // BLOCK))
        # Beyond a sequence's own blocks any valid block serves: the bias hides it.
        flat = torch.tensor((table + [table[0]] * blocks)[:blocks])
        bias_N = torch.zeros(blocks * BLOCK, dtype=cache.kv[0].dtype)
        bias_N[n:] = float("-inf")
        plans.append((flat, bias_N.view(1, 1, 1, -1), blocks))

    def attend(layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        _write(cache, layer, slots_T, k_TGK, v_TGK)
        _, H, K = q_THK.shape
        G = k_TGK.shape[1]
        Q = H // G
        q_TGQK = q_THK.unflatten(1, (G, Q))
        if not cache.values and Q < FEW_HEADS:
            q_TGQK = pad(q_TGQK, (0, 0, 0, FEW_HEADS - Q))
        outs = []
        for row, (flat, bias, blocks) in enumerate(plans):
            kv = cache.kv[layer].index_select(1, flat).view(-1, 1, G, blocks * BLOCK, K)
            outs.append(scaled_dot_product_attention(q_TGQK[row : row + 1], kv[0], kv[-1], attn_mask=bias))
        return (outs[0] if len(outs) == 1 else torch.cat(outs))[:, :, :Q].reshape(-1, H, K)

    return attend


def chunk_attend(cache: PagedCache, table: list[int], start: int, count: int) -> Attend:
    """`count` prompt positions from `start`, over everything before them and causally over themselves."""
    end = start + count
    blocks = -(-end // BLOCK)
    slots_C = torch.tensor(_slots(table, start, count))
    flat = torch.tensor(table[:blocks])
    hidden_CN = torch.arange(blocks * BLOCK) > torch.arange(start, end).unsqueeze(1)
    bias_CN = torch.zeros(hidden_CN.shape, dtype=cache.kv[0].dtype).masked_fill_(hidden_CN, float("-inf"))
    biases: dict[int, Tensor] = {}

    def attend(layer: int, q_CHK: Tensor, k_CGK: Tensor, v_CGK: Tensor) -> Tensor:
        _write(cache, layer, slots_C, k_CGK, v_CGK)
        C, H, K = q_CHK.shape
        G = k_CGK.shape[1]
        Q = H // G
        missing = 0 if cache.values else max(0, FEW_ROWS - Q * C)
        if Q not in biases:
            biases[Q] = pad(bias_CN.repeat(Q, 1), (0, 0, 0, missing))
        kv = cache.kv[layer].index_select(1, flat).view(-1, G, blocks * BLOCK, K)
        # The Q query heads of a kv head are folded into rows: keys and values are never copied per head.
        q_GRK = pad(q_CHK.view(C, G, Q, K).permute(1, 2, 0, 3).reshape(1, G, Q * C, K), (0, 0, 0, missing))
        got = scaled_dot_product_attention(q_GRK, kv[0][None], kv[-1][None], attn_mask=biases[Q])
        return got[:, :, : Q * C].reshape(G, Q, C, K).permute(2, 0, 1, 3).reshape(C, H, K)

    return attend
