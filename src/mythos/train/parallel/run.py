"""The training loop of a job: steps, checkpoints, and what came of all the time."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mythos.records.keyring import Keyring
from mythos.spec.config import ModelConfig
from mythos.store.home import private_directory
from mythos.train.batch import Batches
from mythos.train.loop import METRICS, PATIENCE
from mythos.train.parallel.feed import step_feeds
from mythos.train.parallel.mesh import Shape, check, make_mesh
from mythos.train.parallel.model import RankModel, fill, shard
from mythos.train.parallel.optim import ShardedOptimiser
from mythos.train.parallel.shards import Saving, begin_saving, commit, find, restore
from mythos.train.parallel.step import gradient, move, rebalance
from mythos.train.settings import TrainError, TrainSettings, rate_factor

ATTEMPTS = "attempts.jsonl"
SPLIT = ("rows", "accumulate")  # of the settings: how a step's rows are cut, which the mesh decides too


@dataclass(frozen=True, slots=True)
class Step:
    """A step as it stands in the metrics file. `goodput`: seconds of steps that counted by all seconds since
    the first start.
    """

    step: int
    loss: float
    gradient_norm: float
    seconds: float
    goodput: float
    expert_load: float | None


def train_on_mesh(
    run: Path,
    keyring: Keyring,
    config: ModelConfig,
    settings: TrainSettings,
    shape: Shape,
    rank: int,
    batches: Batches,
    steps: int,
    every: int,
    inputs: Mapping[str, Any],
    device: str = "cpu",
    compute: torch.dtype = torch.bfloat16,
    report: Callable[[Step], None] = lambda _: None,
    until: int | None = None,
) -> list[Step]:
    """Trains up to `steps` steps in the directory `run`, which all ranks see, from its last checkpoint, but
    stops after `until`; the steps of this start, told alike on all ranks.

    A checkpoint is begun after `every` steps and written during the next step's forward and backward; it
    counts when all ranks have written, at that step's end. So a rank that is lost costs at most `every` steps
    and the one it was lost in. The checkpoint of another mesh is taken up when a step has as many rows.
    TrainError otherwise.
    """
    check(config, shape, settings)
    mesh = make_mesh(shape, rank, device)
    model = RankModel(config, settings, mesh)
    shard(model, device, compute)
    facts = _facts(config, settings, shape, inputs, steps)
    optimiser, found = ShardedOptimiser(model, settings), find(run, keyring) if run.is_dir() else None
    if found is None:
        fill(model, settings.seed)
        optimiser.started()
    else:
        _same(found.facts, facts)
        restore(found, model, optimiser)
    dist.barrier()  # nobody writes before all have read
    first = 0 if found is None else found.step
    log = _Log(run, first, rank)
    saving: Saving | None = None
    done, spoiled = [], 0
    end = steps if until is None else until
    for step in range(first, end):
        began = time.monotonic()
        feeds = step_feeds(batches, step, settings, mesh, config.mtp, device)
        told = gradient(model, optimiser, feeds, compute, None if saving is None else saving.done)
        if saving is not None:
            _commit(run, keyring, step, shape, facts, rank)
            saving = None
        finite = bool(torch.isfinite(told.norm)) and bool(torch.isfinite(told.loss))
        spoiled = 0 if finite else spoiled + 1
        if spoiled >= PATIENCE:
            raise TrainError(
                f"{run.name}: the gradient was not finite for {PATIENCE} steps, up to step {step + 1}.",
                "Lower the learning rate, or look for damaged data in the rows of these steps.",
            )
        if finite:
            decay_from = steps - round(steps * settings.decay_share)
            move(optimiser, told, rate_factor(step, settings, decay_from, steps), settings.clip)
        else:
            optimiser.drop()
        busiest = rebalance(model) if settings.balance == "bias" else None
        if (step + 1) % every == 0 or step + 1 == end:
            saving = begin_saving(run, keyring, step + 1, model, optimiser)
        seconds = time.monotonic() - began
        load = None if busiest is None else busiest.item()
        done.append(log.step(step + 1, told.loss.item(), told.norm.item(), seconds, load))
        report(done[-1])
    if saving is not None:
        saving.done()
        dist.barrier()
        _commit(run, keyring, end, shape, facts, rank)
    dist.barrier()
    return done


def _commit(
    run: Path, keyring: Keyring, step: int, shape: Shape, facts: Mapping[str, Any], rank: int
) -> None:
    """What all ranks have written becomes the checkpoint; the first rank says so."""
    if rank == 0:
        commit(run, keyring, step, shape.ranks, facts)


class _Log:
    """Metrics and starts of a run, which the first rank writes."""

    def __init__(self, run: Path, step: int, rank: int) -> None:
        private_directory(run)
        self._run, self._writes = run, rank == 0
        kept = [row for row in _rows(run / METRICS) if row["step"] <= step]
        self._useful = sum(row["seconds"] for row in kept)
        starts = _rows(run / ATTEMPTS)
        self._first = starts[0]["time"] if starts else time.time()
        if self._writes:
            draft = run / f".{METRICS}"
            draft.write_text("".join(json.dumps(row) + "\n" for row in kept))
            os.replace(draft, run / METRICS)
            self._append(ATTEMPTS, {"time": time.time(), "step": step})
        dist.barrier()

    def step(self, step: int, loss: float, norm: float, seconds: float, load: float | None) -> Step:
        self._useful += seconds
        goodput = self._useful / max(self._useful, time.time() - self._first)
        made = Step(step, loss, norm, seconds, goodput, load)
        if self._writes:
            self._append(METRICS, asdict(made))
        return made

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        with (self._run / name).open("a") as out:
            out.write(json.dumps(row) + "\n")
            out.flush()


def _rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break  # the line that a killed process was writing
    return found


def _facts(
    config: ModelConfig, settings: TrainSettings, shape: Shape, inputs: Mapping[str, Any], steps: int
) -> dict[str, Any]:
    common = {name: value for name, value in asdict(settings).items() if name not in SPLIT}
    rows = settings.step_rows * shape.replicas
    facts = {"config": asdict(config), "settings": common, "inputs": inputs, "steps": steps, "rows": rows}
    return json.loads(json.dumps(facts))  # as it is read back: no tuples


def _same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if found["rows"] != wanted["rows"]:
        raise TrainError(
            f"A step has {found['rows']} rows in the checkpoint, and {wanted['rows']} on this mesh.",
            "Change rows, accumulate, dp or ep so that rows x accumulate x dp x ep is the same.",
        )
    for key, value in wanted.items():
        if found.get(key) != value:
            raise TrainError(
                f"The checkpoint is of a run with other {key}.",
                "Give the run a directory of its own, or remove that one.",
            )
