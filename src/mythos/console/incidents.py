"""The pages of incidents: which there are, how far each is dealt with, its clocks and acts. They only show.

What is done about one is done at the command line, where the person's key is.
"""

from typing import Any

from mythos.console.pages import Answer, Visit, page
from mythos.gate.incidents import Case, Stand
from mythos.gate.submit import load_state
from mythos.ledger.log import audit
from mythos.records.incident import IncidentContained, IncidentCounted
from mythos.records.principal import is_operator
from mythos.serve.vault_front import not_found
from mythos.vault.incidents import IncidentRow, incident_rows
from mythos.vault.statements import draft_statement

# What comes next, by how far it is.
NEXT = {
    Stand.OPEN: "mythos incident contain {} --as PERSON",
    Stand.CONTAINED: "mythos incident count {} --as PERSON",
    Stand.COUNTED: "mythos incident report {} --duty DUTY --phase PHASE --as PERSON",
    Stand.REPORTED: "mythos incident close {} --text TEXT --by PERSON --by PERSON",
}


def listing(visit: Visit) -> Answer:
    """Every incident, the newest first. For the operator; to others there is no such page."""
    rows = _rows(visit)
    _note(visit, "incident.list", "")
    return page(visit, "incidents.html", {"rows": rows, "now": visit.now})


def show(visit: Visit) -> Answer:
    row, case = _one(visit)
    contained, counted = case.last(IncidentContained), case.last(IncidentCounted)
    acts = [(type(a.record).__name__.removeprefix("Incident").lower(), a.record.by, a.at) for a in case.acts]
    values: dict[str, Any] = {"row": row, "acts": acts, "now": visit.now}
    values |= {"contained": contained and contained.record, "counted": counted and counted.record}
    next_ = NEXT[row.stand].format(row.id) if row.stand in NEXT else ""
    _note(visit, "incident.show", row.id)
    return page(visit, "incident.html", {**values, "next": next_})


def statement(visit: Visit) -> Answer:
    """The statement as the records stand now."""
    row, _ = _one(visit)
    text = draft_statement(*visit.place, row.id).text
    _note(visit, "incident.statement", row.id)
    return page(visit, "incident_statement.html", {"row": row, "text": text})


def _rows(visit: Visit) -> list[IncidentRow]:
    if not is_operator(visit.principal):
        raise not_found()
    return incident_rows(load_state(visit.service.store), visit.now)


def _one(visit: Visit) -> tuple[IncidentRow, Case]:
    name = visit.path["incident"]
    found = next((row for row in _rows(visit) if row.id == name), None)
    if found is None:
        raise not_found()
    return found, load_state(visit.service.store).cases[name]


def _note(visit: Visit, action: str, incident: str) -> None:
    facts = {"incident": incident} if incident else {}
    audit(visit.service.store, visit.service.clock, visit.principal, action, "answered", **facts)
