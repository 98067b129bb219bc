"""The fastest layout of a training step that fits: branch and bound over all that divide.

Every combination of tp, pp, cp, ep, virtual chunks, micro-batch, recomputation and precision that divides
model and accelerators has two bounds that cost nothing: the states of the mean rank, below which its memory
cannot lie, and the products alone at the reachable rate, below which its time cannot lie. Combinations whose
states do not fit are out at once; the others are looked at from the lowest bound up, until none left can be
among the best.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mythos.plan.efficiencies import Efficiencies, packaged
from mythos.plan.errors import PlanError
from mythos.plan.hardware import Hardware
from mythos.plan.layout import Layout
from mythos.plan.memory import Kernels, Memory, layer_activations, memory
from mythos.plan.step import Step, layer_time, step
from mythos.spec.config import ModelConfig
from mythos.spec.counting import (
    expert_parameters,
    is_routed,
    layer_kinds,
    parameters,
)

AXES = ("tp", "pp", "cp", "ep", "virtual", "micro_batch", "recompute", "precision")
MOST_ACCELERATORS = 10_000_000
PARTS = (
    "matmul", "experts", "attention", "elementwise", "head", "recompute", "waiting", "optimizer",
    "tp", "ep", "cp", "pp", "dp", "bubble", "imbalance",
)  # fmt: skip
GIB = 1 << 30
_PER_VALUE = 6  # layouts with another value of an axis that are looked at for the explanation
_MOMENTS = {"adam": 12, "muon": 8}


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
    because: str  # the part of the step that grew most


@dataclass(frozen=True, slots=True)
class Search:
    best: Found
    pareto: tuple[Found, ...]  # fastest first; each next one is slower and needs less memory
    others: tuple[Other, ...]
    counts: dict[str, int]  # what became of all combinations


def search(
    config: ModelConfig,
    part: Hardware,
    accelerators: int,
    global_batch: int,
    sequence: int,
    *,
    precisions: Sequence[str] = ("bf16", "fp8"),
    optimizer: str = "adam",
    efficiencies: Efficiencies | None = None,
    explain: bool = True,
) -> Search:
    """The best layout of `global_batch` sequences on that many of `part`. PlanError when none divides or
    fits.

    Memory counts as `part.usable_bytes`.
    """
    if not (isinstance(accelerators, int) and 1 <= accelerators <= MOST_ACCELERATORS):
        raise PlanError(f"{accelerators} accelerators.", f"Plan from 1 to {MOST_ACCELERATORS:,}.")
    eff = efficiencies or packaged()
    sums = _sums(config)
    counts: Counter[str] = Counter()
    bounded: list[tuple[float, float, Layout]] = []  # seconds and bytes, neither can be less
    tight: dict[tuple[str, int | str], float] = {}
    for layout in _layouts(config, part, accelerators, global_batch, sequence, precisions, optimizer):
        counts["combinations"] += 1
        least = _least_bytes(sums, layout)
        if least <= part.usable_bytes:
            least += _least_activations(sums, layout)
        for axis in AXES:
            key = (axis, getattr(layout, axis))
            tight[key] = min(tight.get(key, math.inf), least)
        if least <= part.usable_bytes:
            bounded.append((_least_seconds(sums, layout, part, eff), least, layout))
    if not counts:
        raise PlanError(
            f"No layout of {accelerators:,} accelerators divides the model and a batch of {global_batch:,}.",
            "Take a number of accelerators and a batch with small factors, as 2,048 and 4,096.",
        )
    bounded.sort(key=lambda one: one[:2])
    looked: dict[Layout, Found | float] = {}

    def look(layout: Layout) -> Found | float:
        """The layout when it fits, else the bytes that it needs."""
        if layout not in looked:
            held = memory(config, layout)
            fits = held.worst.needed <= part.usable_bytes
            looked[layout] = (
                Found(layout, step(config, layout, part, eff), held) if fits else held.worst.needed
            )
        return looked[layout]

    best: Found | None = None
    for bound, _, layout in bounded:
        if best is not None and bound >= best.step.seconds:
            break
        result = look(layout)
        if isinstance(result, Found) and (best is None or result.step.seconds < best.step.seconds):
            best = result
    if best is None:
        least = min([*(one for one in looked.values() if isinstance(one, float)), *tight.values()])
        raise PlanError(
            f"Nothing fits: an accelerator would need {least / GIB:,.0f} GiB or more, and {part.name} has"
            f" {part.usable_bytes / GIB:,.0f}.",
            "Take more accelerators, or ones with more memory.",
        )
    others = _others(best, bounded, look, tight) if explain else ()
    low = math.inf
    for _, least, layout in bounded if explain else ():
        if least < low:  # none that can be faster can need less
            low = least
            look(layout)
    feasible = [one for one in looked.values() if isinstance(one, Found)]
    counts["do not fit by their bound"] = counts["combinations"] - len(bounded)
    counts["do not fit"] = len(looked) - len(feasible)
    counts["compared"] = len(feasible)
    counts["cannot be faster"] = len(bounded) - len(looked)
    return Search(best, _pareto(feasible), others, dict(counts))


def _pareto(found: Sequence[Found]) -> tuple[Found, ...]:
    """Those of which none else is faster with less memory; fastest first."""
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: (one.step.seconds, one.bytes)):
        if not kept or one.bytes < kept[-1].bytes:
            kept.append(one)
    return tuple(kept)


def _others(
    best: Found,
    bounded: Sequence[tuple[float, float, Layout]],
    look: Callable[[Layout], Found | float],
    tight: Mapping[tuple[str, int | str], float],
) -> tuple[Other, ...]:
    """For each other value of each axis, the best of the few layouts with the lowest bounds."""
    found = []
    for (axis, value), least in sorted(
        tight.items(), key=lambda item: (AXES.index(item[0][0]), str(item[0][1]).zfill(9))
    ):
        if value == getattr(best.layout, axis):
            continue
        best_here: Found | None = None
        here = (one for one in bounded if getattr(one[2], axis) == value)
        for tries, (bound, _, layout) in enumerate(here):
            if tries >= _PER_VALUE or (best_here is not None and bound > best_here.step.seconds):
                break
            result = look(layout)
            if isinstance(result, float):
                least = max(least, result) if best_here is None else least
            elif best_here is None or result.step.seconds < best_here.step.seconds:
                best_here = result
        if best_here is None:
            found.append(Other(axis, value, None, least, math.inf, "memory"))
        else:
            slower = best_here.step.seconds / best.step.seconds - 1
            found.append(Other(axis, value, best_here, best_here.bytes, slower, _grown(best, best_here)))
    return tuple(found)


def _grown(best: Found, other: Found) -> str:
    """The part of the step that takes most longer."""
    return max(PARTS, key=lambda name: getattr(other.step, name) - getattr(best.step, name))


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of the model and the batch: what both bounds are made of."""

    config: ModelConfig
    dense: float  # parameters outside routed experts
    experts: float
    kinds: Mapping[int, int]  # one layer of each kind, and how many there are


