"""`mythos trace`: what one rank of a mesh holds, sends and computes, or one of every kind."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mythos.cli.output import CommandError, Exit, emit, json_wanted, note, show, table
from mythos.cli.plan_show import tier_of
from mythos.plan.hardware import Hardware, hardware
from mythos.plan.page import Section, page
from mythos.plan.svg import stacked
from mythos.spec.load import load_family
from mythos.train.parallel.mesh import Shape, parse_mesh
from mythos.train.parallel.trace import Link, Traced, distinct_ranks, links, trace_ranks, trace_settings

GIB = 1 << 30


def run_trace(
    family_name: str,
    tier_name: str | None,
    mesh: str,
    rank: int | None,
    all_distinct: bool,
    part_name: str,
    step: tuple[int, int, int | None, bool, str],
    streams: int,
    html: Path | None,
) -> int:
    family = load_family(family_name)
    tier, shape, part = tier_of(family, tier_name), parse_mesh(mesh), hardware(part_name)
    if rank is not None and all_distinct:
        raise CommandError("--rank and --all-distinct exclude each other", "give one of them", Exit.USAGE)
    settings = trace_settings(shape, *step)
    found: list[tuple[Traced, list[Link]]] = []
    ranks = distinct_ranks(shape) if all_distinct else [rank or 0]
    for traced in trace_ranks(tier.config, shape, settings, ranks, streams):
        found.append((traced, links(traced, shape, part)))
        if all_distinct:
            peak = _gib(traced.step.peak)
            note(f"rank {traced.rank}, pipeline rank {traced.place.pp}: {peak} GiB at the peak")
    title = f"{family.name}/{tier.name} on {shape.ranks:,} {part.name} ({shape})"
    if html is not None:
        html.write_text(_report(title, found, part))
    if json_wanted():
        emit(
            {
                "family": family.name, "tier": tier.name, "mesh": asdict(shape), "ranks": shape.ranks,
                "hardware": part.name, "usable_bytes": part.usable_bytes, "settings": asdict(settings),
                "traced": [_plain(traced, slow, part) for traced, slow in found],
            }
        )  # fmt: skip
    else:
        show(title)
        for traced, slow in found:
            _show(traced, slow, part)
        note("traced on fake tensors: bytes, calls and FLOPs of this code; nothing ran, no time is known")
    if html is not None:
        note(f"the picture is in {html}")
    worst = max((traced for traced, _ in found), key=lambda traced: traced.needed)
    if worst.needed > part.usable_bytes:
        raise CommandError(_too_large(worst, shape, part), _cure(worst, shape, settings.recompute))
    return 0


def _show(traced: Traced, slow: list[Link], part: Hardware) -> None:
    step, planned, decode = traced.step, traced.planned, traced.decode
    rows = [
        ["parameters (float32 masters, sharded)", _gib(step.parameters), ""],
        ["gradients (float32, sharded)", _gib(step.gradients), _gib(planned.gradients)],
        ["optimizer", _gib(step.optimizer), ""],
        ["parameters and optimizer", _gib(step.static), _gib(planned.weights + planned.optimizer)],
        ["at the peak: weights gathered by FSDP", _gib(step.gathered), ""],
        ["at the peak: all else", _gib(step.activations), ""],
        ["peak", _gib(step.peak), _gib(planned.peak)],
        ["needed, with runtime and fragmentation", _gib(traced.needed), _gib(planned.needed)],
    ]
    fits = "fits" if traced.needed <= part.usable_bytes else "does not fit"
    title = f"rank {traced.rank} ({traced.place}): {fits} {part.name}, {_gib(part.usable_bytes)} GiB"
    table(["a training step, GiB", "traced", "planner"], rows, title)
    kinds = [[one.kind, one.group, one.ranks, one.calls, _gib(one.bytes)] for one in step.sent]
    table(["collective", "group", "ranks", "calls", "GiB"], kinds, f"{step.flops:.3e} FLOP of products")
    if slow:
        heads = ["sent in group", "ranks", "over", "GiB", "at least"]
        table(heads, [_link(link) for link in slow], f"hottest link: {slow[0].group}")
    rows = [[one.kind, one.group, one.ranks, one.calls, _gib(one.bytes)] for one in decode.sent]
    table(
        ["collective", "group", "ranks", "calls", "GiB"],
        rows,
        f"a decode step of {decode.streams} streams at {decode.context} tokens: weights "
        f"{_gib(decode.weights)}, cache {_gib(decode.cache)}, peak {_gib(decode.peak)} GiB, "
        f"{decode.flops:.3e} FLOP",
    )
    note(f"traced in {traced.seconds:.1f} s with {traced.resident / GIB:.2f} GiB of this machine's memory")


def _link(link: Link) -> list[object]:
    return [
        link.group, link.ranks, "scale-up" if link.inside else "scale-out", _gib(link.bytes),
        f"{link.seconds * 1e3:.3g} ms",
    ]  # fmt: skip


def _plain(traced: Traced, slow: list[Link], part: Hardware) -> dict[str, Any]:
    return asdict(traced) | {
        "needed": traced.needed,
        "fits": traced.needed <= part.usable_bytes,
        "links": [asdict(link) for link in slow],
    }


def _report(title: str, found: list[tuple[Traced, list[Link]]], part: Hardware) -> str:
    bars, rows = [], []
    for traced, slow in found:
        step = traced.step
        at_peak = {
            "parameters": step.parameters, "optimizer": step.optimizer + step.buffers,
            "gathered weights": step.gathered, "activations, gradients, workspace": step.activations,
        }  # fmt: skip
        label = f"pp {traced.place.pp}" + (f": {slow[0].group}" if slow else "")
        bars.append((label, [(name, size / GIB) for name, size in at_peak.items()]))
        rows.append(
            [
                str(traced.place.pp), str(traced.rank), *(_gib(size) for size in at_peak.values()),
                _gib(step.peak), _gib(traced.planned.peak), f"{step.flops:.3e}",
                f"{slow[0].group}, {_gib(slow[0].bytes)} GiB, {slow[0].seconds * 1e3:.3g} ms" if slow else "",
            ]
        )  # fmt: skip
    heads = [
        "pipeline rank", "rank", "parameters", "optimizer", "gathered", "all else", "peak", "planner", "FLOP",
        "hottest link",
    ]  # fmt: skip
    text = (
        f"GiB of one accelerator at the peak of a training step, per pipeline rank; the dashed line is what "
        f"{part.name} has. Behind the number stands the group of the hottest link: the one whose bytes take "
        "longest at the published rate."
    )
    lead = ["Traced on fake tensors through the training code itself. Nothing ran, and no time was measured."]
    svg = stacked(bars, "GiB", part.usable_bytes / GIB)
    return page(title, lead, [Section("All ranks", text, heads, rows, svg)], "mythos trace")


def _too_large(worst: Traced, shape: Shape, part: Hardware) -> str:
    return (
        f"rank {worst.rank} needs {_gib(worst.needed)} GiB and a {part.name} has {_gib(part.usable_bytes)}, "
        f"with the mesh {shape}"
    )


def _cure(worst: Traced, shape: Shape, recompute: bool) -> str:
    if worst.step.static > worst.step.activations:
        return f"raise dp (now {shape.dp}), ep or pp: most of it is parameters and optimizer"
    more = f"raise tp (now {shape.tp}) or cp (now {shape.cp})"
    return f"{more}: most of it is activations" if recompute else f"give --recompute, or {more}"


def _gib(size: float) -> str:
    gib = size / GIB
    if 0 < gib < 0.001:
        return "<0.001"
    return f"{gib:.3g}" if gib < 1000 else f"{gib:.0f}"
