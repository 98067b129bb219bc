"""The statement about an incident, drafted from its records and from nothing else.

What no record says is said to be unknown. Nobody types into a draft: whoever knows more adds a finding under
their own name, and drafts again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mythos.gate.incidents import Case, Stand, duties
from mythos.gate.state import State
from mythos.gate.submit import load_state, submit
from mythos.records.clock import Clock, stamp
from mythos.records.ids import new_id
from mythos.records.incident import (
    ABSENT,
    Finding,
    IncidentContained,
    IncidentCounted,
    IncidentFinding,
    IncidentReported,
    Phase,
    Source,
    Tally,
)
from mythos.records.principal import Principal
from mythos.records.signed import seal
from mythos.store.db import Store
from mythos.vault.documents import PENDING, file_document, rehearse
from mythos.vault.incidents import Hand, case_of, texts_of

UNKNOWN = "Unknown: no record says it."
WHAT = {
    Finding.BEGAN: "When it began",
    Finding.ENDED: "When it ended",
    Finding.AFFECTED: "Who was affected",
    Finding.HARM: "What harm came of it",
    Finding.CAUSE: "The root cause",
    Finding.MODEL: "How a model was involved",
    Finding.MEASURES: "What is done so that it does not happen again",
}
LOGS = {
    Source.ASSETS: "Assets, by the vault's log of reads",
    Source.PUBLICATIONS: "Publications, by the public area's log",
    Source.TIERS: "Tiers, by the server's log of answers",
}
READERS = {Source.ASSETS: "principals", Source.PUBLICATIONS: "tags of addresses", Source.TIERS: "principals"}


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """`basis`: the ids of the records it was drafted from, which is all there were."""

    incident: str
    drill: bool
    drafted_at: float
    sections: tuple[Section, ...]
    basis: tuple[str, ...]

    @property
    def text(self) -> str:
        mark = "DRILL: " if self.drill else ""
        parts = [f"{mark}Statement about incident {self.incident}, drafted {stamp(self.drafted_at)}"]
        for section in self.sections:
            parts += ["", section.title, *(f"  {line}" for line in section.lines)]
        return "\n".join([*parts, "", f"Drafted from {len(self.basis)} signed records and nothing else.", ""])


def draft_statement(store: Store, clock: Clock, principal: Principal, incident: str) -> Statement:
    """The statement as the records stand now. NoAsset for whoever may not read the findings."""
    state = load_state(store)
    case = case_of(state, incident)
    texts = {record: text for record, _, text in texts_of(store, clock, principal, case)}
    return drafted(state, case, texts, clock.now())


def drafted(state: State, case: Case, texts: Mapping[str, str], now: float) -> Statement:
    """As `draft_statement`. `texts`: those of the findings, by the id of their record. Pure."""
    opened = case.opened
    natures = ", ".join(str(nature).replace("_", " ") for nature in case.natures)
    began = [
        f"An outside report was received {stamp(opened.received_at)}.",
        f"It was entered {stamp(case.acts[0].at)}; it has been suspected since {stamp(opened.suspected_at)}.",
        f"Suspected or established: {natures}.",
    ]
    sections = [Section("What was reported", tuple(began))]
    counted = [f"{count} {what}" for what, count in _by_kind([one.what for one in opened.named]).items()]
    named = f"The report names {', '.join(counted)}." if counted else "Unknown: the record names nothing."
    sections += [
        Section("What was reachable", (named,)),
        Section("What was done at once", _contained(case)),
        Section("Who read it", _counts(case)),
    ]
    sections += [Section(WHAT[finding], _found(case, finding, texts)) for finding in WHAT]
    sections.append(Section("Deadlines", tuple(_deadlines(state, case))))
    basis = tuple(act.record.id for act in case.acts)
    return Statement(opened.id, state.drill, now, tuple(sections), basis)


def hand_in_statement(
    store: Store,
    clock: Clock,
    principal: Principal,
    incident: str,
    duties: Sequence[str],
    phase: Phase,
    hand: Hand,
) -> tuple[IncidentReported, Statement]:
    """Enter that the statement, as drafted now, is handed in under these duties: their clocks stop."""
    statement = draft_statement(store, clock, principal, incident)
    record = IncidentReported(
        id=new_id("stmt"),
        deployment=load_state(store).deployment,
        incident=incident,
        duties=tuple(dict.fromkeys(duties)),
        phase=phase,
        statement=PENDING,
        basis=statement.basis,
        by=hand.person,
    )
    rehearse(store, clock, principal, record, hand.gate, hand.secret)
    content = {"text": statement.text, "phase": str(phase)}
    document = file_document(store, clock, principal, f"{incident}: {phase} statement", content)
    record = replace(record, statement=document)
    return submit(store, clock, principal, seal(record, hand.gate, hand.secret))[0], statement


def _contained(case: Case) -> tuple[str, ...]:
    lines = []
    for act in case.acts:
        if isinstance(act.record, IncidentContained):
            done, failed = act.record.done, act.record.failed
            taken = [f"{count} {what}" for what, count in _by_kind([one.what for one in done]).items()]
            lines.append(f"{stamp(act.at)}: taken away: {', '.join(taken) or 'nothing'}.")
            left = [f"{one.what} {one.id} ({one.why})" for one in failed if one.why != ABSENT]
            lines += [f"{stamp(act.at)}: could not be taken away: {', '.join(left)}."] * bool(left)
            none = [f"{one.what} {one.id}" for one in failed if one.why == ABSENT]
            lines += [f"{stamp(act.at)}: there is none, says {act.record.by}: {', '.join(none)}."] * bool(
                none
            )
    if case.stand is Stand.OPEN and lines:
        lines.append("It is not contained.")
    return tuple(lines) or ("Nothing yet: no record says that anything was taken away.",)


def _counts(case: Case) -> tuple[str, ...]:
    last = case.last(IncidentCounted)
    if last is None:
        return ("Unknown: nothing has been counted.",)
    record = last.record
    since = stamp(record.starts_at) if record.starts_at else "the first entry of the log"
    lines = [f"Counted {stamp(last.at)}, from {since} to {stamp(record.ends_at)}."]
    lines += [_tally(one) for one in record.tallies] or ["Unknown: nothing that a log knows is named."]
    contained = case.last(IncidentContained)
    if contained is None or case.acts.index(contained) > case.acts.index(last) or case.stand is Stand.OPEN:
        lines.append("It was counted before it was contained: there may be more.")
    return (*lines, *(f"Unknown: {what}." for what in record.unknown))


def _tally(one: Tally) -> str:
    refused = f"; {one.refused} attempts were refused" if one.refused else ""
    if not one.reads:
        return f"{LOGS[one.source]}: no read{refused}."
    who = f"{one.callers} {READERS[one.source]}"
    orgs = f" of {one.organisations} organisations" if one.source is not Source.PUBLICATIONS else ""
    size = f", {one.bytes} bytes" if one.bytes else ""
    span = f"first {stamp(one.first)}, last {stamp(one.last)}"
    return f"{LOGS[one.source]}: {one.reads} reads of {one.items} by {who}{orgs}{size}, {span}{refused}."


def _found(case: Case, finding: Finding, texts: Mapping[str, str]) -> tuple[str, ...]:
    lines = []
    for act in case.acts:
        record = act.record
        if isinstance(record, IncidentFinding) and record.finding is finding:
            text = texts.get(record.id, "(the text may not be read here)")
            lines.append(f"{' '.join(text.split())} (found by {record.by}, {stamp(act.at)})")
    return tuple(lines) or (UNKNOWN,)


def _deadlines(state: State, case: Case) -> list[str]:
    lines = []
    for duty in duties(case, state.pack):
        fate = "open" if duty.met is None else f"met {stamp(duty.met)}"
        late = ", late" if duty.met is not None and duty.overdue(duty.met) else ""
        lines.append(f"{duty.row}, {duty.what.replace('_', ' ')}: due {stamp(duty.due)}, {fate}{late}.")
    return lines


def _by_kind(kinds: Sequence[object]) -> dict[str, int]:
    return {str(kind): kinds.count(kind) for kind in dict.fromkeys(kinds)}
