"""The feed-forward half of a block: a dense MLP, or a router and its experts.

Shape letters: T token rows, D width, F inner width, E experts, A experts per token, S = T * A slots, P groups
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mythos.spec.config import MoEConfig

# Up to so many rows a product takes care that a row gets the same bits beside any others (model/quant.py).
FEW_ROWS = 16


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD))


class MoE(nn.Module):
    """The weighted sum of each token's chosen experts, and the shared ones (one MLP of their joint width).

    With a latent width the routed experts work in that, between two projections; router and shared experts
    see the whole width.
    """

    def __init__(self, width: int, moe: MoEConfig) -> None:
        super().__init__()
        self.gate = Router(width, moe)
        self.experts = Experts(moe.latent or width, moe)
        # Names as in Megatron-LM's `moe_latent_size`.
        self.fc1_latent_proj = nn.Linear(width, moe.latent, bias=False) if moe.latent else nn.Identity()
        self.fc2_latent_proj = nn.Linear(moe.latent, width, bias=False) if moe.latent else nn.Identity()
        self.shared_experts = MLP(width, moe.shared * moe.width) if moe.shared else None

    def forward(self, x_TD: Tensor, ids_TA: Tensor | None = None) -> Tensor:
        """`ids_TA` pins the choice of experts; their weights still come from the scores."""
        ids_TA, weights_TA = self.gate(x_TD, ids_TA)
        y_TD = self.fc2_latent_proj(self.experts(self.fc1_latent_proj(x_TD), ids_TA, weights_TA))
        return y_TD if self.shared_experts is None else y_TD + self.shared_experts(x_TD)


class Router(nn.Module):
    """Scores, choice and weights of experts, all in fp32 (arXiv 2412.19437, section 2.1.2)."""

    e_score_correction_bias: Tensor | None

    def __init__(self, width: int, moe: MoEConfig) -> None:
        super().__init__()
        self.moe = moe
        self.weight = nn.Parameter(torch.empty(moe.routed, width))
        self.register_buffer("e_score_correction_bias", torch.zeros(moe.routed) if moe.bias else None)

    def scores(self, x_TD: Tensor) -> Tensor:
        """How well each expert suits each token: (T, E) fp32, before any selection bias."""
        x_TD, weight_ED = x_TD.float(), self.weight.float()
        if x_TD.shape[0] <= FEW_ROWS:  # a matrix product's bits would depend on the number of rows
            logits_TE = (x_TD[:, None] * weight_ED).sum(-1)
        else:
            logits_TE = F.linear(x_TD, weight_ED)
        return logits_TE.softmax(-1) if self.moe.score == "softmax" else logits_TE.sigmoid()

    def forward(self, x_TD: Tensor, ids_TA: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Chosen experts (T, A) and the weight of each (T, A) fp32."""
        scores_TE = self.scores(x_TD)
        if ids_TA is None:
            ids_TA = self.choose(scores_TE)
        weights_TA = scores_TE.gather(-1, ids_TA)
        if self.moe.renormalise:
            weights_TA = weights_TA / (weights_TA.sum(-1, keepdim=True) + 1e-20)  # sigmoids may all vanish
        return ids_TA, weights_TA * self.moe.scale

    def choose(self, scores_TE: Tensor, bias_E: Tensor | None = None) -> Tensor:
        """The experts (T, A) that these scores lead to under a selection bias, by default the
        router's own.
        """
        bias_E = self.e_score_correction_bias if bias_E is None else bias_E
        if bias_E is not None:
            scores_TE = scores_TE + bias_E.float()
        if self.moe.groups > 1:  # only experts of the best groups may be chosen
            scores_TPE = scores_TE.unflatten(-1, (self.moe.groups, -1))
            counted = 1 if bias_E is None else 2  # a group is worth its best expert (V2) or two (V3)
            worth_TP = scores_TPE.topk(counted, -1).values.sum(-1)
            best_TP = worth_TP.topk(self.moe.top_groups, -1).indices
            closed_TP = torch.ones_like(worth_TP, dtype=torch.bool).scatter(-1, best_TP, False)
            scores_TE = scores_TPE.masked_fill(closed_TP[..., None], float("-inf")).flatten(-2)
        return scores_TE.topk(self.moe.top_k, -1).indices


class Experts(nn.Module):
    """All routed experts of a layer; gate and up projections are stacked along the output dimension."""

    def __init__(self, width: int, moe: MoEConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(moe.routed, 2 * moe.width, width))
        self.down_proj = nn.Parameter(torch.empty(moe.routed, width, moe.width))

    def forward(self, x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor) -> Tensor:
        """Slots sorted by expert, each expert on its run of them, every token's slots summed in fp32."""
        sorted_S, order_S = ids_TA.flatten().sort(stable=True)
        experts_E = torch.arange(self.down_proj.shape[0], device=ids_TA.device)
        ends_E = torch.searchsorted(sorted_S, experts_E, right=True, out_int32=True)
        places_S = order_S.argsort()
        x_SD = TakeRows.apply(x_TD, order_S, places_S, ids_TA.shape[-1])
        gate_SF, up_SF = expert_matmul(x_SD, self.gate_up_proj, ends_E).chunk(2, dim=-1)
        y_SD = expert_matmul(F.silu(gate_SF) * up_SF, self.down_proj, ends_E)
        y_TAD = TakeRows.apply(y_SD, places_S, order_S, 1).unflatten(0, ids_TA.shape)
        return (y_TAD * weights_TA[..., None]).sum(-2).to(x_TD.dtype)


class TakeRows(torch.autograd.Function):
    """(T, D) to (S, D): slot s takes row `order_S[s] // each`; `places_S` is the inverse of the order.

    The gradient of plain indexing is added up row by row, in one thread on a processor; where the slots are
    a permutation of all tokens' choices it is indexing, too, and a sum over each token's own.
    """

    @staticmethod
    def forward(ctx, x_TD: Tensor, order_S: Tensor, places_S: Tensor, each: int) -> Tensor:
        ctx.save_for_backward(places_S)
        ctx.each = each
        return x_TD[order_S // each]

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (places_S,) = ctx.saved_tensors
        return grads[0][places_S].unflatten(0, (-1, ctx.each)).sum(1), None, None, None


def expert_matmul(x_SD: Tensor, weight_EFD: Tensor, ends_E: Tensor) -> Tensor:
    """(S, F): rows up to ends_E[0] times the first expert's matrix, from there to ends_E[1] the second's, ...

    The grouped kernel wants rows of whole 16 bytes, so other sizes take the loop; its backward refuses the
    stride-0 gradient of a plain `.sum()`.
    """
    if all(size % 8 == 0 for size in weight_EFD.shape[1:]):
        return F.grouped_mm(x_SD, weight_EFD.transpose(-2, -1), offs=ends_E)
    return expert_matmul_loop(x_SD, weight_EFD, ends_E)


def expert_matmul_loop(x_SD: Tensor, weight_EFD: Tensor, ends_E: Tensor) -> Tensor:
    """`expert_matmul` one expert at a time; `unbind`, since indexing costs a whole gradient per expert."""
    runs = x_SD.tensor_split(ends_E[:-1].tolist())
    return torch.cat([F.linear(run_SD, w_FD) for run_SD, w_FD in zip(runs, weight_EFD.unbind(), strict=True)])
