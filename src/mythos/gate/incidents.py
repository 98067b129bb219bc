"""Incidents: which act may follow which, the clocks that run, and when one may be closed. Pure.

Opening and containing only take something away: any enrolled person but an auditor may. Closing needs two
persons whose role votes, every duty met, and a final statement that leaves nothing on record out.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from mythos.gate.state import Rejected, State
from mythos.records.clock import TOLERANCE
from mythos.records.incident import (
    ABSENT,
    Done,
    IncidentClosed,
    IncidentContained,
    IncidentCounted,
    IncidentFinding,
    IncidentOpened,
    IncidentReported,
    Nature,
    Phase,
    Target,
)
from mythos.records.policy import PolicyPack
from mythos.records.reasons import Code
from mythos.records.trust import SERVICES, VOTERS, Key, Role

HOUR, DAY = 3_600.0, 86_400.0
CLOSERS = 2  # persons
PERSONS = frozenset(Role) - SERVICES - {Role.AUDITOR}
PUBLIC = "public"
EU, CALIFORNIA = "R29", "R34"  # EU Code of Practice M9.2-9.4; California SB 53, 22757.13
INTERIM = 28 * DAY  # R29: every four weeks until the final statement
FINAL = 60 * DAY  # R29: from the last containment


class Stand(StrEnum):
    """How far an incident is dealt with."""

    OPEN = "open"
    CONTAINED = "contained"
    COUNTED = "counted"
    REPORTED = "reported"
    CLOSED = "closed"


# What an act makes of a stand; a pair that is not here is refused. Deadlines do not wait, so a statement may
# be handed in at any time; what is counted before it is contained may still go on, so it counts for nothing.
NEXT: dict[tuple[Stand, type], Stand] = {
    (Stand.OPEN, IncidentContained): Stand.CONTAINED,
    (Stand.OPEN, IncidentCounted): Stand.OPEN,
    (Stand.OPEN, IncidentReported): Stand.OPEN,
    (Stand.OPEN, IncidentFinding): Stand.OPEN,
    (Stand.CONTAINED, IncidentContained): Stand.CONTAINED,
    (Stand.CONTAINED, IncidentCounted): Stand.COUNTED,
    (Stand.CONTAINED, IncidentReported): Stand.CONTAINED,
    (Stand.CONTAINED, IncidentFinding): Stand.CONTAINED,
    (Stand.COUNTED, IncidentContained): Stand.CONTAINED,
    (Stand.COUNTED, IncidentCounted): Stand.COUNTED,
    (Stand.COUNTED, IncidentReported): Stand.REPORTED,
    (Stand.COUNTED, IncidentFinding): Stand.COUNTED,
    (Stand.REPORTED, IncidentContained): Stand.CONTAINED,
    (Stand.REPORTED, IncidentCounted): Stand.COUNTED,
    (Stand.REPORTED, IncidentReported): Stand.REPORTED,
    (Stand.REPORTED, IncidentFinding): Stand.COUNTED,  # the statement does not know of it
    (Stand.REPORTED, IncidentClosed): Stand.CLOSED,
}


@dataclass(frozen=True, slots=True)
class Term:
    """Within `hours` of the suspicion, under the duty `row`. `pack`: what a policy pack calls this clock."""

    row: str
    hours: float
    pack: str


# reference: EU Code of Practice, safety and security, M9.2 (R29); California SB 53, 22757.13 (R34)
CLOCKS: dict[Nature, Term] = {
    Nature.INFRASTRUCTURE: Term(EU, 48.0, "incident_infrastructure"),
    Nature.CYBER_BREACH: Term(EU, 120.0, "incident_cyber"),
    Nature.DEATH: Term(EU, 240.0, "incident_death"),
    Nature.OTHER_SERIOUS: Term(EU, 360.0, "incident_other"),
    Nature.CRITICAL_SAFETY: Term(CALIFORNIA, 360.0, "incident_critical"),
    Nature.IMMINENT_DANGER: Term(CALIFORNIA, 24.0, "incident_imminent"),
}


@dataclass(frozen=True, slots=True)
class Act:
    """A record of an incident with its time in the ledger."""

    record: Any
    at: float


@dataclass(frozen=True, slots=True)
class Case:
    """An incident as its records add up. `acts` begin with the opening."""

    opened: IncidentOpened
    stand: Stand
    acts: tuple[Act, ...]

    @property
    def natures(self) -> dict[Nature, float]:
        """Each with the time from which its clock runs."""
        found = {nature: self.opened.suspected_at for nature in self.opened.natures}
        for act in self.acts:
            if isinstance(act.record, IncidentFinding) and act.record.nature is not None:
                found.setdefault(act.record.nature, act.at)
        return found

    def last(self, kind: type) -> Act | None:
        return next((act for act in reversed(self.acts) if isinstance(act.record, kind)), None)


@dataclass(frozen=True, slots=True)
class Duty:
    """A clock of one incident. `met` is when it was answered, None while it runs. POSIX seconds."""

    row: str
    what: str
    started: float
    due: float
    met: float | None

    def overdue(self, now: float) -> bool:
        """Whether it is late, or was."""
        return (now if self.met is None else self.met) >= self.due


def duties(case: Case, pack: PolicyPack | None) -> list[Duty]:
    """Every clock that an incident has started, the earliest due first.

    A clock of the pack in force counts where it is shorter: a policy makes no statutory deadline longer.
    """
    found = []
    reports = [act for act in case.acts if isinstance(act.record, IncidentReported)]
    own = {clock.name: clock.hours for clock in pack.clocks} if pack else {}
    for nature, started in case.natures.items():
        clock = CLOCKS[nature]
        hours = min(clock.hours, own.get(clock.pack, clock.hours))
        answers = [act.at for act in reports if clock.row in act.record.duties and act.at >= started]
        met = answers[0] if answers else None
        found.append(Duty(clock.row, f"first statement: {nature}", started, started + hours * HOUR, met))
    european = [act for act in reports if EU in act.record.duties]
    if EU in {duty.row for duty in found}:
        news = max(i for i, act in enumerate(case.acts) if not isinstance(act.record, IncidentReported))
        after = [act for act in case.acts[news:] if act in european]
        final = next((act.at for act in after if act.record.phase is Phase.FINAL), None)
        if european and final is None:
            last = european[-1].at
            found.append(Duty(EU, "next statement", last, last + INTERIM, None))
        contained = case.last(IncidentContained)
        if contained is not None and case.stand is not Stand.OPEN:
            found.append(Duty(EU, "final statement", contained.at, contained.at + FINAL, final))
    return sorted(found, key=lambda duty: duty.due)


def take_opened(state: State, record: IncidentOpened, keys: list[Key], now: float) -> None:
    _person(keys, record.by)
    if max(record.received_at, record.suspected_at) > now + TOLERANCE:
        raise Rejected(Code.BEFORE_ITS_TIME, "it is reported or suspected at a time that is to come")
    if record.suspected_at > record.received_at:
        raise Rejected(Code.BEFORE_ITS_TIME, "clocks run from the report at the latest")
    state.cases[record.id] = Case(record, Stand.OPEN, (Act(record, now),))


def take_finding(state: State, record: IncidentFinding, keys: list[Key], now: float) -> None:
    _person(keys, record.by)
    case = _case(state, record)
    if record.nature is not None and record.nature in case.natures:
        raise Rejected(Code.ID_TAKEN, f"the clock of {record.nature} runs already")
    _entered(state, case, record, now)


def take_contained(state: State, record: IncidentContained, keys: list[Key], now: float) -> None:
    """What the records can show of what it says is looked up: it must be so."""
    _gate_and(keys, record.by)
    case = _case(state, record)
    for done in record.done:
        if not _holds(state, done):
            raise Rejected(Code.NOT_CONTAINED, f"{done.what} {done.id} is as it was")
    _entered(state, case, record, now)
    if any(one.why != ABSENT for one in record.failed):  # it is contained when all of it is
        state.cases[case.opened.id] = replace(state.cases[case.opened.id], stand=Stand.OPEN)


def take_counted(state: State, record: IncidentCounted, keys: list[Key], now: float) -> None:
    _gate_and(keys, record.by)
    case = _case(state, record)
    if record.ends_at > now + TOLERANCE:
        raise Rejected(Code.BEFORE_ITS_TIME, "it is counted up to a time that is to come")
    _entered(state, case, record, now)


def take_reported(state: State, record: IncidentReported, keys: list[Key], now: float) -> None:
    _gate_and(keys, record.by)
    case = _case(state, record)
    if unknown := sorted(set(record.duties) - {EU, CALIFORNIA, PUBLIC}):
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no duty {unknown[0]}")
    if record.basis != tuple(act.record.id for act in case.acts):
        raise Rejected(Code.STATEMENT_STALE, "the statement was drafted from other records than there are")
    if record.phase is Phase.FINAL and case.stand not in (Stand.COUNTED, Stand.REPORTED):
        raise Rejected(Code.INCIDENT_ORDER, f"a final statement when it is {case.stand}")
    _entered(state, case, record, now)


def take_closed(state: State, record: IncidentClosed, keys: list[Key], now: float) -> None:
    voters = {key.holder for key in keys if key.role in VOTERS}
    if any(key.role not in VOTERS for key in keys) or voters != set(record.by):
        raise Rejected(Code.SIGNER_NOT_AUTHORISED, "those it names must sign in a role that votes")
    if len(voters) < CLOSERS:
        raise Rejected(Code.QUORUM_NOT_MET, f"{len(voters)} of {CLOSERS} persons")
    case = _case(state, record)
    if open_ := [duty for duty in duties(case, state.pack) if duty.met is None]:
        raise Rejected(Code.DUTIES_OPEN, f"{open_[0].row}: {open_[0].what}", "mythos incident show INCIDENT")
    _entered(state, case, record, now)


def is_final(case: Case) -> bool:
    """Whether the last statement was a final one."""
    last = case.last(IncidentReported)
    return last is not None and last.record.phase is Phase.FINAL


def _case(state: State, record: Any) -> Case:
    """The incident of a record that may follow in it."""
    case = state.cases.get(record.incident)
    if case is None:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no incident {record.incident}", "mythos incident list")
    if case.stand is Stand.CLOSED:
        raise Rejected(Code.INCIDENT_CLOSED, f"{record.incident} is closed", "mythos incident open")
    final = not isinstance(record, IncidentClosed) or is_final(case)
    if (case.stand, type(record)) not in NEXT or not final:
        when = f"when it is {case.stand}" if final else "before a final statement"
        what = type(record).__name__.removeprefix("Incident").lower()
        raise Rejected(Code.INCIDENT_ORDER, f"an incident is not {what} {when}", "mythos incident show ID")
    return case


def _entered(state: State, case: Case, record: Any, now: float) -> None:
    stand = NEXT[case.stand, type(record)]
    state.cases[case.opened.id] = Case(case.opened, stand, (*case.acts, Act(record, now)))


def _holds(state: State, done: Done) -> bool:
    """Whether what was contained is so by the records. Shares, keys and assets lie outside them."""
    match done.what:
        case Target.PUBLICATION:
            return done.id in state.unpublished
        case Target.GRANT | Target.ORGANISATION:
            return done.id in state.revoked
        case Target.RELEASE:
            return done.id in state.fallen
        case Target.TIER:
            found = state.suspensions.get(done.record)
            return found is not None and found.tier in ("", done.id) and not found.where
        case Target.PROFILE:
            return any(one.profile == done.id for one in state.incidents.values())
    return True


def _person(keys: list[Key], by: str) -> None:
    if len(keys) != 1 or keys[0].role not in PERSONS or keys[0].holder != by:
        said = ", ".join(f"{key.holder} as {key.role}" for key in keys)
        raise Rejected(Code.SIGNER_NOT_AUTHORISED, f"signed by {said}; {by} must sign")


def _gate_and(keys: list[Key], by: str) -> None:
    """The gate vouches for what it did or counted, a person for having it done."""
    gate = [key for key in keys if key.role is Role.GATE]
    if len(gate) != 1:
        raise Rejected(Code.SIGNER_NOT_AUTHORISED, "the gate must sign too")
    _person([key for key in keys if key.role is not Role.GATE], by)
