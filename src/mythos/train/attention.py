"""Causal attention over packed rows for training, with a backward of its own.

Shape letters: R rows of L tokens, H query heads, G key/value heads, N = H / G, K head width, V value width,
Q query rows of a tile
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mythos.model.attention import Attend

TILE = 128  # query rows of a tile; keys behind its last row are never looked at


def packed_attend(starts_RL: Tensor) -> Attend:
    """Attention within the documents of packed rows, for `Transformer` and its blocks.

    `starts_RL` holds, for every token, the index in its row at which its document begins. Token rows are R *
    L.
    """
    rows, length = starts_RL.shape

    def attend(_layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        q, k, v = (t.unflatten(0, (rows, length)) for t in (q_THK, k_TGK, v_TGK))
        if not torch.is_grad_enabled():
            return _forward_only(q, k, v, starts_RL).flatten(0, 1)
        return PackedAttention.apply(q, k, v, starts_RL, 0).flatten(0, 1)

    return attend


class PackedAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(K)) v within each document, tile by tile; scores are never whole.

    Keys and values begin at the row's beginning, the queries (and their starts) at its token `first`.
    The forward keeps the log-sum-exp of each row, the backward makes the scores again from it
    (FlashAttention-2, arXiv 2307.08691, section 3.1). torch's own backward on CPU takes over twice the time
    of these products.
    """

    @staticmethod
    def forward(ctx, q_RLHK: Tensor, k_RLGK: Tensor, v_RLGV: Tensor, starts_RL: Tensor, first: int) -> Tensor:
        shape = q_RLHK.shape
        q, k, v = _by_group(q_RLHK, k_RLGK.shape[2]), _heads_first(k_RLGK), _heads_first(v_RLGV)
        outs, lses = [], []
        for start, end in _tiles(shape[1]):
            seen = first + end
            s_BQL = _scores(q[:, :, start:end], k[:, :seen], starts_RL[:, start:end], first + start)
            lse_BQ = s_BQL.logsumexp(-1)
            p_BQL = (s_BQL - lse_BQ[..., None]).exp().to(v.dtype)
            outs.append(torch.bmm(p_BQL, v[:, :seen]).unflatten(1, (-1, end - start)))
            lses.append(lse_BQ)
        out = torch.cat(outs, 2)
        ctx.save_for_backward(q, k, v, out, torch.cat(lses, 1), starts_RL)
        ctx.first = first
        return _ungroup(out, (*shape[:-1], v.shape[-1]))

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, starts_RL = ctx.saved_tensors
        groups = k.shape[0] // starts_RL.shape[0]
        shape = grads[0].shape
        g = _by_group(grads[0], groups)
        heads = q.shape[1]
        scale = q.shape[-1] ** -0.5
        dq = []
        dk = torch.zeros_like(k, dtype=torch.float32)
        dv = torch.zeros_like(v, dtype=torch.float32)
        at = 0
        for start, end in _tiles(shape[1]):
            q_BQK, g_BQV, o_BQV = (t[:, :, start:end].flatten(1, 2) for t in (q, g, out))
            rows = heads * (end - start)
            lse_BQ = lse[:, at : at + rows]
            at += rows
            seen = ctx.first + end
            s_BQL = _scores(q[:, :, start:end], k[:, :seen], starts_RL[:, start:end], ctx.first + start)
            p_BQL = (s_BQL - lse_BQ[..., None]).exp()
            dp_BQL = torch.bmm(g_BQV, v[:, :seen].transpose(1, 2)).float()
            delta_BQ = (g_BQV.float() * o_BQV.float()).sum(-1)
            ds_BQL = (p_BQL * (dp_BQL - delta_BQ[..., None]) * scale).to(q.dtype)
            dv[:, :seen] += torch.bmm(p_BQL.to(q.dtype).transpose(1, 2), g_BQV)
            dk[:, :seen] += torch.bmm(ds_BQL.transpose(1, 2), q_BQK)
            dq.append(torch.bmm(ds_BQL, k[:, :seen]).unflatten(1, (heads, -1)))
        rows_of = starts_RL.shape[0]
        return (
            _ungroup(torch.cat(dq, 2), (*shape[:-1], q.shape[-1])),
            _tokens_first(dk.to(k.dtype), rows_of),
            _tokens_first(dv.to(v.dtype), rows_of),
            None,
            None,
        )


def _forward_only(q_RLHK: Tensor, k_RLGK: Tensor, v_RLGK: Tensor, starts_RL: Tensor) -> Tensor:
    """torch's own forward, which is fast; it is its backward that is not."""
    places_L = torch.arange(starts_RL.shape[1], device=starts_RL.device)
    seen_R1LL = ((places_L <= places_L[:, None]) & (places_L >= starts_RL[..., None]))[:, None]
    heads_first = (t.transpose(1, 2) for t in (q_RLHK, k_RLGK, v_RLGK))
    out = F.scaled_dot_product_attention(*heads_first, attn_mask=seen_R1LL, enable_gqa=True)
    return out.transpose(1, 2)


def _tiles(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + TILE, length)) for start in range(0, length, TILE)]


def _scores(q_BNQK: Tensor, k_BLK: Tensor, starts_RQ: Tensor, first: int) -> Tensor:
    """(B, N * Q, L) fp32 scores of a tile whose queries begin at `first` and end with the keys, minus
    infinity where a token may not look.
    """
    s_BQL = torch.bmm(q_BNQK.flatten(1, 2), k_BLK.transpose(1, 2)).float() * q_BNQK.shape[-1] ** -0.5
    rows, groups, heads = starts_RQ.shape[0], k_BLK.shape[0] // starts_RQ.shape[0], q_BNQK.shape[1]
    keys_L = torch.arange(k_BLK.shape[1], device=k_BLK.device)
    queries_Q = torch.arange(first, k_BLK.shape[1], device=k_BLK.device)
    seen_RQL = (keys_L <= queries_Q[:, None]) & (keys_L >= starts_RQ[..., None])
    s = s_BQL.view(rows, groups, heads, *seen_RQL.shape[1:])
    return s.masked_fill(~seen_RQL[:, None, None], float("-inf")).view_as(s_BQL)


def _by_group(x_RLHK: Tensor, groups: int) -> Tensor:
    """(R * G, N, L, K): the query heads that share a key head beside one another."""
    return x_RLHK.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4).flatten(0, 1).contiguous()


def _ungroup(x_BNLK: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x_BNLK.unflatten(0, (shape[0], -1)).permute(0, 3, 1, 2, 4).reshape(shape)


def _heads_first(x_RLGK: Tensor) -> Tensor:
    return x_RLGK.transpose(1, 2).flatten(0, 1).contiguous()


def _tokens_first(x_BLK: Tensor, rows: int) -> Tensor:
    return x_BLK.unflatten(0, (rows, -1)).transpose(1, 2)
