"""Checkpoints of a job: every rank writes its shards, and any mesh reads them.

    <run>/shards/step-00000120/rank-00003/   a rank's shards and where in the whole they lie, sealed as
                                             `mythos.train.checkpoint` seals
    <run>/shards/step-00000120/whole/        what the job is, and which rank's files belong to it

The last is written when all ranks have written: without it there is no checkpoint. Nothing is unpickled. The
directory is one that all ranks see.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from mythos.model.weights_dir import sync
from mythos.records.keyring import Keyring
from mythos.store.home import private_directory
from mythos.train.checkpoint import Checkpoint, CheckpointError, Opened, open_sealed, write, writing
from mythos.train.parallel.model import Box, RankModel
from mythos.train.parallel.optim import ShardedOptimiser

SHARDS, WHOLE = "shards", "whole"


@dataclass(slots=True)
class Saving:
    """Shards that a thread is writing: copies, so that training goes on."""

    place: Path
    thread: Thread
    error: Exception | None = None

    def done(self) -> None:
        """Waits for the thread; CheckpointError or what else it ended with."""
        self.thread.join()
        if self.error is not None:
            raise self.error


def begin_saving(
    run: Path, keyring: Keyring, step: int, model: RankModel, optimiser: ShardedOptimiser
) -> Saving:
    """Copies the rank's shards and lets a thread write them, in the place of any that lie there."""
    rank, speaks = model.mesh.rank, set(optimiser.told())
    tensors, boxes = {}, {}
    for key, tensor in optimiser.state().items():
        name = key.partition(".")[2]
        if name in speaks and tensor.numel():
            tensors[key], boxes[key] = tensor.detach().cpu().clone(), model.boxes[name]
    if rank == model.mesh.shape.among(rank, ("dp", "ep", "cp", "tp"))[0]:
        for name, buffer in model.named_buffers():
            tensors[f"buffer.{name}"] = buffer.detach().cpu().clone()
            boxes[f"buffer.{name}"] = _all_of(buffer)
    facts = {"rank": rank, "step": step, "boxes": {k: [box.whole, box.start] for k, box in boxes.items()}}
    place = _step(run, step)
    saving = Saving(place, Thread(target=lambda: None))

    def work() -> None:
        draft, name = place / f".writing-{rank:05d}", place / f"rank-{rank:05d}"
        try:
            for left in (draft, name):
                shutil.rmtree(left, ignore_errors=True)
            write(draft, keyring, Checkpoint(facts, tensors))
            with writing(place):
                os.rename(draft, name)
                sync(place)
        except Exception as error:
            saving.error = error

    with writing(run):
        private_directory(place.parent)
        private_directory(place)
    saving.thread = Thread(target=work)
    saving.thread.start()
    return saving


