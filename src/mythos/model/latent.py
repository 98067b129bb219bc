"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): keys and values come from one
small latent a token.

Naive and absorbed are two orders of the same products. Naive makes each head's keys and values, which suits
whole sequences (training). Absorbed applies those matrices to queries and outputs instead: all heads attend
to the latents themselves, and latents are all that a cache holds.

Shape letters: T token rows, D width, H heads, C kv_rank, N nope_dim, R rope_dim, K = N + R, V value_dim,
L = C + R, M = N + V
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mythos.model.attention import Attend, RMSNorm
from mythos.model.moe import FEW_ROWS
from mythos.model.rope import rotate, score_factor
from mythos.spec.config import MLAConfig, ModelConfig

LATENT_EPS = 1e-6  # of the norms on latents; published models fix it, whatever their `rms_norm_eps` says


class LatentAttention(nn.Module):
    def __init__(self, config: ModelConfig, mla: MLAConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.mla = layer, mla
        queries = config.heads * config.head_dim
        if mla.q_rank:
            self.q_a_proj = nn.Linear(config.width, mla.q_rank, bias=False)
            self.q_a_layernorm = RMSNorm(mla.q_rank, LATENT_EPS)
            self.q_b_proj = nn.Linear(mla.q_rank, queries, bias=False)
        else:
            self.q_proj = nn.Linear(config.width, queries, bias=False)
        self.kv_a_proj = nn.Linear(config.width, mla.kv_rank + mla.rope_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(mla.kv_rank, LATENT_EPS)
        self.kv_b_proj = nn.Linear(mla.kv_rank, config.heads * (mla.nope_dim + mla.value_dim), bias=False)
        self.o_proj = nn.Linear(config.heads * mla.value_dim, config.width, bias=False)
        self.score_factor = score_factor(config.rope)

    def forward(
        self, x_TD: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend, absorbed: bool = False
    ) -> Tensor:
        """(T, D). Absorbed, `attend` gets one key head of width L, and the same tensor as values."""
        mla = self.mla
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_TD))) if mla.q_rank else self.q_proj(x_TD)
        q_THN, q_THR = q.unflatten(-1, (-1, mla.nope_dim + mla.rope_dim)).split(
            [mla.nope_dim, mla.rope_dim], dim=-1
        )
        q_THR = rotate(_pairs_apart(q_THR), rotation)
        latent_TC, k_TR = self.kv_a_proj(x_TD).split([mla.kv_rank, mla.rope_dim], dim=-1)
        latent_TC, k_T1R = self.kv_a_layernorm(latent_TC), rotate(_pairs_apart(k_TR[:, None]), rotation)
        form = self._absorbed if absorbed else self._naive
        return self.o_proj(form(q_THN, q_THR, latent_TC, k_T1R, attend).flatten(-2))

    def _naive(
        self, q_THN: Tensor, q_THR: Tensor, latent_TC: Tensor, k_T1R: Tensor, attend: Attend
    ) -> Tensor:
        mla = self.mla
        kv_THM = self.kv_b_proj(latent_TC).unflatten(-1, (-1, mla.nope_dim + mla.value_dim))
        k_THN, v_THV = kv_THM.split([mla.nope_dim, mla.value_dim], dim=-1)
        q_THK = torch.cat((q_THN, q_THR), dim=-1)
        if self.score_factor != 1.0:
            q_THK = q_THK * self.score_factor
        k_THK = torch.cat((k_THN, k_T1R.expand(-1, k_THN.shape[1], -1)), dim=-1)
        return attend(self.layer, q_THK, k_THK, v_THV)

    def _absorbed(
        self, q_THN: Tensor, q_THR: Tensor, latent_TC: Tensor, k_T1R: Tensor, attend: Attend
    ) -> Tensor:
        mla = self.mla
        up_HMC = _matrix(self.kv_b_proj).unflatten(0, (-1, mla.nope_dim + mla.value_dim))
        k_up_HNC, v_up_HVC = up_HMC.split([mla.nope_dim, mla.value_dim], dim=1)
        q_THL = torch.cat((_by_head(q_THN, k_up_HNC), q_THR), dim=-1)
        k_T1L = torch.cat((latent_TC[:, None], k_T1R), dim=-1)
        # `attend` divides by the root of the width it sees; what is wanted is that of the naive form.
        wider = (q_THL.shape[-1] / (mla.nope_dim + mla.rope_dim)) ** 0.5
        out_THL = attend(self.layer, q_THL * (wider * self.score_factor), k_T1L, k_T1L)
        return _by_head(out_THL[..., : mla.kv_rank], v_up_HVC.mT)


def _pairs_apart(x_THR: Tensor) -> Tensor:
    """Published weights have the parts of a rotated pair beside each other, `rotate` half a head apart."""
    return x_THR.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)


def _matrix(linear: nn.Module) -> Tensor:
    """What a linear layer multiplies with; a quantised one (`mythos.model.quant`) holds it in bf16."""
    matrix = linear.weight_bf16 if hasattr(linear, "weight_bf16") else linear.weight
    assert isinstance(matrix, Tensor)
    return matrix


def _by_head(x_THN: Tensor, w_HNC: Tensor) -> Tensor:
    """(T, H, C): each head by its own matrix. Few rows are filled up, so that a row's bits depend on no
    other.
    """
    rows = x_THN.shape[0]
    if rows < FEW_ROWS:
        x_THN = F.pad(x_THN, (0, 0, 0, 0, 0, FEW_ROWS - rows))
    return torch.bmm(x_THN.transpose(0, 1), w_HNC).transpose(0, 1)[:rows]
