"""The mesh of ranks, and what of a model lies where.

A mesh has five dimensions, the last one with neighbouring ranks: `pp` pipeline, `dp` data (FSDP), `ep`
experts, `cp` context, `tp` tensor. Every rank of dp x ep has rows of its own; cp splits a row's tokens; the
ranks of tp share their rows and split matrices. What is no expert is sharded by FSDP over dp x ep x cp.
Experts are split over ep, and their shares sharded over dp x cp x tp: a smaller mesh of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from mythos.plan.layout import Layout, rank_layers
from mythos.plan.layout import check as check_layout
from mythos.spec.config import ModelConfig
from mythos.train.settings import TrainError, TrainSettings

GROUPS = {
    "pp": ("pp",),
    "ep": ("ep",),
    "cp": ("cp",),
    "tp": ("tp",),
    "data": ("dp", "ep", "cp"),
    "expert": ("dp", "cp", "tp"),
}
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Shape:
    """How many ranks in each dimension; also the place of one of them, which counts from 0."""

    pp: int = 1
    dp: int = 1
    ep: int = 1
    cp: int = 1
    tp: int = 1

    @property
    def ranks(self) -> int:
        return self.pp * self.dp * self.ep * self.cp * self.tp

    @property
    def replicas(self) -> int:
        """Ranks of one pipeline rank that have rows of their own."""
        return self.dp * self.ep

    def at(self, rank: int) -> "Shape":
        """The place of a rank."""
        place: dict[str, int] = {}
        for name in reversed(DIMENSIONS):
            rank, place[name] = divmod(rank, getattr(self, name))
        return Shape(**place)

    def rank(self, place: "Shape") -> int:
        rank = 0
        for name in DIMENSIONS:
            rank = rank * getattr(self, name) + getattr(place, name)
        return rank

    def among(self, rank: int, dimensions: tuple[str, ...]) -> list[int]:
        """The ranks that differ from `rank` in these dimensions at most, in order."""
        here = self.at(rank)
        places = [here]
        for name in dimensions:
            places = [_moved(place, name, i) for place in places for i in range(getattr(self, name))]
        return [self.rank(place) for place in places]

    def __str__(self) -> str:
        return ",".join(f"{name}={getattr(self, name)}" for name in DIMENSIONS)


DIMENSIONS = tuple(field.name for field in fields(Shape))


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """The groups that one rank is in, by the names of `GROUPS`; `ends`: the first and last pipeline rank.

    `sharded`: the one-dimensional meshes that FSDP wants.
    """

    shape: Shape
    rank: int
    at: Shape
    groups: Mapping[str, dist.ProcessGroup]
    sharded: Mapping[str, DeviceMesh]

    def neighbour(self, step: int) -> int:
        """The rank before (-1) or behind (1) this one in the pipeline."""
        return self.shape.rank(_moved(self.at, "pp", self.at.pp + step))


def parse_mesh(text: str) -> Shape:
    """`pp=2,ep=4`: what is left out is 1. TrainError for anything else."""
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        if name not in DIMENSIONS or name in found or not number.isdecimal() or not 1 <= int(number) < 10**6:
            raise TrainError(
                f"{part.strip()!r:.40} is no dimension of a mesh.",
                "Write pp=2,dp=2,ep=2,cp=1,tp=1, each once.",
            )
        found[name] = int(number)
    return Shape(**found)


def make_mesh(shape: Shape, rank: int, device: str = "cpu") -> Mesh:
    """Makes the groups of this rank in a running process group of `shape.ranks` ranks."""
    members = {name: shape.among(rank, dimensions) for name, dimensions in GROUPS.items()}
    if shape.pp > 1:
        ends = [shape.rank(_moved(shape.at(rank), "pp", end)) for end in (0, shape.pp - 1)]
        members["ends"] = ends if rank in ends else []
    made: dict[tuple[int, ...], dist.ProcessGroup] = {}
    groups = {}
    for name, ranks in members.items():
        key = tuple(ranks)
        if key not in made:
            # torch names a group after the number of groups that its members have made: all make as many.
            group = dist.new_group(ranks or [rank], use_local_synchronization=True)
            assert isinstance(group, dist.ProcessGroup)
            made[key] = group
        if ranks:
            groups[name] = made[key]
    sharded = {
        name: DeviceMesh.from_group(groups[name], device, mesh_dim_names=(name,))
        for name in ("data", "expert")
    }
    return Mesh(shape, rank, shape.at(rank), groups, sharded)


def layout(shape: Shape, settings: TrainSettings) -> Layout:
    """The mesh in the planner's words: there the replicas hold the experts' ranks too."""
    return Layout(
        tp=shape.tp,
        pp=shape.pp,
        ep=shape.ep,
        dp=shape.replicas,
        cp=shape.cp,
        micro_batch=settings.rows,
        global_batch=settings.rows * settings.accumulate * shape.replicas,
        sequence=settings.length,
        recompute="full" if settings.recompute else "none",
        optimizer="muon" if settings.optimiser == "muon" else "adam",
        sharding="full",
    )


def check(config: ModelConfig, shape: Shape, settings: TrainSettings) -> Layout:
    """The layout, when the model and a step can be split so; PlanError or TrainError name the number to
    change.
    """
    found = layout(shape, settings)
    check_layout(config, found)
    _divides("tp", shape.tp, "the model's key-value heads", config.kv_heads)
    _divides("tp", shape.tp, "the vocabulary", config.vocab)
    _divides("tp", shape.tp, "the dense MLP's width", config.ffn)
    if config.moe is not None and config.moe.shared:
        _divides("tp", shape.tp, "the shared experts' width", config.moe.shared * config.moe.width)
    _divides(
        "tp", shape.tp, "a micro-batch's tokens on one rank", settings.rows * settings.length // shape.cp
    )
    if not all(rank_layers(config, found)):
        raise TrainError(
            f"pp is {shape.pp}, and {config.layers} layers leave a pipeline rank without one.", "Lower pp."
        )
    if settings.balance == "quantile":
        raise TrainError("Balance by quantile looks at all scores of a step at once.", "Set balance to bias.")
    return found


def _divides(name: str, part: int, what: str, whole: int) -> None:
    if whole % part:
        raise TrainError(f"{name} is {part}, which does not divide {what} ({whole}).", f"Change {name}.")


def _moved(place: Shape, name: str, index: int) -> Shape:
    numbers = {other: getattr(place, other) for other in DIMENSIONS} | {name: index}
    return Shape(**numbers)
