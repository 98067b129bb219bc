"""Reverse KL divergence of a student from its teachers, over the whole vocabulary, a chunk at a time.

Shape letters: T token rows, N counted places, D width, V vocabulary, C rows of a chunk
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mythos.train.loss import CHUNK

Teacher = tuple[Tensor, Tensor]
"""(x_TD, head_VD): what a teacher's head sees of every token, and that head; its own D."""


def reverse_kl(x_TD: Tensor, head_VD: Tensor, teachers: Sequence[Teacher], weights_T: Tensor) -> Tensor:
    """Sum over tokens of weight * KL(student || teachers), in fp32; where a weight is 0 nothing is computed.

    KL(p || q) = sum p (log p - log q), p being the student's softmax(x head^T), q the teacher's, or of
    several the mean of theirs. It asks of the student to leave what the teacher would not say, where the
    forward divergence asks it to cover all that the teacher might (Gu et al. 2023, arXiv 2306.08543). The
    gradient is made beside the loss, as in `loss`.
    """
    counted_N = weights_T.nonzero().flatten()
    inputs = [(x[counted_N], head) for x, head in teachers]
    flat = [tensor for pair in inputs for tensor in pair]
    return _ReverseKL.apply(x_TD[counted_N], head_VD, weights_T[counted_N], *flat)  # pyright: ignore[reportReturnType]


def _gradient(logits_CV: Tensor, taught: Sequence[Tensor], weights_C: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a chunk and its gradient by the student's logits, p (log p - log q - KL)."""
    logp_CV = logits_CV.float().log_softmax(-1)
    logq_CV = torch.stack([one.float().log_softmax(-1) for one in taught]).logsumexp(0) - math.log(
        len(taught)
    )
    p_CV, apart_CV = logp_CV.exp(), logp_CV - logq_CV
    kl_C1 = (p_CV * apart_CV).sum(-1, keepdim=True)
    g_CV = p_CV * (apart_CV - kl_C1) * weights_C[:, None]
    return (kl_C1[:, 0] * weights_C).sum(), g_CV.to(logits_CV.dtype)


class _ReverseKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_ND: Tensor, head_VD: Tensor, weights_N: Tensor, *flat: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=x_ND.device)
        dx_ND, dhead_VD = torch.zeros_like(x_ND), torch.zeros_like(head_VD, dtype=torch.float32)
        for start in range(0, len(x_ND), CHUNK):
            rows = slice(start, start + CHUNK)
            taught = [x[rows] @ head.T for x, head in zip(flat[::2], flat[1::2], strict=True)]
            loss, g_CV = _gradient(x_ND[rows] @ head_VD.T, taught, weights_N[rows])
            total += loss
            dx_ND[rows] = g_CV @ head_VD
            dhead_VD += g_CV.T @ x_ND[rows]
        ctx.save_for_backward(dx_ND, dhead_VD)
        ctx.head_dtype, ctx.constants = head_VD.dtype, 1 + len(flat)
        return total

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dx_ND, dhead_VD = ctx.saved_tensors
        scale = grads[0]
        dx, dhead = dx_ND * scale.to(dx_ND.dtype), (dhead_VD * scale).to(ctx.head_dtype)
        return (dx, dhead, *[None] * ctx.constants)
