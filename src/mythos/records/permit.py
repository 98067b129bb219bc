"""The two answers of `mythos.gate.authorize`."""

from dataclasses import dataclass
from enum import StrEnum

from mythos.records.principal import Principal


class Action(StrEnum):
    KNOW = "know"  # see that the tier exists
    ANSWER = "answer"  # generate from it
    COUNT = "count"  # tokenise for it
    LOAD = "load"  # hold its weights


class Reason(StrEnum):
    """Why a request was refused. Shown only to those entitled to know the tier."""

    NO_DECISION = "no_decision"
    NOT_NAMED = "not_named"
    BAD_SIGNATURE = "bad_signature"
    EXPIRED = "expired"
    ACTION_NOT_GRANTED = "action_not_granted"
    PURPOSE_NOT_GRANTED = "purpose_not_granted"
    NOT_BUILT = "not_built"
    UNKNOWN_TIER = "unknown_tier"
    CLOCK = "clock"
    NOT_GRANTED = "not_granted"


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave for one principal to do one action on exactly these weights."""

    principal: Principal
    action: Action
    tier: str
    root: str
    profile: str
    purpose: str
    decision: str  # id of the decision that allows it
    issued_at: float  # seconds, POSIX
    expires_at: float


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: Reason
    may_know: bool  # False: to this caller the tier does not exist
    message: str
