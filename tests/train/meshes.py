"""Tiny models on meshes of gloo processes: what the tests of `mythos.train.parallel` share.

A group of processes is started once and does all the checks of a file; each writes what it found.
"""

import json
import os
import resource
import signal
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from mythos.records.keyring import Keyring
from mythos.spec.config import MLAConfig, ModelConfig, MoEConfig
from mythos.train.batch import Batch, Batches, next_tokens, packed_rows
from mythos.train.forward import Trainee
from mythos.train.loop import _gradient
from mythos.train.optim import Optimiser
from mythos.train.parallel.feed import step_feeds
from mythos.train.parallel.launch import joined
from mythos.train.parallel.measure import measure
from mythos.train.parallel.mesh import Shape, check, make_mesh, parse_mesh
from mythos.train.parallel.model import RankModel, shard, take
from mythos.train.parallel.optim import ShardedOptimiser
from mythos.train.parallel.run import train_on_mesh
from mythos.train.parallel.step import gradient, move
from mythos.train.settings import TrainError, TrainSettings
from mythos.train.weights import fresh_model

LENGTH, VOCAB, STEPS = 32, 64, 3
DENSE = ModelConfig(
    vocab=VOCAB,
    layers=4,
    width=32,
    heads=4,
    kv_heads=2,
    head_dim=8,
    ffn=48,
    context=128,
    tied=False,
    qk_norm=True,
)
TIED = replace(DENSE, tied=True, attention_bias=True)
MOE = replace(
    DENSE, moe=MoEConfig(routed=8, top_k=2, width=16, shared=1, bias=True, score="sigmoid"), dense_layers=(0,)
)
MLA = replace(
    MOE,
    kv_heads=4,
    head_dim=12,
    qk_norm=False,
    mtp=1,
    mla=MLAConfig(kv_rank=16, nope_dim=8, rope_dim=4, value_dim=8, q_rank=8),
)
CONFIGS = {"dense": DENSE, "tied": TIED, "moe": MOE, "mla": MLA}


def rows(first: int, count: int) -> Batch:
    """Rows of two documents each, some of whose targets count nothing: each known from its number."""
    tokens, targets, positions = [], [], []
    for number in range(first, first + count):
        drawn = np.random.default_rng(number).integers(0, VOCAB, LENGTH + 1)
        cut = 5 + number % 20
        tokens.append(drawn[:-1])
        targets.append(np.where(np.arange(LENGTH) < number % 4, -1, drawn[1:]))
        positions.append(np.concatenate([np.arange(cut), np.arange(LENGTH - cut)]))
    return next_tokens(packed_rows(np.stack(tokens), np.stack(positions)), np.stack(targets))


def settings_of(accumulate: int, optimiser: Literal["adamw", "muon"], recompute: bool) -> TrainSettings:
    return TrainSettings(
        rows=1, length=LENGTH, accumulate=accumulate, optimiser=optimiser, recompute=recompute
    )