def _sums(config: ModelConfig) -> _Sums:
    routed = sum(is_routed(config, layer) for layer in range(config.layers))
    experts = 0 if config.moe is None else routed * config.moe.routed * expert_parameters(config)
    return _Sums(
        config,
        float(parameters(config) - experts),
        float(experts),
        Counter(layer_kinds(config)[: config.layers]),
    )


def _least_bytes(sums: _Sums, layout: Layout) -> float:
    """No accelerator of the fullest rank needs less: the mean rank's states."""
    dense = sums.dense / (layout.tp * layout.pp)
    experts = sums.experts / (layout.ep * layout.expert_tp * layout.pp)
    spread = dense / (layout.dp * layout.cp) + experts / layout.expert_dp
    return 6 * (dense + experts) + _MOMENTS[layout.optimizer] * spread


def _least_activations(sums: _Sums, layout: Layout) -> float:
    """What the first rank keeps at least of its layers but one, with as many micro-batches as it keeps."""
    layers = sums.config.layers // layout.pp - (sums.config.layers % layout.pp > 0)
    one = layer_activations(sums.config, layout, Kernels(), sums.config.layers - 1)
    each = one.inputs if layout.recompute == "full" else one.total
    return each * layers * min(layout.pp, layout.micro_batches)


def _least_seconds(sums: _Sums, layout: Layout, part: Hardware, eff: Efficiencies) -> float:
    """The mean rank's layers, with the bubble: the slowest rank is no faster."""
    layers = sum(
        count * layer_time(sums.config, layout, part, eff, layer, 1.0).total
        for layer, count in sums.kinds.items()
    )
    return layers / layout.pp * (layout.micro_batches + (layout.pp - 1) / layout.virtual)


def _layouts(
    config: ModelConfig,
    part: Hardware,
    accelerators: int,
    global_batch: int,
    sequence: int,
    precisions: Sequence[str],
    optimizer: str,
) -> Iterator[Layout]:
    """Every layout worth a look. Groups of tp and of cp stay within a domain; they are powers of two."""
    rates = {"bf16": part.bf16, "fp8": part.fp8, "fp4": part.fp4}
    known = [one for one in precisions if rates.get(one)]
    if not known:
        raise PlanError(
            f"{part.name} computes in none of {', '.join(precisions)}.", "Choose another precision."
        )
    routed = 1 if config.moe is None else config.moe.routed
    for tp in _powers(min(part.domain, config.heads)):
        if config.heads % tp or (config.kv_heads % tp and tp % config.kv_heads):
            continue
        for cp in _powers(min(8, part.domain // tp, max(1, sequence // 4096))):
            for pp in _divisors(accelerators // (tp * cp), config.layers + 2):
                if accelerators % (tp * cp * pp):
                    continue
                dp = accelerators // (tp * cp * pp)
                if global_batch % dp:
                    continue
                for virtual, micro, ep in itertools.product(
                    _chunks(config.layers, pp), (1, 2, 4), _powers_in(math.gcd(routed, tp * cp * dp))
                ):
                    batches, over = divmod(global_batch, dp * micro)
                    if over or (virtual > 1 and batches % pp):
                        continue
                    for recompute, precision in itertools.product(("none", "full"), known):
                        yield Layout(
                            tp=tp, pp=pp, ep=ep, dp=dp, cp=cp, virtual=virtual, micro_batch=micro,
                            global_batch=global_batch, sequence=sequence, recompute=recompute,
                            precision=precision, optimizer=optimizer,
                        )  # fmt: skip


def _powers(most: int) -> list[int]:
    return [1 << place for place in range(max(1, most).bit_length())]


def _powers_in(whole: int) -> list[int]:
    return [one for one in _powers(whole) if whole % one == 0]


def _divisors(whole: int, most: int) -> list[int]:
    return [one for one in range(1, min(whole, most) + 1) if whole % one == 0]


def _chunks(layers: int, pp: int) -> list[int]:
    """Numbers of chunks on a rank: those that divide the layers evenly, or one."""
    return [1] if pp == 1 else [1] + [many for many in (2, 3, 4, 6, 8) if layers % (pp * many) == 0]
