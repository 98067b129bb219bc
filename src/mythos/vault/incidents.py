"""Incidents: open, find out, contain, count, state, close. Each act is a signed record; texts are documents.

Every function begins with (store, clock, principal); `Hand` is who signs. `Rejected` says why a record does
not count; then nothing was filed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate import acts
from mythos.gate.incidents import Case, Duty, Stand, duties
from mythos.gate.state import Rejected, State
from mythos.gate.submit import load_state, submit
from mythos.records.clock import Clock
from mythos.records.errors import MythosError
from mythos.records.ids import new_id
from mythos.records.incident import (
    ABSENT,
    Document,
    Done,
    Failed,
    Finding,
    IncidentClosed,
    IncidentContained,
    IncidentFinding,
    IncidentOpened,
    Lesson,
    Named,
    Nature,
    Target,
)
from mythos.records.principal import Principal
from mythos.records.reasons import Code
from mythos.records.signed import seal, to_plain
from mythos.store.db import Store
from mythos.store.keys import revoke_key
from mythos.store.tables import weights
from mythos.vault.documents import PENDING, file_document, read_document, rehearse
from mythos.vault.publications import withdraw
from mythos.vault.shares import revoke_all, revoke_share

Secret = Ed25519PrivateKey
LONGEST = 20_000  # characters of one text


@dataclass(frozen=True, slots=True)
class Hand:
    """A person and their key, and the gate's, which vouches for what a program did or counted."""

    person: str
    secret: Secret
    gate: Secret


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """An incident as a list shows it. `overdue`: of its clocks, those that are or were late."""

    id: str
    stand: Stand
    natures: tuple[Nature, ...]
    received_at: float
    opened_at: float
    opened_by: str
    named: tuple[Named, ...]
    duties: tuple[Duty, ...]
    overdue: tuple[Duty, ...]


def incident_rows(state: State, now: float) -> list[IncidentRow]:
    """Every incident, the newest first, with its clocks as they stand at `now`. Pure."""
    rows = []
    for case in reversed(state.cases.values()):
        clocks = duties(case, state.pack)
        late = () if case.stand is Stand.CLOSED else tuple(d for d in clocks if d.overdue(now))
        opened = case.opened
        rows.append(
            IncidentRow(
                opened.id,
                case.stand,
                tuple(case.natures),
                opened.received_at,
                case.acts[0].at,
                opened.by,
                opened.named,
                tuple(clocks),
                late,
            )
        )
    return rows


def case_of(state: State, incident: str) -> Case:
    """The incident with this id. Rejected when there is none."""
    if incident not in state.cases:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no incident {incident[:80]}", "mythos incident list")
    return state.cases[incident]


def open_incident(
    store: Store,
    clock: Clock,
    principal: Principal,
    text: str,
    reporter: str,
    received_at: float,
    natures: Sequence[Nature],
    named: Sequence[Named],
    hand: Hand,
    suspected_at: float | None = None,
) -> IncidentOpened:
    """An outside report came in: its text, who sent it, when. Clocks run from `suspected_at` or then."""
    record = IncidentOpened(
        id=new_id("inc"),
        deployment=load_state(store).deployment,
        natures=tuple(dict.fromkeys(natures)),
        report=PENDING,
        received_at=received_at,
        suspected_at=received_at if suspected_at is None else suspected_at,
        named=tuple(dict.fromkeys(named)),
        by=hand.person,
    )
    rehearse(store, clock, principal, record, hand.secret)
    content = {"text": _text(text), "reporter": reporter[:500], "received_at": received_at}
    document = file_document(store, clock, principal, f"{record.id}: report", content)
    return submit(store, clock, principal, seal(replace(record, report=document), hand.secret))[0]


def add_finding(
    store: Store,
    clock: Clock,
    principal: Principal,
    incident: str,
    finding: Finding,
    text: str,
    hand: Hand,
    nature: Nature | None = None,
) -> IncidentFinding:
    """What a person found out, in their words and under their name."""
    deployment = load_state(store).deployment
    record = IncidentFinding(new_id("find"), deployment, incident, finding, nature, PENDING, hand.person)
    rehearse(store, clock, principal, record, hand.secret)
    document = file_document(
        store, clock, principal, f"{incident}: {finding}", {"text": _text(text), "finding": str(finding)}
    )
    return submit(store, clock, principal, seal(replace(record, text=document), hand.secret))[0]


