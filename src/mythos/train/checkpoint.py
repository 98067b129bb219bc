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
from collections.abc import Mapping
from dataclasses import dataclass
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
    try:
        recover(run)
        draft.mkdir(mode=0o700)
        with create(draft / "key.json") as out:
            out.write(json.dumps(wrapped).encode())
        for name, parts in contents.items():
            with create(draft / f"{name}.enc") as out:
                seal(out, AESGCM(key), about, name, parts or [memoryview(b"")])
        sync(draft)
        if (run / NAME).exists():
            os.rename(run / NAME, old)
        os.rename(draft, run / NAME)
        sync(run)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "Free some disk space; the run goes on from its last checkpoint."
        raise CheckpointError(
            f"The checkpoint of {run.name} cannot be written ({error.strerror}).",
            cure if full else f"See that {run} is writable.",
        ) from None
    finally:
        recover(run)


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
    place = run / NAME
    if not place.exists():
        return None
    damaged = CheckpointError(
        f"The checkpoint in {place} is damaged, or sealed with another key.",
        "Restore the keys, or remove the directory: the run then starts from its beginning.",
    )
    try:
        facts = json.loads((place / "key.json").read_bytes())
        about = facts["about"]
        key = keyring.unwrap(base64.b64decode(facts["wrapped"]), _context(about))
        if facts["kek"] != keyring.kek or key is None:
            raise damaged
        state = json.loads(_read(place / "state.json.enc", AESGCM(key), about, "state.json"))
        shapes = {name: (DTYPES[dtype], shape) for name, (dtype, shape) in state["tensors"].items()}
        tensors = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in shapes.items()}
        parts = [part for tensor in tensors.values() for part in _parts(_bytes(tensor))]
        _fill(place / "tensors.enc", AESGCM(key), about, "tensors", parts or [memoryview(bytearray())])
    except (Torn, ValueError, KeyError, TypeError, OSError, AttributeError):
        raise damaged from None
    return Checkpoint(state["facts"], tensors)


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
    _fill(path, key, about, name, _parts(memoryview(data)))
    return bytes(data)


def _fill(path: Path, key: AESGCM, about: str, name: str, parts: list[memoryview]) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        source = Source(descriptor, [len(part) for part in parts], key, about, name)
        if not source.fits():
            raise Torn
        before = 0
        items = []
        for index, part in enumerate(parts):
            items.append((index, before, part))
            before += len(part)
        for _ in source.read(items):
            pass
    finally:
        os.close(descriptor)
