"""The pages of publication: requests, their votes, and what is to be signed.

Persons sign where their keys are. A page shows the exact statement and the commands to sign it with, takes
the signed envelope, and never a key.
"""

import base64
import json
from datetime import UTC, datetime
from typing import Any

from mythos.console.pages import Answer, Visit, lead, page
from mythos.gate.state import Rejected, State
from mythos.gate.submit import load_state
from mythos.records.canonical import canonical
from mythos.records.decision import is_name
from mythos.records.errors import MythosError
from mythos.records.ids import new_id
from mythos.records.principal import is_operator
from mythos.records.publication import Unpublication
from mythos.records.release import Choice
from mythos.records.signed import NAMES, payload, payload_type, to_plain
from mythos.records.trust import SERVICES, VOTERS, Key, Role
from mythos.serve.errors import ApiError
from mythos.serve.vault_front import not_found
from mythos.store.listeners import listeners
from mythos.store.operator_key import operator_keys
from mythos.vault import following
from mythos.vault.assets import show_asset
from mythos.vault.errors import BadField, NotAllowedHere, OverLimit
from mythos.vault.publications import draft_publication, publish, vote_on

PAGE = 50
ASKERS = frozenset(Role) - SERVICES - {Role.AUDITOR}
REFUSALS = (BadField, NotAllowedHere, OverLimit, Rejected)


def listing(visit: Visit) -> Answer:
    """The requests that the reader may see, newest first."""
    after = visit.query.get("after", "")
    found = following.list_requests(*visit.place, PAGE + 1, after)
    values = {"found": found[:PAGE], "more": len(found) > PAGE, "after": after}
    return page(visit, "publications.html", values)


def show(visit: Visit) -> Answer:
    return _request(visit, 200, "")


def ask(visit: Visit) -> Answer:
    """The form that asks for an asset to be published."""
    return _ask(visit, 200, "")


def draft(visit: Visit) -> Answer:
    """Make the copy and the statement that its requester signs."""
    asset, form = visit.path["asset"], visit.form
    _own(visit)
    try:
        person = _person(_signer(form))
        starts, ends = _time(form.get("starts", ""), visit.now), _time(form.get("ends", ""), 0.0)
        why = form.get("why", "").strip()
        if not why:
            raise BadField("those who vote must be told why")
        made = draft_publication(*visit.place, asset, starts, ends, why, person)
    except (BadField, NotAllowedHere, OverLimit) as error:
        return _ask(visit, _status(error), _said(error))
    return lead(visit, f"/vault/{asset}/publish/{made.id}")


def drafted(visit: Visit) -> Answer:
    return _drafted(visit, 200, "")


def request(visit: Visit) -> Answer:
    """Take the request that was signed."""
    asset, name = visit.path["asset"], visit.path["request"]
    try:
        following.take_request(*visit.place, asset, name, _envelope(visit))
    except REFUSALS as error:
        return _drafted(visit, _status(error), _said(error))
    return lead(
        visit, f"/publications/{name}", "The request is on record. Two others than its signer vote on it."
    )


def statement(visit: Visit) -> Answer:
    """What one person signs to vote on a request, or to withdraw it."""
    name, form = visit.path["request"], visit.form
    found = following.show_request(*visit.place, name)
    state, where = load_state(visit.service.store), f"/publications/{name}/records"
    try:
        signer = _signer(form)
        if form.get("what") == "withdraw":
            reason = form.get("reason", "").strip()
            if not reason:
                raise BadField("a withdrawal says why")
            made = Unpublication(new_id("unpub"), state.deployment, name, reason[:2000], _person(signer))
            return _signing(visit, f"Withdraw {found.copy.title}", made, signer, where, 200, "")
        if form.get("choice") not in list(Choice):
            raise BadField("a vote is approve or veto")
        vote = vote_on(state, name, Choice(form["choice"]), _person(signer))
        return _signing(visit, f"Vote on {found.copy.title}", vote, signer, where, 200, "")
    except BadField as error:
        return _request(visit, 400, _said(error))


def record(visit: Visit) -> Answer:
    """Take a vote or a withdrawal that was signed; the request's page shows it."""
    name = visit.path["request"]
    try:
        said = following.take_record(*visit.place, name, _envelope(visit))
    except REFUSALS as error:
        return _request(visit, _status(error), _said(error))
    return lead(visit, f"/publications/{name}", said)


