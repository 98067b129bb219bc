"""One training step of one rank, measured: the same code over real tensors in a real job and over fake ones.

Experts are given out evenly (`even_ids`), so that how many tokens go where is known beforehand.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from mythos.spec.config import ModelConfig
from mythos.train.parallel.feed import even_feed
from mythos.train.parallel.live import Live, bytes_of
from mythos.train.parallel.mesh import Mesh, Shape
from mythos.train.parallel.model import RankModel, local_parameters, shard
from mythos.train.parallel.optim import ShardedOptimiser
from mythos.train.parallel.pipeline import run_step
from mythos.train.parallel.step import move, rebalance, targets, tell
from mythos.train.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Sent:
    """Collectives of one kind in one group (a name of `mesh.GROUPS`, `ends` or `all`) of `ranks` ranks.

    `bytes`: summed over the calls, each as in `live.Collective`.
    """

    kind: str
    group: str
    ranks: int
    calls: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes and FLOPs of one rank in one training step.

    At the peak there are, beside what is held between steps, `gathered`: weights that FSDP put together, and
    `activations`: all else, with gradients that are not yet reduced and workspaces. `gradients`: as the
    optimizer finds them.
    """

    parameters: int
    gradients: int
    optimizer: int
    buffers: int
    gathered: int
    activations: int
    peak: int
    flops: int
    sent: tuple[Sent, ...]

    @property
    def static(self) -> int:
        """Held between steps."""
        return self.parameters + self.optimizer + self.buffers


def measure(
    config: ModelConfig, settings: TrainSettings, mesh: Mesh, compute: torch.dtype, parts: int
) -> Measured:
    """Builds the rank's share, its memory unwritten, and runs one step on CPU tensors, fake ones under a
    FakeTensorMode.

    Of the `settings.accumulate` micro-batches `parts` run. All take the same, so FLOPs and collectives are
    told as of all; the peak is that of all when `parts` are no fewer than `enough`.
    """
    model = RankModel(config, settings, mesh, even=True)
    shard(model, "cpu", compute)
    with Live() as live:
        parameters = bytes_of(local_parameters(model).values())
        buffers = list(model.buffers())
        live.watch([*local_parameters(model).values(), *buffers])
        before = live.now
        optimiser = ShardedOptimiser(model, settings)
        optimiser.started()
        optimizer = live.now - before
        one = even_feed(settings, mesh, config.mtp, config.vocab)
        feeds = [one] * parts
        count = targets(feeds, model)
        begun = live.flops, live.collectives.copy()
        total = run_step(model, feeds, count, compute)
        live.repeat(begun, parts, settings.accumulate)
        told = tell(model, optimiser, total, count)
        gradients = bytes_of(m.grad for m in optimiser.masters.values() if m.grad is not None)
        move(optimiser, told, 1.0, settings.clip)
        rebalance(model)
    held = parameters + optimizer + bytes_of(buffers)
    return Measured(
        parameters=parameters,
        gradients=gradients,
        optimizer=optimizer,
        buffers=bytes_of(buffers),
        gathered=live.gathered,
        activations=live.peak - held - live.gathered,
        peak=live.peak,
        flops=live.flops,
        sent=sent(live, mesh),
    )


def enough(shape: Shape, place: Shape, parts: int) -> int:
    """So many of a step's micro-batches reach its peak: as many as a pipeline rank ever has in flight, and
    one more, which finds gradients there.
    """
    return min(parts, shape.pp - place.pp + 1)


def sent(live: Live, mesh: Mesh) -> tuple[Sent, ...]:
    """What a rank took part in, by kind and group; groups of the same ranks go by the first name."""
    names: dict[str, str] = {}
    for name, group in mesh.groups.items():
        names.setdefault(group.group_name, name)
    found: dict[tuple[str, str, int], list[int]] = {}
    for one, calls in live.collectives.items():
        name = names.get(one.group, "all")
        ranks = mesh.groups[name].size() if name in mesh.groups else dist.get_world_size()
        entry = found.setdefault((one.kind, name, ranks), [0, 0])
        entry[0] += calls
        entry[1] += calls * one.bytes
    return tuple(Sent(*key, *entry) for key, entry in sorted(found.items()))


def on_wire(one: Sent) -> float:
    """Bytes that a rank sends for it by the usual ring, or directly for all-to-all; a receiver sends none."""
    share = (one.ranks - 1) / one.ranks
    factor: Mapping[str, float] = {"all-reduce": 2 * share, "send": 1.0, "receive": 0.0}
    return one.bytes * factor.get(one.kind, share)
