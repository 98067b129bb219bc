"""A deployment with a release on record and a receipt under it, and both verifiers side by side."""

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate.bundle import receipt_document
from mythos.records.bundle import BROKEN, Bundle, Entry, salted, verify_document
from mythos.records.canonical import canonical, parse
from mythos.records.dsse import key_id
from mythos.records.ids import new_id
from mythos.records.note import TreeHead, sign_head
from mythos.records.principal import Principal
from mythos.records.receipt import Receipt
from mythos.records.release import Release
from mythos.records.root import audit_path, leaf_hash, tree_hash
from mythos.records.signed import seal, to_plain
from mythos.serve.receipts import token_bytes
from mythos.store.home import Home, write_private
from mythos.store.receipts import StoredReceipt, find_receipt, store_receipt
from tests.gate.town import Town

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "verify_receipt.py"
spec = importlib.util.spec_from_file_location("verify_receipt", SCRIPT)
assert spec is not None and spec.loader is not None
alone = importlib.util.module_from_spec(spec)
spec.loader.exec_module(alone)

CALLER = Principal("key_1", "key", "acme-def")
PROMPT, ANSWER = (5, 6, 7), "Paris."


def keep(home: Home, name: str, key: Ed25519PrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(home.keys_dir / f"{name}.key", pem, replace=True)


def new_town(path: Path, **more: Any) -> Town:
    """A town whose service keys lie where the server finds them."""
    town = Town(path, **more)
    for name, key in (("operator", town.gate), ("server", town.server), ("ledger", town.ledger)):
        keep(town.home, name, key)
    return town


def answered(
    town: Town, release: Release, key: Ed25519PrivateKey | None = None, **other: Any
) -> StoredReceipt:
    """A receipt on record for one answer under `release`, signed by the server or by `key`."""
    key = town.server if key is None else key
    salt, value = "ab" * 16, {"sampling": {"temperature": 0.0}, "messages": salted("ab" * 16, b"[]")}
    about = release.subject
    values: dict[str, Any] = {name: getattr(about, name) for name in ("family", "tier", "root", "profile")}
    values |= {
        "id": new_id("rcpt"),
        "deployment": town.state.deployment,
        "server": key_id(key.public_key()),
        "asked": about.tier,
        "mode": "exact",
        "backend": "eager-int8",
        "decision": release.id,
        "purpose": about.purposes[0],
        "prompt": salted(salt, token_bytes(PROMPT)),
        "answer": salted(salt, ANSWER.encode()),
        "parameters": salted(salt, canonical(value)),
        "finish": "end",
        "input_tokens": 3,
        "output_tokens": 2,
        "time": town.now,
        "leaf": 0,
    }
    receipt = Receipt(**{**values, **other})
    opening = {"prompt": salt, "answer": salt, "parameters": salt, "value": value}
    with town.store.begin() as conn:
        store_receipt(conn, town.clock, CALLER, receipt.id, seal(receipt, key), opening)
    found = find_receipt(town.store, CALLER, receipt.id)
    assert found is not None
    return found


def document(town: Town, receipt: StoredReceipt) -> bytes:
    return receipt_document(town.home, town.store, town.clock, receipt)


def both(data: bytes, trust: str = "") -> str:
    """The status that the library gives, which must be that of the stand-alone script."""
    report = verify_document(data, trust)
    status, why = judged(data, trust)
    assert status == report.status, (why, report.steps)
    return status


def judged(data: bytes, *given: Any) -> tuple[str, str]:
    """The status that the stand-alone script gives, and what it found broken."""
    try:
        return alone.judge(data, *given), ""
    except Exception as error:  # whatever it raises means broken
        return BROKEN, repr(error)


def changed(data: bytes, **values: Any) -> bytes:
    """A document with other fields in its bundle."""
    table = parse(data, 1 << 25)
    table["bundle"].update(values)
    return canonical(table)


@dataclasses.dataclass(slots=True)
class Forge:
    """The strongest forger there is: writes a log of their own and signs its head with `ledger`.

    `records` are (kind, id, envelope, time); what each says is up to whoever holds the keys of the town.
    """

    ledger: Ed25519PrivateKey
    records: list[tuple[str, str, bytes, float]]
    keys: str = ""

    @staticmethod
    def of(town: Town, data: bytes) -> "Forge":
        """What a true document or bundle holds, ready to be tampered with."""
        table = parse(data, 1 << 25)
        bundle = table.get("bundle", table)
        rows = []
        for entry in bundle["entries"]:
            event = json.loads(entry["event"])
            rows.append((entry["kind"], event.get("id", ""), entry["envelope"].encode(), event["time"]))
        return Forge(town.ledger, rows, bundle["keys"])

    def swap(self, kind: str, old: Any, new: Any, *keys: Ed25519PrivateKey) -> "Forge":
        """`old` exchanged for `new`, signed with `keys`."""
        at = next(i for i, row in enumerate(self.records) if row[:2] == (kind, old.id))
        self.records[at] = (kind, new.id, seal(new, *keys), self.records[at][3])
        return self

    def bundle(self) -> bytes:
        events, salt = [], "cd" * 16
        for seq, (kind, name, envelope, time) in enumerate(self.records):
            says: dict[str, Any] = {"kind": "record", "record": kind, "id": name, "seq": seq, "time": time}
            if kind == "receipt":
                says = {"kind": "receipt", "id": name, "seq": seq, "time": time}
            says["digest"] = hashlib.sha256(envelope).hexdigest()
            events.append(canonical(says))
        leaves = [leaf_hash(bytes.fromhex(salt) + event) for event in events]
        head = TreeHead("forged.example/log", len(leaves), tree_hash(leaves))
        entries = tuple(
            Entry(kind, seq, envelope.decode(), events[seq].decode(), salt, path_of(leaves, seq))
            for seq, (kind, _, envelope, _) in enumerate(self.records)
        )
        return canonical(to_plain(Bundle(1, sign_head(head, self.ledger).decode(), self.keys, entries)))


def path_of(leaves: list[bytes], seq: int) -> tuple[str, ...]:
    return tuple(step.hex() for step in audit_path(leaves, seq))
