"""Reports: made from signed records, signed, kept in the vault, written as a full or a public page.

Every function begins with (store, clock, principal). Figures come from the records; what persons add is in
`Words`. The full and the public version of a report open the same commitments.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mythos.gate.bundle import entries_of, kept
from mythos.gate.state import Rejected, State
from mythos.gate.submit import load_state, submit
from mythos.ledger.log import audit
from mythos.records.asset import Kind
from mythos.records.canonical import parse_canonical
from mythos.records.clock import Clock
from mythos.records.dsse import peek
from mythos.records.errors import MythosError
from mythos.records.ids import new_id
from mythos.records.principal import Principal
from mythos.records.reasons import Code
from mythos.records.report import (
    Committed,
    Field,
    IssuedReport,
    Line,
    Redaction,
    ReportFiled,
    ReportKind,
    ReportPublication,
    commitment,
    new_salt,
)
from mythos.records.report_proof import FORMAT, verify_report
from mythos.records.signed import seal, to_plain
from mythos.store.db import Store
from mythos.vault.assets import put_asset
from mythos.vault.documents import file_document, read_document, rehearse
from mythos.vault.incidents import Hand
from mythos.vault.publications import read_copy, request_publication
from mythos.vault.report_fields import ASKED, TITLES, About, filled_in
from mythos.vault.report_page import document_in, render
from mythos.vault.report_sources import claim, sources

LARGEST = 32 << 20  # bytes of a page


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence for one of the questions of a report; its figures are references `{RECORD.FIGURE}`."""

    field: str
    text: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Words:
    """What persons add to a report: answers to its questions, and what its public version withholds."""

    claims: tuple[Claim, ...] = ()
    redactions: tuple[Redaction, ...] = ()


@dataclass(frozen=True, slots=True)
class Matter:
    """The weights under a profile that a report is about, or (`about`) the release or report that says so."""

    family: str = ""
    tier: str = ""
    root: str = ""
    profile: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True)
class ReportRow:
    """A report as a list shows it. `published`: the request of its public version, "" for none."""

    id: str
    kind: ReportKind
    title: str
    tier: str
    root: str
    profile: str
    about: str
    by: str
    at: float
    missing: tuple[str, ...]
    withheld: tuple[str, ...]
    published: str


def report_rows(state: State) -> list[ReportRow]:
    """Every report on record, the newest first. Pure."""
    requests = {report: request for request, report in state.laid_open.items()}
    return [
        ReportRow(
            one.id,
            one.kind,
            TITLES[one.kind],
            one.tier,
            one.root,
            one.profile,
            one.about,
            one.by,
            state.at[one.id],
            one.missing,
            tuple(hidden.field for hidden in one.redactions),
            requests.get(one.id, ""),
        )
        for one in reversed(state.reports.values())
    ]


def make_report(
    store: Store,
    clock: Clock,
    principal: Principal,
    kind: ReportKind,
    matter: Matter,
    words: Words,
    hand: Hand,
) -> IssuedReport:
    """Fill in, sign and keep a report. Rejected, and logged, for a figure without evidence among others."""
    state = load_state(store)
    with _refusals(store, clock, principal):
        about = _about(store, state, kind, matter, hand.person, clock.now())
        fields, missing = _fields(kind, about, words)
    salts = {field.name: new_salt() for field in fields}
    record = IssuedReport(
        id=new_id("rep"),
        deployment=state.deployment,
        kind=kind,
        family=about.family,
        tier=about.tier,
        root=about.root,
        profile=about.profile,
        about=matter.about,
        policy=about.pack,
        fields=tuple(Committed(one.name, commitment(one, salts[one.name])) for one in fields),
        redactions=words.redactions,
        missing=missing,
        sources=tuple(sorted({one.record for f in fields for line in f.lines for one in line.cited})),
        by=hand.person,
    )
    rehearse(store, clock, principal, record, hand.gate, hand.secret)
    shown = [{**to_plain(field), "salt": salts[field.name]} for field in fields]
    title = f"{record.id}: {TITLES[kind].lower()} on {about.tier}"
    document = file_document(store, clock, principal, title, {"fields": shown})
    submit(store, clock, principal, seal(record, hand.gate, hand.secret))
    filed = ReportFiled(new_id("filed"), state.deployment, record.id, document)
    submit(store, clock, principal, seal(filed, hand.gate))
    return record


