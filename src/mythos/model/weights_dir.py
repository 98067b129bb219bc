"""Weights as they lie in the store: one directory, known by its root, written and read only here.

    <root>/config.json           our ModelConfig and the form of the tensors, canonical JSON
    <root>/model.safetensors     int8 matrices with float32 scales, float32 norms, bf16 experts
    <root>/tokenizer.json        in the form of the `tokenizers` library
    <root>/chat_template.jinja
    <root>/manifest.json         what the root is computed from: chunk hashes, sizes, digests

Reading takes every byte once, into the buffer that is then used, and hashes that buffer. Every file has one
canonical form, so that no byte on disk is free to change without the root refusing it. Nothing is unpickled.
"""

import dataclasses
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mythos.model.errors import WeightsError
from mythos.model.quant import check_served
from mythos.records.canonical import canonical
from mythos.records.errors import MythosError
from mythos.records.root import (
    FileDigest,
    Manifest,
    TensorDigest,
    chunk_hashes,
    manifest_json,
)
from mythos.records.root import root as root_of
from mythos.records.table import from_table
from mythos.spec.config import ModelConfig

TENSORS, MANIFEST = "model.safetensors", "manifest.json"
CONFIG, TOKENIZER, TEMPLATE = "config.json", "tokenizer.json", "chat_template.jinja"
SIDE_FILES = (CONFIG, TOKENIZER, TEMPLATE)

FORM = "int8-channel"  # q * scale, one scale per output channel
MAX_HEADER = 64 << 20  # bytes of a safetensors header
MAX_SIDE_FILE = 256 << 20

