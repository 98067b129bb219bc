"""The ledger: one row for every event, in order, without gaps, never changed.

Each row keeps a salted hash of its event, the leaf: SHA-256(0x00 || salt || canonical event), 0x00 being the
leaf prefix of RFC 6962. The salt (16 random bytes) keeps a published leaf from being guessed back into names.
`append` runs in the caller's transaction, so a state change and its leaf are written together or not at all.
"""

import hashlib
import secrets
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import sqlalchemy as sa

from mythos.records.canonical import RecordError, canonical
from mythos.records.clock import Clock, ClockError
from mythos.records.principal import Principal

MAX_TEXT = 200  # characters of one text in an audit event; the rest is cut
SALT_BYTES = 16

metadata = sa.MetaData()
ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),  # 0, 1, 2, ...
    sa.Column("time", sa.Float, nullable=False),  # POSIX seconds, never decreasing
    sa.Column("event", sa.LargeBinary, nullable=False),  # canonical JSON
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("leaf", sa.LargeBinary, nullable=False),
)
# Signed tree heads, as C2SP checkpoints with their cosignatures.
tree_heads = sa.Table(
    "tree_heads",
    metadata,
    sa.Column("size", sa.Integer, primary_key=True, autoincrement=False),  # leaves
    sa.Column("note", sa.LargeBinary, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
)
# Made once: building a statement takes longer than running it, and each answer runs these several times.
_LAST = sa.select(ledger.c.seq, ledger.c.time).order_by(ledger.c.seq.desc()).limit(1)
_INSERT = ledger.insert()
# The head that a transaction has made. It ends with the transaction, whether that is kept or rolled back.
_written: "weakref.WeakKeyDictionary[sa.RootTransaction, tuple[int, float]]" = weakref.WeakKeyDictionary()


class Transactions(Protocol):
    """What the ledger needs of a store."""

    def begin(self) -> AbstractContextManager[sa.Connection]: ...
    def read(self) -> AbstractContextManager[sa.Connection]: ...
    def glance(self) -> tuple[int, float]: ...


def append(conn: sa.Connection, clock: Clock, event: Mapping[str, Any]) -> int:
    """Write `event` (JSON values; `kind` says what it is) in the transaction of `conn`; returns its seq.

    `seq` and `time` are added here. ClockError when the system clock is behind the ledger; RecordError when
    the event has no canonical form.
    """
    seq, last = head(conn)
    return _write(conn, seq, clock.after(last), event)


def write_at(
    conn: sa.Connection, clock: Clock, event: Callable[[int, float], Mapping[str, Any]], restricting: bool
) -> int:
    """As `append`, for an event that is made from the seq and time it will have.

    `restricting`: as in `append_restriction`, a clock that is behind does not prevent it.
    """
    seq, last = head(conn)
    try:
        now, mark = clock.after(last), {}
    except ClockError:
        if not restricting:
            raise
        now, mark = last, {"clock": "behind"}
    return _write(conn, seq, now, {**event(seq, now), **mark})


def append_restriction(conn: sa.Connection, clock: Clock, event: Mapping[str, Any]) -> float:
    """As `append`, for an event that only takes something away: a wrong clock must not prevent it.

    Returns its time: the last ledger time when the system clock is behind that.
    """
    seq, now, marked = _despite_clock(conn, clock, event)
    _write(conn, seq, now, marked)
    return now


def audit(
    store: Transactions, clock: Clock, principal: Principal | None, action: str, outcome: str, **facts: Any
) -> int:
    """Write one event for one attempt, in its own transaction; `principal` None is an unknown caller.

    `facts` are JSON values: ids, names, counts; never a prompt, an answer or a secret. Long texts are cut.
    An attempt refused because the clock is behind is still written, at the last ledger time.
    """
    with store.begin() as conn:
        return audit_in(conn, clock, principal, action, outcome, facts)


def audit_in(
    conn: sa.Connection,
    clock: Clock,
    principal: Principal | None,
    action: str,
    outcome: str,
    facts: Mapping[str, Any],
) -> int:
    """As `audit`, in the transaction of `conn`."""
    event: dict[str, Any] = {
        "kind": "attempt",
        "principal": principal and principal.id,
        "org": principal and principal.org,
        "action": action,
        "outcome": outcome,
        "facts": _trimmed(facts),
    }
    seq, now, marked = _despite_clock(conn, clock, event)
    return _write(conn, seq, now, marked)


def now_in(conn: sa.Connection, clock: Clock) -> float:
    """The time as the transaction of `conn` sees it. ClockError."""
    return clock.after(head(conn)[1])


def last_time(store: Transactions) -> float:
    """POSIX seconds of the newest event; 0.0 when there is none."""
    return store.glance()[1]


def leaf_hash(salt: bytes, event: bytes) -> bytes:
    """The leaf of an event in canonical form."""
    return hashlib.sha256(b"\x00" + salt + event).digest()


def head(conn: sa.Connection) -> tuple[int, float]:
    """The next seq and the time of the last event."""
    # Who has written in a transaction knows both: nobody else can write before it ends.
    transaction = conn.get_transaction()
    if transaction is not None and transaction in _written:
        return _written[transaction]
    row = conn.execute(_LAST).first()
    return (0, 0.0) if row is None else (row.seq + 1, row.time)


def _despite_clock(
    conn: sa.Connection, clock: Clock, event: Mapping[str, Any]
) -> tuple[int, float, Mapping[str, Any]]:
    """seq, time and event as `_write` takes them; a clock that is behind is noted in the event."""
    seq, last = head(conn)
    try:
        return seq, clock.after(last), event
    except ClockError:
        return seq, last, {**event, "clock": "behind"}


def _write(conn: sa.Connection, seq: int, now: float, event: Mapping[str, Any]) -> int:
    if "seq" in event or "time" in event:
        raise RecordError("an event may not bring its own seq or time")
    data = canonical({**event, "seq": seq, "time": now})
    salt = secrets.token_bytes(SALT_BYTES)
    row = {"seq": seq, "time": now, "event": data, "salt": salt, "leaf": leaf_hash(salt, data)}
    conn.execute(_INSERT, row)
    if (transaction := conn.get_transaction()) is not None:
        _written[transaction] = (seq + 1, now)
    return seq


def _trimmed(value: Any) -> Any:
    """`value` with what hostile input can carry made harmless: long texts, lone surrogates, huge numbers."""
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()
        return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."
    if isinstance(value, Mapping):
        return {str(_trimmed(str(key))): _trimmed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_trimmed(item) for item in value]
    if isinstance(value, int | float) and not abs(value) <= 2**53:  # a client's 10**30; also NaN
        return _trimmed(str(value))
    return value