def commit(run: Path, keyring: Keyring, step: int, ranks: int, facts: Mapping[str, Any]) -> None:
    """Makes the shards of a step the checkpoint of the job, when all ranks have written; earlier ones go."""
    place = _step(run, step)
    abouts = [open_sealed(place / f"rank-{rank:05d}", keyring).about for rank in range(ranks)]
    draft = place / f".writing-{WHOLE}"
    shutil.rmtree(draft, ignore_errors=True)
    write(draft, keyring, Checkpoint({"facts": facts, "step": step, "ranks": abouts}, {}))
    with writing(place):
        shutil.rmtree(place / WHOLE, ignore_errors=True)
        os.rename(draft, place / WHOLE)
        sync(place)
    for other in place.parent.iterdir():
        if other.name < place.name:  # ranks may be writing a later one
            shutil.rmtree(other, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Found:
    """The last whole checkpoint: after how many steps, of what job, and its ranks' files."""

    step: int
    facts: Mapping[str, Any]
    ranks: tuple[Opened, ...]


def find(run: Path, keyring: Keyring) -> Found | None:
    """None when there is none yet; CheckpointError when a rank's files are missing, damaged or another's."""
    places = sorted((run / SHARDS).glob(f"step-*/{WHOLE}")) if (run / SHARDS).is_dir() else []
    if not places:
        return None
    whole = open_sealed(places[-1], keyring)
    opened = []
    for rank, about in enumerate(whole.facts["ranks"]):
        one = open_sealed(places[-1].parent / f"rank-{rank:05d}", keyring)
        if one.about != about or one.facts["step"] != whole.facts["step"]:
            raise CheckpointError(
                f"The files of rank {rank} in {places[-1].parent} are not those of this checkpoint.",
                "Bring back its own, or remove the directory: the run then starts from its beginning.",
            )
        opened.append(one)
    return Found(whole.facts["step"], whole.facts["facts"], tuple(opened))


def restore(found: Found, model: RankModel, optimiser: ShardedOptimiser) -> None:
    """Fills a rank's shards and buffers from those of any mesh."""
    wanted = {key: model.boxes[key.partition(".")[2]] for key in _keys(optimiser)}
    wanted |= {f"buffer.{name}": _all_of(buffer) for name, buffer in model.named_buffers()}
    tensors = gather(found, wanted)
    for name, buffer in model.named_buffers():
        buffer.copy_(tensors[f"buffer.{name}"])
    optimiser.restore(tensors, found.step)


def gather(found: Found, wanted: Mapping[str, Box]) -> dict[str, Tensor]:
    """These boxes of the whole tensors, put together from what the ranks wrote; no more is read."""
    made = {key: torch.empty(box.size) for key, box in wanted.items()}
    missing = {key: tensor.numel() for key, tensor in made.items()}
    for opened in found.ranks:
        boxes = {
            key: Box(tuple(whole), tuple(start), tuple(opened.table[key][1]))
            for key, (whole, start) in opened.facts["boxes"].items()
            if key in wanted
        }
        common = {key: both for key, box in boxes.items() if (both := _overlap(box, wanted[key])) is not None}
        tensors = opened.read(common)
        for key, both in common.items():
            part = made[key][_within(both, wanted[key])]
            part.copy_(tensors[key][_within(both, boxes[key])])
            missing[key] -= part.numel()
    if lost := [key for key, count in missing.items() if count]:
        raise CheckpointError(
            f"The checkpoint has not all of {lost[0]}: it is of another model.",
            "Give the run a directory of its own.",
        )
    return made


def whole_tensors(found: Found) -> dict[str, Tensor]:
    """The float32 tensors of the whole model by the names of `Transformer.state_dict`."""
    wanted = {}
    for opened in found.ranks:
        for key, (whole, _) in opened.facts["boxes"].items():
            if key.startswith(("master.", "buffer.")):
                wanted[key] = Box(tuple(whole), (0,) * len(whole), tuple(whole))
    return {key.partition(".")[2]: tensor for key, tensor in gather(found, wanted).items()}


def _keys(optimiser: ShardedOptimiser) -> list[str]:
    optimiser.started()
    return list(optimiser.state())


def _overlap(box: Box, other: Box) -> Box | None:
    """What two boxes of the same tensor share; None for nothing, or tensors of other sizes."""
    if box.whole != other.whole:
        return None
    start = tuple(map(max, box.start, other.start))
    ends = ((s + n, t + m) for s, n, t, m in zip(box.start, box.size, other.start, other.size, strict=True))
    size = tuple(min(pair) - s for pair, s in zip(ends, start, strict=True))
    return Box(box.whole, start, size) if all(n > 0 for n in size) else None


def _within(part: Box, of: Box) -> tuple[slice, ...]:
    return tuple(
        slice(s - first, s - first + n) for s, first, n in zip(part.start, of.start, part.size, strict=True)
    )


def _all_of(tensor: Tensor) -> Box:
    size = tuple(tensor.shape)
    return Box(size, (0,) * len(size), size)


def _step(run: Path, step: int) -> Path:
    return run / SHARDS / f"step-{step:08d}"
