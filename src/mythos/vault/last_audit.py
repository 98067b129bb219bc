"""The last exposure audit of this deployment, kept sealed: its findings name addresses."""

from dataclasses import asdict

from mythos.records.clock import Clock
from mythos.records.principal import Principal, is_operator, require_operator
from mythos.store.db import Store
from mythos.store.home import read_private, write_private
from mythos.vault.errors import VaultError
from mythos.vault.exposure import AuditReport, Finding
from mythos.vault.keys import open_text, seal_text, vault_of

MOST = 50  # findings that are kept; the command prints as many
CONTEXT = "last exposure audit"


def keep_audit(store: Store, clock: Clock, principal: Principal, report: AuditReport) -> None:
    """Keep the result in place of the one before. NotAllowed for anyone but the operator in person."""
    require_operator(principal)
    vault = vault_of(store)
    rows = [asdict(one) for one in report.findings[:MOST]]
    kept = {**asdict(report), "findings": rows, "time": clock.now(), "found": len(report.findings)}
    write_private(vault.place / "last_audit", seal_text(vault, CONTEXT, kept), replace=True)


def last_audit(store: Store, principal: Principal) -> tuple[AuditReport, float, int] | None:
    """The result, when it was, and how many findings it had (it holds the first of them); None for none yet.

    For the operator, by a key too: VaultError for anyone else.
    """
    if not is_operator(principal):
        raise VaultError("the audit is the operator's")
    vault = vault_of(store)
    try:
        kept = open_text(vault, CONTEXT, read_private(vault.place / "last_audit"))
    except FileNotFoundError:
        return None
    findings = tuple(Finding(**row) for row in kept["findings"])
    parts = {name: tuple(kept[name]) for name in ("canary", "targets", "unreachable")}
    report = AuditReport(kept["void"], requests=kept["requests"], findings=findings, **parts)
    return report, kept["time"], kept["found"]
