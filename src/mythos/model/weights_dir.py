"""Weights as they lie in the store: one directory, known by its root, written and read only here.

    <root>/key.json                   the data key of this directory, wrapped by the keyring
    <root>/manifest.json.enc          what the root is computed from: chunk hashes, sizes, digests
    <root>/config.json.enc            our ModelConfig and the form of the tensors, canonical JSON
    <root>/model.safetensors.enc      int8 matrices with float32 scales, float32 norms and routers
    <root>/tokenizer.json.enc         in the form of the `tokenizers` library
    <root>/chat_template.jinja.enc

Each .enc file is sealed part by part (`model/sealed.py`), tensors by the chunks of the root. Reading takes
every byte once, decrypts it into the memory that is then used and hashes that memory; the root is that of the
plain bytes. Every file has one length and no free byte. Nothing is unpickled.
"""

import base64
import dataclasses
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import struct
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, count
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from torch import Tensor

from mythos.model.errors import (
    FileMissing,
    FileNotListed,
    LinkNotAllowed,
    NameCollision,
    PlainWeights,
    WeightsChanged,
    WeightsError,
)
from mythos.model.quant import check_served
from mythos.model.sealed import KEY_BITS, Source, Torn, plain_size, seal
from mythos.records.canonical import RecordError, canonical, parse_canonical
from mythos.records.errors import MythosError
from mythos.records.keyring import Keyring
from mythos.records.root import (
    CHUNK,
    FileDigest,
    Manifest,
    TensorDigest,
    chunk_hashes,
    leaf_hash,
    manifest_json,
)
from mythos.records.root import root as root_of
from mythos.records.table import from_table
from mythos.spec.config import ModelConfig

TENSORS, MANIFEST = "model.safetensors", "manifest.json"
CONFIG, TOKENIZER, TEMPLATE = "config.json", "tokenizer.json", "chat_template.jinja"
SIDE_FILES = (CONFIG, TOKENIZER, TEMPLATE)
PLAIN = {*SIDE_FILES, TENSORS, MANIFEST}
KEY, SEALED = "key.json", ".enc"
LISTING = {KEY, *(name + SEALED for name in PLAIN)}

FORM = "int8-channel"  # q * scale, one scale per output channel
MAX_SIDE_FILE = 256 << 20
MAX_KEY_FILE = 256 << 10
THREADS = min(8, os.cpu_count() or 1)

