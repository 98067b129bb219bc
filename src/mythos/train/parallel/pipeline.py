"""One step's micro-batches through the pipeline: one forward, one backward in turn (1F1B, arXiv 2006.09503).

Shape letters: T token rows of one rank, D width
"""

from collections import deque
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mythos.train.parallel.feed import Feed
from mythos.train.parallel.mesh import Mesh
from mythos.train.parallel.model import RankModel


def run_step(model: RankModel, feeds: Sequence[Feed], count: Tensor, compute: torch.dtype) -> Tensor:
    """Puts the gradients of the rank's micro-batches into its parameters; the sum of their losses without
    prediction modules, 0 but on the last pipeline rank.

    `count`: the step's targets over all ranks; the loss whose gradient is taken is divided by it.
    """
    mesh, total, kept = model.mesh, torch.zeros((), device=count.device), deque()
    pp, parts = mesh.shape.pp, len(feeds)
    rows = len(feeds[0].tokens_T) // mesh.shape.tp
    empty = (rows, model.config.width)
    device = feeds[0].tokens_T.device

    def before() -> Tensor | None:
        return None if model.first else torch.empty(empty, dtype=compute, device=device, requires_grad=True)

    def forward(part: int, x_TD: Tensor | None) -> Tensor:
        nonlocal total
        y, told = model(feeds[part], x_TD)
        if model.last:
            y, total = y / count, total + told
        kept.append((x_TD, y))
        return y.detach()

    def backward(part: int, dy: Tensor | None) -> Tensor | None:
        x_TD, y = kept.popleft()
        model.set_is_last_backward(part == parts - 1)  # type: ignore[operator]
        torch.autograd.backward(y, dy)
        return None if x_TD is None else x_TD.grad

    def after() -> Tensor | None:
        return None if model.last else torch.empty(empty, dtype=compute, device=device)

    warm = min(pp - mesh.at.pp - 1, parts)
    for part in range(warm):
        x_TD = _traded(mesh, -1, None, before())
        y = forward(part, x_TD)
        _traded(mesh, 1, y, None)
    x_TD = _traded(mesh, -1, None, before()) if warm < parts else None
    for part in range(warm, parts):
        y = forward(part, x_TD)
        dy = _traded(mesh, 1, None if model.last else y, after())
        dx = backward(part - warm, dy)
        x_TD = _traded(mesh, -1, dx, None if part == parts - 1 else before())
    for part in range(parts - warm, parts):
        dx = backward(part, _traded(mesh, 1, None, after()))
        _traded(mesh, -1, dx, None)
    return total


def _traded(mesh: Mesh, step: int, sent: Tensor | None, received: Tensor | None) -> Tensor | None:
    """Sends one tensor to a neighbour and receives one at the same time; each may be None. What came."""
    wanted = []
    if sent is not None:
        wanted.append(dist.P2POp(dist.isend, sent.contiguous(), mesh.neighbour(step), mesh.groups["pp"]))
    if received is not None:
        wanted.append(dist.P2POp(dist.irecv, received.detach(), mesh.neighbour(step), mesh.groups["pp"]))
    if wanted:
        for work in dist.batch_isend_irecv(wanted):
            work.wait()
    return received
