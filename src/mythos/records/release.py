"""Votes, release decisions, and what restricts them."""

from dataclasses import dataclass
from enum import StrEnum

from mythos.records.canonical import RecordError
from mythos.records.decision import is_name, is_root


class Stage(StrEnum):
    INTERNAL = "internal"
    EARLY_ACCESS = "early_access"
    EXPANDED = "expanded"
    GENERAL = "general"


STAGES = tuple(Stage)  # in order
Choice = StrEnum("Choice", {"APPROVE": "approve", "VETO": "veto"})


@dataclass(frozen=True, slots=True)
class Subject:
    """What is voted on and released: nothing of it may differ between evidence, votes and decision.

    `audience` is a class of the pack with the digest of its rule: `name@16 hex digits`. `evidence` is the
    digest over the evidence that counts (`gate.evidence.evidence_root`), `policy` that of the pack.
    """

    family: str
    tier: str
    root: str
    profile: str
    stage: Stage
    audience: str
    purposes: tuple[str, ...]
    evidence: str
    policy: str

    def __post_init__(self) -> None:
        for field in ("family", "tier", "profile", "audience"):
            if not is_name(getattr(self, field)):
                raise RecordError(f"release: {field} is not a name")
        for field in ("root", "evidence", "policy"):
            if not is_root(getattr(self, field)):
                raise RecordError(f"release: {field} is not a digest")
        if self.stage is Stage.INTERNAL:
            raise RecordError("release: the internal stage is under handling decisions")
        if not self.purposes or list(self.purposes) != sorted(set(self.purposes)):
            raise RecordError("release: purposes must be named, each once, in order")
        if not all(is_name(purpose) for purpose in self.purposes):
            raise RecordError("release: a purpose is not a name")


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's word on one subject. A veto stands until its author withdraws it."""

    id: str
    deployment: str
    person: str
    choice: Choice
    subject: Subject
    note: str


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The author takes a vote back."""

    id: str
    deployment: str
    person: str
    vote: str


@dataclass(frozen=True, slots=True)
class Release:
    """A stage opens: the gate's decision, which names the votes and evidence it rests on."""

    id: str
    deployment: str
    subject: Subject
    strategy: str
    votes: tuple[str, ...]
    evidence: tuple[str, ...]  # ids
    verdicts: dict[str, str]  # domain: reason code
    requester: str
    rollback: bool
    expires_at: float


@dataclass(frozen=True, slots=True)
class Halt:
    """A release ends at once. One person may; nobody can undo it: a new release needs new votes."""

    id: str
    deployment: str
    release: str
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class Suspension:
    """Whoever matches `where` is refused: attribute = value, and an unknown attribute matches. Empty: all.

    `tier` "" means every tier.
    """

    id: str
    deployment: str
    tier: str
    where: dict[str, str]
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class Resumption:
    """Ends a suspension; needs the quorum of the policy in force."""

    id: str
    deployment: str
    suspension: str


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A server says that it acts upon a suspension, halt or revocation."""

    id: str
    deployment: str
    record: str
    server: str
    streams_ended: int


@dataclass(frozen=True, slots=True)
class PolicyActivation:
    """A pack takes effect. `pack` is its canonical JSON, whose SHA-256 is its name from now on."""

    id: str
    deployment: str
    pack: str


@dataclass(frozen=True, slots=True)
class Incident:
    """A safeguard was broken: this profile holds until it is measured again."""

    id: str
    deployment: str
    profile: str
    note: str
    by: str
