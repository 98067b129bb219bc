"""An incident: what was reported, contained, counted, stated, learnt. Each act is a record of its own.

Texts (the outside report, findings, tables, statements, lessons) lie in the vault as assets of the kind
`report`: a record holds the asset's address and the digest of its bytes, which carry a salt of 128 bits.
`Incident` in `records.release` is narrower: a safeguard was broken, and its profile holds from then on.
"""

import math
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from mythos.records.asset import ID
from mythos.records.canonical import RecordError
from mythos.records.decision import is_name, is_root

MOST = 2_000  # entries of one list


class Nature(StrEnum):
    """What is established or reasonably suspected; each starts clocks (`gate.incidents.CLOCKS`)."""

    INFRASTRUCTURE = "infrastructure"  # a serious disruption of critical infrastructure
    CYBER_BREACH = "cyber_breach"  # a breach or an exfiltration; content that was readable is one
    DEATH = "death"
    OTHER_SERIOUS = "other_serious"
    CRITICAL_SAFETY = "critical_safety"
    IMMINENT_DANGER = "imminent_danger"  # to life


class Target(StrEnum):
    """What an incident can be about, and what containing it does."""

    ASSET = "asset"  # its shares are revoked and its publications withdrawn
    PUBLICATION = "publication"  # the request is withdrawn
    SHARE = "share"  # revoked
    KEY = "key"  # revoked
    GRANT = "grant"  # revoked
    ORGANISATION = "organisation"  # revoked
    RELEASE = "release"  # halted
    TIER = "tier"  # suspended for everybody
    PROFILE = "profile"  # entered as broken


class Finding(StrEnum):
    """What a person found out. What nobody found is said to be unknown."""

    NATURE = "nature"  # it is worse than was thought: another clock starts
    BEGAN = "began"
    ENDED = "ended"
    AFFECTED = "affected"
    HARM = "harm"
    CAUSE = "cause"
    MODEL = "model"
    MEASURES = "measures"


class Phase(StrEnum):
    INITIAL = "initial"
    INTERIM = "interim"
    FINAL = "final"


class Source(StrEnum):
    """An access log that was counted."""

    ASSETS = "assets"
    PUBLICATIONS = "publications"
    TIERS = "tiers"


@dataclass(frozen=True, slots=True)
class Named:
    what: Target
    id: str

    def __post_init__(self) -> None:
        if not is_name(self.id):
            raise RecordError("incident: what it names is not a name")


@dataclass(frozen=True, slots=True)
class Document:
    """An asset of the vault, and the SHA-256 of its bytes, hex."""

    asset: str
    digest: str

    def __post_init__(self) -> None:
        if not ID.fullmatch(self.asset) or not is_root(self.digest):
            raise RecordError("incident: a document is malformed")


@dataclass(frozen=True, slots=True)
class IncidentOpened:
    """`received_at`: when the report came in; `suspected_at`: from when on clocks run. POSIX seconds."""

    id: str
    deployment: str
    natures: tuple[Nature, ...]
    report: Document
    received_at: float
    suspected_at: float
    named: tuple[Named, ...]
    by: str

    def __post_init__(self) -> None:
        _checked(self)
        if not self.natures or len(set(self.natures)) != len(self.natures):
            raise RecordError("incident: its natures must be named, each once")
        if not 0 <= self.suspected_at < math.inf or not 0 <= self.received_at < math.inf:
            raise RecordError("incident: a time is malformed")


@dataclass(frozen=True, slots=True)
class IncidentFinding:
    """`nature` is set for a finding of that sort only."""

    id: str
    deployment: str
    incident: str
    finding: Finding
    nature: Nature | None
    text: Document
    by: str

    def __post_init__(self) -> None:
        _checked(self)
        if (self.finding is Finding.NATURE) is (self.nature is None):
            raise RecordError("incident: a finding names a nature exactly when it is about one")


