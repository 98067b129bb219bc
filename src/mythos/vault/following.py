"""Publication requests as those see them who may: how each stands, its votes, and what is signed elsewhere.

Signatures are made where the persons' keys are: here they see what to sign, and their envelopes are taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from mythos.gate.publications import Standing, may_follow, opened, stands
from mythos.gate.state import State
from mythos.gate.submit import state_in, submit
from mythos.ledger.log import audit, now_in
from mythos.records.asset import AssetAction
from mythos.records.canonical import RecordError, parse
from mythos.records.clock import Clock
from mythos.records.dsse import peek
from mythos.records.principal import Principal
from mythos.records.publication import Publication, PublicationRequest, PublicationVote, Unpublication
from mythos.records.reasons import Code
from mythos.records.release import Choice
from mythos.records.signed import KINDS, from_plain, kind_of, payload
from mythos.store.db import Store
from mythos.store.tables import publication_copies
from mythos.vault.errors import BadField, NoAsset, Refused
from mythos.vault.keys import open_text, vault_of
from mythos.vault.publications import Copy, copy_of, read_copy, take_withdrawal
from mythos.vault.rights import attempt, decide, load, permitted

PAGE = 50


class NoRequest(NoAsset):
    """There is no such request, or the caller may not see it: the two are one error."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.message = f"no publication request {name[:80]!r}"
        self.cure = "`mythos publication list` names them."


@dataclass(frozen=True, slots=True)
class Ballot:
    """One vote on record; `counts` while its key is enrolled and it is not the requester's."""

    person: str
    choice: Choice
    counts: bool


@dataclass(frozen=True, slots=True)
class Followed:
    """A request as one who may see it sees it. `against`: why it is not public, "" for nothing."""

    request: PublicationRequest
    copy: Copy
    standing: Standing
    against: str
    made: Publication | None
    ballots: tuple[Ballot, ...]
    asked: float  # when


def list_requests(
    store: Store, clock: Clock, principal: Principal, limit: int = PAGE, after: str = ""
) -> list[Followed]:
    """The requests that `principal` may see, newest first, from behind the request `after`."""
    found: list[Followed] = []
    with store.read() as conn:
        now, state = now_in(conn, clock), state_in(store, conn)
        ids = sorted(state.requests, key=lambda one: -state.at[one])
        if after:
            ids = ids[ids.index(after) + 1 :] if after in ids else []
        for one in ids:
            if len(found) == limit:
                break
            if _may(store, conn, state, state.requests[one], principal, now):
                found.append(_followed(store, state, state.requests[one], now))
    audit(store, clock, principal, "publication.list", "answered", found=len(found))
    return found


def show_request(store: Store, clock: Clock, principal: Principal, request: str) -> Followed:
    """One request. NoRequest."""
    with attempt(store, clock, principal, "publication.show", request, NoRequest), store.read() as conn:
        now, state = now_in(conn, clock), state_in(store, conn)
        known = state.requests.get(request)
        if known is None or not _may(store, conn, state, known, principal, now):
            raise Refused("UNKNOWN_REQUEST" if known is None else "NOT_OWNER", may_know=False)
        found = _followed(store, state, known, now)
    audit(store, clock, principal, "publication.show", "answered", request=request)
    return found


def read_request(
    store: Store, clock: Clock, principal: Principal, request: str, head: bool = False
) -> tuple[Copy, Iterator[bytes]]:
    """The very bytes that are voted on, and what they are; `head`: about to send none. NoRequest."""
    found = show_request(store, clock, principal, request)
    audit(store, clock, principal, "publication.read", "answered", request=request, bytes=found.copy.size)
    return found.copy, iter(()) if head else read_copy(store, request)


def drafted(store: Store, clock: Clock, principal: Principal, asset: str, request: str) -> PublicationRequest:
    """A request of one's own asset that was laid out to be signed. NoRequest."""
    with attempt(store, clock, principal, "publication.draft", request, NoRequest), store.read() as conn:
        permitted(store, conn, principal, asset, AssetAction.MANAGE, now_in(conn, clock))
        c = publication_copies.c
        row = conn.execute(sa.select(c.about).where(c.request == request)).first()
        text = open_text(vault_of(store), f"publication {request}", row.about).get("draft") if row else ""
        record = from_plain(PublicationRequest, parse(text.encode())) if text else None
        if record is None or record.asset != asset:
            raise Refused("UNKNOWN_REQUEST", may_know=False)
    return record


def take_request(
    store: Store, clock: Clock, principal: Principal, asset: str, request: str, envelope: bytes
) -> None:
    """Put a drafted request on record, signed elsewhere. BadField when it is not that draft; Rejected."""
    record = drafted(store, clock, principal, asset, request)
    with attempt(store, clock, principal, "publication.request", asset):
        if payload(record) != payload(_read(envelope, PublicationRequest)):
            raise _refused("what was signed is not the request that is shown here")
    submit(store, clock, principal, envelope)


def take_record(store: Store, clock: Clock, principal: Principal, request: str, envelope: bytes) -> str:
    """Put a vote on a request, or its withdrawal, on record, signed elsewhere; says what was done.

    NoRequest; BadField when it is about something else; Rejected when it does not count.
    """
    show_request(store, clock, principal, request)
    with attempt(store, clock, principal, "publication.record", request):
        record = _read(envelope, PublicationVote, Unpublication)
        if record.request != request:
            raise _refused("what was signed is about another request")
    if isinstance(record, Unpublication):
        return f"Withdrawn. {take_withdrawal(store, clock, principal, request, envelope)}"
    submit(store, clock, principal, envelope)
    return f"{record.person} says {record.choice}. The vote is on record."


def _read(envelope: bytes, *kinds: type) -> Any:
    """What an envelope says, no signature looked at: `submit` does that. Refused."""
    try:
        kind = KINDS[kind_of(envelope)]
        if kind not in kinds:
            raise _refused("what was signed is another kind of record")
        return from_plain(kind, peek(envelope))
    except RecordError as error:
        raise _refused(f"this is no signed record: {error.message}") from None


def _refused(message: str) -> Refused:
    return Refused(Code.RECORD_MALFORMED, error=BadField(message))


def _may(
    store: Store,
    conn: sa.Connection,
    state: State,
    request: PublicationRequest,
    principal: Principal,
    now: float,
) -> bool:
    known = load(conn, [request.asset]).get(request.asset)
    return may_follow(principal, decide(state, known, principal, AssetAction.MANAGE, now))


def _followed(store: Store, state: State, request: PublicationRequest, now: float) -> Followed:
    standing, reason = stands(state, request, now)
    ballots = tuple(
        Ballot(one.vote.person, one.vote.choice, one.key in state.keys and one.vote.person != request.by)
        for one in state.ballots.get(request.id, ())
    )
    made, asked = opened(state, request), state.at[request.id]
    return Followed(request, copy_of(store, request.id), standing, reason, made, ballots, asked)
