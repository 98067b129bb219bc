"""Signed records on disk: a row and its ledger leaf in one transaction, each record naming the one before."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from mythos.ledger.log import ledger, write_at
from mythos.records.clock import Clock
from mythos.records.principal import Principal
from mythos.store.tables import records

NONE = -1  # where there is no record before


@dataclass(frozen=True, slots=True)
class Row:
    """A record as it lies in the database. `time` is the ledger's, in POSIX seconds."""

    seq: int
    time: float
    kind: str
    envelope: bytes
    event: bytes


def write_record(
    conn: sa.Connection,
    clock: Clock,
    principal: Principal,
    kind: str,
    envelope: bytes,
    decide: Callable[[int, float], str],
    restricting: bool = False,
) -> int:
    """Log and keep `envelope` if `decide(seq, time)` does not raise; that returns the record's id.

    `restricting` records are taken though the clock is behind (at the last ledger time).
    """
    last = conn.execute(sa.select(sa.func.coalesce(sa.func.max(records.c.seq), NONE))).scalar_one()

    def event(seq: int, now: float) -> dict[str, object]:
        return {
            "kind": "record",
            "record": kind,
            "id": decide(seq, now),
            "digest": hashlib.sha256(envelope).hexdigest(),
            "after": last,
            "principal": principal.id,
        }

    seq = write_at(conn, clock, event, restricting)
    conn.execute(records.insert().values(seq=seq, kind=kind, envelope=envelope))
    return seq


def records_after(conn: sa.Connection, seq: int) -> list[Row]:
    """The records logged after `seq`, in order."""
    c = records.c
    wanted = sa.select(c.seq, ledger.c.time, c.kind, c.envelope, ledger.c.event)
    wanted = wanted.join(ledger, ledger.c.seq == c.seq).where(c.seq > seq).order_by(c.seq)
    return [Row(*row) for row in conn.execute(wanted)]


def damage(conn: sa.Connection, rows: list[Row], before: int, looked: int) -> str:
    """What does not fit between `rows` (all records after seq `before`) and the ledger, or "".

    A row that was changed, exchanged or taken away shows: events carry the digest of their record and the seq
    of the one before; and no event of a record may stand without its row (looked for after seq `looked`).
    """
    for row in rows:
        event = json.loads(row.event)
        if (event.get("kind"), event.get("record")) != ("record", row.kind):
            return f"the ledger holds no {row.kind} at {row.seq}"
        if event.get("digest") != hashlib.sha256(row.envelope).hexdigest():
            return f"the record at {row.seq} is not the one that was logged"
        if event.get("after") != before:
            return f"a record before {row.seq} is missing"
        before = row.seq
    tail = sa.select(ledger.c.seq).where(ledger.c.seq > max(before, looked))
    tail = tail.where(sa.func.instr(ledger.c.event, b'"kind":"record"') > 0).limit(1)
    lost = conn.execute(tail).scalar()
    return "" if lost is None else f"the record at {lost} is missing"
