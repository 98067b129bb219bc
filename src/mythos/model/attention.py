"""Grouped-query attention. Memory of earlier tokens is the caller's: it goes through `attend`.

Shape letters: T token rows, D width, H query heads, G key/value heads, K head width, B sequences of L tokens.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mythos.model.rope import rotate
from mythos.spec.config import ModelConfig

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q_THK, k_TGK, v_TGV) -> out_THV. q and k arrive normed and rotated; layers count from 0. Scores are
divided by sqrt(K); V is K but for latent attention in its naive form.
"""


class RMSNorm(nn.Module):
    """x / rms(x) * weight (arXiv 1910.07467), in fp32, returned in the dtype of x."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        query, key_value = config.heads * config.head_dim, config.kv_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.width, query, bias=bias)
        self.k_proj = nn.Linear(config.width, key_value, bias=bias)
        self.v_proj = nn.Linear(config.width, key_value, bias=bias)
        self.o_proj = nn.Linear(query, config.width, bias=bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self, x_TD: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend, absorbed: bool = False
    ) -> Tensor:
        """(T, D). There is nothing to absorb here."""
        return self.mix(self.q_proj(x_TD), self.k_proj(x_TD), self.v_proj(x_TD), rotation, attend)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """From the projections, each (T, heads * K), to the output (T, D)."""
        q_THK, k_TGK, v_TGK = (projected.unflatten(-1, (-1, self.head_dim)) for projected in (q, k, v))
        q_THK = rotate(self.q_norm(q_THK), rotation)
        k_TGK = rotate(self.k_norm(k_TGK), rotation)
        return self.o_proj(attend(self.layer, q_THK, k_TGK, v_TGK).flatten(-2))


def causal_attend(lengths: Sequence[int]) -> Attend:
    """Attention over whole sequences packed one behind the other; `lengths` are their tokens and sum to T."""

    def attend(_layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        if len(set(lengths)) == 1:  # one batched call
            parts = [tuple(t.unflatten(0, (len(lengths), -1)) for t in (q_THK, k_TGK, v_TGK))]
        else:
            parts = [
                tuple(t[None] for t in part)
                for part in zip(*(t.split(list(lengths)) for t in (q_THK, k_TGK, v_TGK)), strict=True)
            ]
        outs = [_causal(q_BLHK, k_BLGK, v_BLGK).flatten(0, 1) for q_BLHK, k_BLGK, v_BLGK in parts]
        return torch.cat(outs)

    return attend


def _causal(q_BLHK: Tensor, k_BLGK: Tensor, v_BLGK: Tensor) -> Tensor:
    q_BHLK, k_BGLK, v_BGLK = (t.transpose(1, 2) for t in (q_BLHK, k_BLGK, v_BLGK))
    out_BHLK = F.scaled_dot_product_attention(q_BHLK, k_BGLK, v_BGLK, is_causal=True, enable_gqa=True)
    return out_BHLK.transpose(1, 2)
