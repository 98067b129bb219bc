"""The state of the gate: what the signed records add up to, in the order of the ledger. Nothing else counts.

Every quantity here can be computed again from the records; none is believed from a column or a file.
"""

import dataclasses
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mythos.records.errors import MythosError
from mythos.records.evidence import Evidence, Plan
from mythos.records.grant import Grant, Organisation
from mythos.records.incident import Document
from mythos.records.policy import PolicyPack
from mythos.records.publication import Publication, PublicationRequest
from mythos.records.reasons import Code
from mythos.records.release import Incident, Release, Stage, Suspension, Vote
from mythos.records.report import IssuedReport
from mythos.records.trust import Role, TrustRoot


class Rejected(MythosError):
    """A record that does not count, and why (`code`)."""

    def __init__(self, code: Code, message: str, cure: str = "") -> None:
        super().__init__(f"{code}: {message}", cure)
        self.code = code


@dataclass(frozen=True, slots=True)
class Cast:
    """A vote on record. `role` is that of the key it was signed with, `key` its id."""

    vote: Vote
    role: Role
    key: str
    at: float
    withdrawn: bool


@dataclass(slots=True)
class State:
    """See `gate.apply` for how each part comes about. Times are those of the ledger, in POSIX seconds.

    `fault` says that the records on disk do not fit the ledger: then nothing of this counts.
    """

    seq: int = -1  # of the last record
    fault: str = ""
    trust: TrustRoot | None = None
    trust_digest: str = ""  # of the version in force
    deployment: str = ""
    keys: dict[str, Ed25519PublicKey] = field(default_factory=dict)  # in force, by id
    bound: dict[str, tuple[str, Role]] = field(default_factory=dict)  # every key ever, to holder and role
    orgs_of: dict[str, str] = field(default_factory=dict)  # every person ever, to organisation
    packs: dict[str, PolicyPack] = field(default_factory=dict)  # every pack ever in force, by digest
    policy: str = ""  # digest of the one in force
    plans: dict[str, Plan] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    signed_as: dict[str, Role] = field(default_factory=dict)  # plans, evidence: role of its key
    roots: dict[str, tuple[str, str]] = field(default_factory=dict)  # root: family and tier it is known as
    votes: dict[str, Cast] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)  # votes cast before a halt of what they are for
    releases: dict[str, Release] = field(default_factory=dict)
    fallen: dict[str, tuple[float, Code]] = field(default_factory=dict)  # releases that ended before time
    suspensions: dict[str, Suspension] = field(default_factory=dict)  # those in force
    incidents: dict[str, Incident] = field(default_factory=dict)  # broken safeguards
    organisations: dict[str, Organisation] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)
    granted: dict[str, tuple[str, ...]] = field(default_factory=dict)  # organisation: ids of its grants
    revoked: dict[str, float] = field(default_factory=dict)  # grants and organisations
    requests: dict[str, PublicationRequest] = field(default_factory=dict)
    ballots: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # request: `publications.Ballot`s
    publications: dict[str, Publication] = field(default_factory=dict)
    unpublished: dict[str, float] = field(default_factory=dict)  # requests that were withdrawn
    cases: dict[str, Any] = field(default_factory=dict)  # incidents: `incidents.Case`s
    reports: dict[str, IssuedReport] = field(default_factory=dict)
    filed: dict[str, Document] = field(default_factory=dict)  # report: its fields and salts
    laid_open: dict[str, str] = field(default_factory=dict)  # publication request: report it is of
    acknowledged: dict[str, tuple[str, ...]] = field(default_factory=dict)  # record: servers
    at: dict[str, float] = field(default_factory=dict)  # every record's id, to its time

    def clone(self) -> "State":
        """A copy that can be changed without the original being changed. Records are shared."""
        values: dict[str, Any] = {}
        for part in dataclasses.fields(self):
            value = getattr(self, part.name)
            values[part.name] = dict(value) if isinstance(value, dict) else value
        return State(**values)

    @property
    def pack(self) -> PolicyPack | None:
        return self.packs.get(self.policy)

    @property
    def drill(self) -> bool:
        return self.trust is not None and self.trust.drill


def known_attributes(state: State, org: str) -> Mapping[str, str]:
    """What is vetted of an organisation; nothing for an unknown one."""
    found = state.organisations.get(org)
    return {} if found is None else {**found.attributes, "org": org, "audience": found.audience}


def suspended(state: State, tier: str, attributes: Mapping[str, str]) -> Suspension | None:
    """The suspension that hits a caller with these attributes; one that is unknown or blank is a hit.

    Another case, form or a space make no other value: what restricts is read widely.
    """
    for found in state.suspensions.values():
        if _plain(found.tier) not in ("", _plain(tier)):
            continue
        known = {name: _plain(attributes.get(name, "")) for name in found.where}
        if all(known[name] in ("", _plain(value)) for name, value in found.where.items()):
            return found
    return None


def developers(state: State) -> frozenset[str]:
    """Organisations of whoever ever held another key than an external evaluator's, in lower case.

    Leaving makes nobody independent.
    """
    return frozenset(
        state.orgs_of[holder].casefold()
        for holder, role in state.bound.values()
        if holder in state.orgs_of and role is not Role.EXTERNAL
    )


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()


def later(stage: Stage, than: Stage) -> bool:
    order = tuple(Stage)
    return order.index(stage) > order.index(than)
