"""`mythos vault audit`: the exposure audit of this deployment, or of another store on loopback."""

import contextlib
import secrets
from dataclasses import asdict

from mythos.cli.local import Records
from mythos.cli.output import Exit, emit, json_wanted, note, show, table
from mythos.cli.vault import opened
from mythos.console.app import create_console_app
from mythos.console.pages import files
from mythos.ledger.log import audit
from mythos.records.principal import OPERATOR
from mythos.serve.apart import running
from mythos.serve.listening import bind
from mythos.serve.public_app import create_public_app
from mythos.serve.vault_app import create_vault_app
from mythos.serve.vault_front import VaultService
from mythos.store.keys import create_key, revoke_key
from mythos.store.listeners import listeners
from mythos.store.session import read_session
from mythos.vault.exposure import AuditReport, Target, audit_exposure
from mythos.vault.incidents import lessons_of
from mythos.vault.last_audit import keep_audit
from mythos.vault.lessons import with_lessons
from mythos.vault.own_exposure import (
    close,
    console_target,
    model_target,
    names_within,
    open_files,
    public_target,
    strays,
    vault_target,
)


def run_audit(base_url: str | None, paths: list[str]) -> int:
    """0 when nothing was found, 1 when something was or the run is void."""
    records, place = opened()
    action = "vault.audit" if base_url is None else "vault.audit_other"
    if base_url is not None:
        known = tuple((path, path + secrets.token_hex(4)) for path in paths)
        report = audit_exposure([Target(base_url, base_url, known)], [])
    else:
        report = own_audit(records)
    found = {what: sum(f.what == what for f in report.findings) for what in {f.what for f in report.findings}}
    if base_url is None:
        keep_audit(records.store, records.clock, OPERATOR, report)
    outcome = "void" if report.void else "found" if report.findings or report.unreachable else "clean"
    facts = {"found": found, "requests": report.requests, "canary": list(report.canary)}
    audit(*place, action, outcome, **facts)
    closed = close(records.store, records.clock, OPERATOR, report.findings)
    if closed and not json_wanted():
        note(f"{closed} files were closed again, or removed from the public area")
    return said(report)


def own_audit(records: Records) -> AuditReport:
    """Every listener that runs here; the one for assets is started for the run when it does not."""
    with contextlib.ExitStack() as stack:
        row, stranger = create_key(
            records.store, records.clock, OPERATOR, "exposure audit", org="nobody.audit"
        )
        stack.callback(revoke_key, records.store, records.clock, OPERATOR, row.id)
        running_now = listeners(records.home)
        if not any(name == "assets" for name, _ in running_now):
            listener = stack.enter_context(bind("127.0.0.1", 0))
            app = create_vault_app(VaultService(records.store, records.clock))
            running_now.append(("assets", stack.enter_context(running(app, listener))))
        targets = [
            vault_target(records.store, url, stranger) for name, url in running_now if name == "assets"
        ]
        if not any(name == "public" for name, _ in running_now):
            listener = stack.enter_context(bind("127.0.0.1", 0))
            app = create_public_app(records.store, records.clock)
            running_now.append(("public", stack.enter_context(running(app, listener))))
        targets += [
            public_target(records.store, records.clock, url) for name, url in running_now if name == "public"
        ]
        if not any(name == "console" for name, _ in running_now):
            listener = stack.enter_context(bind("127.0.0.1", 0))
            pages = create_console_app(VaultService(records.store, records.clock))
            running_now.append(("console", stack.enter_context(running(pages, listener))))
        beside = {path: body for path, (_, body) in files().items()}
        targets += [
            console_target(records.store, url, beside) for name, url in running_now if name == "console"
        ]
        names = names_within(records.store, OPERATOR)
        if session := read_session(records.home):
            from mythos.spec.load import load_family

            tiers = [tier.name for tier in load_family(session.family).tiers]
            targets.append(model_target(session.base_url, tiers, stranger))
        lessons = [lesson for _, lesson in lessons_of(records.store, records.clock, OPERATOR)]
        targets, left = with_lessons(targets, lessons)
        for lesson in left:
            note(f"the lesson {lesson.path} was not visited: no listener {lesson.listener} runs")
        report = audit_exposure(targets, names)
    lying = (*open_files(records.store), *strays(records.store, records.clock))
    return AuditReport(
        report.void,
        report.canary,
        (*report.targets, "files"),
        report.requests,
        report.findings + lying,
        report.unreachable,
    )


def said(report: AuditReport) -> int:
    clean = not (report.void or report.findings or report.unreachable)
    if json_wanted():
        emit({**asdict(report), "clean": clean})
        return Exit.OK if clean else Exit.FAILED
    show(f"visited: {', '.join(report.targets)}; {report.requests} requests answered")
    if report.void:
        show("VOID: the planted canary was missed, so this run says nothing")
    else:
        show(f"the planted canary was found ({', '.join(report.canary)})")
    for name in report.unreachable:
        note(f"no answer from {name}")
    if report.findings:
        table(
            ("where", "what", "method", "path", "detail"),
            [(f.target, f.what, f.method, f.path, f.detail) for f in report.findings[:50]],
        )
        note(f"{len(report.findings)} findings")
    elif clean:
        show("nothing else answers, names or differs")
    return Exit.OK if clean else Exit.FAILED
