"""The other engines of `mythos bench`: which there are, where they are installed, and starting them."""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mythos.cli import bench_gguf as weights
from mythos.cli import bench_machine as machine
from mythos.cli.bench_protocol import NotInstalled, Worker, WorkerError
from mythos.cli.bench_rounds import Arm
from mythos.cli.output import note

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parents[1]  # or, for an installed package, a directory without bench/
OWN_VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "PYTHONPATH")


@dataclass(frozen=True, slots=True)
class Peer:
    """One arm: its worker is bench/ENGINE_worker.py, its weights are in `form` (None: the file as it is)."""

    name: str
    engine: str
    form: str | None = None


COMPILED = (Peer("llamacpp-q4_0", "llamacpp", "q4_0"), Peer("llamacpp-q8_0", "llamacpp", "q8_0"))
PEERS = (Peer("openvino", "openvino"), *COMPILED)
STAND_IN = Peer(
    "xllamacpp", "xllamacpp"
)  # llama.cpp built for AVX2, where it could not be built for the machine


def worker(name: str, arguments: Sequence[str], threads: int, packages: Path | None = None) -> Worker:
    """A process of this Python with `packages` first on its path, held to `threads` threads.

    What the user's environment says about threads is left out: it would hold for some engines only.
    """
    variables = {k: v for k, v in os.environ.items() if not k.startswith(OWN_VARIABLES)}
    counts = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    variables |= dict.fromkeys(counts, str(threads))
    path = [packages, PACKAGE.parent] if packages else [PACKAGE.parent]
    variables["PYTHONPATH"] = os.pathsep.join(map(str, path))
    return Worker(name, [sys.executable, *arguments], variables)


def peer_arms(
    stack: ExitStack, threads: int, model: dict[str, Any], skipped: dict[str, str], checkout: Path = CHECKOUT
) -> list[Arm]:
    """The other engines that are there, loaded; `skipped` then says of the rest why they are not here.

    Where llama.cpp could not be compiled, the package of it that is built for any machine takes its place.
    """
    compiled = isinstance(peer_packages(COMPILED[0], checkout), Path)
    arms: list[Arm] = []
    for peer in PEERS if compiled else [*PEERS, STAND_IN]:
        arm = start(stack, peer, threads, model, checkout)
        if isinstance(arm, Arm):
            arms.append(arm)
        else:
            skipped[peer.name] = arm
    return arms


def start(stack: ExitStack, peer: Peer, threads: int, model: dict[str, Any], checkout: Path) -> Arm | str:
    """The peer, loaded, or the reason why not."""
    packages = peer_packages(peer, checkout)
    if isinstance(packages, str):
        return packages
    note(f"loading {peer.name}")
    process = stack.enter_context(worker(peer.name, command(peer, checkout), threads, packages))
    try:
        return Arm(peer.name, process, process.ask("load", **in_form(peer, model, checkout)))
    except NotInstalled as error:
        return f"{error.message}; {error.cure}"
    except WorkerError as error:
        return error.message


def command(peer: Peer, checkout: Path = CHECKOUT) -> list[str]:
    return [str(checkout / "bench" / f"{peer.engine}_worker.py")]


def in_form(peer: Peer, model: dict[str, Any], checkout: Path = CHECKOUT) -> dict[str, Any]:
    """`model` with the file in the peer's form, made when it is not there, and its weight bytes."""
    if peer.form is None:
        return model
    file = weights.converted(Path(model["file"]), peer.form, checkout / ".cache" / "converted")
    return model | {"file": str(file), "file_weight_bytes": weights.weight_bytes(file)}


def peer_packages(peer: Peer, checkout: Path = CHECKOUT) -> Path | str:
    """Where the peer is installed for the present lock and machine, or why it is not."""
    if not (checkout / "bench" / "peers.lock").is_file():
        return "only a source checkout has the other engines' workers"
    return _compiled(checkout) if peer in COMPILED else _installed(checkout)


def _installed(checkout: Path) -> Path | str:
    lock, place = checkout / "bench" / "peers.lock", checkout / ".cache" / "peers"
    try:
        stamp = (place / "installed").read_text().strip()
    except OSError:
        return "not installed; make bench-peers"
    if stamp != hashlib.sha256(lock.read_bytes()).hexdigest():
        return "installed for an older bench/peers.lock; make bench-peers"
    return place


def _compiled(checkout: Path) -> Path | str:
    place = checkout / ".cache" / "llamacpp"
    try:
        stamp = json.loads((place / "compiled").read_text())
    except (OSError, ValueError):
        return "not compiled; make bench-peers, which needs clang"
    if stamp.get("lock") != lock_digest(checkout):
        return "compiled from an older bench/llamacpp.lock; make bench-peers"
    if stamp.get("processor") != processor_digest():
        return "compiled for another processor; make bench-peers"
    return place


def lock_digest(checkout: Path) -> str:
    return hashlib.sha256((checkout / "bench" / "llamacpp.lock").read_bytes()).hexdigest()


def processor_digest() -> str:
    """The same on processors with the same instruction sets."""
    return hashlib.sha256(" ".join(sorted(machine.instructions())).encode()).hexdigest()
