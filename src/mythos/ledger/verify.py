"""The whole log, checked: every event, every signed head, every tile, and heads obtained elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from mythos.ledger.heads import ROWS
from mythos.ledger.log import Transactions, leaf_hash, ledger, tree_heads
from mythos.ledger.tiles import WIDTH, LedgerError, RightEdge, Tile, read_tile
from mythos.records.canonical import RecordError, parse_canonical
from mythos.records.clock import stamp
from mythos.records.note import SignedHead, Verifier, open_note, parse_head

MAX_FAULTS = 50  # told; a log replaced as a whole would tell one for each event


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind`: event, order, cut, changed, signature or tile; `seq` is the event it is about, if one."""

    kind: str
    message: str
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """`size` events; the first `signed` of them stand under a head by the log's key, the first `witnessed`
    under one that a known witness cosigned or that was given from elsewhere. No fault: the log is whole."""

    size: int
    heads: int
    signed: int
    witnessed: int
    faults: tuple[Fault, ...]


def verify(
    store: Transactions,
    tiles: Path,
    log: Verifier | None,
    witnesses: Sequence[Verifier] = (),
    given: Sequence[bytes] = (),
) -> Report:
    """Check everything; `given` are checkpoints obtained elsewhere, from a witness or an older copy.

    A log that was replaced as a whole, or cut together with its heads, agrees with itself: only a `given`
    head tells. Without `log` no signature can be checked, and `signed` is 0.
    """
    faults: list[Fault] = []
    with store.read() as conn:
        stored = conn.execute(sa.select(tree_heads).order_by(tree_heads.c.size)).all()
        heads: list[tuple[str, SignedHead]] = []
        for note, size in [(row.note, row.size) for row in stored] + [(note, None) for note in given]:
            name = f"the tree head of {size} events" if size is not None else "a tree head from elsewhere"
            try:
                head = _opened(note, log, witnesses)
                if size not in (None, head.head.size):
                    raise RecordError(f"it speaks of {head.head.size} events")
                heads.append((f"{name} ({head.head.size})" if size is None else name, head))
            except RecordError as error:
                faults.append(Fault("signature", f"{name}: {error.message}"))
        heads.sort(key=lambda item: item[1].head.size)
        tiled = stored[-1].size if stored else 0
        edge, waiting, good = RightEdge(), list(heads), 0

        def pass_heads() -> None:
            nonlocal good
            while waiting and waiting[0][1].head.size == edge.size:
                name, signed = waiting.pop(0)
                if signed.head.root == edge.root():
                    good = edge.size
                else:
                    faults.append(
                        Fault(
                            "changed",
                            f"{name}: the first {edge.size} events are not those that were signed; one from"
                            f" {good} on was edited, added or removed, or this is another log",
                        )
                    )

        pass_heads()
        time = 0.0
        rows = conn.execute(sa.select(ledger).order_by(ledger.c.seq)).yield_per(ROWS)
        try:
            for expected, row in enumerate(rows):
                if len(faults) < MAX_FAULTS:
                    faults += _event_faults(expected, row, time)
                time = row.time
                full = edge.add(row.leaf)
                if edge.size <= tiled:
                    faults += _tile_faults(tiles, full)
                pass_heads()
                if edge.size == tiled:
                    faults += _tile_faults(tiles, edge.partial())
        except (TypeError, ValueError):  # SQLite lets any column hold any type
            faults.append(
                Fault("event", f"row {edge.size} or one after it is not of an event's form", edge.size)
            )
    for name, signed in waiting:
        message = f"{name}: the log has only {edge.size} events; {signed.head.size - edge.size} were cut off"
        faults.append(Fault("cut", message))
    signed_up_to = [h.head.size for _, h in heads if log in h.signers]
    known = set(witnesses)
    seen = [h.head.size for _, h in heads if known & set(h.signers) or h.note in given]
    return Report(
        edge.size, len(stored), max(signed_up_to, default=0), max(seen, default=0), tuple(faults[:MAX_FAULTS])
    )


def _opened(note: bytes, log: Verifier | None, witnesses: Sequence[Verifier]) -> SignedHead:
    return SignedHead(parse_head(note), note, {}) if log is None else open_note(note, log, witnesses)


def _event_faults(expected: int, row: sa.Row, time: float) -> Iterator[Fault]:
    seq = row.seq
    if seq != expected:
        yield Fault("order", f"event {expected} is missing: the row in its place is {seq}", expected)
    if row.time < time:
        yield Fault("order", f"event {seq} of {stamp(row.time)} follows one of {stamp(time)}", seq)
    if leaf_hash(row.salt, row.event) != row.leaf:
        yield Fault("event", f"event {seq} was edited: its leaf is not the hash of its salt and text", seq)
    try:
        event = parse_canonical(row.event)
        if not isinstance(event, dict) or (event.get("seq"), event.get("time")) != (seq, row.time):
            yield Fault("event", f"event {seq} names another number or time than its row", seq)
    except RecordError as error:
        yield Fault("event", f"event {seq}: {error.message}", seq)


def _tile_faults(directory: Path, expected: Iterator[Tile] | list[Tile]) -> Iterator[Fault]:
    for level, index, hashes in expected:
        try:
            found = read_tile(directory, level, index, len(hashes))
        except LedgerError as error:
            yield Fault("tile", error.message)
            continue
        wrong = next((i for i, (a, b) in enumerate(zip(hashes, found, strict=True)) if a != b), None)
        if wrong is not None:
            leaf = index * WIDTH + wrong if level == 0 else None
            what = f"hash {wrong} of tile {level}/{index} is not that of the table"
            yield Fault("tile", what, leaf)
