"""Signed tree heads: publishing them, and proofs from them.

The table is the truth; tiles and the file `checkpoint` beside them are projections of it. A head is signed
only when the log extends the last one: there are never two roots of one size, nor a smaller head after a
larger one. What is read from a tile is checked against a signed root before it is used or handed out.
One process at a time writes tiles; several may run on one data directory.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mythos.ledger.log import Transactions, leaf_hash, ledger, tree_heads
from mythos.ledger.log import head as log_head
from mythos.ledger.tiles import LedgerError, RightEdge, Tiles, write_atomic, write_tile
from mythos.records.clock import Clock
from mythos.records.dsse import key_id
from mythos.records.note import LOG, SignedHead, TreeHead, Verifier, merge, open_note, sign_head
from mythos.records.tlog import (
    HashOf,
    InclusionProof,
    WitnessRequest,
    consistency_holds,
    consistency_path,
    inclusion_holds,
    inclusion_path,
)

ROWS = 4096  # fetched at a time


def origin_of(public: Ed25519PublicKey) -> str:
    """The name of a log that belongs to no named deployment, from its signing key."""
    return f"mythopoeia.local/{key_id(public)[:16]}"


def publish(
    store: Transactions, clock: Clock, tiles: Path, origin: str, key: Ed25519PrivateKey, rebuild: bool = False
) -> SignedHead:
    """Sign the log as it stands now and store the head; the last head itself when nothing was appended.

    `rebuild` makes every tile again from the table. LedgerError when the log does not extend the last head
    or a new event is not what its leaf says; nothing is signed then. SignatureError when the last head is by
    another key.
    """
    with _alone(tiles):
        return _publish(store, clock, tiles, origin, key, rebuild)


def publish_if_due(
    store: Transactions, clock: Clock, tiles: Path, origin: str, key: Ed25519PrivateKey, every: float
) -> SignedHead | None:
    """As `publish`, but only when there are new events and the last head is `every` seconds old, or missing.

    None when it is not due, or when somebody else is at it: never waits for another process.
    """
    with _alone(tiles, wait=False) as alone:
        if not alone:
            return None
        c = tree_heads.c
        with store.read() as conn:
            last = conn.execute(sa.select(c.size, c.time).order_by(c.size.desc()).limit(1)).first()
            signed, at = (last.size, last.time) if last else (0, float("-inf"))
            if log_head(conn)[0] <= signed or clock.now() < at + every:
                return None
        return _publish(store, clock, tiles, origin, key)


def _publish(
    store: Transactions, clock: Clock, tiles: Path, origin: str, key: Ed25519PrivateKey, rebuild: bool = False
) -> SignedHead:
    log = Verifier(origin, LOG, key.public_key().public_bytes_raw())
    with store.read() as conn:
        last = find_head(conn, log)
        edge = RightEdge()
        if last is not None:
            edge = _rebuilt(conn, tiles, last.head) if rebuild else _edge(conn, tiles, last.head)
        for leaf in _leaves(conn, edge.size, checked=True):
            for tile in edge.add(leaf):
                write_tile(tiles, tile)
    for tile in edge.partial():
        write_tile(tiles, tile)
    note = sign_head(TreeHead(origin, edge.size, edge.root()), key)
    with store.begin() as conn:
        newest = find_head(conn, log)
        if newest is None or newest.head.size < edge.size:
            newest = open_note(note, log)
            conn.execute(tree_heads.insert().values(size=edge.size, note=note, time=clock.now()))
        elif newest.head.size == edge.size and newest.head.root != edge.root():
            raise _changed(newest.head)
    write_atomic(tiles / "checkpoint", newest.note)
    return newest


def prove(
    store: Transactions, tiles: Path, log: Verifier, seq: int, size: int | None = None
) -> tuple[InclusionProof, bytes]:
    """The proof that event `seq` is in the head of `size` (default: the last), and the entry, salt and event.

    The proof itself tells nothing of the event; the entry opens its leaf. LedgerError when there is no such
    head, it does not reach `seq`, or the event is not the one that was signed.
    """
    with store.read() as conn:
        signed = _head_at(conn, log, size)
        c = ledger.c
        row = conn.execute(sa.select(c.salt, c.event, c.leaf).where(c.seq == seq)).first()
        if row is None or seq >= signed.head.size:
            raise LedgerError(
                f"the tree head of {signed.head.size} events has no event {seq}", "mythos ledger head"
            )
        path = _proof(
            conn,
            tiles,
            log,
            lambda hash_of: inclusion_path(hash_of, seq, signed.head.size),
            lambda path: inclusion_holds(leaf_hash(row.salt, row.event), seq, signed.head, path),
        )
    return InclusionProof(seq, path, signed.note), row.salt + row.event


def consistency(
    store: Transactions, tiles: Path, log: Verifier, old: int, new: int | None = None
) -> WitnessRequest:
    """The proof that the head of `new` (default: the last) extends that of `old`: what a witness asks for."""
    with store.read() as conn:
        later = _head_at(conn, log, new)
        if old == 0:
            return WitnessRequest(0, (), later.note)
        earlier = _head_at(conn, log, old)
        if old > later.head.size:
            raise LedgerError(f"a head of {later.head.size} events does not extend one of {old}")
        path = _proof(
            conn,
            tiles,
            log,
            lambda hash_of: consistency_path(hash_of, old, later.head.size),
            lambda path: consistency_holds(earlier.head, later.head, path),
        )
    return WitnessRequest(old, path, later.note)


def attach(
    store: Transactions, tiles: Path, log: Verifier, witnesses: Sequence[Verifier], note: bytes
) -> SignedHead:
    """Keep the cosignatures by `witnesses` that `note` carries, with the stored head of the same text.

    RecordError or SignatureError when the note is not in order, LedgerError when there is no such head.
    """
    given = open_note(note, log, witnesses)
    with _alone(tiles):
        with store.begin() as conn:
            stored = open_note(_head_at(conn, log, given.head.size).note, log, witnesses)
            merged = open_note(merge(stored, given), log, witnesses)
            where = tree_heads.c.size == given.head.size
            conn.execute(tree_heads.update().where(where).values(note=merged.note))
            newest = _head_at(conn, log, None)
        write_atomic(tiles / "checkpoint", newest.note)
    return merged


def last_cosigned(store: Transactions, log: Verifier, above: int = 0) -> int:
    """The size of the last head, of those above `above`, that others signed too; 0 when there is none."""
    with store.read() as conn:
        c = tree_heads.c
        wanted = sa.select(c.size, c.note).where(c.size > above).order_by(c.size.desc())
        cosigned = (
            size for size, note in conn.execute(wanted) if note.rpartition(b"\n\n")[2].count(b"\n") > 1
        )
        return next(cosigned, 0)


def find_head(conn: sa.Connection, log: Verifier, size: int | None = None) -> SignedHead | None:
    """The stored head of `size` (default: the largest), verified as of `log`."""
    wanted = sa.select(tree_heads.c.size, tree_heads.c.note).order_by(tree_heads.c.size.desc()).limit(1)
    row = conn.execute(wanted if size is None else wanted.where(tree_heads.c.size == size)).first()
    if row is None:
        return None
    signed = open_note(row.note, log)
    if signed.head.size != row.size:
        raise LedgerError(f"the tree head stored for {row.size} events speaks of {signed.head.size}")
    return signed


@contextlib.contextmanager
def _alone(tiles: Path, wait: bool = True) -> Iterator[bool]:
    """Keep others, of whichever process, from writing tiles meanwhile. False when not alone, without `wait`.

    A process that was killed holds no lock.
    """
    with open(os.open(tiles.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _head_at(conn: sa.Connection, log: Verifier, size: int | None) -> SignedHead:
    signed = find_head(conn, log, size)
    if signed is None:
        what = "no tree head" if size is None else f"no tree head of {size} events"
        raise LedgerError(f"this log has signed {what}", "mythos ledger head")
    return signed


def _proof(
    conn: sa.Connection,
    tiles: Path,
    log: Verifier,
    make: Callable[[HashOf], tuple[bytes, ...]],
    holds: Callable[[tuple[bytes, ...]], bool],
) -> tuple[bytes, ...]:
    """A proof from the tiles that holds; when they are damaged, from tiles made again."""
    newest = _head_at(conn, log, None).head
    try:
        path = make(Tiles(tiles, newest.size).hash_of)
        if holds(path):
            return path
    except LedgerError:
        pass
    with _alone(tiles):
        _rebuilt(conn, tiles, newest)
    path = make(Tiles(tiles, newest.size).hash_of)
    if not holds(path):
        raise LedgerError("the event or tree head is not what was signed", "mythos ledger verify")
    return path


def _edge(conn: sa.Connection, tiles: Path, head: TreeHead) -> RightEdge:
    """The right edge at `head`, from the tiles if they lead to its root."""
    try:
        edge = Tiles(tiles, head.size).edge()
        if edge.root() == head.root:
            return edge
    except LedgerError:
        pass
    return _rebuilt(conn, tiles, head)


def _rebuilt(conn: sa.Connection, tiles: Path, head: TreeHead) -> RightEdge:
    """Make the tiles up to `head` again; not one is written before the table has led to its root."""
    for write in (False, True):
        edge = RightEdge()
        for leaf in _leaves(conn, 0, head.size):
            for tile in edge.add(leaf):
                if write:
                    write_tile(tiles, tile)
        if edge.size < head.size or edge.root() != head.root:
            raise _changed(head)
    for tile in edge.partial():
        write_tile(tiles, tile)
    return edge


def _leaves(
    conn: sa.Connection, start: int, end: int | None = None, checked: bool = False
) -> Iterator[bytes]:
    """Leaf hashes from `start` on; `checked` against salt and event. LedgerError for a gap or false leaf."""
    c = ledger.c
    columns = (c.seq, c.leaf, c.salt, c.event) if checked else (c.seq, c.leaf)
    wanted = sa.select(*columns).where(c.seq >= start).order_by(c.seq)
    if end is not None:
        wanted = wanted.where(c.seq < end)
    for expected, row in enumerate(conn.execute(wanted).yield_per(ROWS), start):
        if row.seq != expected or checked and leaf_hash(row.salt, row.event) != row.leaf:
            raise LedgerError(
                f"event {expected} is missing or is not what its leaf says; nothing was signed",
                "mythos ledger verify",
            )
        yield row.leaf


def _changed(head: TreeHead) -> LedgerError:
    return LedgerError(
        f"the log is not the one whose first {head.size} events were signed; nothing was signed or written",
        "`mythos ledger verify` says what differs; restore the database from a backup.",
    )
