"""Receipts on disk: the signed envelope, and beside it the opening that only its caller is given."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from mythos.ledger.log import append
from mythos.records.canonical import canonical, parse
from mythos.records.clock import Clock
from mythos.records.principal import Principal
from mythos.store.db import Store
from mythos.store.tables import receipts

_INSERT = receipts.insert()


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """`logged` is its ledger event's seq. `opening` has salts and parameters, no prompt, no answer."""

    id: str
    logged: int
    envelope: bytes
    opening: Mapping[str, Any]


def store_receipt(
    conn: sa.Connection,
    clock: Clock,
    principal: Principal,
    receipt_id: str,
    envelope: bytes,
    opening: Mapping[str, Any],
) -> None:
    """Write a receipt and its ledger event, in the transaction of `conn`."""
    event = {"kind": "receipt", "id": receipt_id, "digest": hashlib.sha256(envelope).hexdigest()}
    row = {"id": receipt_id, "principal": principal.id, "org": principal.org}
    row |= {"envelope": envelope, "opening": canonical(opening), "logged": append(conn, clock, event)}
    conn.execute(_INSERT, row)


def find_receipt(store: Store, principal: Principal, receipt_id: str) -> StoredReceipt | None:
    """A receipt of `principal`'s own; None when there is none by this id, or it is somebody else's."""
    c = receipts.c
    own = (c.id == receipt_id, c.principal == principal.id, c.org == principal.org)
    with store.read() as conn:
        row = conn.execute(sa.select(c.id, c.logged, c.envelope, c.opening).where(*own)).first()
    return None if row is None else StoredReceipt(row.id, row.logged, row.envelope, parse(row.opening))
