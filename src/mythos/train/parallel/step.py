"""A training step of one rank: forward and backward, then what all ranks have to know, then the move."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mythos.train.balance import BIAS_RATE
from mythos.train.parallel.experts import CountingRouter
from mythos.train.parallel.feed import Feed
from mythos.train.parallel.model import RankModel
from mythos.train.parallel.optim import ShardedOptimiser
from mythos.train.parallel.pipeline import run_step


class Told(NamedTuple):
    """What every rank knows of a step: nats per target, and the gradient's norm before clipping."""

    loss: Tensor
    norm: Tensor


@torch.no_grad()
def targets(feeds: Sequence[Feed], model: RankModel) -> Tensor:
    """The targets of a step over all ranks; 1 where no rank of the same pipeline rank has a loss."""
    device = feeds[0].tokens_T.device
    if not model.last:
        return torch.ones((), device=device)
    found = torch.zeros((), dtype=torch.float64, device=device)
    for feed in feeds:
        found += (feed.targets_T >= 0).sum()
    dist.all_reduce(found, group=model.mesh.groups["data"])
    return found.clamp(min=1).float()


def gradient(
    model: RankModel,
    optimiser: ShardedOptimiser,
    feeds: Sequence[Feed],
    compute: torch.dtype,
    before_telling: Callable[[], None] | None = None,
) -> Told:
    """Puts a step's gradient into the optimiser; by then `before_telling` has returned on all ranks."""
    count = targets(feeds, model)
    return tell(model, optimiser, run_step(model, feeds, count, compute), count, before_telling)


def tell(
    model: RankModel,
    optimiser: ShardedOptimiser,
    total: Tensor,
    count: Tensor,
    before_telling: Callable[[], None] | None = None,
) -> Told:
    """The second half of `gradient`, after `run_step` gave `total`."""
    squares = optimiser.collect()
    speaks = model.last and model.mesh.at.tp == 0
    told = torch.stack([total / count if speaks else torch.zeros_like(squares), squares])
    if before_telling is not None:
        before_telling()
    dist.all_reduce(told)
    return Told(told[0], told[1].sqrt())


def move(optimiser: ShardedOptimiser, told: Told, factor: float, clip: float) -> None:
    """Moves the shards by the clipped gradient (as torch's `clip_grad_norm_`)."""
    optimiser.move(factor, (clip / (told.norm + 1e-6)).clamp(max=1.0))


@torch.no_grad()
def rebalance(model: RankModel) -> Tensor | None:
    """Moves the selection biases as `mythos.train.balance.rebalance` does for `bias`; the busiest expert's
    load over the mean in this step, in this pipeline rank's worst layer.
    """
    routers = [module for module in model.modules() if isinstance(module, CountingRouter)]
    if not routers:
        return None
    loads = []
    for router in routers:
        assert router.load_E is not None
        loads.append(router.load_E)
        router.load_E = None
    load_LE = torch.stack(loads)
    for group in ("data", "tp"):
        if model.mesh.groups[group].size() > 1:
            dist.all_reduce(load_LE, group=model.mesh.groups[group])
    load_LE = load_LE.float()
    for router, load_E in zip(routers, load_LE, strict=True):
        if router.e_score_correction_bias is not None:
            router.e_score_correction_bias += BIAS_RATE * torch.sign(load_E.mean() - load_E)
    return (load_LE.amax(-1) / load_LE.mean(-1)).max()
