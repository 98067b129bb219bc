"""The log: its heads, witnesses and proofs, and whoever edits the files under it."""

from dataclasses import replace
from typing import TYPE_CHECKING
from unittest import mock

import sqlalchemy.exc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate import bounds
from mythos.ledger import heads
from mythos.ledger.log import leaf_hash
from mythos.ledger.verify import verify as verify_log
from mythos.ledger.witness import WitnessRefusal, cosign, init_witness
from mythos.records.dsse import SignatureError
from mythos.records.note import LOG, Verifier, open_note
from mythos.records.tlog import inclusion_holds, request_text
from tests.attacks.said import Said

if TYPE_CHECKING:
    from tests.attacks.adapter import Adapter

ORIGIN = "town.example/log"


def op_tamper(adapter: "Adapter", sql: list[str]) -> None:
    """Edit the database file as somebody without keys would, triggers put aside."""
    import sqlite3

    adapter.town.store.close()
    with sqlite3.connect(adapter.town.home.database) as conn:
        triggers = conn.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (trigger,) in triggers:
            conn.execute(f"DROP TRIGGER {trigger}")
        conn.create_function("leaf", 2, lambda salt, event: leaf_hash(salt, event))
        for statement in sql:
            conn.execute(statement)
    adapter.restart()


def op_delete(adapter: "Adapter", table: str) -> Said:
    """Delete rows through the product's own connection, triggers in place."""
    try:
        with adapter.town.store.begin() as conn:
            conn.exec_driver_sql(f"DELETE FROM {table}")
    except sqlalchemy.exc.IntegrityError:
        return Said("REFUSED")
    return Said("OK")


def op_fault(adapter: "Adapter", point: str = "arithmetic") -> None:
    """A part that is needed to decide does not work: here the bounds are a little off."""
    assert point == "arithmetic"
    adapter.faults.enter_context(
        mock.patch.object(bounds, "upper", lambda k, n, c, real=bounds.upper: real(k, n, c) * 0.999)
    )


def op_head(adapter: "Adapter", name: str = "head", tiles: str = "tiles", signer: str = "ledger") -> Said:
    """Sign the log as it stands."""
    place = adapter.town.home.path / tiles
    try:
        got = heads.publish(adapter.town.store, adapter.town.clock, place, ORIGIN, adapter.secret(signer))
    except SignatureError:
        return Said("SIGNATURE_INVALID")
    adapter.kept[name] = got
    return Said("OK")


def op_witness(adapter: "Adapter", name: str = "cosigned", after: str = "", tiles: str = "tiles") -> Said:
    """A witness of another house is asked for its signature on the last head."""
    place = adapter.path / "witness"
    secret = adapter.kept.setdefault("witness", Ed25519PrivateKey.generate())
    if not place.exists():
        place.mkdir()
        init_witness(place, "witness.example/w1", secret, _log(adapter), adapter.town.clock)
    old = adapter.kept[after].head.size if after else 0
    asked = heads.consistency(adapter.town.store, adapter.town.home.path / tiles, _log(adapter), old)
    try:
        adapter.kept[name] = cosign(place, secret, request_text(asked), adapter.town.clock)
    except WitnessRefusal as refused:
        return Said("REFUSED", frozenset({str(refused.status)}))
    return Said("OK")


def op_check_log(adapter: "Adapter", given: str = "") -> Said:
    """Verify the whole log, against a head that somebody else kept if one is given."""
    notes = [adapter.kept[given].note] if given else []
    found = verify_log(adapter.town.store, adapter.town.home.path / "tiles", _log(adapter), (), notes)
    codes = frozenset(f"LOG_{fault.kind.upper()}" for fault in found.faults)
    return Said("LOG_DAMAGED", codes) if codes else Said("OK")


def op_check_proof(adapter: "Adapter", how: str = "", seq: int = 0, head: str = "head", of: str = "") -> Said:
    """Check that an event is in a head, with the proof changed: `inner`, `index`, `short`, `longer`,
    `event`; or against the head `of` which it was not made, or another log's."""
    signed, tiles = adapter.kept[head], adapter.town.home.path / "tiles"
    proof, entry = heads.prove(adapter.town.store, tiles, _log(adapter), seq, signed.head.size)
    about, index, path = adapter.kept[of].head if of else signed.head, proof.index, list(proof.path)
    if how == "inner":  # both children of a node, presented as an entry
        pair = [leaf_hash(entry[:16], entry[16:]), path.pop(0)]
        entry, index = b"".join(pair[:: -1 if index % 2 else 1]), index // 2
        about = replace(about, size=(about.size + 1) // 2)
    elif how == "index":
        index += 1
    elif how == "short":
        path.pop()
    elif how == "longer":
        path.append(bytes(32))
    elif how == "event":
        entry = entry.replace(b'"kind"', b'"kine"')
    elif how == "log":
        other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        try:
            open_note(proof.note, Verifier(ORIGIN, LOG, other))
        except SignatureError:
            return Said("SIGNATURE_INVALID")
    good = inclusion_holds(leaf_hash(entry[:16], entry[16:]), index, about, path)
    return Said("OK" if good else "PROOF_INVALID")


def _log(adapter: "Adapter") -> Verifier:
    return Verifier(ORIGIN, LOG, adapter.town.ledger.public_key().public_bytes_raw())
