"""Tensor parallelism (arXiv 1909.08053) with split rows between the split matrices (arXiv 2205.05198).

Between blocks a rank has its share of a micro-batch's rows. A norm in front of split matrices gathers them
all, the matrix behind adds up the ranks' parts and keeps its own rows. So whatever is not split sees only a
part of the rows or of the heads, and its gradient is summed over the ranks (`optim.py`).

Shape letters: T rows of one rank, N ranks, D width, V vocabulary
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mythos.model.attention import RMSNorm
from mythos.model.moe import MLP, MoE
from mythos.model.transformer import Block, Embedding
from mythos.train.parallel.collectives import gather_rows, scatter_rows

# Parts of parameters' names: matrices split by outputs, and those behind them by inputs.
BY_OUTPUT = (
    "q_proj",
    "k_proj",
    "v_proj",
    "q_b_proj",
    "kv_b_proj",
    "gate_proj",
    "up_proj",
    "lm_head",
    "embed",
)
BY_INPUT = ("o_proj.weight", "down_proj.weight")


def split_dimension(name: str) -> int | None:
    """The dimension of a parameter that tensor parallelism splits; None: every rank has the whole."""
    if name.endswith(BY_INPUT):
        return 1
    module = name.rpartition(".")[0].rpartition(".")[2]
    return 0 if module in BY_OUTPUT else None


class GatheringNorm(RMSNorm):
    """A norm whose outputs, (N * T, D), are those of all ranks."""

    def __init__(self, norm: RMSNorm, group: dist.ProcessGroup) -> None:
        super().__init__(norm.weight.shape[0], norm.eps)
        self.weight, self._group = norm.weight, group

    def forward(self, x: Tensor) -> Tensor:
        return gather_rows(super().forward(x), self._group)


class SummingLinear(nn.Module):
    """A matrix split by inputs: (N * T, inputs / N) to this rank's (T, outputs)."""

    def __init__(self, linear: nn.Linear, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.weight, self.bias, self._group = linear.weight, linear.bias, group

    def forward(self, x: Tensor) -> Tensor:
        y = scatter_rows(F.linear(x, self.weight), self._group)
        return y if self.bias is None else y + self.bias


class GatheringMLP(nn.Module):
    """The shared experts' MLP, which reads the rows that the routed experts read."""

    def __init__(self, mlp: MLP, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self._group = group

    def forward(self, x_TD: Tensor) -> Tensor:
        x = gather_rows(x_TD, self._group)
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class SplitEmbedding(nn.Module):
    """A share of the vocabulary: (N * T) tokens to this rank's (T, D)."""

    def __init__(self, embed: Embedding, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.weight, self._group = embed.weight, group

    def forward(self, tokens: Tensor) -> Tensor:
        own = tokens - self.weight.shape[0] * self._group.rank()
        elsewhere = (own < 0) | (own >= self.weight.shape[0])
        x = F.embedding(own.masked_fill(elsewhere, 0), self.weight).masked_fill(elsewhere[:, None], 0.0)
        return scatter_rows(x, self._group)


def split_block(block: Block, group: dist.ProcessGroup) -> None:
    """Puts the modules of a block in the place of theirs that work on split tensors, names unchanged."""
    attention, mlp = block.self_attn, block.mlp
    block.input_layernorm = GatheringNorm(block.input_layernorm, group)
    attention.o_proj = SummingLinear(_linear(attention.o_proj), group)  # type: ignore[assignment]
    if isinstance(mlp, MoE):
        if mlp.shared_experts is not None:
            mlp.shared_experts.down_proj = SummingLinear(mlp.shared_experts.down_proj, group)  # type: ignore
            mlp.shared_experts = GatheringMLP(mlp.shared_experts, group)  # type: ignore[assignment]
    else:
        mlp.down_proj = SummingLinear(_linear(mlp.down_proj), group)  # type: ignore[assignment]
        block.post_attention_layernorm = GatheringNorm(block.post_attention_layernorm, group)


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


class SplitCrossEntropy(torch.autograd.Function):
    """Sum over rows of -weight * log softmax(x head^T)[target], fp32, of a head split by vocabulary; the same
    on every rank. A target below 0 counts nothing.

    Rows go through in chunks as in `mythos.train.loss`. The gradient of x is this rank's part of a sum.
    """

    @staticmethod
    def forward(
        ctx,
        x_TD: Tensor,
        head_VD: Tensor,
        targets_T: Tensor,
        weights_T: Tensor,
        group: dist.ProcessGroup,
        chunk: int,
    ) -> Tensor:
        weights_T = torch.where(targets_T < 0, 0.0, weights_T.float())
        own_T = targets_T - head_VD.shape[0] * group.rank()
        elsewhere_T = (own_T < 0) | (own_T >= head_VD.shape[0])
        own_T = own_T.masked_fill(elsewhere_T, 0)
        total = torch.zeros((), dtype=torch.float32, device=x_TD.device)
        dx_TD, dhead_VD = torch.empty_like(x_TD), torch.zeros_like(head_VD, dtype=torch.float32)
        for start in range(0, len(x_TD), chunk):
            rows = slice(start, start + chunk)
            exact = (x_TD[rows] @ head_VD.T).float()
            most = exact.amax(-1, keepdim=True)
            dist.all_reduce(most, dist.ReduceOp.MAX, group=group)
            sums = (exact - most).exp().sum(-1, keepdim=True)
            dist.all_reduce(sums, group=group)
            lse, at = most + sums.log(), own_T[rows, None]
            picked = exact.gather(-1, at).masked_fill(elsewhere_T[rows, None], 0.0)
            dist.all_reduce(picked, group=group)
            weight = weights_T[rows, None]
            total += (weight * (lse - picked)).sum()
            g = (exact - lse).exp() * weight
            g.scatter_add_(-1, at, -weight.masked_fill(elsewhere_T[rows, None], 0.0))
            g = g.to(x_TD.dtype)
            dx_TD[rows] = g @ head_VD
            dhead_VD += g.T @ x_TD[rows]
        ctx.save_for_backward(dx_TD, dhead_VD)
        ctx.head_dtype = head_VD.dtype
        return total

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dx_TD, dhead_VD = ctx.saved_tensors
        dhead = dhead_VD.mul_(grads[0]).to(ctx.head_dtype)  # used once
        return dx_TD * grads[0].to(dx_TD.dtype), dhead, None, None, None, None
