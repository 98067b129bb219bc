"""Checkpoints of a training run: whole or not at all, sealed as weights are, and enough to go on bit for bit.

    <run>/checkpoint/key.json           the data key of this checkpoint, wrapped by the keyring
    <run>/checkpoint/state.json.enc     what is not a tensor, and the table of tensors
    <run>/checkpoint/tensors.enc        the tensors one behind the other

A new one is written beside the old one and takes its place by renaming. Nothing is unpickled.
"""

import base64
import errno
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from torch import Tensor

from mythos.model.sealed import KEY_BITS, Source, Torn, plain_size, seal
from mythos.model.weights_dir import create, sync
from mythos.records.keyring import Keyring
from mythos.train.settings import TrainError

NAME = "checkpoint"
PART = 4 << 20  # bytes sealed at a time
MAX_STATE = 64 << 20
DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float16, torch.int32)}


class CheckpointError(TrainError):
    """A checkpoint cannot be written or read."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`facts` is JSON; tensors have names of their own."""

    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save(run: Path, keyring: Keyring, checkpoint: Checkpoint) -> None:
    """Makes `checkpoint` the one of `run`, which stays as it was if that fails (CheckpointError)."""
    draft, old = run / f".writing-{NAME}", run / f".replaced-{NAME}"
    try:
        recover(run)
        write(draft, keyring, checkpoint)
        with writing(run):
            if (run / NAME).exists():
                os.rename(run / NAME, old)
            os.rename(draft, run / NAME)
            sync(run)
    finally:
        recover(run)


def write(place: Path, keyring: Keyring, checkpoint: Checkpoint) -> None:
    """Makes the directory `place` of a checkpoint, sealed with a key of its own (CheckpointError)."""
    tensors = dict(sorted(checkpoint.tensors.items()))
    table = {n: [str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in tensors.items()}
    state = json.dumps({"facts": checkpoint.facts, "tensors": table}, sort_keys=True).encode()
    key, about = AESGCM.generate_key(KEY_BITS), secrets.token_hex(16)
    wrapped = {"kek": keyring.kek, "about": about}
    wrapped["wrapped"] = base64.b64encode(keyring.wrap(key, _context(about))).decode()
    contents = {
        "state.json": _parts(memoryview(state)),
        "tensors": [part for t in tensors.values() for part in _parts(_bytes(t))],
    }
    with writing(place.parent):
        place.mkdir(mode=0o700)
        with create(place / "key.json") as out:
            out.write(json.dumps(wrapped).encode())
        for name, parts in contents.items():
            with create(place / f"{name}.enc") as out:
                seal(out, AESGCM(key), about, name, parts or [memoryview(b"")])
        sync(place)


@contextmanager
def writing(run: Path) -> Iterator[None]:
    """Turns what a file system refuses into a CheckpointError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "Free some disk space; the run goes on from its last checkpoint."
        raise CheckpointError(
            f"The checkpoint of {run.name} cannot be written ({error.strerror}).",
            cure if full else f"See that {run} is writable.",
        ) from None


def recover(run: Path) -> None:
    """Ends what a process that died in `save` left: the old checkpoint stays unless the new one is whole."""
    draft, old = run / f".writing-{NAME}", run / f".replaced-{NAME}"
    if old.exists() and not (run / NAME).exists():
        os.rename(old, run / NAME)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(draft, ignore_errors=True)


def load(run: Path, keyring: Keyring) -> Checkpoint | None:
    """The checkpoint of `run`, None when there is none yet; CheckpointError when it is damaged."""
    recover(run)
    if not (run / NAME).exists():
        return None
    opened = open_sealed(run / NAME, keyring)
    return Checkpoint(opened.facts, opened.read(opened.table))


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint whose tensors are not read yet. `table`: name -> (dtype, shape); `about` names it."""

    place: Path
    facts: Mapping[str, Any]
    table: Mapping[str, tuple[torch.dtype, list[int]]]
    about: str
    key: bytes

    def read(self, names: Collection[str]) -> dict[str, Tensor]:
        """Some of the tensors; nothing else is decrypted. CheckpointError when they are damaged."""
        found = {n: torch.empty(s, dtype=d) for n, (d, s) in self.table.items() if n in names}
        sizes, items, before = [], [], 0
        for name, (dtype, shape) in self.table.items():
            parts = _parts(_bytes(found[name])) if name in found else None
            size = dtype.itemsize * prod(shape)
            for place, start in enumerate(range(0, size, PART)):
                if parts is not None:
                    items.append((len(sizes), before, parts[place]))
                sizes.append(min(PART, size - start))
                before += sizes[-1]
        try:
            _fill(self.place / "tensors.enc", AESGCM(self.key), self.about, "tensors", sizes or [0], items)
        except (Torn, OSError):
            raise _damaged(self.place) from None
        return found


def open_sealed(place: Path, keyring: Keyring) -> Opened:
    """Opens what `write` made; CheckpointError when it is damaged."""
    try:
        facts = json.loads((place / "key.json").read_bytes())
        about = facts["about"]
        key = keyring.unwrap(base64.b64decode(facts["wrapped"]), _context(about))
        if facts["kek"] != keyring.kek or key is None:
            raise _damaged(place)
        state = json.loads(_read(place / "state.json.enc", AESGCM(key), about, "state.json"))
        table = {name: (DTYPES[dtype], shape) for name, (dtype, shape) in state["tensors"].items()}
        return Opened(place, state["facts"], table, about, key)
    except (Torn, ValueError, KeyError, TypeError, OSError, AttributeError):
        raise _damaged(place) from None


def _damaged(place: Path) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint in {place} is damaged, or sealed with another key.",
        "Restore the keys, or remove the directory: the run then starts from its beginning.",
    )


def _context(about: str) -> str:
    return f"mythos-checkpoint-v1:{about}"


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data


def _parts(data: memoryview) -> list[memoryview]:
    return [data[start : start + PART] for start in range(0, len(data), PART)]


def _read(path: Path, key: AESGCM, about: str, name: str) -> bytes:
    size = plain_size(path.stat().st_size, PART)
    if not 0 < size <= MAX_STATE:
        raise Torn
    data = bytearray(size)
    parts = _parts(memoryview(data))
    items = [(place, place * PART, part) for place, part in enumerate(parts)]
    _fill(path, key, about, name, [len(part) for part in parts], items)
    return bytes(data)


def _fill(
    path: Path, key: AESGCM, about: str, name: str, sizes: list[int], items: list[tuple[int, int, memoryview]]
) -> None:
    """Reads the parts that `items` names (index, plain bytes before it, where to) of a file of such parts."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        source = Source(descriptor, sizes, key, about, name)
        if not source.fits():
            raise Torn
        for _ in source.read(items):
            pass
    finally:
        os.close(descriptor)
