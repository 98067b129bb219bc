"""Collectives that a gradient goes through. A group of one rank costs nothing.

Shape letters: T rows of one rank, N ranks, S rows sent
"""

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """(T, ...) of each rank to (N * T, ...) on all of them; the gradient is summed over the ranks."""
    return x if group.size() == 1 else _Gather.apply(x, group)  # pyright: ignore[reportReturnType]


def scatter_rows(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """(N * T, ...) of each rank, summed over the ranks, to each rank's (T, ...)."""
    return x if group.size() == 1 else _Scatter.apply(x, group)  # pyright: ignore[reportReturnType]


def exchange_rows(x: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    """Of (S, ...) the first sent[0] rows go to the first rank, the next sent[1] to the second, ...; what
    comes, in the order of the ranks that sent it.
    """
    return _Exchange.apply(x, sent, received, group)  # pyright: ignore[reportReturnType]


def gathered(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    out = x.new_empty((group.size() * x.shape[0], *x.shape[1:]))
    dist.all_gather_single(out, x.contiguous(), group=group)
    return out


def _scattered(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    out = x.new_empty((x.shape[0] // group.size(), *x.shape[1:]))
    dist.reduce_scatter_single(out, x.contiguous(), group=group)
    return out


def exchanged(x: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    out = x.new_empty((sum(received), *x.shape[1:]))
    dist.all_to_all_single(out, x.contiguous(), received, sent, group=group)
    return out


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return gathered(x, group)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _scattered(grads[0], ctx.group), None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _scattered(x, group)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return gathered(grads[0], ctx.group), None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.splits, ctx.group = (received, sent), group
        return exchanged(x, sent, received, group)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sent, received = ctx.splits
        return exchanged(grads[0], sent, received, ctx.group), None, None, None
