"""A rank of any mesh, traced on this machine: the real model under the real plan, on fake tensors.

Nothing is allocated and nothing sent: torch's FakeTensorMode keeps shapes only, its fake process group
returns at once. So bytes, collectives and FLOPs are exact for this code on these shapes; times are not known.
"""

import gc
import os
import resource
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

import torch
import torch.distributed as dist
from torch._subclasses import FakeTensorMode

from mythos.plan.hardware import Hardware
from mythos.plan.memory import RankMemory, memory, needed
from mythos.spec.config import ModelConfig, untrained_parts
from mythos.train.parallel.decode import Decoded, measure_decode
from mythos.train.parallel.measure import Measured, enough, measure, on_wire
from mythos.train.parallel.mesh import GROUPS, Shape, check, make_mesh
from mythos.train.settings import TrainError, TrainSettings


@dataclass(frozen=True, slots=True)
class Traced:
    """One rank. `planned`: what the planner says of the same layout. Bytes, and seconds the trace took."""

    rank: int
    place: Shape
    step: Measured
    planned: RankMemory
    decode: Decoded
    seconds: float
    resident: int  # the most this process ever held

    @property
    def needed(self) -> float:
        """What an accelerator must have free: the peak with the planner's allowance for runtime and
        fragmentation.
        """
        return needed(self.step.peak)


@dataclass(frozen=True, slots=True)
class Link:
    """All that a rank sends in one group in a step, and the seconds it takes at least at the published rate:
    within a scale-up domain (`inside`) or beyond.
    """

    group: str
    ranks: int
    inside: bool
    bytes: float
    seconds: float


def trace_settings(
    shape: Shape, sequence: int, rows: int, parts: int | None, recompute: bool, optimiser: str
) -> TrainSettings:
    """A step of `parts` micro-batches a replica, without a number as many as the pipeline is long."""
    return TrainSettings(
        rows=rows,
        length=sequence,
        accumulate=parts or shape.pp,
        optimiser="muon" if optimiser == "muon" else "adamw",
        recompute=recompute,
    )


def trace_rank(
    config: ModelConfig, shape: Shape, settings: TrainSettings, rank: int, streams: int = 64
) -> Traced:
    """The rank's training step in bf16 with float32 masters, and one decode step of `streams` streams whose
    caches hold `settings.length` tokens. TrainError or PlanError for a mesh that does not fit the model.
    """
    layout = check(config, shape, settings)
    if not 0 <= rank < shape.ranks:
        raise TrainError(
            f"rank is {rank}, and the mesh has ranks 0 to {shape.ranks - 1}.", "Give one of these."
        )
    check_traceable(config, shape)
    began = time.monotonic()
    with _fake_job(shape.ranks, rank):
        mesh = make_mesh(shape, rank)  # torch reads the ranks of it, so they are no fake tensors
        with FakeTensorMode():
            step = measure(
                config, settings, mesh, torch.bfloat16, enough(shape, mesh.at, settings.accumulate)
            )
            decode = measure_decode(config, settings, mesh, streams)
    planned = memory(config, layout).ranks[shape.at(rank).pp]
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Traced(rank, shape.at(rank), step, planned, decode, time.monotonic() - began, held)


def trace_ranks(
    config: ModelConfig, shape: Shape, settings: TrainSettings, ranks: Sequence[int], streams: int = 64
) -> Iterator[Traced]:
    """`trace_rank` of each, in order, in as many processes as there are processors."""
    if len(ranks) == 1:
        yield trace_rank(config, shape, settings, ranks[0], streams)
        return
    check(config, shape, settings)
    work = partial(trace_rank, config, shape, settings, streams=streams)
    workers = min(len(ranks), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(work, ranks)


def check_traceable(config: ModelConfig, shape: Shape) -> None:
    """TrainError when the model has parts without tensors, or experts that the grouped product does not
    take.
    """
    if missing := untrained_parts(config):
        raise TrainError(
            f"No tensors exist for {', '.join(missing)}: such a model can be planned, not traced.",
            "Leave these settings out.",
        )
    moe = config.moe
    if moe is not None:
        for name, size in (("width", moe.latent or config.width), ("moe.width", moe.width)):
            if size % 8:
                raise TrainError(
                    f"{name} is {size}, which 8 does not divide.", "Change it: so the kernel asks."
                )


def distinct_ranks(shape: Shape) -> list[int]:
    """One rank of each kind: the first of every pipeline rank. The others of it hold as much, or less where
    shards do not divide.
    """
    return [shape.rank(replace(Shape(0, 0, 0, 0, 0), pp=pp)) for pp in range(shape.pp)]


def links(traced: Traced, shape: Shape, part: Hardware) -> list[Link]:
    """What the rank sends in each group in a training step, the slowest first."""
    wire: dict[tuple[str, int], float] = {}
    for one in traced.step.sent:
        wire[one.group, one.ranks] = wire.get((one.group, one.ranks), 0.0) + on_wire(one)
    found = []
    for (group, ranks), size in wire.items():
        inside = _inside(one_group(group), traced.rank, shape, part.domain)
        rate = part.scale_up if inside else part.scale_out
        found.append(Link(group, ranks, inside, size, size / rate))
    return sorted(found, key=lambda link: -link.seconds)


def one_group(name: str) -> tuple[str, ...]:
    """The dimensions in which the members of a group differ."""
    return GROUPS.get(name, ("pp",) if name == "ends" else ("pp", "dp", "ep", "cp", "tp"))


def _inside(dimensions: tuple[str, ...], rank: int, shape: Shape, domain: int) -> bool:
    """Whether all members are in one scale-up domain, ranks being handed out in order."""
    members = shape.among(rank, dimensions)
    return min(members) // domain == max(members) // domain


@contextmanager
def _fake_job(ranks: int, rank: int) -> Iterator[None]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise TrainError("This process is a rank already.", "Trace in a process of its own.")
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
        gc.collect()
