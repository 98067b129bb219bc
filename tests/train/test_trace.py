"""A trace on fake tensors tells what the same step holds and sends over real ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mythos.plan.hardware import hardware
from mythos.plan.memory import memory
from mythos.spec.counting import flops_per_token
from mythos.spec.load import load_family
from mythos.train.parallel.launch import launch
from mythos.train.parallel.live import Live
from mythos.train.parallel.mesh import Shape, check, parse_mesh
from mythos.train.parallel.trace import distinct_ranks, links, trace_rank, trace_settings
from mythos.train.settings import TrainError
from tests.train.meshes import MEASURED, measured, measured_settings

TWO = [("dense", "dp=2", False), ("moe", "ep=2", True), ("mla", "pp=2", False), ("mla", "ep=2", False)]
FOUR = [
    ("moe", "pp=2,ep=2", False),
    ("mla", "dp=2,ep=2", False),
    ("dense", "cp=2,tp=2", False),
    ("mla", "ep=2,tp=2", True),
    ("tied", "pp=4", False),
]


def compared(place: Path, cases: list[tuple[str, str, bool]], number: int) -> None:
    name, mesh, recompute = cases[number]
    shape = parse_mesh(mesh)
    settings = measured_settings(shape, recompute)
    for rank in range(shape.ranks):
        real = json.loads((place / f"{rank}.json").read_text())[number]
        traced = trace_rank(MEASURED[name], shape, settings, rank)
        step, found = traced.step, real["step"]
        for part in ("parameters", "gradients", "optimizer", "buffers"):
            assert getattr(step, part) == pytest.approx(found[part], rel=0.02), part
        assert step.peak == pytest.approx(found["peak"], rel=0.05)
        assert step.flops == found["flops"]
        print(f"{name} {mesh} rank {rank}: peak {step.peak:,} traced, {found['peak']:,} real,"
              f" {real['resident']:,} resident, {traced.planned.peak:,.0f} planned")  # fmt: skip
        sent = [{"kind": s.kind, "group": s.group, "ranks": s.ranks, "calls": s.calls, "bytes": s.bytes}
                for s in step.sent]  # fmt: skip
        assert sent == found["sent"]
        told = real["gloo"]
        told.pop("gloo:recv", None)  # of receives gloo does not always tell; each was sent by another rank
        assert by_gloo(sent) == told


def by_gloo(sent: list[dict]) -> dict[str, int]:
    """Bytes as gloo counts them: what a rank gives in; it scatters by reducing all."""
    names = {
        "all-gather": "all_gather", "reduce-scatter": "all_reduce", "all-reduce": "all_reduce",
        "all-to-all": "all_to_all", "send": "send",
    }  # fmt: skip
    found: dict[str, int] = {}
    for one in sent:
        if one["kind"] in names:
            key = f"gloo:{names[one['kind']]}"
            size = one["bytes"] // one["ranks"] if one["kind"] == "all-gather" else one["bytes"]
            found[key] = found.get(key, 0) + size
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("two")
    launch(2, measured, (str(place), TWO))
    return place


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("four")
    launch(4, measured, (str(place), FOUR))
    return place


@pytest.mark.parametrize("number", range(len(TWO)), ids=["-".join(map(str, case)) for case in TWO])
def test_the_trace_is_the_step_of_two_ranks(two: Path, number: int) -> None:
    compared(two, TWO, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(FOUR)), ids=["-".join(map(str, case)) for case in FOUR])
def test_the_trace_is_the_step_of_four_ranks(four: Path, number: int) -> None:
    compared(four, FOUR, number)


def test_live_bytes_by_hand() -> None:
    with Live() as live:
        a = torch.zeros(1000)
        b = a.view(10, 100)[2:]  # the same storage
        assert live.now == 4000
        c = b @ torch.ones(100, 3)
        assert live.now == 4000 + 8 * 3 * 4 and live.peak == live.now + 1200
        assert live.flops == 2 * 8 * 100 * 3
        del a, b
        assert live.now == 8 * 3 * 4
        c.untyped_storage().resize_(0)
        assert live.now == 0 and live.peak == 4000 + 96 + 1200


def test_flops_are_those_of_the_counting() -> None:
    """Forward and backward of every product; attention's tiles are whole, so a little more than half."""
    config, shape = MEASURED["dense"], Shape()
    settings = measured_settings(shape, False)
    step = trace_rank(config, shape, settings, 0).step
    counted = 3 * flops_per_token(config, (settings.length + 1) // 2) * settings.step_tokens
    assert counted <= step.flops <= 1.15 * counted


def test_ranks_that_are_traced() -> None:
    shape = parse_mesh("pp=4,ep=2,tp=2")
    assert [shape.at(rank).pp for rank in distinct_ranks(shape)] == [0, 1, 2, 3]
    with pytest.raises(TrainError, match="rank is 16, and the mesh has ranks 0 to 15"):
        trace_rank(MEASURED["moe"], shape, measured_settings(shape, False), 16)


def test_states_are_what_the_planner_says() -> None:
    """16 bytes a parameter over all ranks that share it: the planner counts the same, otherwise split up."""
    config, shape = MEASURED["moe"], parse_mesh("dp=2,ep=2")
    settings = trace_settings(shape, 256, 2, None, False, "adamw")
    traced = trace_rank(config, shape, settings, 0)
    planned = memory(config, check(config, shape, settings)).ranks[0]
    states = planned.weights + planned.optimizer  # 2 + 12 bytes; here 4 + 8
    assert traced.step.static - traced.step.buffers == pytest.approx(states * 12 / 14, rel=0.02)
    assert 2 * traced.step.gradients == pytest.approx(planned.gradients * 4, rel=0.02)


def test_links() -> None:
    config, shape = MEASURED["moe"], parse_mesh("pp=2,ep=64")
    assert config.moe is not None
    config = replace(config, moe=replace(config.moe, routed=64))
    traced = trace_rank(config, shape, trace_settings(shape, 256, 2, None, False, "adamw"), 20)
    found = links(traced, shape, hardware("GB300"))
    inside = {link.group: link.inside for link in found}  # a domain has 72: ranks 0 to 63, but not 20 and 84
    assert inside["ep"] and not inside["pp"]
    assert found == sorted(found, key=lambda link: -link.seconds)


@pytest.mark.slow
def test_ten_trillion_on_16_384_ranks() -> None:
    """One rank of the last pipeline rank of the real shape, its weights never made."""
    config = load_family("mythos-10t").tiers[-1].config
    assert config.moe is not None
    shape = parse_mesh("pp=16,ep=64,dp=16")
    settings = trace_settings(shape, 4096, 1, 1, True, "adamw")
    traced = trace_rank(config, shape, settings, shape.rank(Shape(15, 3, 5, 0, 0)))
    assert shape.ranks == 16384 and traced.resident < 4 << 30
    # Experts are sharded over dp, all else over dp x ep.
    layer = config.width * 3 * config.moe.width * config.moe.routed / 64
    assert 6 * layer * 4 / 16 < traced.step.parameters < 1.1 * 6 * layer * 4 / 16
    assert traced.step.optimizer == pytest.approx(2 * traced.step.parameters, rel=1e-3)
