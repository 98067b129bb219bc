"""Organisations and what they may use: default deny, everything expires."""

import math
from dataclasses import dataclass

from mythos.records.canonical import RecordError
from mythos.records.decision import is_name
from mythos.records.principal import LOCAL_ORG
from mythos.records.release import Stage


@dataclass(frozen=True, slots=True)
class Organisation:
    """A customer. `id` is never used again; `audience` is the class that admits it; attributes are vetted.

    `contractor_of` names the organisation it works for ("" for none): its grants hang on theirs.
    """

    id: str
    deployment: str
    audience: str
    attributes: dict[str, str]  # jurisdiction among them; one that is absent is unknown
    contractor_of: str
    by: str

    def __post_init__(self) -> None:
        if not is_name(self.id) or self.id == LOCAL_ORG or not is_name(self.audience):
            raise RecordError("organisation: id or audience is not a name it may have")


@dataclass(frozen=True, slots=True)
class Grant:
    """An organisation may use one tier, under one profile, for these purposes, in [from, until).

    `stage` is the earliest one at which it counts: nothing opened before that stage serves its holder.
    `parent` is the grant that a contractor's hangs on ("" for none): it may only narrow it and ends with it.
    `jurisdictions` empty means any, an unknown one included; else the organisation's must be among them.
    """

    id: str
    deployment: str
    org: str
    family: str
    tier: str
    profile: str
    stage: Stage
    purposes: tuple[str, ...]
    jurisdictions: tuple[str, ...]
    starts_at: float
    expires_at: float
    parent: str
    by: str

    def __post_init__(self) -> None:
        for field in ("id", "org", "family", "tier", "profile"):
            if not is_name(getattr(self, field)):
                raise RecordError(f"grant: {field} is not a name")
        if not self.purposes or not all(map(is_name, self.purposes)):
            raise RecordError("grant: it must name its purposes")
        if not 0 <= self.starts_at < self.expires_at < math.inf:
            raise RecordError("grant: it must end after it starts")


@dataclass(frozen=True, slots=True)
class Revocation:
    """A grant or an organisation ends. What hangs on it ends too."""

    id: str
    deployment: str
    revoked: str
    reason: str
    by: str