def alone(config: ModelConfig, settings: TrainSettings, replicas: int) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each step of the one-process loop on the same rows, in float32."""
    model = fresh_model(config, 0)
    optimiser, trainee, found = Optimiser(model, settings), Trainee(model, False, False), []
    for step in range(STEPS):
        each = settings.step_rows * replicas
        parts = [rows(step * each + i, 1) for i in range(each)]
        loss, _, _ = _gradient(trainee, optimiser, parts, lambda: 0.0, False)
        found.append((loss, optimiser.step(1.0)))
    return found


def on_mesh(
    config: ModelConfig, settings: TrainSettings, shape: Shape, rank: int
) -> list[tuple[float, float]]:
    """The same on this rank of a mesh."""
    check(config, shape, settings)
    model = RankModel(config, settings, make_mesh(shape, rank))
    shard(model, "cpu", torch.float32)
    take(model, fresh_model(config, 0).state_dict())
    optimiser, found = ShardedOptimiser(model, settings), []
    for step in range(STEPS):
        feeds = step_feeds(rows, step, settings, model.mesh, config.mtp)
        told = gradient(model, optimiser, feeds, torch.float32)
        move(optimiser, told, 1.0, settings.clip)
        found.append((told.loss.item(), told.norm.item()))
    return found


# bf16, in sizes that the grouped product takes.
WIDE = replace(DENSE, vocab=512, width=128, heads=4, kv_heads=2, head_dim=32, ffn=256, layers=4)
MEASURED = {
    "dense": WIDE,
    "tied": replace(WIDE, tied=True),
    "moe": replace(WIDE, moe=MoEConfig(routed=8, top_k=2, width=64, shared=1, bias=True), dense_layers=(0,)),
    "mla": replace(
        WIDE,
        kv_heads=4,
        head_dim=24,
        qk_norm=False,
        mtp=1,
        mla=MLAConfig(kv_rank=32, nope_dim=16, rope_dim=8, value_dim=16, q_rank=48),
        moe=MoEConfig(routed=8, top_k=4, width=64, score="sigmoid", groups=2, top_groups=1, latent=64),
        dense_layers=(0,),
    ),
}


def measured_settings(shape: Shape, recompute: bool) -> TrainSettings:
    return TrainSettings(rows=2, length=256, accumulate=shape.pp + 2, recompute=recompute)


def measured(place: str, cases: list[tuple[str, str, bool]]) -> None:
    """Work of a rank: a step of each case, over real tensors, and what gloo itself says that it sent."""
    with joined(parse_mesh(cases[0][1]), "cpu") as rank:
        found = []
        for name, mesh, recompute in cases:
            shape = parse_mesh(mesh)
            settings = measured_settings(shape, recompute)
            ours = make_mesh(shape, rank)
            with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
                one = measure(MEASURED[name], settings, ours, torch.bfloat16, settings.accumulate)
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            trace = Path(place) / f"{rank}.profile"
            profiled.export_chrome_trace(str(trace))
            found.append({"step": asdict(one), "resident": resident, "gloo": _by_gloo(trace)})
            dist.barrier()
        (Path(place) / f"{rank}.json").write_text(json.dumps(found))


_WIDTHS = {"float": 4, "c10::BFloat16": 2, "long int": 8, "double": 8}


def _by_gloo(trace: Path) -> dict[str, int]:
    """Bytes of the tensors that each kind of gloo's own collectives was given."""
    found: dict[str, int] = {}
    for event in json.loads(trace.read_text())["traceEvents"]:
        if event.get("name", "").startswith("gloo:"):
            args = event["args"]
            for size, kind in zip(args["Input Dims"], args["Input type"], strict=True):
                found[event["name"]] = found.get(event["name"], 0) + prod(size) * _WIDTHS[kind]
    return found


def losses(place: str, cases: list[tuple[str, str, *tuple[Any, ...]]]) -> None:
    """Work of a rank: each case (model, mesh, accumulate, optimiser, recompute), on all ranks."""
    ranks = {parse_mesh(mesh).ranks for _, mesh, *_ in cases}
    assert len(ranks) == 1
    with joined(parse_mesh(cases[0][1]), "cpu") as rank:
        found = []
        for name, mesh, *rest in cases:
            found.append(on_mesh(CONFIGS[name], settings_of(*rest), parse_mesh(mesh), rank))
            dist.barrier()
        (Path(place) / f"{rank}.json").write_text(json.dumps(found))


TRAINED, EVERY = 6, 2


def keyring() -> Keyring:
    """A key that is no secret."""
    return Keyring("test", lambda key, context: context.encode() + key, _unwrap)


def _unwrap(wrapped: bytes, context: str) -> bytes | None:
    about = context.encode()
    return wrapped[len(about) :] if wrapped.startswith(about) else None


def trained(place: str, cases: list[tuple[str, str, int, str, int]]) -> None:
    """Work of a rank: trains each case (run, mesh, accumulate, model, steps) in the directory `run`."""
    with joined(parse_mesh(cases[0][1]), "cpu") as rank:
        for run, mesh, accumulate, name, steps in cases:
            _train(Path(place) / run, mesh, accumulate, name, steps, rank, rows)
            dist.barrier()


def interrupted(place: str, run: str) -> None:
    """Work of a rank: trains, and at its first start the last rank is killed in the fifth step."""
    killed = Path(place) / "killed"

    def batches(first: int, count: int) -> Batch:
        if os.environ["RANK"] == "1" and first >= 8 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return rows(first, count)

    with joined(Shape(dp=2), "cpu") as rank:
        _train(Path(place) / run, "dp=2", 1, "moe", TRAINED, rank, batches)


def deserted(place: str) -> None:
    """Work of a rank: the last one goes away without a word."""
    try:
        with joined(Shape(dp=2), "cpu") as rank:
            if rank == 1:
                os._exit(0)
            dist.all_reduce(torch.ones(4))
    except TrainError as error:
        (Path(place) / "said").write_text(str(error))


def _train(run: Path, mesh: str, accumulate: int, name: str, steps: int, rank: int, batches: Batches) -> None:
    shape = parse_mesh(mesh)
    settings = replace(settings_of(accumulate, "muon" if name == "moe" else "adamw", False), balance="bias")
    found = train_on_mesh(
        run, keyring(), CONFIGS[name], settings, shape, rank, batches, TRAINED, EVERY, {}, "cpu",
        torch.float32, until=steps,
    )  # fmt: skip
    (run / f"{rank}-{mesh}.json").write_text(json.dumps([(step.step, step.loss) for step in found]))
