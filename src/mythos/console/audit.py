"""The page of the exposure audit: what the last one found."""

from mythos.console.pages import Answer, Visit, page
from mythos.records.principal import is_operator
from mythos.serve.vault_front import not_found
from mythos.vault.last_audit import last_audit


def show(visit: Visit) -> Answer:
    if not is_operator(visit.principal):
        raise not_found()
    last = last_audit(visit.service.store, visit.principal)
    report, at, found = last if last else (None, 0.0, 0)
    return page(visit, "audit.html", {"report": report, "at": at, "found": found})
