"""Handling decisions, which let named local principals work with one root. Releases: `records.release`."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mythos.records import dsse
from mythos.records.canonical import RecordError, canonical, parse_canonical
from mythos.records.permit import Action

HANDLING_TYPE = "application/vnd.mythopoeia.handling.v1+json"
LOCAL_PURPOSE = "local_tryout"
HANDLING_PURPOSES = (LOCAL_PURPOSE, "evaluation", "training")

_ROOT = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")


@dataclass(frozen=True, slots=True)
class Handling:
    """Leave to work with one root on this machine: nothing leaves it, and it can be revoked.

    `principals` are the ids it names; nobody else is answered under it. `policy` names what it was issued
    under. `issued_at` is POSIX seconds, `issued_by` the id of the signing key.
    """

    id: str
    family: str
    tier: str
    root: str  # 64 hex digits
    principals: tuple[str, ...]
    actions: tuple[Action, ...]
    purposes: tuple[str, ...]
    policy: str
    issued_at: float
    issued_by: str

    def __post_init__(self) -> None:
        for field in ("id", "family", "tier", "policy", "issued_by"):
            if not is_name(getattr(self, field)):
                raise RecordError(f"handling decision: {field} is not a name")
        if not is_root(self.root):
            raise RecordError("handling decision: root is not 64 hex digits")
        _name_set(self.principals, "principals")
        _name_set(self.purposes, "purposes")
        if unknown := set(self.purposes) - set(HANDLING_PURPOSES):
            raise RecordError(f"handling decision: unknown purpose {sorted(unknown)[0]!r}")
        if not all(isinstance(action, Action) for action in self.actions):
            raise RecordError("handling decision: unknown action")
        _name_set(self.actions, "actions")
        if type(self.issued_at) not in (int, float) or not 0 <= self.issued_at < math.inf:
            raise RecordError("handling decision: issued_at is not a time")


def is_name(value: Any) -> bool:
    """A short identifier: letters, digits and `._:@/-`, at most 128 characters."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def is_root(value: Any) -> bool:
    """64 lower-case hex digits."""
    return isinstance(value, str) and _ROOT.fullmatch(value) is not None


def sign_handling(handling: Handling, key: Ed25519PrivateKey) -> bytes:
    """The decision in a DSSE envelope. `handling.issued_by` must be the id of `key`."""
    if handling.issued_by != dsse.key_id(key.public_key()):
        raise RecordError("handling decision: issued_by is not the signing key")
    fields = {name: getattr(handling, name) for name in Handling.__slots__}
    return dsse.sign(HANDLING_TYPE, canonical(fields), key)


def open_handling(envelope: bytes, trusted: Mapping[str, Ed25519PublicKey]) -> Handling:
    """The decision inside `envelope`, once a key of `trusted` (by key id) is shown to have signed it.

    RecordError when malformed (unknown type or field, wrong value, not canonical), SignatureError when no
    trusted key signed it.
    """
    payload, signers = dsse.verify(envelope, HANDLING_TYPE, trusted)
    fields = parse_canonical(payload)
    if not isinstance(fields, dict) or set(fields) != set(Handling.__slots__):
        raise RecordError("handling decision: missing or unknown field")
    for name in ("principals", "actions", "purposes"):
        if not isinstance(fields[name], list):
            raise RecordError(f"handling decision: {name} is not a list")
        fields[name] = tuple(fields[name])
    try:
        fields["actions"] = tuple(Action(action) for action in fields["actions"])
    except ValueError:
        raise RecordError("handling decision: unknown action") from None
    handling = Handling(**fields)
    if signers != {handling.issued_by}:
        raise dsse.SignatureError("handling decision: not signed by the key it names as issuer")
    return handling


def _name_set(values: Any, what: str) -> None:
    if not isinstance(values, tuple) or not values or not all(is_name(value) for value in values):
        raise RecordError(f"handling decision: {what} must be a non-empty tuple of names")
    if len(set(values)) != len(values):
        raise RecordError(f"handling decision: {what} names one twice")