@dataclass(frozen=True, slots=True)
class Done:
    """`record` is the id of the record or event that did it, "" where it was so already."""

    what: Target
    id: str
    record: str


ABSENT = "ABSENT"  # there is no such thing, says who ordered it


@dataclass(frozen=True, slots=True)
class Failed:
    """`why`: the code or class of the refusal, or ABSENT."""

    what: Target
    id: str
    why: str


@dataclass(frozen=True, slots=True)
class IncidentContained:
    """What was taken away in one command, and what could not be. Signed by the gate and by who ordered it."""

    id: str
    deployment: str
    incident: str
    done: tuple[Done, ...]
    failed: tuple[Failed, ...]
    by: str

    def __post_init__(self) -> None:
        _checked(self)


@dataclass(frozen=True, slots=True)
class Tally:
    """What one access log holds of what the incident names. `first`, `last`: POSIX seconds, 0 for no read.

    `callers` are principals; of the public area, tags of addresses.
    """

    source: Source
    items: int  # that were read at all
    reads: int
    callers: int
    organisations: int
    bytes: int
    refused: int
    first: float
    last: float

    def __post_init__(self) -> None:
        if min(self.items, self.reads, self.callers, self.organisations, self.bytes, self.refused) < 0:
            raise RecordError("incident: a count is negative")


@dataclass(frozen=True, slots=True)
class IncidentCounted:
    """Reads in [starts_at, ends_at), by the log up to event `log_size`. Signed by the gate and who asked.

    `unknown` says what the logs cannot tell.
    """

    id: str
    deployment: str
    incident: str
    starts_at: float
    ends_at: float
    log_size: int
    tallies: tuple[Tally, ...]
    unknown: tuple[str, ...]
    table: Document
    by: str

    def __post_init__(self) -> None:
        _checked(self)
        if not 0 <= self.starts_at < self.ends_at < math.inf:
            raise RecordError("incident: it is counted over no time")


@dataclass(frozen=True, slots=True)
class IncidentReported:
    """This statement was handed in under these duties (`R29`, `R34`, or `public`).

    `basis`: ids of all records of the incident when it was drafted. Signed by the gate and who handed it in.
    """

    id: str
    deployment: str
    incident: str
    duties: tuple[str, ...]
    phase: Phase
    statement: Document
    basis: tuple[str, ...]
    by: str

    def __post_init__(self) -> None:
        _checked(self)
        if not self.duties or len(set(self.duties)) != len(self.duties):
            raise RecordError("incident: a statement is handed in under a duty, each named once")


@dataclass(frozen=True, slots=True)
class IncidentClosed:
    """Signed by two persons whose role votes. `lessons`: how many rows the exposure audit gets from it."""

    id: str
    deployment: str
    incident: str
    lessons: int
    text: Document
    by: tuple[str, ...]

    def __post_init__(self) -> None:
        _checked(self)
        if not 0 <= self.lessons <= MOST:
            raise RecordError("incident: too many lessons")


@dataclass(frozen=True, slots=True)
class Lesson:
    """A row of the exposure audit: `path` of the listener `assets`, `public` or `tiers` answers nobody."""

    listener: str
    path: str

    def __post_init__(self) -> None:
        if self.listener not in ("assets", "public", "tiers"):
            raise RecordError("a lesson is about the listener assets, public or tiers")
        plain = self.path.isascii() and self.path.isprintable() and " " not in self.path
        if not self.path.startswith("/") or len(self.path) > 500 or not plain or "#" in self.path:
            raise RecordError("a lesson's path begins with / and is plain ASCII, percent-encoded")


def _checked(record: Any) -> None:
    for part in fields(record):
        value = getattr(record, part.name)
        if part.name in ("id", "incident", "by") and isinstance(value, str) and not is_name(value):
            raise RecordError(f"incident: {part.name} is not a name")
        if isinstance(value, tuple) and len(value) > MOST:
            raise RecordError(f"incident: {part.name} is too long")
