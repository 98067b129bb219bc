"""Contents on disk: each a file under a random name, sealed in parts of one MiB with a key of its own.

A content is written under `vault/new` (`stage`), flushed and renamed into `vault/blobs` (`settle`), and only
then named by a row. What no row names is left over from a process that died, and is swept when nobody writes.
"""

import contextlib
import fcntl
import hmac
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mythos.model.sealed import Source, Torn, seal
from mythos.records.ids import new_id
from mythos.records.principal import Principal
from mythos.store.db import Store
from mythos.store.tables import asset_blobs
from mythos.vault.errors import VaultError
from mythos.vault.keys import KEY_BYTES, Vault, unwrap_key, vault_of, wrap_key

PART = 1 << 20  # bytes sealed at a time
LABEL = "vault"
FLUSHES = 16  # at the same time
HEAD = 64 << 10  # bytes of a content that are kept aside for its words and preview


@dataclass(frozen=True, slots=True)
class Staged:
    """A content on disk that no row names yet. `head` are its first bytes in plain, in memory only."""

    id: str
    tag: bytes
    size: int
    sealed_key: bytes
    head: bytes


@dataclass(frozen=True, slots=True)
class Blob:
    """A content that a row names. `sealed_key` None: destroyed."""

    id: str
    size: int
    sealed_key: bytes | None


@contextlib.contextmanager
def writing(store: Store) -> Iterator[None]:
    """While contents are staged and not yet named: keeps `sweep` of any process away."""
    with _lock_file(store) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def stage(store: Store, principal: Principal, chunks: Iterable[bytes]) -> Staged:
    """Write a content to a draft. Call inside `writing`, and `settle` it before the commit that names it.

    VaultError when the disk is full; then nothing of it is left.
    """
    vault = vault_of(store)
    blob, key = new_id("blob"), secrets.token_bytes(KEY_BYTES)
    digest = hmac.new(vault.tags, f"{principal.org}\0{principal.id}\0".encode(), "sha256")
    head, size = bytearray(), 0

    def parts() -> Iterator[bytearray]:
        nonlocal size
        for part in _cut(chunks):
            digest.update(part)
            size += len(part)
            if len(head) < HEAD:
                head.extend(part[: HEAD - len(head)])
            yield part

    draft = vault.place / "new" / blob
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            seal(out, AESGCM(key), LABEL, blob, parts())
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise _unwritten(vault, error) from None
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return Staged(blob, digest.digest(), size, wrap_key(vault, blob, key), bytes(head))


def settle(store: Store, staged: Sequence[Staged]) -> None:
    """Flush drafts and give them their final names: they survive a power cut. VaultError for a full disk."""
    vault = vault_of(store)
    try:
        with ThreadPoolExecutor(min(FLUSHES, len(staged) or 1)) as pool:  # the disk commits them together
            list(pool.map(lambda one: _flush(vault.place / "new" / one.id), staged))
        for one in staged:
            os.rename(vault.place / "new" / one.id, blob_path(vault, one.id))
        _flush(vault.place / "blobs")
    except OSError as error:
        raise _unwritten(vault, error) from None


def discard(store: Store, staged: Sequence[Staged]) -> None:
    """Remove those contents that got no row: an equal one was there, or they were refused."""
    vault, ids = vault_of(store), [one.id for one in staged]
    with store.read() as conn:
        named = set(conn.execute(sa.select(asset_blobs.c.id).where(asset_blobs.c.id.in_(ids))).scalars())
    for blob in set(ids) - named:
        drop(store, blob)
        (vault.place / "new" / blob).unlink(missing_ok=True)


def enter(conn: sa.Connection, principal: Principal, staged: Staged) -> str:
    """The id of the row that names this content: of an equal one of the same owner when there is one."""
    c = asset_blobs.c
    mine = (c.org == principal.org, c.owner == principal.id)
    same = sa.select(c.id).where(*mine, c.tag == staged.tag, c.size == staged.size, c.sealed_key.is_not(None))
    found = conn.execute(same.limit(1)).scalar()
    if found is not None:
        return found
    new = {"id": staged.id, "org": principal.org, "owner": principal.id, "tag": staged.tag}
    conn.execute(asset_blobs.insert().values(**new, size=staged.size, sealed_key=staged.sealed_key))
    return staged.id


def drop(store: Store, blob: str) -> None:
    """Remove the file of a content."""
    blob_path(vault_of(store), blob).unlink(missing_ok=True)


def read_range(store: Store, blob: Blob, start: int, end: int) -> Iterator[bytes]:
    """Bytes [start, end) in pieces of at most one MiB. VaultError when the content is not what was sealed."""
    vault = vault_of(store)
    damaged = VaultError("the content is damaged or gone", "Restore the data directory from a backup.")
    if blob.sealed_key is None:
        raise damaged
    key = AESGCM(unwrap_key(vault, blob.id, blob.sealed_key))
    if start >= end:
        return
    sizes = part_sizes(blob.size)
    try:
        descriptor = os.open(blob_path(vault, blob.id), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        raise damaged from None
    try:
        source = Source(descriptor, sizes, key, LABEL, blob.id)
        if not source.fits():
            raise damaged
        first, last = start // PART, (end - 1) // PART
        buffer = bytearray(min(PART, max(sizes)))
        wanted = ((i, i * PART, memoryview(buffer)[: sizes[i]]) for i in range(first, last + 1))
        for index, view in source.read(wanted):
            yield bytes(view[max(0, start - index * PART) : end - index * PART])
    except Torn:
        raise damaged from None
    finally:
        os.close(descriptor)


def sweep(store: Store) -> int:
    """Remove files that no row names, left by processes that died; how many. 0 while anybody writes."""
    vault = vault_of(store)
    with _lock_file(store) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        with store.read() as conn:
            live = sa.select(asset_blobs.c.id).where(asset_blobs.c.sealed_key.is_not(None))
            named = set(conn.execute(live).scalars())
        stale = [path for path in (vault.place / "blobs").iterdir() if path.name not in named]
        stale += (vault.place / "new").iterdir()
        for path in stale:
            path.unlink()
        return len(stale)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten(vault: Vault, error: OSError) -> VaultError:
    cure = f"Make space on the disk of {vault.place}."
    return VaultError(f"the content cannot be written: {error.strerror}", cure)


def blob_path(vault: Vault, blob: str) -> Path:
    return vault.place / "blobs" / blob


def part_sizes(size: int) -> list[int]:
    """Sizes of the parts of a content; an empty one has one empty part."""
    return [PART] * (size // PART) + ([size % PART] if size % PART or not size else [])


def _cut(chunks: Iterable[bytes]) -> Iterator[bytearray]:
    """The same bytes in parts of PART, the last shorter; one empty part when there are none."""
    part, none = bytearray(), True
    for chunk in chunks:
        rest = memoryview(chunk)
        while len(rest):
            taken = rest[: PART - len(part)]
            part += taken
            rest = rest[len(taken) :]
            if len(part) == PART:
                yield part
                part, none = bytearray(), False
    if part or none:
        yield part


@contextlib.contextmanager
def _lock_file(store: Store) -> Iterator[IO[str]]:
    with open(os.open(vault_of(store).place / "lock", os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        yield lock