DTYPES = {"I8": torch.int8, "F32": torch.float32, "BF16": torch.bfloat16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
CURE = "Build the tier again, which replaces what is damaged: mythos build TIER."


@dataclass(frozen=True, slots=True)
class WeightsFiles:
    """Weights read whole and found to have the root asked for. `files` are the side files by name."""

    root: str
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    files: Mapping[str, bytes]
    manifest: Manifest


def write_weights(
    parent: Path, config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: bytes, template: str
) -> str:
    """Writes `parent`/<root>, whole or not at all, and returns the root. Sound weights there are kept."""
    check_served(config, tensors)
    files = {CONFIG: _config_json(config), TOKENIZER: tokenizer, TEMPLATE: template.encode()}
    tensors = {name: tensor.detach().contiguous() for name, tensor in sorted(tensors.items())}
    manifest = Manifest(
        tensors={name: _digest(tensor) for name, tensor in tensors.items()},
        files={name: _file_digest(data) for name, data in files.items()},
    )
    name = root_of(manifest)
    target = parent / name
    if target.exists():
        try:
            read_weights(target)
            return name
        except WeightsError:
            pass  # damaged: replaced below
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = parent / f".writing-{secrets.token_hex(8)}"
    temporary.mkdir(mode=0o700)
    try:
        for file, data in (files | {MANIFEST: manifest_json(manifest)}).items():
            with _create(temporary / file) as out:
                out.write(data)
        with _create(temporary / TENSORS) as out:
            out.write(_header(manifest))
            for tensor in tensors.values():
                out.write(_bytes(tensor))
        _sync_directory(temporary)
        damaged = parent / f".damaged-{secrets.token_hex(8)}"
        if target.exists():
            os.rename(target, damaged)
        os.rename(temporary, target)
        _sync_directory(parent)
        shutil.rmtree(damaged, ignore_errors=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "Free some disk space." if full else "See that the data directory is writable."
        raise WeightsError(f"The weights cannot be written to {parent} ({error.strerror}).", cure) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return name


def remove_leftovers(parent: Path) -> None:
    """Removes what interrupted writes left in `parent`. The caller holds the lock that all writers take."""
    for pattern in (".writing-*", ".damaged-*"):
        for path in parent.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def read_weights(directory: Path, root: str | None = None) -> WeightsFiles:
    """The weights in `directory`, whose root must be `root` (by default the directory's name).

    WeightsError, naming the file and the cure, for a missing, unexpected or linked file, any changed bit, a
    header that does not fit its file, and weights that are whole but have another root.
    """
    wanted = directory.name if root is None else root
    _check_listing(directory)
    files = {name: _read_side_file(directory / name) for name in SIDE_FILES}
    with _open(directory / TENSORS) as source:
        tensors = dict(_read_tensors(source, directory / TENSORS))
    manifest = Manifest(
        tensors={name: _digest(tensor) for name, tensor in tensors.items()},
        files={name: _file_digest(data) for name, data in files.items()},
    )
    _blame(directory, manifest, wanted)
    return WeightsFiles(wanted, _parse_config(directory / CONFIG, files[CONFIG]), tensors, files, manifest)


def _blame(directory: Path, manifest: Manifest, wanted: str) -> None:
    """Raises unless `manifest` has the root `wanted` and fits manifest.json, naming the changed file."""
    stored, computed = _read_side_file(directory / MANIFEST), manifest_json(manifest)
    if root_of(manifest) == wanted:
        if stored != computed:
            raise WeightsError(f"{directory / MANIFEST} was changed.", CURE)
        return
    try:
        said, found = json.loads(stored), json.loads(computed)
        names = [name for name in SIDE_FILES if said["files"][name] != found["files"][name]]
        if said["tensors"] != found["tensors"]:
            names.append(TENSORS)
    except (ValueError, KeyError, TypeError, RecursionError):
        names = []
    if names:
        raise WeightsError(f"{directory / names[0]} was changed: its hash is not the one recorded.", CURE)
    raise WeightsError(f"The weights in {directory} have another root than {wanted}.", CURE)


def _check_listing(directory: Path) -> None:
    try:
        if directory.is_symlink() or not directory.is_dir():
            raise WeightsError(
                f"{directory} is no directory of weights.", "Build the tier: mythos build TIER."
            )
        found = set(os.listdir(directory))
    except OSError as error:
        raise WeightsError(f"{directory} cannot be read ({error.strerror}).", CURE) from None
    expected = {*SIDE_FILES, TENSORS, MANIFEST}
    if missing := sorted(expected - found):
        raise WeightsError(f"{directory / missing[0]} is missing.", CURE)
    if extra := sorted(found - expected):
        raise WeightsError(f"{directory / extra[0]} does not belong there.", "Remove it.")


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file without following a link and without waiting on a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        reason = "is a link" if error.errno == errno.ELOOP else f"cannot be read ({error.strerror})"
        raise WeightsError(f"{path} {reason}.", CURE) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise WeightsError(f"{path} is not a regular file.", CURE)
    with os.fdopen(descriptor, "rb", buffering=0) as source:
        try:
            yield source  # type: ignore[misc]
        except OSError as error:
            raise WeightsError(f"{path} cannot be read ({error.strerror}).", CURE) from None


def _read_side_file(path: Path) -> bytes:
    with _open(path) as source:
        size = os.fstat(source.fileno()).st_size
        if size > MAX_SIDE_FILE:
            raise WeightsError(f"{path} has {size} bytes, more than such a file can have.", CURE)
        return bytes(_fill(source, bytearray(size), path))


def _fill(source: BinaryIO, buffer: Any, path: Path) -> Any:
    view, at = memoryview(buffer), 0
    while at < len(view):
        count = source.readinto(view[at:])  # type: ignore[attr-defined]
        if not count:
            raise WeightsError(f"{path} ends too early.", CURE)
        at += count
    return buffer


def _read_tensors(source: BinaryIO, path: Path) -> Iterator[tuple[str, Tensor]]:
    size = os.fstat(source.fileno()).st_size
    if size < 8:
        raise WeightsError(f"{path} is too short to be a safetensors file.", CURE)
    (length,) = struct.unpack("<Q", _fill(source, bytearray(8), path))
    if length > min(MAX_HEADER, size - 8):
        raise WeightsError(f"{path} states a header of {length} bytes, which cannot be.", CURE)
    text = bytes(_fill(source, bytearray(length), path))
    facts = _parse_header(text, size - 8 - length, path)
    for name, (dtype, shape, count) in facts.items():
        buffer = torch.empty(count, dtype=torch.uint8)
        _fill(source, buffer.numpy(), path)
        yield name, buffer.view(DTYPES[dtype]).view(shape)


def _parse_header(text: bytes, data_size: int, path: Path) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """{name: (dtype, shape, bytes)} of a header that is exactly what `_header` writes for those facts."""
    malformed = WeightsError(f"{path} has a header that is not as it was written.", CURE)
    facts: dict[str, tuple[str, tuple[int, ...], int]] = {}
    try:
        table = json.loads(text)
        at = 0
        for name, entry in table.items():
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            if not shape or any(type(extent) is not int or extent < 1 for extent in shape):
                raise malformed
            count = DTYPES[dtype].itemsize
            for extent in shape:
                count *= extent
                if count > data_size - at:
                    raise malformed
            facts[name] = dtype, shape, count
            at += count
        if at != data_size or _render_header(facts) != text:
            raise malformed
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise malformed from None
    return facts


def _render_header(facts: Mapping[str, tuple[str, tuple[int, ...], int]]) -> bytes:
    """The safetensors header (https://github.com/huggingface/safetensors): tensors by name, without gaps."""
    table, at = {}, 0
    for name, (dtype, shape, count) in sorted(facts.items()):
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + count]}
        at += count
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=True).encode()
    return text + b" " * (-len(text) % 8)


def _header(manifest: Manifest) -> bytes:
    facts = {}
    for name, tensor in manifest.tensors.items():
        count = DTYPES[tensor.dtype].itemsize
        for extent in tensor.shape:
            count *= extent
        facts[name] = tensor.dtype, tensor.shape, count
    text = _render_header(facts)
    return struct.pack("<Q", len(text)) + text


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.flatten().view(torch.uint8).numpy().data


def _digest(tensor: Tensor) -> TensorDigest:
    return TensorDigest(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), chunk_hashes(_bytes(tensor)))


def _file_digest(data: bytes) -> FileDigest:
    return FileDigest(len(data), hashlib.sha256(data).hexdigest())


def _config_json(config: ModelConfig) -> bytes:
    return canonical({"form": FORM, "model": dataclasses.asdict(config)})


def _parse_config(path: Path, data: bytes) -> ModelConfig:
    try:
        table = json.loads(data)
        if not isinstance(table, dict) or table.keys() != {"form", "model"} or table["form"] != FORM:
            raise WeightsError(f"{path} does not describe weights in the form {FORM}.", CURE)
        config = from_table(ModelConfig, table["model"], "model")
    except (ValueError, RecursionError):
        raise WeightsError(f"{path} is not JSON.", CURE) from None
    except WeightsError:
        raise
    except MythosError as error:
        raise WeightsError(f"{path}: {error.message}", CURE) from None
    return config


@contextmanager
def _create(path: Path) -> Iterator[BinaryIO]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