def open_(visit: Visit) -> Answer:
    """Have the gate decide on a request with its votes."""
    name = visit.path["request"]
    following.show_request(*visit.place, name)
    if not is_operator(visit.principal):
        raise not_found()
    try:
        publish(*visit.place, name, operator_keys(visit.service.store.home))
    except REFUSALS as error:
        return _request(visit, _status(error), _said(error))
    return lead(visit, f"/publications/{name}", "The gate has signed. It is public from its time on.")


def _request(visit: Visit, status: int, wrong: str) -> Answer:
    found = following.show_request(*visit.place, visit.path["request"])
    state, votes = load_state(visit.service.store), is_operator(visit.principal)
    public = [url for name, url in listeners(visit.service.store.home) if name == "public"]
    values: dict[str, Any] = {
        "found": found,
        "request": found.request,
        "copy": found.copy,
        "made": found.made,
    }
    values |= {"voters": [who for who in _signers(state, VOTERS) if _person(who) != found.request.by]}
    values |= {"enrolled": _signers(state, ASKERS), "votes": votes, "public": public[0] if public else ""}
    return page(visit, "publication.html", {**values, "wrong": wrong}, status)


def _ask(visit: Visit, status: int, wrong: str) -> Answer:
    entry = _own(visit)
    local = is_operator(visit.principal)
    signers = _signers(load_state(visit.service.store), ASKERS) if local else []
    values = {"entry": entry, "signers": signers, "wrong": wrong, "given": visit.form}
    return page(visit, "ask.html", values, status)


def _drafted(visit: Visit, status: int, wrong: str) -> Answer:
    asset, name = visit.path["asset"], visit.path["request"]
    made = following.drafted(*visit.place, asset, name)
    entry = show_asset(*visit.place, asset)
    state = load_state(visit.service.store)
    roles = [who for who in _signers(state, ASKERS) if _person(who) == made.by]
    signer = roles[0] if len(roles) == 1 and is_operator(visit.principal) else made.by
    where = f"/vault/{asset}/publish/{name}"
    return _signing(visit, f"Ask to publish {entry.about.title}", made, signer, where, status, wrong)


def _signing(
    visit: Visit, heading: str, record: object, signer: str, action: str, status: int, wrong: str
) -> Answer:
    """The page with a statement, the commands that sign it, and where the signed envelope goes."""
    body, kind = payload(record), NAMES[type(record)]
    envelope = canonical(
        {"payload": base64.b64encode(body).decode(), "payloadType": payload_type(kind), "signatures": []}
    )
    shown = json.dumps(to_plain(record), indent=2, ensure_ascii=False)
    back = action.removesuffix("/records") if "asset" not in visit.path else f"/vault/{visit.path['asset']}"
    values = {
        "heading": heading,
        "shown": shown,
        "envelope": envelope.decode(),
        "signer": signer,
        "back": back,
    }
    return page(visit, "signing.html", {**values, "kind": kind, "action": action, "wrong": wrong}, status)


def _own(visit: Visit) -> Any:
    """The asset, when the reader owns it. ApiError 403; NoAsset."""
    entry = show_asset(*visit.place, visit.path["asset"])
    if not entry.mine:
        raise ApiError(403, "Only its owner may ask for it to be published.", code="not_allowed")
    return entry


def _envelope(visit: Visit) -> bytes:
    """What was pasted, or else what was in the file."""
    pasted = visit.form.get("envelope", "").strip() or visit.form.get("file", "").strip()
    return pasted.encode()


def _signer(form: dict[str, str]) -> str:
    """`PERSON` or `PERSON:ROLE` of a form. BadField."""
    who = form.get("person", "").strip()
    person, _, role = who.partition(":")
    if not is_name(person) or role and role not in list(Role):
        raise BadField("name the person who signs, as PERSON or PERSON:ROLE")
    return who


def _signers(state: State, roles: frozenset[Role]) -> list[str]:
    """`PERSON:ROLE` of every key that is enrolled for one of `roles`."""
    keys: tuple[Key, ...] = state.trust.keys if state.trust else ()
    return sorted(f"{key.holder}:{key.role}" for key in keys if key.role in roles)


def _person(who: str) -> str:
    return who.partition(":")[0]


def _time(given: str, default: float) -> float:
    """POSIX seconds of what a browser's field for a time sends, in UTC. BadField."""
    if not given:
        return default
    try:
        return datetime.fromisoformat(given).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        raise BadField("a time is written as 2026-12-01T09:00, in UTC") from None


def _status(error: MythosError) -> int:
    return 400 if isinstance(error, BadField) else 429 if isinstance(error, OverLimit) else 403


def _said(error: MythosError) -> str:
    return error.message[:1].upper() + error.message[1:] + "."
