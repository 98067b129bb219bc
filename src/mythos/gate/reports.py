"""Reports on record: who may issue one, and which must be public before a stage opens. Pure."""

from mythos.gate.publications import is_public
from mythos.gate.state import Rejected, State, developers
from mythos.records.policy import PolicyPack
from mythos.records.reasons import Code
from mythos.records.release import STAGES, Subject
from mythos.records.report import IssuedReport, ReportFiled, ReportKind, ReportPublication
from mythos.records.trust import SERVICES, Key, Role

AUTHORS = frozenset(Role) - SERVICES - {Role.AUDITOR}


def take_report(state: State, record: IssuedReport, keys: list[Key], now: float) -> None:
    """Signed by the gate, which filled in the figures from what is on record, and by its author."""
    roles = {key.role for key in keys}
    authors = [key for key in keys if key.role in AUTHORS]
    if len(keys) != 2 or Role.GATE not in roles or [key.holder for key in authors] != [record.by]:
        raise Rejected(Code.SIGNER_NOT_AUTHORISED, f"the gate and {record.by} must sign")
    if unknown := [name for name in (*record.sources, record.about) if name and name not in state.at]:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no record {unknown[0]}")
    if record.kind is ReportKind.EXTERNAL and (
        authors[0].role is not Role.EXTERNAL or inside(state, record.by)
    ):
        raise Rejected(Code.REVIEWER_NOT_INDEPENDENT, f"{record.by} is of the developer")
    state.reports[record.id] = record


def take_report_filed(state: State, record: ReportFiled, keys: list[Key], now: float) -> None:
    _of_report(state, record, keys)
    if record.report in state.filed:
        raise Rejected(Code.ID_TAKEN, f"{record.report} is filed already")
    state.filed[record.report] = record.document


def take_report_publication(state: State, record: ReportPublication, keys: list[Key], now: float) -> None:
    _of_report(state, record, keys)
    if record.request not in state.requests:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no publication request {record.request}")
    if record.request in state.laid_open:
        raise Rejected(Code.ID_TAKEN, f"{record.request} is of a report already")
    state.laid_open[record.request] = record.report


def _of_report(state: State, record: ReportFiled | ReportPublication, keys: list[Key]) -> None:
    if len(keys) != 1 or keys[0].role is not Role.GATE:
        raise Rejected(Code.SIGNER_NOT_AUTHORISED, "the gate must sign")
    if record.report not in state.reports:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no report {record.report}", "mythos report list")


def inside(state: State, person: str) -> bool:
    """Whether a person is of an organisation that develops the model."""
    return state.orgs_of.get(person, "").casefold() in developers(state)


def wanted(pack: PolicyPack, subject: Subject) -> list[ReportKind]:
    """The reports that a pack wants public when this stage opens: clocks of 0 hours named `KIND_report`.

    The trigger of such a clock is the first stage it is about.
    """
    names = {f"{kind}_report": kind for kind in ReportKind}
    found = []
    for clock in pack.clocks:
        kind = names.get(clock.name)
        if (
            kind is not None
            and clock.hours == 0
            and clock.trigger in STAGES[: STAGES.index(subject.stage) + 1]
        ):
            found.append(kind)
    return found


def unpublished(state: State, pack: PolicyPack, subject: Subject, now: float) -> list[ReportKind]:
    """Of these the ones that are not public now, complete, about these weights under this profile."""
    shown = set()
    for publication in state.publications.values():
        report = state.reports.get(state.laid_open.get(publication.request, ""))
        if report is None or report.missing or not is_public(state, publication, now):
            continue
        if (report.root, report.profile) == (subject.root, subject.profile):
            shown.add(report.kind)
    return [kind for kind in wanted(pack, subject) if kind not in shown]
