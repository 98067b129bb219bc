"""`mythos report`: from signed records to a page, and back."""

import os
import tomllib
from pathlib import Path

from mythos.cli.desk import listing, open_desk, profile_named, said
from mythos.cli.output import CommandError, Exit, emit, json_wanted, note, printable
from mythos.cli.publications import time_of
from mythos.gate.incidents import PERSONS
from mythos.records.bundle import BROKEN, VERIFIED, trust_named
from mythos.records.report import ReportKind
from mythos.records.signed import to_plain
from mythos.records.table import from_table
from mythos.records.trust import Role
from mythos.store.operator_key import operator_keys
from mythos.vault.incidents import Hand
from mythos.vault.report_page import verify_page
from mythos.vault.reports import (
    Matter,
    Words,
    make_report,
    publish_report,
    report_rows,
    write_report,
)


def run_make(
    kind: ReportKind,
    family: str,
    tier: str,
    profile: str,
    about: str,
    words: Path | None,
    public: bool,
    html: Path | None,
    who: str,
) -> int:
    desk = open_desk()
    roles = {Role.EXTERNAL} if kind is ReportKind.EXTERNAL else PERSONS
    person, secret = desk.key(who, roles)
    if about:
        matter = Matter(about=about)
    elif kind in (ReportKind.DECISION, ReportKind.EXTERNAL) or not tier:
        raise CommandError(
            f"what is the {kind} report about?", "a tier; or --about RELEASE|REPORT", Exit.USAGE
        )
    else:
        declared, root = desk.tier(family, tier)
        matter = Matter(declared.name, tier, root, profile_named(desk.records.home, root, profile))
    hand = Hand(person, secret, operator_keys(desk.records.home))
    made = make_report(*desk.acting, kind, matter, _words(words), hand)
    if made.missing:
        note(f"incomplete: nobody answered {', '.join(made.missing)}")
    if html is not None:
        _write(html, write_report(*desk.acting, made.id, public))
    elif public:
        note(f"next: mythos report write {made.id} --public --html FILE")
    return said(desk, f"{made.id}" + (f" in {html}" if html else ""), made)


def run_write(report: str, public: bool, html: Path | None) -> int:
    desk = open_desk()
    if html is None:
        raise CommandError("where to?", "--html FILE", Exit.USAGE)
    _write(html, write_report(*desk.acting, report, public))
    version = "public" if public else "full"
    return said(desk, f"the {version} version of {report} in {html}", None, file=str(html))


def run_publish(report: str, starts: str, ends: str, why: str, who: str) -> int:
    desk = open_desk()
    person, secret = desk.key(who, PERSONS)
    hand = Hand(person, secret, operator_keys(desk.records.home))
    times = (time_of(starts, desk.records.clock.now()), time_of(ends, 0.0))
    request = publish_report(*desk.acting, report, *times, why, hand)
    done = f"{request}: two others vote on it, then `mythos publication open {request}`"
    return said(desk, done, None, request=request)


def run_verify(file: Path, trust: str | None) -> int:
    named = ""
    if trust is not None:
        given = Path(trust)
        named = trust_named(_read(given) if given.exists() else trust.encode())
    found = verify_page(_read(file), named)
    if json_wanted():
        steps = [{"ok": step.ok, "text": step.text} for step in found.steps]
        fields = [
            {"name": one.name, "field": to_plain(one.field), "withheld": to_plain(one.hidden)}
            for one in found.fields
        ]
        record = to_plain(found.record) if found.record else None
        about = {"status": found.status, "drill": found.chain.drill, "steps": steps}
        emit({**about, "report": record, "fields": fields})
    else:
        for step in found.steps:
            print(printable(f"{'ok    ' if step.ok else 'BROKEN'}  {step.text}"))
        print(found.status)
    if found.status == BROKEN:
        return Exit.FAILED
    if found.status != VERIFIED:
        note("nothing was trusted: name a trust root that you have from elsewhere with --trust")
        return Exit.UNTRUSTED
    return Exit.OK


def run_list() -> int:
    desk = open_desk()
    rows = []
    for row in report_rows(desk.state):
        missing = f"{len(row.missing)} missing" if row.missing else "complete"
        rows.append(
            {
                "id": row.id,
                "kind": str(row.kind),
                "tier": row.tier,
                "by": row.by,
                "at": row.at,
                "state": missing,
                "withheld": len(row.withheld),
                "request": row.published,
            }
        )
    return listing(desk, "reports", rows, "none yet: mythos report make KIND TIER --as PERSON")


def _words(file: Path | None) -> Words:
    """`[[claims]]` and `[[redactions]]` of a TOML file."""
    if file is None:
        return Words()
    try:
        table = tomllib.loads(_read(file).decode())
    except ValueError as error:
        raise CommandError(f"{file} is not TOML: {error}", "docs/how-to/reports.md shows one") from None
    return from_table(Words, table, str(file))


def _write(file: Path, page: bytes) -> None:
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(page)
    except OSError as error:
        raise CommandError(
            f"cannot write {file}: {error.strerror}", "Name another file with --html."
        ) from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}", "Name an existing file.") from None
