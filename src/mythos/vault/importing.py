"""Taking in a folder: every file becomes a private asset, whatever it was before, and what was open is told.

Things are taken a hundred at a time; each hundred is on disk, with its entries, or not at all. What was taken
is remembered by a keyed tag (of a file: of path, size and time), so an import that was killed goes on where
it was.
"""

import functools
import hmac
import mimetypes
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import sqlalchemy as sa

from mythos.ledger.log import append
from mythos.records.asset import Kind
from mythos.records.clock import Clock
from mythos.records.principal import Principal
from mythos.store.db import Store
from mythos.store.tables import asset_imports
from mythos.vault.about import checked_retention
from mythos.vault.assets import enter_asset, require_served
from mythos.vault.blobs import PART, Staged, discard, settle, stage, sweep, writing
from mythos.vault.errors import VaultError
from mythos.vault.keys import vault_of

BATCH = 100
KINDS = {"image": Kind.IMAGE}  # by the first word of the media type; all else is a document
WEIGHTS = {".safetensors", ".gguf", ".bin", ".pt"}
LOGS = {".eval"}


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did. `open_files` others could read where they lay; all names are relative paths."""

    taken: int
    already: int
    bytes: int
    open_files: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]  # name, why


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to take in. `chunks` reads it from its beginning, and raises `Unreadable`."""

    name: str
    tag: bytes
    chunks: Callable[[], Iterator[bytes]]


class Unreadable(Exception):
    """What was to be taken in cannot be read; the text says why."""


def import_folder(
    store: Store,
    clock: Clock,
    principal: Principal,
    folder: Path,
    kind: Kind | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> ImportReport:
    """Take every regular file below `folder`, its relative path being its title; links are not followed.

    `kind` None: by the file's name. The files themselves are left as they are. VaultError when the folder
    cannot be read, or the disk is full; run it again to go on.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise VaultError(f"{folder} is not a directory", "Name the folder to take in.")
    if folder == store.home.path or folder in store.home.path.parents or store.home.path in folder.parents:
        raise VaultError(f"{folder} is or holds the data directory", "Name another folder.")
    require_served(store, clock, principal, "asset.import")
    sweep(store)
    skipped: list[tuple[str, str]] = []
    opened, taken, already, size = [], 0, 0, 0
    reachable = _others_reach(folder)
    known = taken_before(store)
    batch: list[Item] = []
    for path, info in _files(folder, skipped):
        name = str(path.relative_to(folder))
        if reachable and info.st_mode & stat.S_IROTH and _others_reach(path.parent, folder):
            opened.append(name)
        tag = keyed_tag(store, str(folder), name, str(info.st_size), str(info.st_mtime_ns))
        if tag in known:
            already += 1
            continue
        batch.append(Item(name, tag, functools.partial(_chunks, path)))
        if len(batch) == BATCH:
            count, more = take(store, clock, principal, batch, kind, skipped)
            taken, size, batch = taken + count, size + more, []
            progress(taken)
    count, more = take(store, clock, principal, batch, kind, skipped)
    taken, size = taken + count, size + more
    imported(store, clock, principal, taken, already, len(opened), len(skipped))
    return ImportReport(taken, already, size, tuple(opened), tuple(skipped))


def taken_before(store: Store) -> set[bytes]:
    """The tags of all that any import has taken."""
    with store.read() as conn:
        return set(conn.execute(sa.select(asset_imports.c.tag)).scalars())


def take(
    store: Store,
    clock: Clock,
    principal: Principal,
    batch: list[Item],
    kind: Kind | None,
    skipped: list[tuple[str, str]],
) -> tuple[int, int]:
    """Contents first, flushed; then one transaction with all their rows and leaves. Items and bytes taken.

    What cannot be read is added to `skipped`, with the reason.
    """
    if not batch:
        return 0, 0
    with writing(store):
        staged: list[tuple[Item, Staged]] = []
        try:
            for item in batch:
                try:
                    staged.append((item, stage(store, principal, item.chunks())))
                except Unreadable as error:
                    skipped.append((item.name, str(error)))
            settle(store, [content for _, content in staged])
            with store.begin() as conn:
                for item, content in staged:
                    about = _about(item.name, kind)
                    asset = enter_asset(store, conn, clock, principal, content, *about)
                    conn.execute(asset_imports.insert().values(tag=item.tag, asset=asset.id))
        finally:
            discard(store, [content for _, content in staged])
    return len(staged), sum(content.size for _, content in staged)


def imported(
    store: Store, clock: Clock, principal: Principal, taken: int, already: int, opened: int, skipped: int
) -> None:
    """One entry in the log for an import that came to its end; it holds no names."""
    with store.begin() as conn:
        event = {"kind": "asset.import", "principal": principal.id, "org": principal.org}
        facts = {"taken": taken, "already": already, "open": opened, "skipped": skipped}
        append(conn, clock, {**event, **facts})


def keyed_tag(store: Store, *about: str) -> bytes:
    """By which a thing that was taken is known again; without the vault's key it tells nothing."""
    text = "\0".join(("import", *about))
    return hmac.digest(vault_of(store).tags, text.encode("utf-8", "surrogateescape"), "sha256")


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            while piece := file.read(PART):
                yield piece
    except OSError as error:
        raise Unreadable(error.strerror) from None


def _about(name: str, kind: Kind | None) -> tuple:
    """Title, kind, name, media type and retention of a thing by its path."""
    plain = "".join(c if c.isprintable() else "?" for c in name)
    title, last = plain[-300:].strip() or "?", plain.rpartition("/")[2][-255:].replace("\\", "_")
    media = mimetypes.guess_type(last)[0] or "application/octet-stream"
    if kind is None:
        end = PurePosixPath(name).suffix.lower()
        guessed = KINDS.get(media.partition("/")[0], Kind.DOCUMENT)
        kind = Kind.WEIGHTS if end in WEIGHTS else Kind.EVALUATION_LOG if end in LOGS else guessed
    return title, kind, last, media, checked_retention(kind, None)


def _files(folder: Path, skipped: list[tuple[str, str]]) -> Iterator[tuple[Path, os.stat_result]]:
    """Regular files below `folder`, in an order that is the same each time."""

    def failed(error: OSError) -> None:
        skipped.append((os.path.relpath(error.filename, folder), str(error.strerror)))

    for place, directories, names in os.walk(folder, onerror=failed):
        directories.sort()
        skipped += [
            (os.path.relpath(os.path.join(place, name), folder), "a link")
            for name in directories
            if os.path.islink(os.path.join(place, name))
        ]
        for name in sorted(names):
            path = Path(place) / name
            info = path.lstat()
            if stat.S_ISREG(info.st_mode):
                yield path, info
            else:
                why = "a link" if stat.S_ISLNK(info.st_mode) else "no regular file"
                skipped.append((os.path.relpath(path, folder), why))


def _others_reach(place: Path, below: Path | None = None) -> bool:
    """Whether every directory down to `place` (from `below` on) lets other users of the machine through."""
    for directory in (place, *place.parents):
        if directory == below:
            return True
        if not directory.stat().st_mode & stat.S_IXOTH:
            return False
    return True
