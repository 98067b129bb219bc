"""Starting ranks: what `torchrun` started, or processes of this machine."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mythos.train.parallel.mesh import TIMEOUT, Shape
from mythos.train.settings import TrainError

# What gloo and NCCL say when a peer does not answer.
LOST = (
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "imed out",
    "timeout",
    "remote process exited",
)


@contextmanager
def joined(shape: Shape, device: str, timeout: timedelta = TIMEOUT) -> Iterator[int]:
    """This process's rank in the job that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT name, or a file in
    MYTHOS_MESH_FILE. TrainError when the mesh needs another number of ranks, some do not come or one is lost.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world != shape.ranks:
        raise TrainError(
            f"The mesh {shape} needs {shape.ranks} ranks, and {world} were started.",
            f"Start torchrun with {shape.ranks} processes in all, or change the mesh.",
        )
    place = os.environ.get("MYTHOS_MESH_FILE")
    if place is None and "MASTER_ADDR" not in os.environ:  # one rank, started plainly
        place = tempfile.mktemp(prefix="mythos-mesh-")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            init_method=f"file://{place}" if place else "env://",
            rank=rank,
            world_size=world,
            timeout=timeout,
        )
    except (dist.DistError, RuntimeError) as error:
        raise TrainError(
            f"Of {world} ranks some did not come within {timeout.total_seconds():.0f} s ({error!s:.80}).",
            f"Start all {world}, or change the mesh.",
        ) from None
    try:
        yield rank
    except RuntimeError as error:  # torch has no kind of its own for a peer that is gone
        if not any(words in str(error) for words in LOST):
            raise
        raise TrainError(
            f"Rank {rank} lost another of {world} ranks ({error!s:.80}).",
            "Start the job again: it goes on from its last checkpoint.",
        ) from None
    finally:
        dist.destroy_process_group()


def launch(ranks: int, work: Callable[..., None], args: tuple[Any, ...], restarts: int = 0) -> int:
    """Runs `work(*args)` in so many processes of this machine; the number of restarts it took.

    When one ends badly all are ended, and started again up to `restarts` times; then it is a TrainError.
    `work` is a function of a module, and joins the job by `joined`.
    """
    attempt = 0
    while (failed := _once(ranks, work, args)) is not None:
        if attempt == restarts:
            raise TrainError(
                f"Rank {failed} of {ranks} ended badly.",
                "What it said stands above; the run goes on from its last checkpoint.",
            )
        attempt += 1
    return attempt


def _once(ranks: int, work: Callable[..., None], args: tuple[Any, ...]) -> int | None:
    """The first rank that ended badly, None when all ended well."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        processes = []
        for rank in range(ranks):
            env = {
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MYTHOS_MESH_FILE": str(Path(place) / "store"),
            }
            processes.append(context.Process(target=_begin, args=(env, work, args), daemon=True))
            processes[-1].start()
        try:
            while any(process.is_alive() for process in processes):
                failed = [r for r, p in enumerate(processes) if p.exitcode not in (None, 0)]
                if failed:
                    return failed[0]
                time.sleep(0.02)
        finally:
            for process in processes:
                process.kill()
                process.join()
        failed = [r for r, p in enumerate(processes) if p.exitcode != 0]
        return failed[0] if failed else None


def _begin(env: dict[str, str], work: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.update(env)
    torch.set_num_threads(1)
    work(*args)
