"""Who may publish: two enrolled persons other than the requester. The state of it is in `State`."""

import math
from dataclasses import dataclass
from enum import StrEnum

from mythos.gate.state import Rejected, State
from mythos.records.asset import AssetPermit, AssetRefusal
from mythos.records.principal import Principal, is_operator
from mythos.records.publication import Publication, PublicationRequest, PublicationVote, Unpublication
from mythos.records.reasons import Code
from mythos.records.release import Choice
from mythos.records.signed import digest
from mythos.records.trust import SERVICES, VOTERS, Key, Role

QUORUM = 2
MOST_WAIT = 366 * 86_400.0  # seconds from a request to its start


@dataclass(frozen=True, slots=True)
class Ballot:
    """A vote on a request: it counts while the very key is enrolled."""

    vote: PublicationVote
    key: str


def take_request(state: State, record: PublicationRequest, keys: list[Key], now: float) -> None:
    """Any enrolled person but an auditor may ask."""
    _signed(keys, record.by, frozenset(Role) - SERVICES - {Role.AUDITOR})
    if record.ends_at and record.ends_at <= now or record.starts_at > now + MOST_WAIT:
        raise Rejected(Code.EXPIRED, "it lies in the past, or begins in more than a year")
    state.requests[record.id] = record


def take_vote(state: State, record: PublicationVote, keys: list[Key], now: float) -> None:
    """Voters other than the requester; about exactly the request that is on record."""
    key = _signed(keys, record.person, VOTERS)
    request = _request(state, record.request)
    if record.digest != digest(request):
        raise Rejected(Code.PUBLICATION_CHANGED, "the vote is about another request")
    if record.person == request.by:
        raise Rejected(Code.REQUESTER_VOTES, "who asks does not vote")
    if request.id in state.unpublished:
        raise Rejected(Code.PUBLICATION_WITHDRAWN, f"{request.id} is withdrawn")
    state.ballots[request.id] = (*state.ballots.get(request.id, ()), Ballot(record, key.id))


def take_publication(state: State, record: Publication, keys: list[Key], now: float) -> None:
    """Signed by the gate; what it rests on is counted again here."""
    if len(keys) != 1 or keys[0].role is not Role.GATE:
        raise Rejected(Code.SIGNER_NOT_AUTHORISED, "the gate must sign")
    request = _request(state, record.request)
    if refused := against(state, request, now):
        raise Rejected(*refused)
    same = (record.content, record.starts_at, record.ends_at)
    if same != (request.content, request.starts_at, request.ends_at) or record.votes != votes_for(
        state, request
    ):
        raise Rejected(Code.RECORD_MALFORMED, "it does not say what was requested and voted")
    if any(one.request == request.id for one in state.publications.values()):
        raise Rejected(Code.ID_TAKEN, f"{request.id} is published already")
    state.publications[record.id] = record


def take_unpublication(state: State, record: Unpublication, keys: list[Key], now: float) -> None:
    """Whoever is enrolled may withdraw; auditors read only."""
    _signed(keys, record.by, frozenset(Role) - SERVICES - {Role.AUDITOR} | {Role.GATE})
    _request(state, record.request)
    state.unpublished.setdefault(record.request, now)


def against(state: State, request: PublicationRequest, now: float) -> tuple[Code, str] | None:
    """Why a request cannot be published now; None when it can."""
    if state.fault:
        return Code.STATE_DAMAGED, "the records do not fit the log"
    if request.id in state.unpublished:
        return Code.PUBLICATION_WITHDRAWN, "it is withdrawn"
    if request.ends_at and now >= request.ends_at:
        return Code.EXPIRED, "its time is over"
    counted = _ballots(state, request)
    if vetoes := [b.vote.person for b in counted if b.vote.choice is Choice.VETO]:
        return Code.VETOED, f"by {', '.join(vetoes)}"
    persons = {b.vote.person for b in counted if b.vote.choice is Choice.APPROVE}
    if len(persons) < QUORUM:
        return Code.QUORUM_NOT_MET, f"{len(persons)} of {QUORUM} persons other than the requester"
    return None


class Standing(StrEnum):
    """How a request stands."""

    WAITING = "waiting for votes"
    READY = "ready to open"
    SCHEDULED = "opens by itself"
    PUBLIC = "public"
    VETOED = "vetoed"
    WITHDRAWN = "withdrawn"
    OVER = "over"
    DAMAGED = "records damaged"


_STANDS = {
    Code.STATE_DAMAGED: Standing.DAMAGED,
    Code.PUBLICATION_WITHDRAWN: Standing.WITHDRAWN,
    Code.EXPIRED: Standing.OVER,
    Code.VETOED: Standing.VETOED,
    Code.QUORUM_NOT_MET: Standing.WAITING,
}


def stands(state: State, request: PublicationRequest, now: float) -> tuple[Standing, str]:
    """How a request stands at `now`, and what stands against it ("" for nothing)."""
    if refused := against(state, request, now):
        return _STANDS[refused[0]], refused[1]
    made = opened(state, request)
    if made is None:
        return Standing.READY, ""
    return (Standing.PUBLIC if is_public(state, made, now) else Standing.SCHEDULED), ""


def opened(state: State, request: PublicationRequest) -> Publication | None:
    """What the gate made of a request; None when it has not decided on it."""
    return next((one for one in state.publications.values() if one.request == request.id), None)


def may_follow(principal: Principal, leave: AssetPermit | AssetRefusal) -> bool:
    """Who may see a request, its copy and its votes: those who vote, and the asset's owner.

    Persons vote with keys of their own; they look at what they vote on by a key of the local organisation.
    `leave` is what `authorize_asset` says of managing the asset.
    """
    return is_operator(principal) or isinstance(leave, AssetPermit)


def votes_for(state: State, request: PublicationRequest) -> tuple[str, ...]:
    """Ids of the approvals that count, each person's first."""
    first: dict[str, str] = {}
    for ballot in _ballots(state, request):
        if ballot.vote.choice is Choice.APPROVE:
            first.setdefault(ballot.vote.person, ballot.vote.id)
    return tuple(sorted(first.values()))


def is_public(state: State, publication: Publication, now: float) -> bool:
    """Whether the public area may hold it at `now`: after the embargo, before the end, not withdrawn.

    A vote whose key is gone, or a veto that came later, ends it as well.
    """
    request = state.requests.get(publication.request)
    if request is None or not math.isfinite(now) or now < publication.starts_at:
        return False
    return against(state, request, now) is None


def _ballots(state: State, request: PublicationRequest) -> list[Ballot]:
    found = state.ballots.get(request.id, ())
    return [b for b in found if b.key in state.keys and b.vote.person != request.by]


def _request(state: State, name: str) -> PublicationRequest:
    if name not in state.requests:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no publication request {name}")
    return state.requests[name]


def _signed(keys: list[Key], holder: str, roles: frozenset[Role]) -> Key:
    if len(keys) != 1 or keys[0].role not in roles or keys[0].holder != holder:
        said = ", ".join(f"{key.holder} as {key.role}" for key in keys)
        raise Rejected(Code.SIGNER_NOT_AUTHORISED, f"signed by {said}; {holder} must sign")
    return keys[0]
