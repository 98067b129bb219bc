"""The texts that records of incidents and reports point to: assets of the kind `report`, kept ten years.

They are the operator's, private like every asset; each holds a salt, so that its digest in a record tells
nothing. Sharing one with an authority, or holding it, is done as with any asset.
"""

import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate.apply import apply
from mythos.gate.state import Rejected
from mythos.gate.submit import load_state
from mythos.ledger.log import audit
from mythos.records.asset import Kind
from mythos.records.canonical import canonical, parse_canonical
from mythos.records.clock import Clock
from mythos.records.incident import Document
from mythos.records.principal import Principal
from mythos.records.reasons import Code
from mythos.records.report import new_salt
from mythos.records.signed import seal
from mythos.store.db import Store
from mythos.vault.assets import put_asset, read_asset
from mythos.vault.rights import restricted_now

LARGEST = 32 << 20  # bytes
PENDING = Document("ast_" + "0" * 22, "0" * 64)  # in a record whose document is not filed yet


def file_document(
    store: Store, clock: Clock, principal: Principal, title: str, content: dict[str, Any]
) -> Document:
    """Keep `content` (JSON values) with a salt; where it lies, and its digest."""
    data = canonical({**content, "salt": new_salt()})
    made = put_asset(store, clock, principal, [data], title, Kind.REPORT, "document.json", "application/json")
    return Document(made.id, hashlib.sha256(data).hexdigest())


def read_document(store: Store, clock: Clock, principal: Principal, document: Document) -> dict[str, Any]:
    """What was filed. NoAsset for whoever may not read it; Rejected when it is not what the record names."""
    data = b"".join(read_asset(store, clock, principal, document.asset, 1).chunks)
    if hashlib.sha256(data).hexdigest() != document.digest:
        raise Rejected(Code.DOCUMENT_CHANGED, f"{document.asset} is not what the record names")
    return parse_canonical(data, LARGEST)


def rehearse(store: Store, clock: Clock, principal: Principal, record: Any, *keys: Ed25519PrivateKey) -> None:
    """Rejected, and the attempt logged, if `record` would not count now: before its documents are filed."""
    state = load_state(store).clone()
    try:
        with store.read() as conn:  # a wrong clock is refused where the record is taken, if it matters there
            apply(state, state.seq + 1, restricted_now(conn, clock), seal(record, *keys))
    except Rejected as refused:
        audit(store, clock, principal, "submit", "refused", code=str(refused.code))
        raise