def write_report(store: Store, clock: Clock, principal: Principal, report: str, public: bool) -> bytes:
    """The page of a report, full or public, with all that it takes to verify it offline.

    Rejected when there is no such report; NoAsset for whoever may not read its fields.
    """
    state = load_state(store)
    record = _report(state, report)
    if report not in state.filed:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"the fields of {report} were never filed", "make it again")
    full = read_document(store, clock, principal, state.filed[report])["fields"]
    hidden = {one.field for one in record.redactions} if public else set()
    with store.read() as conn:
        found = kept(conn, "trust-root")
        found += [row for row in kept(conn, "report") if peek(row[2])["id"] == report]
    head, entries = entries_of(store.home, store, clock, found)
    fields = [{"name": one["name"]} if one["name"] in hidden else one for one in full]
    return render(
        {"format": FORMAT, "fields": fields, "entries": to_plain(entries), "head": head.note.decode()}
    )


def publish_report(
    store: Store,
    clock: Clock,
    principal: Principal,
    report: str,
    starts_at: float,
    ends_at: float,
    why: str,
    hand: Hand,
) -> str:
    """Ask that the public version be public in [starts_at, ends_at); two others vote as on any request.

    Returns the request's id.
    """
    page = write_report(store, clock, principal, report, public=True)
    title = f"{report}: public version"
    made = put_asset(store, clock, principal, [page], title, Kind.REPORT, f"{report}.html", "text/html")
    times = (starts_at, ends_at)
    asked = request_publication(store, clock, principal, made.id, *times, why, hand.person, hand.secret)
    lay_open(store, clock, principal, report, asked.id, hand)
    return asked.id


def lay_open(
    store: Store, clock: Clock, principal: Principal, report: str, request: str, hand: Hand
) -> ReportPublication:
    """Enter that the copy beside a request is the public version of a report. Rejected when it is not."""
    state = load_state(store)
    with _refusals(store, clock, principal):
        record = _report(state, report)
        page = b"".join(read_copy(store, request))
        hidden = {one.field for one in record.redactions}
        found = verify_report(document_in(page), state.deployment)
        shown = {one.name for one in found.fields if one.field is None}
        if found.record != record or shown != hidden or render_again(page) != page:
            raise Rejected(Code.NOT_THE_PUBLIC_VERSION, f"{request} is not the public version of {report}")
    entry = ReportPublication(new_id("laid"), state.deployment, report, request)
    return submit(store, clock, principal, seal(entry, hand.gate))[0]


def render_again(page: bytes) -> bytes:
    """What this program makes of the data that a page carries."""
    return render(parse_canonical(document_in(page), LARGEST))


def _report(state: State, report: str) -> IssuedReport:
    if report not in state.reports:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no report {report[:80]}", "mythos report list")
    return state.reports[report]


def _about(store: Store, state: State, kind: ReportKind, matter: Matter, reviewer: str, now: float) -> About:
    """What the report is about; a decision record is about a release, a review about a report."""
    release, report = state.releases.get(matter.about), state.reports.get(matter.about)
    if kind is ReportKind.DECISION and release is None:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no release {matter.about[:80]}", "mythos release status")
    if kind is ReportKind.EXTERNAL and report is None:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no report {matter.about[:80]}", "mythos report list")
    named: Any = release.subject if release else report or matter
    known = sources(store, state)
    place = (named.family, named.tier, named.root, named.profile)
    return About(state, known, *place, release, report, reviewer, now)


def _fields(kind: ReportKind, about: About, words: Words) -> tuple[list[Field], tuple[str, ...]]:
    """Every field in order, and the questions that nobody answered."""
    asked = dict(ASKED[kind])
    if unknown := [one.field for one in words.claims if one.field not in asked]:
        questions = ", ".join(asked) or "none"
        raise Rejected(Code.UNKNOWN_FIELD, f"{kind} does not ask for {unknown[0]!r}", f"It asks: {questions}")
    fields = filled_in(kind, about)
    for name, title in asked.items():
        lines: list[Line] = []
        for one in words.claims:
            if one.field == name:
                place = (about.known, name, about.root, about.profile, about.policy)
                lines.append(claim(one.text, one.sources, *place))
        fields.append(Field(name, title, tuple(lines)))
    names = {one.name for one in fields}
    if unknown := [one.field for one in words.redactions if one.field not in names]:
        raise Rejected(
            Code.UNKNOWN_FIELD, f"no field {unknown[0]!r} to withhold", f"Fields: {', '.join(names)}"
        )
    return fields, tuple(one.name for one in fields if not one.lines)


@contextlib.contextmanager
def _refusals(store: Store, clock: Clock, principal: Principal) -> Iterator[None]:
    """An attempt that is refused before anything is submitted leaves its entry in the log too."""
    try:
        yield
    except Rejected as refused:
        audit(store, clock, principal, "report", "refused", code=str(refused.code))
        raise
    except MythosError:
        audit(store, clock, principal, "report", "refused", code=str(Code.NOT_THE_PUBLIC_VERSION))
        raise
