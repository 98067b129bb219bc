"""How a training step is laid out over accelerators.

A step of `global_batch` sequences is split over `dp` replicas, each of tp x pp x cp accelerators. Experts are
split over ep x expert_tp of the tp x cp x dp accelerators that share a pipeline rank. Each replica runs its
share in micro-batches of `micro_batch` sequences.
"""

from dataclasses import dataclass, fields
from typing import Literal

from mythos.plan.errors import PlanError
from mythos.spec.config import ModelConfig

Precision = Literal["bf16", "fp8", "fp4"]
_MOST = 1 << 40


@dataclass(frozen=True, slots=True)
class Layout:
    """PlanError for numbers that cannot be; `check` holds it against a model."""

    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1
    cp: int = 1
    virtual: int = 1  # model chunks on each pipeline rank (interleaved 1F1B)
    expert_tp: int = 1
    micro_batch: int = 1
    global_batch: int = 1
    sequence: int = 4096
    recompute: Literal["none", "selective", "full"] = "none"
    precision: Precision = "bf16"
    optimizer: Literal["adam", "muon"] = "adam"
    sharding: Literal["none", "optimizer", "full"] = "optimizer"  # full: FSDP, ZeRO-3
    sequence_parallel: bool = True  # splits over tp what lies between the split matrices

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in (int, "int") and (type(value) is not int or not 1 <= value <= _MOST):
                raise PlanError(
                    f"The layout's {field.name} is {value!r:.40}.", "It must be a whole number of 1 or more."
                )
        self._one_of("recompute", ("none", "selective", "full"))
        self._one_of("precision", ("bf16", "fp8", "fp4"))
        self._one_of("optimizer", ("adam", "muon"))
        self._one_of("sharding", ("none", "optimizer", "full"))
        _divides(self.micro_batch * self.dp, self.global_batch, "micro_batch x dp", "global_batch")
        _divides(self.ep * self.expert_tp, self.tp * self.cp * self.dp, "ep x expert_tp", "tp x cp x dp")
        _divides(2 * self.cp if self.cp > 1 else 1, self.sequence, "2 x cp", "sequence")
        if self.virtual > 1 and self.pp == 1:
            raise PlanError(f"virtual is {self.virtual} but pp is 1.", "Set virtual to 1, or pp above 1.")

    def _one_of(self, name: str, known: tuple[str, ...]) -> None:
        if getattr(self, name) not in known:
            raise PlanError(
                f"The layout's {name} is {getattr(self, name)!r:.40}.", f"Known are {', '.join(known)}."
            )

    @property
    def accelerators(self) -> int:
        return self.tp * self.pp * self.cp * self.dp

    @property
    def micro_batches(self) -> int:
        """Of one replica in one step."""
        return self.global_batch // (self.micro_batch * self.dp)

    @property
    def expert_dp(self) -> int:
        """Copies of each expert within one pipeline rank."""
        return self.tp * self.cp * self.dp // (self.ep * self.expert_tp)


def check(config: ModelConfig, layout: Layout) -> None:
    """PlanError in one sentence, naming the number to change, when the model cannot be split so."""
    _divides(layout.tp, config.heads, "tp", "the model's heads")
    if config.kv_heads % layout.tp and layout.tp % config.kv_heads:
        raise PlanError(f"tp {layout.tp} does not fit {config.kv_heads} key-value heads.", "Change tp.")
    if config.moe is not None:
        _divides(layout.ep, config.moe.routed, "ep", "the model's routed experts")
        _divides(layout.expert_tp, config.moe.width, "expert_tp", "the experts' width")
    elif layout.ep > 1 or layout.expert_tp > 1:
        raise PlanError(f"ep is {layout.ep} but the model has no experts.", "Set ep and expert_tp to 1.")
    if layout.pp * layout.virtual > config.layers + 2:
        raise PlanError(
            f"pp x virtual is {layout.pp * layout.virtual} but the model has {config.layers} layers.",
            "Lower pp or virtual.",
        )


def rank_layers(config: ModelConfig, layout: Layout) -> tuple[tuple[int, ...], ...]:
    """The layers of each pipeline rank, as even as can be; chunk c of rank r is stage c pp + r (interleaved).

    Where layers do not divide, the head counts as a layer, and an MTP module with its own head as two, so
    that the last rank has fewer; the embedding counts as one where no stage grows by it (as Megatron's
    `account_for_embedding_in_pipeline_split` and its loss twin).
    """
    stages = layout.pp * layout.virtual
    sizes = [config.layers // stages] * stages
    if config.layers % stages:
        beside = 1 + 2 * config.mtp
        sizes = _uneven(config.layers, stages, layout.pp, beside)
        sizes = sizes or _uneven(config.layers, stages, layout.pp, 1)
    ranks: list[list[int]] = [[] for _ in range(layout.pp)]
    start = 0
    for stage, size in enumerate(sizes):
        ranks[stage % layout.pp] += range(start, start + size)
        start += size
    return tuple(map(tuple, ranks))


def _uneven(layers: int, stages: int, pp: int, beside: int) -> list[int]:
    """Layers of each stage when the last rank has `beside` more to do; [] when it cannot be relieved so."""
    alone = layers + beside
    first = int(-(-(alone + 1) // stages) == -(-alone // stages))
    share, more = divmod(alone + first, stages)
    # spare units go to the middle, and to the last rank at last
    order = sorted(range(stages), key=lambda at: (at % pp == pp - 1, abs(2 * at - stages + 1), at))
    sizes = [share + (stage in order[:more]) for stage in range(stages)]
    sizes[0] -= first
    for stage in range(stages - 1, -1, -pp):  # those of the last rank, the last stage first
        taken = min(beside, sizes[stage])
        sizes[stage] -= taken
        beside -= taken
    return sizes if beside == 0 and sizes[0] >= 0 else []


def _divides(part: int, whole: int, part_name: str, whole_name: str) -> None:
    if whole % part:
        raise PlanError(
            f"{part_name} is {part}, which does not divide {whole_name} ({whole}).",
            f"Change {part_name} or {whole_name}.",
        )
