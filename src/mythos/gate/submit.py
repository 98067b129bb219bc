"""Records in, state out: every write of the gate and every reading of it goes through here."""

import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mythos.gate.apply import apply
from mythos.gate.state import Rejected, State
from mythos.records.canonical import RecordError
from mythos.records.clock import Clock
from mythos.records.errors import MythosError
from mythos.records.grant import Revocation
from mythos.records.incident import IncidentContained
from mythos.records.principal import Principal
from mythos.records.publication import Unpublication
from mythos.records.reasons import Code
from mythos.records.release import Acknowledgement, Halt, Incident, Suspension
from mythos.records.signed import KINDS, kind_of

if TYPE_CHECKING:
    import sqlalchemy as sa

    from mythos.store.db import Store

# These only take something away: a wrong clock must not prevent them.
RESTRICTING = frozenset(
    {Halt, Incident, Suspension, Revocation, Acknowledgement, Unpublication, IncidentContained}
)


@dataclass(frozen=True, slots=True)
class _Known:
    state: State
    looked: int  # seq of the ledger up to which lost records were looked for


_known: "weakref.WeakKeyDictionary[Store, _Known]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def load_state(store: "Store") -> State:
    """The state as it stands on disk. Do not change it: it is shared. Cheap when nothing is new."""
    with store.read() as conn:
        return state_in(store, conn)


def state_in(store: "Store", conn: "sa.Connection") -> State:
    """As `load_state`, in a transaction of the caller's.

    Records that do not fit the ledger, or that should never have been taken, make the whole a fault, which
    every decision refuses.
    """
    from mythos.ledger.log import head
    from mythos.store.record_log import damage, records_after

    with _lock:
        known = _known.get(store) or _Known(State(), -1)
        if known.state.fault:
            return known.state  # for good: whoever mends the database starts anew
        rows = records_after(conn, known.state.seq)
        last = head(conn)[0] - 1
        if not rows and last <= known.looked:
            return known.state
        fault = damage(conn, rows, known.state.seq, known.looked)
        state = known.state.clone() if rows or fault else known.state
        for row in rows if not fault else ():
            try:
                apply(state, row.seq, row.time, row.envelope)
            except MythosError as error:
                fault = f"the record at {row.seq} does not count: {error.message}"
                break
        if fault:
            state.fault = state.fault or fault
        _known[store] = _Known(state, last)
        return state


def submit(store: "Store", clock: Clock, principal: Principal, envelope: bytes) -> tuple[Any, int]:
    """Take a record: it and its ledger leaf are on disk when this returns. Returns it and its seq.

    Rejected, with its code, when it does not count; then only the attempt was written down. Whoever
    `principal` is, only the signatures decide; it is noted in the ledger.
    """
    from mythos.ledger.log import audit

    try:
        return _submit(store, clock, principal, envelope)
    except Rejected as refused:
        audit(store, clock, principal, "submit", "refused", code=str(refused.code))
        raise
    except RecordError as error:
        audit(store, clock, principal, "submit", "refused", code=str(Code.RECORD_MALFORMED))
        raise Rejected(Code.RECORD_MALFORMED, error.message) from None


def _submit(store: "Store", clock: Clock, principal: Principal, envelope: bytes) -> tuple[Any, int]:
    from mythos.store.record_log import write_record

    kind = kind_of(envelope)
    taken: list[Any] = []
    with store.begin() as conn:
        state = state_in(store, conn).clone()

        def decide(seq: int, now: float) -> str:
            record = apply(state, seq, now, envelope)
            taken.append(record)
            return getattr(record, "id", f"trust-root.{state.trust.version if state.trust else 0}")

        seq = write_record(conn, clock, principal, kind, envelope, decide, KINDS[kind] in RESTRICTING)
    return taken[0], seq
