"""The trust root: who is enrolled, with which keys, and how many of them change that.

As in TUF (https://theupdateframework.github.io/specification/): versioned, signed by a threshold; a new
version needs the threshold of the old persons and of the new ones. It is obtained out of band. The digest of
version 1 is the name of the deployment, which every other record carries: a record of one deployment, a DRILL
among them, says nothing in another.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mythos.records.canonical import RecordError
from mythos.records.decision import is_name, is_root


class Role(StrEnum):
    """What a key is for. A person's key has one of the first eight, a service's one of the others."""

    EVALUATOR = "evaluator"
    EXTERNAL = "external_evaluator"
    SAFETY = "safety"  # may veto
    SCALING = "scaling_officer"
    EXECUTIVE = "executive"
    BOARD = "board"
    RELEASE = "release_engineer"
    AUDITOR = "auditor"
    GATE = "gate"
    SERVER = "server"
    LEDGER = "ledger"
    WITNESS = "witness"


SERVICES = frozenset({Role.GATE, Role.SERVER, Role.LEDGER, Role.WITNESS})
VOTERS = frozenset({Role.SAFETY, Role.SCALING, Role.EXECUTIVE, Role.BOARD})


@dataclass(frozen=True, slots=True)
class Person:
    """One enrolled human. Software cannot see one human under two names."""

    id: str
    org: str


@dataclass(frozen=True, slots=True)
class Key:
    """A public Ed25519 key (64 hex digits). `holder` is a person's id, or a service's name."""

    public: str
    holder: str
    role: Role

    @property
    def id(self) -> str:
        return hashlib.sha256(bytes.fromhex(self.public)).hexdigest()


@dataclass(frozen=True, slots=True)
class TrustRoot:
    """`previous` is the digest of the version before, "" in the first. `threshold` counts voters."""

    version: int
    name: str
    drill: bool
    threshold: int
    persons: tuple[Person, ...]
    keys: tuple[Key, ...]
    previous: str

    def __post_init__(self) -> None:
        ids = [person.id for person in self.persons]
        if not is_name(self.name) or not all(is_name(x) for p in self.persons for x in (p.id, p.org)):
            raise RecordError("trust root: a name is malformed")
        if len(set(ids)) != len(ids):
            raise RecordError("trust root: a person is enrolled twice")
        if not all(is_root(key.public) and is_name(key.holder) for key in self.keys):
            raise RecordError("trust root: a key is malformed")
        if len({key.public for key in self.keys}) != len(self.keys):
            raise RecordError("trust root: one key binds to one holder and one role")
        for key in self.keys:
            if (key.holder in ids) is (key.role in SERVICES):
                raise RecordError(f"trust root: {key.holder} cannot hold a key of role {key.role}")
        holders = {key.holder for key in self.keys}
        if any(person not in holders for person in ids):
            raise RecordError("trust root: an enrolled person has no key")
        voters = {key.holder for key in self.keys if key.role in VOTERS}
        if not 1 <= self.threshold <= len(voters) or self.version < 1:
            raise RecordError("trust root: threshold or version out of range")
        if (self.version == 1) is (self.previous != "") or self.previous and not is_root(self.previous):
            raise RecordError("trust root: the first version has no previous one, every other has")

    def key(self, key_id: str) -> Key | None:
        return next((key for key in self.keys if key.id == key_id), None)

    def person(self, person: str) -> Person | None:
        return next((found for found in self.persons if found.id == person), None)

    def public_keys(self) -> dict[str, Ed25519PublicKey]:
        """Every key by its id."""
        return {key.id: Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public)) for key in self.keys}

    def signers(self, key_ids: frozenset[str]) -> set[str]:
        """The voters behind these keys, each once: who may not vote on a release does not enrol voters."""
        return {key.holder for key in self.keys if key.id in key_ids and key.role in VOTERS}
