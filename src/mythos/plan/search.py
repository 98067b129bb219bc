"""The fastest layout of a training step that fits: branch and bound over all that divide.

Every combination of tp, pp, cp, ep, virtual chunks, micro-batch, recomputation and precision that divides
model and accelerators has two bounds that cost little: states and first activations of the mean rank, below
which the fullest rank's memory cannot lie, and the mean rank's layers with the bubble, below which the
slowest rank's time cannot lie. What cannot fit is out at once; the rest is looked at from the lowest bound
up, until nothing left can be faster.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mythos.plan.efficiencies import Efficiencies, packaged
from mythos.plan.errors import PlanError
from mythos.plan.hardware import Hardware
from mythos.plan.layout import Layout, Precision
from mythos.plan.memory import Kernels, Memory, kept_bytes, layer_activations, memory
from mythos.plan.step import Step, layer_time, step
from mythos.spec.config import ModelConfig
from mythos.spec.counting import expert_parameters, is_routed, layer_kinds, parameters

AXES = ("tp", "pp", "cp", "ep", "virtual", "micro_batch", "recompute", "precision")
PARTS = (
    "matmul", "experts", "attention", "elementwise", "head", "recompute", "waiting", "optimizer",
    "tp", "ep", "cp", "pp", "dp", "bubble", "imbalance",
)  # fmt: skip
RECOMPUTE: tuple[Literal["none", "selective", "full"], ...] = ("none", "selective", "full")
GIB = 1 << 30
MOST_ACCELERATORS = 10_000_000
MOST_SEQUENCES = 1 << 30
_PER_VALUE = 6  # layouts with another value of an axis that are looked at for the explanation
_MOMENTS = {"adam": 12, "muon": 8}
_TOKENS = 16384  # a micro-batch has at most so many, or four sequences
_CP_TOKENS = 4096  # a rank of context parallelism has at least so many


@dataclass(frozen=True, slots=True)
class Found:
    layout: Layout
    step: Step
    memory: Memory

    @property
    def bytes(self) -> float:
        """What the fullest accelerator needs."""
        return self.memory.worst.needed


@dataclass(frozen=True, slots=True)
class Other:
    """The best layout found with another value of one axis, or None when none of those tried fits."""

    axis: str
    value: int | str
    found: Found | None
    least_bytes: float
    slower: float  # by the best layout's time, 0.1 for 10%
    because: str  # the part of the step that grew most, or "memory"


@dataclass(frozen=True, slots=True)
class Search:
    best: Found
    pareto: tuple[Found, ...]  # fastest first; each next one is slower and needs less memory
    others: tuple[Other, ...]
    counts: dict[str, int]  # what became of all combinations


class _Combination(NamedTuple):
    """What a layout is made of. Layouts are made of those few that are looked at."""

    tp: int
    pp: int
    cp: int
    ep: int
    dp: int
    virtual: int
    micro_batch: int
    recompute: Literal["none", "selective", "full"]
    precision: Precision


class _Bounded(NamedTuple):
    seconds: float  # the step cannot be shorter
    bytes: float  # the fullest accelerator cannot need less
    of: _Combination


def search(
    config: ModelConfig,
    part: Hardware,
    accelerators: int,
    global_batch: int,
    sequence: int,
    *,
    precisions: Sequence[Precision] = ("bf16", "fp8"),
    optimizer: Literal["adam", "muon"] = "adam",
    efficiencies: Efficiencies | None = None,
    explain: bool = True,
) -> Search:
    """The best layout of `global_batch` sequences on that many of `part`; PlanError when none divides or
    fits.

    Memory is limited by `part.usable_bytes`. Without `explain` only the best layout is looked for.
    """
    for what, value, most in (
        ("accelerators", accelerators, MOST_ACCELERATORS),
        ("sequences in a step", global_batch, MOST_SEQUENCES),
        ("tokens in a sequence", sequence, MOST_SEQUENCES),
    ):
        if not (isinstance(value, int) and 1 <= value <= most):
            raise PlanError(f"{value} {what} were asked for.", f"Plan from 1 to {most:,}.")
    eff = efficiencies or packaged()

    def made(of: _Combination) -> Layout:
        return Layout(**of._asdict(), global_batch=global_batch, sequence=sequence, optimizer=optimizer)

    groups = _groups(config, part, accelerators, global_batch, sequence, precisions)
    bounded, tight, counted = _bounded(config, part, eff, groups, made)
    if not counted:
        raise PlanError(
            f"No layout of {accelerators:,} accelerators divides the model and a batch of {global_batch:,}.",
            "Take a number of accelerators and a batch with small factors, as 2,048 and 4,096.",
        )
    looked: dict[_Combination, Found | float] = {}

    def look(of: _Combination) -> Found | float:
        """The layout when it fits, else the bytes that it needs."""
        if of not in looked:
            layout = made(of)
            held = memory(config, layout)
            fits = held.worst.needed <= part.usable_bytes
            looked[of] = Found(layout, step(config, layout, part, eff), held) if fits else held.worst.needed
        return looked[of]

    best: Found | None = None
    for one in bounded:
        if best is not None and one.seconds >= best.step.seconds:
            break
        best = _faster(best, look(one.of))
    if best is None:
        least = min([*(one for one in looked.values() if isinstance(one, float)), *tight.values()])
        raise PlanError(
            f"Nothing fits: an accelerator would need {least / GIB:,.0f} GiB or more, and {part.name} has"
            f" {part.usable_bytes / GIB:,.0f}.",
            "Take more accelerators (a number with small factors), or ones with more memory.",
        )
    others: tuple[Other, ...] = ()
    if explain:
        others = _others(best, bounded, look, tight)
        low = math.inf
        for one in bounded:  # none that can be faster can need less than these
            if one.bytes < low:
                low = one.bytes
                look(one.of)
    feasible = [one for one in looked.values() if isinstance(one, Found)]
    counts = {
        "combinations": counted,
        "do not fit by their bound": counted - len(bounded),
        "do not fit": len(looked) - len(feasible),
        "compared": len(feasible),
        "cannot be faster": len(bounded) - len(looked),
    }
    return Search(best, _pareto(feasible), others, counts)


def _pareto(found: Sequence[Found]) -> tuple[Found, ...]:
    """Those of which none else is faster with less memory; fastest first."""
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: (one.step.seconds, one.bytes)):
        if not kept or one.bytes < kept[-1].bytes:
            kept.append(one)
    return tuple(kept)


def _others(
    best: Found,
    bounded: Sequence[_Bounded],
    look: Callable[[_Combination], Found | float],
    tight: Mapping[tuple[str, int | str], float],
) -> tuple[Other, ...]:
    """For each other value of each axis, the best of the few layouts with the lowest bounds."""
    by_value: dict[tuple[str, int | str], list[_Bounded]] = {}
    for one in bounded:
        for axis in AXES:
            by_value.setdefault((axis, getattr(one.of, axis)), []).append(one)
    found = []
    for axis, value in sorted(tight, key=lambda key: (AXES.index(key[0]), str(key[1]).zfill(9))):
        if value == getattr(best.layout, axis):
            continue
        here = by_value.get((axis, value), [])
        best_here: Found | None = None
        for one in here[:_PER_VALUE]:
            if best_here is None or one.seconds < best_here.step.seconds:
                best_here = _faster(best_here, look(one.of))
        if best_here is None:
            for one in sorted(here, key=lambda one: one.bytes)[:_PER_VALUE]:
                best_here = _faster(best_here, look(one.of))
        if best_here is None:
            found.append(Other(axis, value, None, tight[axis, value], math.inf, "memory"))
        else:
            slower = best_here.step.seconds / best.step.seconds - 1
            found.append(Other(axis, value, best_here, best_here.bytes, slower, _grown(best, best_here)))
    return tuple(found)


def _faster(best: Found | None, result: Found | float) -> Found | None:
    if isinstance(result, Found) and (best is None or result.step.seconds < best.step.seconds):
        return result
    return best


def _grown(best: Found, other: Found) -> str:
    """The part of the step that takes most longer."""
    return max(PARTS, key=lambda name: getattr(other.step, name) - getattr(best.step, name))


def _bounded(
    config: ModelConfig,
    part: Hardware,
    eff: Efficiencies,
    groups: Iterator[list[_Combination]],
    made: Callable[[_Combination], Layout],
) -> tuple[list[_Bounded], dict[tuple[str, int | str], float], int]:
    """What may fit, by rising time; the least bytes seen with each value of each axis; how many there were.

    Combinations of one group have the same states. Layers take the same time and memory whatever pp is, and
    however many chunks beyond one a rank has.
    """
    routed = sum(is_routed(config, layer) for layer in range(config.layers))
    experts = 0 if config.moe is None else routed * config.moe.routed * expert_parameters(config)
    dense = parameters(config) - experts
    kinds = Counter(layer_kinds(config)[: config.layers])
    layers: dict[tuple[int | str, ...], tuple[float, float]] = {}
    bounded: list[_Bounded] = []
    tight: dict[tuple[str, int | str], float] = {}
    counted = 0
    for group in groups:
        counted += len(group)
        layout = made(group[0])
        states = _states(layout, dense, experts)
        for of in group:
            least, time = states, math.inf
            if states <= part.usable_bytes:
                key = (of.tp, of.cp, of.ep, of.dp, of.micro_batch, of.recompute, of.precision, of.virtual > 1)
                if key not in layers:
                    layers[key] = _all_layers(config, part, eff, kinds, made(of))
                seconds, each = layers[key]
                batches = layout.global_batch // (of.dp * of.micro_batch)
                first = config.layers // of.pp - (config.layers % of.pp > 0)
                least += each * first * min(of.pp, batches)
                time = seconds / of.pp * (batches + (of.pp - 1) / of.virtual)
            for axis in AXES:
                value = (axis, getattr(of, axis))
                if least < tight.get(value, math.inf):
                    tight[value] = least
            if least <= part.usable_bytes:
                bounded.append(_Bounded(time, least, of))
    return sorted(bounded, key=lambda one: one[:2]), tight, counted


def _states(layout: Layout, dense: float, experts: float) -> float:
    """Bytes of weights, gradients and optimizer on an accelerator of the mean rank."""
    dense /= layout.tp * layout.pp
    experts /= layout.ep * layout.expert_tp * layout.pp
    spread = dense / (layout.dp * layout.cp) + experts / layout.expert_dp
    return 6 * (dense + experts) + _MOMENTS[layout.optimizer] * spread


def _all_layers(
    config: ModelConfig, part: Hardware, eff: Efficiencies, kinds: Mapping[int, int], layout: Layout
) -> tuple[float, float]:
    """Seconds of one micro-batch in all layers, and bytes that it leaves of the last one."""
    seconds = sum(
        count * layer_time(config, layout, part, eff, kind, 1.0).total for kind, count in kinds.items()
    )
    kernels = Kernels()
    one = layer_activations(config, layout, kernels, config.layers - 1)
    return seconds, kept_bytes(layout, kernels, one)


def _groups(
    config: ModelConfig,
    part: Hardware,
    accelerators: int,
    global_batch: int,
    sequence: int,
    precisions: Sequence[Precision],
) -> Iterator[list[_Combination]]:
    """Combinations that divide, by tp, cp, pp, ep and dp. Groups of tp x cp lie within a domain."""
    rates: dict[Precision, float | None] = {"bf16": part.bf16, "fp8": part.fp8, "fp4": part.fp4}
    known: list[Precision] = [one for one in precisions if rates[one]]
    if not known:
        raise PlanError(
            f"{part.name} computes in none of {', '.join(precisions)}.", "Choose another precision."
        )
    routed = 1 if config.moe is None else config.moe.routed
    for tp in _powers(min(part.domain, config.heads)):
        if config.heads % tp or (config.kv_heads % tp and tp % config.kv_heads):
            continue
        for cp in _powers(min(part.domain // tp, max(1, sequence // _CP_TOKENS))):
            for pp in range(1, config.layers + 3):
                dp, over = divmod(accelerators, tp * cp * pp)
                if over or global_batch % max(dp, 1) or dp == 0:
                    continue
                for ep in _powers(math.gcd(routed, tp * cp * dp)):
                    if routed % ep or tp * cp * dp % ep:
                        continue
                    group = [
                        _Combination(tp, pp, cp, ep, dp, virtual, micro, recompute, precision)
                        for virtual in _chunks(config.layers, pp)
                        for micro in _powers(max(4, _TOKENS // sequence))
                        for recompute in RECOMPUTE
                        for precision in known
                        if _batches_divide(global_batch, dp * micro, pp, virtual)
                    ]
                    if group:
                        yield group


def _powers(most: int) -> list[int]:
    return [1 << place for place in range(max(1, most).bit_length())]


def _chunks(layers: int, pp: int) -> list[int]:
    """Numbers of chunks on a rank: one, or such that all are equal."""
    return [1] if pp == 1 else [1] + [many for many in (2, 3, 4, 6, 8) if layers % (pp * many) == 0]


def _batches_divide(global_batch: int, at_once: int, pp: int, virtual: int) -> bool:
    """Interleaving runs micro-batches in rounds of pp (arXiv 2104.04473)."""
    batches, over = divmod(global_batch, at_once)
    return not over and (virtual == 1 or batches % pp == 0)
