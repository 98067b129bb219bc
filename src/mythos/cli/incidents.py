"""`mythos incident`: from an outside report to a row of the audit."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mythos.cli.desk import Desk, mark, open_desk, said, table
from mythos.cli.output import CommandError, Exit, date, emit, json_wanted, note, printable, show
from mythos.cli.publications import time_of
from mythos.gate.incidents import PERSONS, Duty
from mythos.gate.submit import load_state
from mythos.records.incident import ABSENT, Finding, Lesson, Named, Nature, Phase, Target
from mythos.records.trust import VOTERS
from mythos.store.operator_key import operator_keys
from mythos.vault import counting, incidents, statements
from mythos.vault.incidents import Hand, IncidentRow, incident_rows

# What an id is, by how it begins.
PREFIXES = {
    "ast_": Target.ASSET,
    "pub_": Target.PUBLICATION,
    "pubreq_": Target.PUBLICATION,
    "shr_": Target.SHARE,
    "key_": Target.KEY,
    "grant_": Target.GRANT,
    "rel_": Target.RELEASE,
}


def run_open(
    file: Path,
    reporter: str,
    received: str,
    suspected: str,
    natures: Sequence[Nature],
    reachable: Sequence[str],
    who: str,
) -> int:
    desk = open_desk()
    now = desk.records.clock.now()
    at = time_of(received, now)
    text = sys.stdin.read() if str(file) == "-" else _read(file)
    named = [_named(one) for one in reachable]
    since = time_of(suspected, at)
    made = incidents.open_incident(*desk.acting, text, reporter, at, natures, named, _hand(desk, who), since)
    first = min(_row(desk, made.id).duties, key=lambda duty: duty.due)
    next_ = f"mythos incident contain {made.id} --as PERSON"
    return said(
        desk, f"{made.id} is open; {_duty(first, now)}; next: {next_}", made, next=next_, due=first.due
    )


def run_find(incident: str, finding: Finding, text: str, nature: Nature | None, who: str) -> int:
    desk = open_desk()
    if (finding is Finding.NATURE) is (nature is None):
        raise CommandError("a finding `nature`, and no other, names one", "--nature NATURE", Exit.USAGE)
    made = incidents.add_finding(*desk.acting, incident, finding, _text(text), _hand(desk, who), nature)
    _late(desk)
    return said(desk, f"{made.by} has found the {finding} of {incident}", made)


def run_contain(incident: str, reachable: Sequence[str], absent: Sequence[str], who: str) -> int:
    desk = open_desk()
    more = [_named(one) for one in reachable]
    gone = [_named(one) for one in absent]
    made = incidents.contain_incident(*desk.acting, incident, more, _hand(desk, who), gone)
    if not json_wanted():
        for one in made.done:
            show(f"taken away: {one.what} {one.id}")
    for one in made.failed:
        note(f"NOT taken away: {one.what} {one.id}: {one.why}")
    _late(desk)
    left = any(one.why != ABSENT for one in made.failed)
    said(desk, f"{incident} is {'still open' if left else 'contained'}", made)
    return Exit.FAILED if left else Exit.OK


def run_count(incident: str, starts: str, ends: str, who: str) -> int:
    desk = open_desk()
    until = time_of(ends, 0.0) or None
    made = counting.count_incident(*desk.acting, incident, _hand(desk, who), time_of(starts, 0.0), until)
    rows = [
        {
            "log": str(one.source),
            "read": one.items,
            "reads": one.reads,
            "callers": one.callers,
            "organisations": one.organisations,
            "refused": one.refused,
            "first": date(one.first) if one.reads else "",
            "last": date(one.last) if one.reads else "",
        }
        for one in made.tallies
    ]
    if rows and not json_wanted():
        table(rows, f"{mark(desk.state.drill)}counted")
    for what in made.unknown:
        note(f"unknown: {what}")
    _late(desk)
    return said(desk, f"{made.id}: the whole table is {made.table.asset}", made)


def run_report(incident: str, duties: Sequence[str], phase: Phase, out: Path | None, who: str) -> int:
    desk = open_desk()
    record = None
    if duties:
        if not who:
            raise CommandError("who hands it in?", "--as PERSON", Exit.USAGE)
        hand = _hand(desk, who)
        record, statement = statements.hand_in_statement(*desk.acting, incident, duties, phase, hand)
    else:
        statement = statements.draft_statement(*desk.acting, incident)
    if out is not None:
        with open(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(statement.text)
    elif not json_wanted():
        show(printable(statement.text))
    _late(desk)
    done = f"handed in under {', '.join(duties)}" if duties else "a draft: nothing is entered"
    return said(desk, done, record, statement=statement.text)


def run_close(incident: str, text: str, lessons: Sequence[str], by: Sequence[str]) -> int:
    desk = open_desk()
    rows = [_lesson(one) for one in lessons]
    persons = [desk.key(who, VOTERS) for who in by]
    made = incidents.close_incident(*desk.acting, incident, _text(text), rows, persons)
    return said(desk, f"{incident} is closed; {made.lessons} new rows of `mythos vault audit`", made)


def run_show(incident: str) -> int:
    desk = open_desk()
    case = incidents.case_of(desk.state, incident)
    row, now = _row(desk, incident), desk.records.clock.now()
    texts = incidents.texts_of(*desk.acting, case)
    acts = [
        {
            "id": act.record.id,
            "what": type(act.record).__name__.removeprefix("Incident").lower(),
            "at": act.at,
        }
        for act in case.acts
    ]
    if json_wanted():
        held = [{"record": record, "asset": document.asset, "text": text} for record, document, text in texts]
        emit({"drill": desk.state.drill, **_plain(row, now), "acts": acts, "texts": held})
        return 0
    show(f"{mark(desk.state.drill)}{incident}: {row.stand}")
    for duty in row.duties:
        show(f"  {_duty(duty, now)}")
    table(acts, "acts")
    for record, _, text in texts:
        show(f"{record}: {printable(text)}")
    return 0


def run_list() -> int:
    desk = open_desk()
    now = desk.records.clock.now()
    rows = incident_rows(desk.state, now)
    if json_wanted():
        emit({"drill": desk.state.drill, "incidents": [_plain(row, now) for row in rows]})
    elif not rows:
        note("none: mythos incident open FILE --from WHO --as PERSON")
    else:
        cells = []
        for row in rows:
            ahead = [duty for duty in row.duties if duty.met is None]
            natures, due = ", ".join(row.natures), _duty(ahead[0], now) if ahead else ""
            cells.append({"id": row.id, "stand": str(row.stand), "natures": natures, "next": due})
        table(cells, f"{mark(desk.state.drill)}incidents")
    return Exit.FAILED if _late(desk) else Exit.OK


def _late(desk: Desk) -> bool:
    """Tell of every clock that has run out; whether there is one."""
    now = desk.records.clock.now()
    late = [
        (row.id, d)
        for row in incident_rows(load_state(desk.records.store), now)
        for d in row.overdue
        if d.met is None
    ]
    for incident, duty in late:
        note(f"OVERDUE: {incident}: {_duty(duty, now)}")
    return bool(late)


def _duty(duty: Duty, now: float) -> str:
    what = f"{duty.row}, {duty.what.replace('_', ' ')}"
    if duty.met is not None:
        return f"{what}: met {date(duty.met)}{', late' if duty.overdue(now) else ''}"
    hours = (duty.due - now) / 3_600
    span = f"{abs(hours):.0f} h" if abs(hours) < 96 else f"{abs(hours) / 24:.0f} days"
    return f"{what}: due {date(duty.due)}, {span} {'ago' if hours <= 0 else 'left'}"


def _plain(row: IncidentRow, now: float) -> dict[str, object]:
    clocks = [{**asdict(duty), "overdue": duty.overdue(now)} for duty in row.duties]
    return {**asdict(row), "duties": clocks, "overdue": len(row.overdue)}


def _row(desk: Desk, incident: str) -> IncidentRow:
    rows = incident_rows(load_state(desk.records.store), desk.records.clock.now())
    return next(row for row in rows if row.id == incident)


def _hand(desk: Desk, who: str) -> Hand:
    person, secret = desk.key(who, PERSONS)
    return Hand(person, secret, operator_keys(desk.records.home))


def _named(given: str) -> Named:
    kind, sign, name = given.partition(":")
    if sign and kind in list(Target):
        return Named(Target(kind), name)
    found = next((what for prefix, what in PREFIXES.items() if given.startswith(prefix)), None)
    if found is None:
        raise CommandError(
            f"{given[:80]!r} does not say what it is", "for example tier:NAME, organisation:NAME", Exit.USAGE
        )
    return Named(found, given)


def _lesson(given: str) -> Lesson:
    listener, sign, path = given.partition(":")
    if not sign:
        raise CommandError(f"{given[:80]!r} names no listener", "for example assets:/v1/assets", Exit.USAGE)
    return Lesson(listener, path)


def _text(given: str) -> str:
    return _read(Path(given[1:])) if given.startswith("@") else given


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise CommandError(f"cannot read {file}: {why}", "Name a text file.") from None
