"""Cross-entropy against one target or a few weighted ones, a chunk of tokens at a time.

Shape letters: T token rows, D width, V vocabulary, A targets per token, C rows of a chunk

The logits of all tokens never exist together: with a vocabulary of 49,152 they would be the largest tensor of
a step. The gradient is made beside the loss, while the chunk's logits are there, so the backward recomputes
nothing.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

CHUNK = 512  # token rows; 256 cost time (each adds to the whole gradient of the head), 1,024 memory
# Chunks whose gradients of the head add up in its own dtype, inside the product, before they do in fp32,
# which takes half as long as the product: a sum in bf16 of a few loses little, one of many what each adds.
SUMMED = 4

Gradient = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def cross_entropy(x_TD: Tensor, head_VD: Tensor, targets_T: Tensor, compiled: bool = False) -> Tensor:
    """Sum over the tokens of -log softmax(x head^T)[target], a scalar in fp32. Targets below 0
    count nothing.
    """
    ones_T1 = torch.ones_like(targets_T[:, None])
    return weighted_cross_entropy(x_TD, head_VD, targets_T[:, None], ones_T1, compiled)


def weighted_cross_entropy(
    x_TD: Tensor, head_VD: Tensor, targets_TA: Tensor, weights_TA: Tensor, compiled: bool = False
) -> Tensor:
    """Sum over tokens and their targets of -weight * log softmax(x head^T)[target], in fp32.

    With a teacher's probabilities as weights this is distillation (Hinton et al. 2015, arXiv 1503.02531) up
    to the teacher's entropy, which has no gradient. A target below 0 counts nothing. Indices of one token are
    distinct or add up.
    """
    step = _compiled_gradient() if compiled else _gradient
    return _ChunkedCrossEntropy.apply(x_TD, head_VD, targets_TA, weights_TA, step)  # pyright: ignore[reportReturnType]


def _gradient(logits_CV: Tensor, targets_CA: Tensor, weights_CA: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a chunk and its gradient at the targets, each the same as often as it is named; into the
    place of the logits, which nobody reads again, goes the gradient as if nothing were a target.
    """
    exact_CV = logits_CV.float()
    lse_C1 = exact_CV.logsumexp(-1, keepdim=True)
    picked_CA, whole_C1 = exact_CV.gather(-1, targets_CA), weights_CA.sum(-1, keepdim=True)
    loss = (weights_CA * (lse_C1 - picked_CA)).sum()
    same_CAA = (targets_CA[:, :, None] == targets_CA[:, None]).float()
    at_CA = (picked_CA - lse_C1).exp() * whole_C1 - (same_CAA * weights_CA[:, None]).sum(-1)
    logits_CV.copy_((exact_CV - lse_C1).exp() * whole_C1)
    return loss, at_CA.to(logits_CV.dtype)


@cache
def _compiled_gradient() -> Gradient:
    return torch.compile(_gradient, dynamic=False)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x_TD: Tensor, head_VD: Tensor, targets_TA: Tensor, weights_TA: Tensor, step: Gradient
    ) -> Tensor:
        weights_TA = torch.where(targets_TA < 0, 0.0, weights_TA.float())
        targets_TA = targets_TA.clamp(min=0)
        total = torch.zeros((), dtype=torch.float32, device=x_TD.device)
        wants_x, wants_head, *_ = ctx.needs_input_grad
        dx_TD, dhead_VD = torch.empty_like(x_TD) if wants_x else None, None
        # One place for the logits of all chunks: new memory of this size comes from the system each time.
        logits = x_TD.new_empty(min(CHUNK, len(x_TD)), len(head_VD))
        part_VD = torch.empty_like(head_VD) if wants_head else None
        for chunk, start in enumerate(range(0, len(x_TD), CHUNK)):
            rows = slice(start, start + CHUNK)
            x_CD, targets_CA, weights_CA = x_TD[rows], targets_TA[rows], weights_TA[rows]
            g_CV = torch.mm(x_CD, head_VD.T, out=logits[: len(x_CD)])
            loss, at_CA = step(g_CV, targets_CA, weights_CA)
            g_CV[torch.arange(len(g_CV), device=g_CV.device)[:, None], targets_CA] = at_CA
            total += loss
            if dx_TD is not None:
                torch.mm(g_CV, head_VD, out=dx_TD[rows])
            if part_VD is not None and chunk % SUMMED:
                part_VD.addmm_(g_CV.T, x_CD)
            elif part_VD is not None:
                if chunk:
                    dhead_VD = _added(dhead_VD, part_VD)
                torch.mm(g_CV.T, x_CD, out=part_VD)
        if part_VD is not None:
            dhead_VD = part_VD if dhead_VD is None else _added(dhead_VD, part_VD)
        ctx.save_for_backward(dx_TD, dhead_VD)
        ctx.head_dtype = head_VD.dtype
        return total

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dx_TD, dhead_VD = ctx.saved_tensors
        scale = grads[0]  # used once, so scaled in their place
        dx = None if dx_TD is None else dx_TD.mul_(scale)
        dhead = None if dhead_VD is None else dhead_VD.mul_(scale).to(ctx.head_dtype)
        return dx, dhead, None, None, None


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    """The fp32 sum so far with `part`, which is written over afterwards."""
    return part.to(torch.float32, copy=True) if total is None else total.add_(part)
