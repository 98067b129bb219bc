"""A report: fields, each behind a commitment of its own, so that a public version opens some of them.

A field's commitment is SHA-256(0x00 || salt || canonical JSON of [name, title, lines]), a line being [label,
text, citations] and a citation [record, kind, digest, persons]. The salt is 16 random bytes: a value that is
withheld cannot be guessed. The signed record lists all commitments, and what the public version withholds,
with ground and reason; the full and the public version carry the same record.
"""

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum

from mythos.records.canonical import RecordError, canonical
from mythos.records.decision import is_name, is_root
from mythos.records.incident import Document

SALT_BYTES = 16


class ReportKind(StrEnum):
    CAPABILITY = "capability"
    SAFEGUARDS = "safeguards"
    RISK = "risk"
    MODEL = "model"
    TRANSPARENCY = "transparency"
    DECISION = "decision"
    EXTERNAL = "external_review"


class Ground(StrEnum):
    """The grounds on which a public version may withhold a field (RSP v3.4 section 3.5)."""

    LAW = "law"
    PROPERTY = "intellectual_property"
    SAFETY = "safety"
    PRIVACY = "privacy"


@dataclass(frozen=True, slots=True)
class Cited:
    """A record that a line rests on: its id, the SHA-256 of its payload, and the persons who signed it."""

    record: str
    kind: str
    digest: str
    persons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One statement. Every figure in `text` was filled in from one of `cited`."""

    label: str
    text: str
    cited: tuple[Cited, ...]


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    name: str
    commitment: str


@dataclass(frozen=True, slots=True)
class Redaction:
    """A field that the public version withholds."""

    field: str
    ground: Ground
    reason: str

    def __post_init__(self) -> None:
        if not self.reason.strip() or len(self.reason) > 300 or not self.reason.isprintable():
            raise RecordError("a redaction says why, in one line of at most 300 characters")


@dataclass(frozen=True, slots=True)
class IssuedReport:
    """`about` is the id of a release or of another report, "" for none; `missing` are fields nobody filled.

    Signed by the gate, which filled in the figures, and by its author `by`.
    """

    id: str
    deployment: str
    kind: ReportKind
    family: str
    tier: str
    root: str
    profile: str
    about: str
    policy: str
    fields: tuple[Committed, ...]
    redactions: tuple[Redaction, ...]
    missing: tuple[str, ...]
    sources: tuple[str, ...]
    by: str

    def __post_init__(self) -> None:
        if not all(map(is_name, (self.id, self.family, self.tier, self.profile, self.by))):
            raise RecordError("report: a name is malformed")
        if not is_root(self.root) or self.policy and not is_root(self.policy):
            raise RecordError("report: a digest is malformed")
        names = [one.name for one in self.fields]
        if not names or len(set(names)) != len(names) or not all(map(is_name, names)):
            raise RecordError("report: its fields must be named, each once")
        if not all(is_root(one.commitment) for one in self.fields):
            raise RecordError("report: a commitment is malformed")
        if len({one.commitment for one in self.fields}) != len(names):
            raise RecordError("report: two fields have one commitment")
        hidden = [one.field for one in self.redactions]
        if len(set(hidden)) != len(hidden) or not set(hidden) <= set(names):
            raise RecordError("report: a redaction is about no field, or stands twice")


@dataclass(frozen=True, slots=True)
class ReportFiled:
    """Where the fields and salts of a report lie. A record of its own, so that no page names an asset."""

    id: str
    deployment: str
    report: str
    document: Document


@dataclass(frozen=True, slots=True)
class ReportPublication:
    """The copy beside a publication request is the public version of a report. Signed by the gate."""

    id: str
    deployment: str
    report: str
    request: str


def new_salt() -> str:
    return secrets.token_hex(SALT_BYTES)


def commitment(field: Field, salt: str) -> str:
    """What the signed record says of `field`. `salt`: 32 hex digits."""
    lines = [
        [line.label, line.text, [[one.record, one.kind, one.digest, one.persons] for one in line.cited]]
        for line in field.lines
    ]
    data = canonical([field.name, field.title, lines])
    return hashlib.sha256(b"\x00" + bytes.fromhex(salt) + data).hexdigest()


def sources_of(line: Line) -> frozenset[str]:
    """The persons behind a line, each once: two records of one person are one source."""
    return frozenset(person for one in line.cited for person in one.persons)
