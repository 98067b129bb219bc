"""Verifying a report without asking anybody: its record, its place in the log, and what each field opens.

The document is what a page carries: fields with their salts (a withheld one only by name), and the report's
record with the trust roots before it, each with its place under one signed head of the ledger.
"""

import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mythos.records.bundle import (
    BROKEN,
    UNTRUSTED,
    VERIFIED,
    Chain,
    Entry,
    Step,
    logged,
    next_root,
    signed_head,
)
from mythos.records.canonical import RecordError, parse_canonical
from mythos.records.errors import MythosError
from mythos.records.note import parse_head
from mythos.records.report import Field, IssuedReport, Redaction, ReportKind, commitment
from mythos.records.signed import digest, from_plain, unseal
from mythos.records.trust import Role

FORMAT = 1
LARGEST = 32 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """A field as a version shows it. `field` is None for one that is withheld, `hidden` says why."""

    name: str
    field: Field | None
    hidden: Redaction | None
    commitment: str


@dataclass(frozen=True, slots=True)
class ReportCheck:
    """`status` as in `records.bundle`; `record`, `at` and `fields` only when all of it holds."""

    status: str
    steps: tuple[Step, ...]
    chain: Chain
    record: IssuedReport | None = None
    at: float = 0.0
    fields: tuple[Opened, ...] = ()

    @property
    def public(self) -> bool:
        return any(one.field is None for one in self.fields)


def verify_report(data: bytes, trust: str = "") -> ReportCheck:
    """All that a report's document says, against `trust` ("" for nobody). Never raises.

    `data`: its canonical JSON.
    """
    chain, steps, found = Chain(), [], _Found()
    try:
        for text in _verify(data, trust, chain, found):
            steps.append(Step(True, text))
    except MythosError as error:
        return ReportCheck(BROKEN, (*steps, Step(False, error.message)), chain)
    status = VERIFIED if trust else UNTRUSTED
    return ReportCheck(status, tuple(steps), chain, found.record, found.at, tuple(found.fields))


@dataclass(slots=True)
class _Found:
    record: IssuedReport | None = None
    at: float = 0.0
    fields: tuple[Opened, ...] = ()


def _verify(data: bytes, trust: str, chain: Chain, found: _Found) -> Iterator[str]:
    document = parse_canonical(data, LARGEST)
    names = {"format", "fields", "entries", "head"}
    _need(isinstance(document, dict) and set(document) == names, "no report: missing or unknown field")
    _need(document["format"] == FORMAT, f"a report of format {document['format']!r}, expected {FORMAT}")
    _need(isinstance(document["entries"], list) and isinstance(document["fields"], list), "no report")
    entries = [from_plain(Entry, one) for one in document["entries"]]
    ordered = all(a.seq < b.seq for a, b in zip(entries, entries[1:], strict=False))
    _need(ordered, "the records are not in the order of the ledger")
    note = str(document["head"]).encode()
    chain.head = parse_head(note)
    record: IssuedReport | None = None
    for entry in entries:
        event = logged(entry, chain.head)
        if entry.kind == "trust-root":
            root = next_root(chain.roots[-1] if chain.roots else None, entry.envelope.encode())
            chain.roots.append(root)
            chain.deployment = chain.deployment or digest(root)
            chain.keys = {key.id: key for key in root.keys}
            continue
        _need(entry.kind == "report" and record is None and bool(chain.roots), "not one report")
        record, signers = unseal(entry.envelope.encode(), IssuedReport, chain.roots[-1].public_keys())
        _need(event.get("id") == record.id, "its event names another report")
        _need(record.deployment == chain.deployment, "the report is of another deployment")
        roles = {chain.keys[one].role: chain.keys[one].holder for one in signers}
        gate, author = roles.pop(Role.GATE, ""), list(roles.values())
        _need(bool(gate) and author == [record.by], "not signed by the gate and by its author")
        outside = record.kind is not ReportKind.EXTERNAL or Role.EXTERNAL in roles
        _need(outside, "a review that no external evaluator signed")
        found.at = float(event["time"])
    if record is None:
        raise RecordError("there is no report in it")
    known = {digest(root) for root in chain.roots}
    _need(not trust or trust in known, "this is not the deployment that is trusted here")
    who = f"{'DRILL ' if chain.drill else ''}{chain.roots[-1].name} {chain.deployment[:16]}"
    yield f"trust root: {who}, version {chain.roots[-1].version}, each signed by its threshold"
    signed_head(note, chain)
    yield f"log: the report is event {entries[-1].seq} or before under the head of {chain.head.size} leaves"
    found.record, found.fields = record, tuple(_opened(document["fields"], record))
    hidden = sum(one.field is None for one in found.fields)
    yield f"fields: {len(found.fields) - hidden} open their commitments, {hidden} are withheld with a reason"


def _opened(shown: list[Any], record: IssuedReport) -> Iterator[Opened]:
    """Each field against its commitment; one that is missing without a reason on record breaks it all."""
    named = [one.get("name") if isinstance(one, dict) else None for one in shown]
    _need(named == [one.name for one in record.fields], "its fields are not those of the record")
    withheld = {one.field: one for one in record.redactions}
    for one, committed in zip(shown, record.fields, strict=True):
        name = committed.name
        if set(one) == {"name"}:
            _need(name in withheld, f"{name} is withheld and the record gives no reason")
            yield Opened(name, None, withheld[name], committed.commitment)
            continue
        salt = one.pop("salt", None)
        plain = isinstance(salt, str) and len(salt) == 32 and set(salt) <= set("0123456789abcdef")
        _need(plain, f"{name}: its salt is malformed")
        field = from_plain(Field, one)
        same = hmac.compare_digest(commitment(field, str(salt)), committed.commitment)
        _need(same, f"{name} is not what was signed")
        yield Opened(name, field, withheld.get(name), committed.commitment)


def _need(holds: bool, message: str) -> None:
    if not holds:
        raise RecordError(message)
