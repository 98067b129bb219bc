"""Signed records: every kind, its type, and the way into and out of an envelope."""

import dataclasses
import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mythos.records import dsse
from mythos.records.canonical import RecordError, canonical, parse, parse_canonical
from mythos.records.errors import MythosError
from mythos.records.evidence import Evidence, Plan
from mythos.records.grant import Grant, Organisation, Revocation
from mythos.records.incident import (
    IncidentClosed,
    IncidentContained,
    IncidentCounted,
    IncidentFinding,
    IncidentOpened,
    IncidentReported,
)
from mythos.records.publication import Publication, PublicationRequest, PublicationVote, Unpublication
from mythos.records.receipt import Receipt
from mythos.records.release import (
    Acknowledgement,
    Halt,
    Incident,
    PolicyActivation,
    Release,
    Resumption,
    Suspension,
    Vote,
    Withdrawal,
)
from mythos.records.report import IssuedReport, ReportFiled, ReportPublication
from mythos.records.table import from_table
from mythos.records.trust import TrustRoot

KINDS: dict[str, type] = {
    "trust-root": TrustRoot,
    "policy": PolicyActivation,
    "plan": Plan,
    "evidence": Evidence,
    "vote": Vote,
    "withdrawal": Withdrawal,
    "release": Release,
    "halt": Halt,
    "suspension": Suspension,
    "resumption": Resumption,
    "acknowledgement": Acknowledgement,
    "incident": Incident,
    "organisation": Organisation,
    "grant": Grant,
    "revocation": Revocation,
    "receipt": Receipt,
    "publication-request": PublicationRequest,
    "publication-vote": PublicationVote,
    "publication": Publication,
    "unpublication": Unpublication,
    "incident-opened": IncidentOpened,
    "incident-finding": IncidentFinding,
    "incident-contained": IncidentContained,
    "incident-counted": IncidentCounted,
    "incident-reported": IncidentReported,
    "incident-closed": IncidentClosed,
    "report": IssuedReport,
    "report-filed": ReportFiled,
    "report-publication": ReportPublication,
}
NAMES = {kind: name for name, kind in KINDS.items()}

T = TypeVar("T")


def payload_type(kind: str) -> str:
    return f"application/vnd.mythopoeia.{kind}.v1+json"


def payload(record: Any) -> bytes:
    """The canonical JSON of a record."""
    return canonical(to_plain(record))


def digest(record: Any) -> str:
    """SHA-256 of the canonical JSON of a record, hex."""
    return hashlib.sha256(payload(record)).hexdigest()


def seal(record: Any, *keys: Ed25519PrivateKey) -> bytes:
    """`record` in an envelope, signed with each of `keys`."""
    envelope = dsse.sign(payload_type(NAMES[type(record)]), payload(record), keys[0])
    for key in keys[1:]:
        envelope = dsse.add_signature(envelope, key)
    return envelope


def kind_of(envelope: bytes) -> str:
    """What an envelope claims to hold. RecordError for anything that is no record of ours."""
    outer = parse(envelope)
    named = outer.get("payloadType") if isinstance(outer, dict) else None
    for kind in KINDS:
        if named == payload_type(kind):
            return kind
    raise RecordError("not a record of ours")


def unseal(
    envelope: bytes, kind: type[T], trusted: Mapping[str, Ed25519PublicKey]
) -> tuple[T, frozenset[str]]:
    """The record in `envelope` and the ids of the keys that signed it, all of them in `trusted`.

    RecordError when it is malformed or of another kind, SignatureError when a signature does not hold.
    """
    data, signers = dsse.verify(envelope, payload_type(NAMES[kind]), trusted)
    return from_plain(kind, parse_canonical(data)), signers


def from_plain(kind: type[T], table: Any) -> T:
    """A record from its JSON table. RecordError names the field at fault."""
    try:
        if isinstance(table, dict) and set(table) != {f.name for f in dataclasses.fields(kind)}:  # type: ignore[arg-type]
            raise RecordError(f"{NAMES.get(kind, kind.__name__)}: missing or unknown field")
        return from_table(kind, table, NAMES.get(kind, kind.__name__))
    except RecordError:
        raise
    except (MythosError, TypeError, ValueError) as error:
        raise RecordError(f"malformed record: {error}") from None


def to_plain(value: Any) -> Any:
    """JSON values of a record: dataclasses become tables, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value
