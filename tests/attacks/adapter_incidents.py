"""Operations on incidents and reports, as functions of the adapter's half for assets (`Vaulted`)."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mythos.gate.incidents import HOUR
from mythos.gate.submit import submit
from mythos.records.ids import new_id
from mythos.records.incident import (
    Done,
    Finding,
    IncidentContained,
    Lesson,
    Named,
    Nature,
    Phase,
    Target,
)
from mythos.records.report import Field, Ground, Line, Redaction, ReportKind, commitment
from mythos.records.signed import from_plain, seal
from mythos.store.home import write_private
from mythos.vault import counting, incidents, reports, statements
from mythos.vault.incidents import Hand
from mythos.vault.report_fields import ASKED
from mythos.vault.report_page import document_in, verify_page
from mythos.vault.report_sources import mark
from tests.attacks.said import Said

WORDS = "it was looked at"


def _hand(self: Any, who: str, gate: str = "gate") -> Hand:
    return Hand(who, self.adapter.secret(who), self.adapter.secret(gate))


def _targets(self: Any, named: Sequence[str]) -> list[Named]:
    """`asset`, `request`, `share` by the name they were kept under; others as KIND:NAME."""
    kinds = {"ast_": Target.ASSET, "pubreq_": Target.PUBLICATION, "shr_": Target.SHARE}
    found = []
    for one in named:
        kind, sign, name = one.partition(":")
        if sign:
            found.append(Named(Target(kind), name))
        else:
            what = self.id(one)
            found.append(Named(next(k for start, k in kinds.items() if what.startswith(start)), what))
    return found


def op_incident_open(
    self: Any, signer: str = "safety-1", claiming: str = "", natures: Sequence[str] = ("cyber_breach",),
    named: Sequence[str] = (), received: float = 0.0, suspected: float | None = None, name: str = "incident",
) -> None:  # fmt: skip
    """`received` and `suspected` in hours from now."""
    now = self.town.now
    since = None if suspected is None else now + suspected * HOUR
    hand = Hand(claiming or signer, self.adapter.secret(signer), self.town.gate)
    made = incidents.open_incident(
        *self.place("operator"), "drafts are readable", "a newspaper", now + received * HOUR,
        [Nature(one) for one in natures], _targets(self, named), hand, since,
    )  # fmt: skip
    self.adapter.kept[name] = made.id
    self.adapter.kept[f"report of {name}"] = made.report.asset


def op_incident_find(
    self: Any, finding: str = "cause", signer: str = "safety-1", nature: str = "", incident: str = "incident"
) -> None:
    which = Nature(nature) if nature else None
    place = self.place("operator")
    incidents.add_finding(*place, self.id(incident), Finding(finding), WORDS, _hand(self, signer), which)


def op_incident_contain(
    self: Any, signer: str = "safety-1", more: Sequence[str] = (), incident: str = "incident"
) -> Any:

    made = incidents.contain_incident(
        *self.place("operator"), self.id(incident), _targets(self, more), _hand(self, signer)
    )
    return Said("OK" if not made.failed else "NOT_CONTAINED")


def op_incident_contained_forged(self: Any, done: str, gate: str = "gate", signer: str = "safety-1") -> None:
    """A record that says something was taken away that was not."""
    (named,) = _targets(self, [done])
    state = self.town.state
    record = IncidentContained(
        new_id("cont"), state.deployment, self.id("incident"), (Done(named.what, named.id, ""),), (), signer
    )
    keys = [self.adapter.secret(one) for one in dict.fromkeys((gate, signer))]
    submit(*self.place("operator"), seal(record, *keys))


def op_incident_count(
    self: Any, signer: str = "safety-1", gate: str = "gate", until: float = 0.0, incident: str = "incident"
) -> None:
    """`until` in hours from now; 0 for now."""
    ends = self.town.now + until * HOUR if until else None
    hand = _hand(self, signer, gate)
    counting.count_incident(*self.place("operator"), self.id(incident), hand, 0.0, ends)


def op_incident_report(
    self: Any, duties: Sequence[str] = ("R29",), phase: str = "initial", signer: str = "safety-1",
    incident: str = "incident", name: str = "statement",
) -> None:  # fmt: skip
    record, _ = statements.hand_in_statement(
        *self.place("operator"), self.id(incident), duties, Phase(phase), _hand(self, signer)
    )
    self.adapter.kept[name] = record
    self.adapter.kept[f"text of {name}"] = record.statement.asset


def op_incident_report_again(self: Any, name: str = "statement", fresh: bool = False) -> None:
    """The very statement of before, under a new id; `fresh` says it was drafted from what there is now."""
    old = self.adapter.kept[name]
    acts = self.town.state.cases[old.incident].acts
    basis = tuple(act.record.id for act in acts) if fresh else old.basis
    again = replace(old, id=new_id("stmt"), basis=basis)
    submit(*self.place("operator"), seal(again, self.town.gate, self.adapter.secret(old.by)))


def op_incident_close(
    self: Any, by: Sequence[str] = ("rso-1", "board-1"), lessons: Sequence[str] = (),
    incident: str = "incident",
) -> None:  # fmt: skip
    persons = [(who, self.adapter.secret(who)) for who in by]
    rows = [Lesson("assets", path) for path in lessons]
    incidents.close_incident(*self.place("operator"), self.id(incident), WORDS, rows, persons)


def op_incident_clocks(self: Any) -> Any:
    """OVERDUE when a clock of an open incident has run out unanswered."""

    rows = incidents.incident_rows(self.town.state, self.town.now)
    late = {duty.row for row in rows for duty in row.overdue if duty.met is None}
    return Said("OVERDUE" if late else "OK", frozenset(late))


def op_report_make(
    self: Any, kind: str = "capability", signer: str = "rso-1", gate: str = "gate", about: str = "",
    text: str = WORDS, cites: Sequence[str] = ("policy",), hide: Sequence[str] = (), complete: bool = True,
    root: str = "W1", name: str = "report",
) -> None:  # fmt: skip
    """`text` answers the first question; EVIDENCE stands for the id of a piece of evidence on `root`."""
    _log_key(self)
    state, which = self.town.state, self.adapter.roots[root]
    asked = [question for question, _ in ASKED[ReportKind(kind)]]
    piece = next((one.id for one in state.evidence.values() if one.root == which), "none")
    named = tuple(piece if one == "EVIDENCE" else one for one in cites)
    answers = asked if complete else asked[:1]
    claims = tuple(
        reports.Claim(question, text.replace("EVIDENCE", piece) if not at else WORDS, named)
        for at, question in enumerate(answers)
    )
    hidden = tuple(Redaction(field, Ground.SAFETY, "it names what was tried") for field in hide)
    matter = reports.Matter("fam", "capybara", self.adapter.roots["W1"], "none")
    if about:
        kept = self.adapter.kept[about]
        matter = reports.Matter(about=getattr(kept, "id", kept))
    hand = _hand(self, signer, gate)
    words = reports.Words(claims, hidden)
    made = reports.make_report(*self.place("operator"), ReportKind(kind), matter, words, hand)
    self.adapter.kept[name] = made.id
    self.adapter.kept[f"fields of {name}"] = self.town.state.filed[made.id].asset


def op_report_verify(
    self: Any, change: str = "", public: bool = False, trust: str = "", report: str = "report"
) -> Any:
    """Verify a page of a report, perhaps changed, by itself."""

    page = reports.write_report(*self.place("operator"), self.id(report), public)
    changed = _changed(page, change)
    assert (changed != page) is bool(change)
    found = verify_page(changed, trust or self.town.state.deployment)
    return Said("OK" if found.status == "verified" else found.status.upper())


def op_report_guess(self: Any, field: str, full: bool = False, report: str = "report") -> Any:
    """Find a withheld share by trying each: with what the public version carries, or as the reviewer."""

    pages = [
        reports.write_report(*self.place("operator"), self.id(report), public) for public in (True, not full)
    ]
    shown, own = (json.loads(document_in(page)) for page in pages)
    wanted = next(
        one.commitment for one in self.town.state.reports[self.id(report)].fields if one.name == field
    )
    held = next(one for one in own["fields"] if one["name"] == field)
    salts = {held.get("salt", "0" * 32), *(one["salt"] for one in shown["fields"] if "salt" in one)}
    guesses = (
        [from_plain(Field, {k: v for k, v in held.items() if k != "salt"})]
        if "salt" in held
        else [
            Field(field, "Threat models: criteria, and which were considered", (Line("", f"{n} %", ()),))
            for n in range(101)
        ]
    )
    found = any(commitment(guess, salt) == wanted for guess in guesses for salt in salts)
    return Said("GRANT" if found else "DENY")


def op_report_mark(self: Any, field: str, report: str = "report") -> Any:
    """SINGLE when a line of a field is marked as having one source, or none."""

    page = reports.write_report(*self.place("operator"), self.id(report), False)
    found = next(one.field for one in verify_page(page).fields if one.name == field)
    return Said("SINGLE" if any(mark(line) for line in found.lines) else "OK")


def op_report_publish(
    self: Any, signer: str = "requester-1", report: str = "report", name: str = "request"
) -> None:
    place = self.place("operator")
    made = reports.publish_report(*place, self.id(report), self.town.now, 0.0, "why", _hand(self, signer))
    self.adapter.kept[name] = made


def op_report_lay_open(self: Any, request: str = "request", report: str = "report") -> None:
    """Say that the copy beside a publication request is the public version of a report."""
    reports.lay_open(*self.place("operator"), self.id(report), self.id(request), _hand(self, "rso-1"))


def op_report_asset(self: Any, public: bool = False, report: str = "report", name: str = "asset") -> Any:
    """A page of a report, put into the vault as anything is."""
    page = reports.write_report(*self.place("operator"), self.id(report), public)
    return self.op_asset_put(name, text=page.decode(), kind="report")


def _log_key(self: Any) -> None:
    """The machine has the key of the log that is enrolled."""
    pem = self.town.ledger.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with contextlib.suppress(FileExistsError):
        write_private(self.town.home.keys / "ledger.key", pem, replace=False)


def _changed(page: bytes, how: str) -> bytes:
    """A page with one thing changed, its data untouched or changed along."""
    if how in ("", "trust"):
        return page
    if how == "figure":
        return page.replace(b"0 of 164", b"9 of 164")
    if how == "mark":
        return page.replace(b"single source", b"", 1)
    if how == "drill":
        return page.replace(b"DRILL: a rehearsal", b"A rehearsal")
    if how == "script":
        return page.replace(b"</main>", b"</main><script>1</script>")
    if how == "hole":
        return page.replace(b"Withheld (safety)", b"Nothing here")
    from tests.vault.test_reports import edited

    edits: dict[str, Any] = {
        "data": lambda d: d["fields"][2]["lines"][0].update(text="ALLOW, RULED_OUT"),
        "dropped": lambda d: d["fields"].pop(2),
        "withheld": lambda d: d["fields"].__setitem__(2, {"name": d["fields"][2]["name"]}),
        "salt": lambda d: d["fields"][2].update(salt="0" * 32),
    }
    return edited(page, edits[how])