def contain_incident(
    store: Store,
    clock: Clock,
    principal: Principal,
    incident: str,
    more: Sequence[Named],
    hand: Hand,
    absent: Sequence[Named] = (),
) -> IncidentContained:
    """Take away, in one go, all that the incident names, and `more`; what cannot be taken stops no other.

    What could not be taken before is tried again. With anything in `failed` the incident is still open, but
    for what is `absent`: of which the person says that it does not exist. Doing it again is safe.
    """
    state = load_state(store)
    record = IncidentContained(new_id("cont"), state.deployment, incident, (), (), hand.person)
    rehearse(store, clock, principal, record, hand.gate, hand.secret)
    case = case_of(state, incident)
    before = [one for act in case.acts for one in getattr(act.record, "failed", ())]
    left = [Named(one.what, one.id) for one in before]
    gone = {*absent, *(Named(one.what, one.id) for one in before if one.why == ABSENT)}
    done, failed = [], []
    for named in dict.fromkeys((*case.opened.named, *left, *more, *absent)):
        try:
            done += _taken(store, clock, principal, named, incident, hand)
        except MythosError as error:
            code = str(getattr(error, "code", "") or type(error).__name__)
            failed.append(Failed(named.what, named.id, ABSENT if named in gone else code))
    record = replace(record, done=tuple(dict.fromkeys(done)), failed=tuple(failed))
    return submit(store, clock, principal, seal(record, hand.gate, hand.secret))[0]


def close_incident(
    store: Store,
    clock: Clock,
    principal: Principal,
    incident: str,
    text: str,
    lessons: Sequence[Lesson],
    persons: Sequence[tuple[str, Secret]],
) -> IncidentClosed:
    """Close it, in the name of two persons; each lesson is a row of the exposure audit from now on."""
    persons = list(dict(persons).items())
    by = tuple(person for person, _ in persons)
    deployment = load_state(store).deployment
    record = IncidentClosed(new_id("close"), deployment, incident, len(lessons), PENDING, by)
    secrets = [secret for _, secret in persons]
    rehearse(store, clock, principal, record, *secrets)
    content = {"text": _text(text), "lessons": to_plain(tuple(lessons))}
    document = file_document(store, clock, principal, f"{incident}: lessons", content)
    return submit(store, clock, principal, seal(replace(record, text=document), *secrets))[0]


def lessons_of(store: Store, clock: Clock, principal: Principal) -> Iterator[tuple[str, Lesson]]:
    """Every lesson of every closed incident, with the incident's id. MythosError for one that is lost."""
    for case in load_state(store).cases.values():
        closed = case.acts[-1].record
        if isinstance(closed, IncidentClosed) and closed.lessons:
            content = read_document(store, clock, principal, closed.text)
            for one in content["lessons"]:
                yield case.opened.id, Lesson(one["listener"], one["path"])


def texts_of(store: Store, clock: Clock, principal: Principal, case: Case) -> list[tuple[str, Document, str]]:
    """(record id, document, text) of each report and finding, for whoever may read them."""
    found = []
    for act in case.acts:
        document = getattr(act.record, "report", None) or getattr(act.record, "text", None)
        if isinstance(document, Document):
            content = read_document(store, clock, principal, document)
            found.append((act.record.id, document, str(content["text"])))
    return found


def _taken(
    store: Store, clock: Clock, principal: Principal, named: Named, incident: str, hand: Hand
) -> list[Done]:
    """Take one thing away; MythosError when there is none such, or it cannot be."""
    place, what, state = (store, clock, principal), named.id, load_state(store)
    signed = (f"incident {incident}", hand.person, hand.secret)

    def unpublished(requests: list[str]) -> list[Done]:
        for request in requests:
            if request not in state.unpublished:
                withdraw(*place, request, *signed)
        return [Done(Target.PUBLICATION, request, "") for request in requests]

    match named.what:
        case Target.ASSET:
            revoke_all(*place, what)
            requests = [one.id for one in state.requests.values() if one.asset == what]
            return [Done(named.what, what, ""), *unpublished(requests)]
        case Target.PUBLICATION:
            published = state.publications.get(what)
            return unpublished([published.request if published else what])
        case Target.SHARE:
            revoke_share(*place, what)
        case Target.KEY:
            revoke_key(*place, what)
        case Target.GRANT | Target.ORGANISATION:
            if what not in state.revoked:
                return [Done(named.what, what, acts.revoke(*place, what, *signed).id)]
        case Target.RELEASE:
            if what not in state.fallen:
                return [Done(named.what, what, acts.halt(*place, what, *signed).id)]
        case Target.TIER:
            _require(what in _tiers(store, state), f"no tier {what}")
            for one in state.suspensions.values():
                if one.tier in ("", what) and not one.where:
                    return [Done(named.what, what, one.id)]
            return [Done(named.what, what, acts.suspend(*place, what, {}, *signed).id)]
        case Target.PROFILE:
            profiles = {plan.profile for plan in state.plans.values()}
            profiles |= {release.subject.profile for release in state.releases.values()}
            _require(what in profiles, f"no profile {what}")
            return [Done(named.what, what, acts.report_incident(*place, what, *signed).id)]
    return [Done(named.what, what, "")]


def _tiers(store: Store, state: State) -> set[str]:
    with store.read() as conn:
        registered = set(conn.execute(sa.select(weights.c.tier)).scalars())
    return registered | {tier for _, tier in state.roots.values()}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Rejected(Code.UNKNOWN_SUBJECT, message)


def _text(text: str) -> str:
    if not text.strip() or len(text) > LONGEST:
        raise MythosError(f"a text has 1 to {LONGEST} characters", "Say it in a file, or more briefly.")
    return text
