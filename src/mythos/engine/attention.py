"""Attention over the paged cache: the `attend` that the engine hands to the Transformer.

Shape letters: T rows of this pass, H query heads, G kv heads, Q = H/G query heads per kv head, K head dim,
B sequences, N positions gathered (whole blocks), C rows of a prompt chunk.

Bit-identity: what a sequence's row gets depends on that sequence's length alone. Decoding rows are grouped by
the number of blocks they gather, and every (sequence, kv head) is its own work item in the attention
kernel; a prompt chunk is attended to by itself.
"""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mythos.engine.cache import BLOCK, PagedCache

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def bucket(blocks: int) -> int:
    """Blocks gathered for a sequence that holds `blocks`: few sizes, at most a third above what is needed."""
    size = 1
    while size < blocks:
        size += max(1, size // 4)
    return size


def _slots(table: list[int], start: int, count: int) -> list[int]:
    return [table[p // BLOCK] * BLOCK + p % BLOCK for p in range(start, start + count)]


def _write(cache: PagedCache, layer: int, slots_T: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> None:
    kv = torch.cat((k_TGK.transpose(0, 1), v_TGK.transpose(0, 1)))
    cache.flat[layer].index_copy_(1, slots_T, kv)


def decode_attend(cache: PagedCache, tables: list[list[int]], lengths: list[int]) -> Attend:
    """One new position for each sequence; `lengths` count it."""
    slots_T = torch.tensor([_slots(t, n - 1, 1)[0] for t, n in zip(tables, lengths, strict=True)])
    groups: dict[int, list[int]] = defaultdict(list)
    for row, n in enumerate(lengths):
        groups[bucket(-(-n // BLOCK))].append(row)
    plans = []
    for blocks, rows in groups.items():
        # Beyond a sequence's own blocks any valid block serves: the mask hides it.
        flat = [b for r in rows for b in (tables[r] + [tables[r][0]] * blocks)[:blocks]]
        n_B1 = torch.tensor([lengths[r] for r in rows]).unsqueeze(1)
        mask_B11N = (torch.arange(blocks * BLOCK) < n_B1)[:, None, None, :]
        bias = torch.zeros(mask_B11N.shape, dtype=cache.kv[0].dtype).masked_fill_(~mask_B11N, float("-inf"))
        plans.append((torch.tensor(rows), torch.tensor(flat), bias, len(rows), blocks))
    whole = len(plans) == 1

    def attend(layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        _write(cache, layer, slots_T, k_TGK, v_TGK)
        T, H, K = q_THK.shape
        G = k_TGK.shape[1]
        out_THK = torch.empty_like(q_THK)
        for rows, flat, bias, B, blocks in plans:
            kv = cache.kv[layer].index_select(1, flat).view(2, G, B, blocks * BLOCK, K)
            k_BGNK, v_BGNK = kv[0].transpose(0, 1), kv[1].transpose(0, 1)
            q = q_THK if whole else q_THK.index_select(0, rows)
            got = scaled_dot_product_attention(q.view(B, G, H // G, K), k_BGNK, v_BGNK, attn_mask=bias)
            got = got.reshape(B, H, K)
            if whole:
                return got
            out_THK.index_copy_(0, rows, got)
        return out_THK

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
        if Q not in biases:
            biases[Q] = bias_CN.repeat(Q, 1)
        kv = cache.kv[layer].index_select(1, flat).view(2, G, blocks * BLOCK, K)
        # The Q query heads of a kv head are folded into rows: keys and values are never copied per head.
        q_GRK = q_CHK.view(C, G, Q, K).permute(1, 2, 0, 3).reshape(1, G, Q * C, K)
        got = scaled_dot_product_attention(q_GRK, kv[0][None], kv[1][None], attn_mask=biases[Q])
        return got.view(G, Q, C, K).permute(2, 0, 1, 3).reshape(C, H, K)

    return attend