DTYPES = {"I8": torch.int8, "F32": torch.float32, "BF16": torch.bfloat16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
CURE = "Build the tier again, which replaces what is damaged: mythos build TIER."


@dataclass(frozen=True, slots=True)
class Cut:
    """Of a tensor the rows from `start` to before `stop`, along its first dimension."""

    start: int
    stop: int


Item = tuple[int, int, memoryview, bytes]  # a part's index, the plain bytes before it, where to, its leaf


@dataclass(frozen=True, slots=True)
class WeightsFiles:
    """Weights found to have the root asked for, read whole or, by `read_part`, in part. `files` are the side
    files by name.
    """

    root: str
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    files: Mapping[str, bytes]
    manifest: Manifest


def write_weights(
    parent: Path,
    keyring: Keyring,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    tokenizer: bytes,
    template: str,
) -> str:
    """Writes `parent`/<root>, whole or not at all, and returns the root. Sound weights there are kept."""
    check_served(config, tensors)
    files = {CONFIG: _config_json(config), TOKENIZER: tokenizer, TEMPLATE: template.encode()}
    tensors = {name: tensor.detach().contiguous() for name, tensor in sorted(tensors.items())}
    manifest = Manifest(
        tensors={name: _digest(tensor) for name, tensor in tensors.items()},
        files={name: _file_digest(data) for name, data in files.items()},
    )
    root = root_of(manifest)
    if (parent / root).exists():
        try:
            read_weights(parent / root, keyring)
            return root
        except WeightsError:
            pass  # damaged, plain, or sealed with a key that is gone: replaced
    _write(parent, keyring, WeightsFiles(root, config, tensors, files, manifest))
    return root


def seal_in_place(directory: Path, keyring: Keyring) -> None:
    """Encrypts weights that an earlier version wrote in plain form, once they are found whole.

    A process that dies on the way leaves the plain or the sealed directory, and `remove_leftovers` puts it in
    its place. WeightsError when they are damaged.
    """
    if set(os.listdir(directory)) == PLAIN:
        _write(directory.parent, keyring, _read(directory, directory.name, None))


def _write(parent: Path, keyring: Keyring, weights: WeightsFiles) -> None:
    target = parent / weights.root
    data_key = AESGCM.generate_key(KEY_BITS)
    key, files = AESGCM(data_key), {**weights.files, MANIFEST: manifest_json(weights.manifest)}
    contents = {name: _parts(memoryview(data)) for name, data in files.items()}
    contents[TENSORS] = _parts(memoryview(_header(weights.manifest)))
    for tensor in weights.tensors.values():
        contents[TENSORS] += _parts(_bytes(tensor))
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    wrapped = keyring.wrap(data_key, _context(weights.root))
    temporary = parent / f".writing-{secrets.token_hex(8)}"
    temporary.mkdir(mode=0o700)
    try:
        with create(temporary / KEY) as out:
            out.write(_key_json(keyring.kek, wrapped))
        for name, parts in contents.items():
            with create(temporary / (name + SEALED)) as out:
                seal(out, key, weights.root, name, parts)
        sync(temporary)
        if target.exists():
            os.rename(target, parent / f".replaced-{weights.root}-{secrets.token_hex(8)}")
        os.rename(temporary, target)
        sync(parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "Free some disk space." if full else "See that the data directory is writable."
        raise WeightsError(f"The weights cannot be written to {parent} ({error.strerror}).", cure) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        remove_leftovers(parent, weights.root)


def remove_leftovers(parent: Path, root: str = "") -> None:
    """Removes what interrupted writes left in `parent`; puts back what one took away and did not replace.

    The caller holds the lock that all writers take. With `root`, only that root's place is seen to.
    """
    for path in parent.glob(f".replaced-{root}*"):
        if not (target := parent / path.name.split("-")[1]).exists():
            path.rename(target)
        shutil.rmtree(path, ignore_errors=True)
    for path in parent.glob(".writing-*") if not root else ():
        shutil.rmtree(path, ignore_errors=True)


def read_weights(directory: Path, keyring: Keyring, root: str | None = None) -> WeightsFiles:
    """The weights in `directory`, whose root must be `root` (by default the directory's name).

    WeightsError, naming the file and the cure, for a missing, unexpected or linked file, any changed bit,
    parts missing, added or out of place, another key, and weights that are whole but have another root;
    PlainWeights for those not encrypted; KeyringError when the keyring cannot be reached.
    """
    wanted = directory.name if root is None else root
    _check_listing(directory)
    return _read(directory, wanted, _data_key(directory / KEY, keyring, wanted))


def read_part(
    directory: Path, keyring: Keyring, root: str, part: Callable[[ModelConfig], Mapping[str, Cut | None]]
) -> WeightsFiles:
    """Those tensors that `part` names for the configuration found there, cut as it says, or whole (None).

    Only the chunks that cover them are read and decrypted, and each has the hash that leads to `root`.
    WeightsError as of `read_weights`, but what lies in other chunks is not looked at; also when the tensors
    are not those of the configuration.
    """
    _check_listing(directory)
    return _read(directory, root, _data_key(directory / KEY, keyring, root), part)


def _read(
    directory: Path,
    root: str,
    key: AESGCM | None,
    part: Callable[[ModelConfig], Mapping[str, Cut | None]] | None = None,
) -> WeightsFiles:
    stored = _read_file(directory, MANIFEST, root, key)
    manifest = _parse_manifest(stored)
    if manifest is None or manifest_json(manifest) != stored or root_of(manifest) != root:
        raise WeightsChanged(
            f"{_place(directory, MANIFEST, key)} was changed, or the weights have another root than {root}.",
            CURE,
        )
    files = {name: _read_file(directory, name, root, key) for name in SIDE_FILES}
    for name, data in files.items():
        if _file_digest(data) != manifest.files[name]:
            raise _changed(_place(directory, name, key))
    config = _parse_config(_place(directory, CONFIG, key), files[CONFIG])
    cuts: Mapping[str, Cut | None] = dict.fromkeys(manifest.tensors)
    if part is not None:
        check_served(config, {name: _on_meta(digest) for name, digest in manifest.tensors.items()})
        cuts = part(config)
    tensors = _read_tensors(directory, manifest, root, key, cuts)
    return WeightsFiles(root, config, tensors, files, manifest)


def _place(directory: Path, name: str, key: AESGCM | None) -> Path:
    return directory / (name + SEALED if key else name)


def _changed(path: Path) -> WeightsChanged:
    return WeightsChanged(f"{path} was changed: it is not what was written there.", CURE)


def _context(root: str) -> str:
    return f"mythos-weights-v1:{root}"


def _key_json(kek: str, wrapped: bytes) -> bytes:
    return canonical({"version": 1, "kek": kek, "wrapped": base64.b64encode(wrapped).decode()})


def _data_key(path: Path, keyring: Keyring, root: str) -> AESGCM:
    with _open(path) as descriptor:
        data = os.read(descriptor, MAX_KEY_FILE)
    try:
        table = parse_canonical(data)
        kek, wrapped = table["kek"], base64.b64decode(table["wrapped"])
        sound = _key_json(kek, wrapped) == data
    except (RecordError, ValueError, KeyError, TypeError):
        raise _changed(path) from None
    if not sound:
        raise _changed(path)
    if kek != keyring.kek:
        raise WeightsError(
            f"{path} was wrapped by another key ({kek}) than the one here ({keyring.kek}).",
            "Restore weights.key or MYTHOS_KMS as they were, or build the tier again: mythos build TIER.",
        )
    data_key = keyring.unwrap(wrapped, _context(root))
    if data_key is None or len(data_key) * 8 != KEY_BITS:
        raise WeightsChanged(f"{path} was changed, or belongs to another root than {root}.", CURE)
    return AESGCM(data_key)


def _check_listing(directory: Path) -> None:
    try:
        if directory.is_symlink():
            raise LinkNotAllowed(f"{directory} is a link, no directory of weights.", CURE)
        if not directory.is_dir():
            raise WeightsError(
                f"{directory} is no directory of weights.", "Build the tier: mythos build TIER."
            )
        found = set(os.listdir(directory))
    except OSError as error:
        raise WeightsError(f"{directory} cannot be read ({error.strerror}).", CURE) from None
    seen: dict[str, str] = {}
    for name in sorted(found, key=lambda name: (name not in LISTING, name)):
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise NameCollision(
                f"{directory}: {other!r} and {name!r} are one name to some file systems.", f"Remove {name!r}."
            )
    if found == PLAIN:
        raise PlainWeights(
            f"{directory} is not encrypted: an earlier version wrote it.",
            "mythos build TIER encrypts it where it lies.",
        )
    if missing := sorted(LISTING - found):
        raise FileMissing(f"{directory / missing[0]} is missing.", CURE)
    if extra := sorted(found - LISTING):
        raise FileNotListed(f"{directory / extra[0]} does not belong there.", "Remove it.")


@contextmanager
def _open(path: Path) -> Iterator[int]:
    """A descriptor of a regular file that has no other name and no holes; never follows a link or waits."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LinkNotAllowed(f"{path} is a link.", CURE) from None
        raise WeightsError(f"{path} cannot be read ({error.strerror}).", CURE) from None
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise WeightsError(f"{path} is not a regular file.", CURE)
        if info.st_nlink > 1:
            raise LinkNotAllowed(f"{path} is a hard link: the file has other names.", CURE)
        if info.st_size and os.lseek(descriptor, 0, os.SEEK_HOLE) < info.st_size:
            raise LinkNotAllowed(f"{path} has holes: it is a sparse file.", CURE)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}).", CURE) from None
    except Torn:
        raise _changed(path) from None
    finally:
        os.close(descriptor)


def _parts(data: memoryview) -> list[memoryview]:
    return [data[start : start + CHUNK] for start in range(0, max(len(data), 1), CHUNK)]


def _read_file(directory: Path, name: str, root: str, key: AESGCM | None) -> bytes:
    path = _place(directory, name, key)
    with _open(path) as descriptor:
        size = os.fstat(descriptor).st_size
        size = plain_size(size, CHUNK) if key else size
        if not 0 <= size <= MAX_SIDE_FILE:
            raise WeightsChanged(f"{path} has a length that such a file cannot have.", CURE)
        data = bytearray(size)
        parts = _parts(memoryview(data))
        _take(descriptor, [len(p) for p in parts], _items(parts, [b""] * len(parts)), key, root, name)
    return bytes(data)


def _read_tensors(
    directory: Path, manifest: Manifest, root: str, key: AESGCM | None, cuts: Mapping[str, Cut | None]
) -> dict[str, Tensor]:
    header = _header(manifest)
    found = bytearray(len(header))
    parts = _parts(memoryview(found))
    at, sizes = len(header), [len(part) for part in parts]
    items, buffers = _items(parts, [b""] * len(parts)), {}
    for name, digest in sorted(manifest.tensors.items()):
        if name in cuts:
            first, last = _chunks(digest, cuts[name])
            size = min(last * CHUNK, _size(digest)) - first * CHUNK
            buffers[name] = torch.empty(size, dtype=torch.uint8)
            into, leaves = _parts(buffers[name].numpy().data), digest.chunks[first:last]
            items += _items(into, leaves, len(sizes) + first, at + first * CHUNK)
        sizes += [min(CHUNK, _size(digest) - start) for start in range(0, _size(digest), CHUNK)]
        at += _size(digest)
    with _open(path := _place(directory, TENSORS, key)) as descriptor:
        _take(descriptor, sizes, items, key, root, TENSORS)
    if found != header:
        raise _changed(path)
    return {name: _kept(manifest.tensors[name], cuts[name], buffer) for name, buffer in buffers.items()}


def _chunks(digest: TensorDigest, cut: Cut | None) -> tuple[int, int]:
    """The first chunk that a part of a tensor needs, and the one behind its last."""
    if cut is None:
        return 0, len(digest.chunks)
    row = _size(digest) // digest.shape[0]
    return cut.start * row // CHUNK, -(-cut.stop * row // CHUNK)


def _kept(digest: TensorDigest, cut: Cut | None, buffer: Tensor) -> Tensor:
    """The wanted part out of the chunks that were read for it, in memory of its own unless it is all."""
    if cut is None:
        return buffer.view(DTYPES[digest.dtype]).view(digest.shape)
    row, (first, _) = _size(digest) // digest.shape[0], _chunks(digest, cut)
    rows = buffer[cut.start * row - first * CHUNK : cut.stop * row - first * CHUNK].clone()
    return rows.view(DTYPES[digest.dtype]).view(-1, *digest.shape[1:])


def _items(parts: list[memoryview], leaves: Sequence[bytes], index: int = 0, before: int = 0) -> list[Item]:
    starts = accumulate((len(part) for part in parts), initial=before)
    return list(zip(count(index), starts, parts, leaves, strict=False))


def _take(
    descriptor: int, sizes: list[int], items: list[Item], key: AESGCM | None, root: str, name: str
) -> None:
    """Fills the `items` of a file of such parts on several threads (reading, AES and SHA-256 let go of the
    interpreter).

    Torn when the file has another length than its parts take, or a part another hash than its leaf, if it
    has one.
    """
    source = Source(descriptor, sizes, key, root, name)
    if not source.fits():
        raise Torn
    leaves = {index: leaf for index, _, _, leaf in items}
    todo = iter([(index, before, part) for index, before, part, _ in items])

    def work() -> None:
        for index, part in source.read(todo):  # the threads share `todo`: each takes the next one
            if leaves[index] and leaf_hash(part) != leaves[index]:
                raise Torn

    if len(items) == 1:
        work()
        return
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work) for _ in range(THREADS)]:
            done.result()


def _on_meta(digest: TensorDigest) -> Tensor:
    return torch.empty(digest.shape, dtype=DTYPES[digest.dtype], device="meta")


def _parse_manifest(data: bytes) -> Manifest | None:
    """The manifest, when it is one whose tensors have extents and as many chunks as those ask for."""
    try:
        table = json.loads(data)
        manifest = Manifest(
            tensors={
                name: TensorDigest(t["dtype"], tuple(t["shape"]), tuple(map(bytes.fromhex, t["chunks"])))
                for name, t in table["tensors"].items()
            },
            files={name: FileDigest(f["size"], f["sha256"]) for name, f in table["files"].items()},
        )
        sound = manifest.files.keys() == set(SIDE_FILES) and all(
            t.shape
            and all(type(extent) is int and extent > 0 for extent in t.shape)
            and len(t.chunks) == -(-_size(t) // CHUNK)
            for t in manifest.tensors.values()
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return manifest if sound else None


def _size(digest: TensorDigest) -> int:
    return DTYPES[digest.dtype].itemsize * prod(digest.shape)


def _header(manifest: Manifest) -> bytes:
    """The safetensors header (https://github.com/huggingface/safetensors): tensors by name, without gaps."""
    table, at = {}, 0
    for name, digest in sorted(manifest.tensors.items()):
        end = at + _size(digest)
        table[name] = {"dtype": digest.dtype, "shape": list(digest.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
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
def create(path: Path) -> Iterator[BinaryIO]:
    """A new file (0600), open for writing; on disk when the block ends."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())


def sync(path: Path) -> None:
    """Make a file, or a directory's entries, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
