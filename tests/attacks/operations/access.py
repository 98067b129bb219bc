"""Organisations, grants and requests."""

import json
from typing import TYPE_CHECKING

from mythos.gate import acts
from mythos.gate.grants import Access, access
from mythos.ledger.log import now_in
from mythos.records.clock import ClockError
from mythos.records.grant import Grant
from mythos.records.ids import new_id
from mythos.records.release import Stage
from mythos.records.signed import payload
from tests.attacks.said import Said
from tests.gate.town import DAY

if TYPE_CHECKING:
    from tests.attacks.adapter import Adapter


def op_organisation(
    adapter: "Adapter", org: str, audience: str = "researchers", attributes: dict[str, str] | None = None,
    contractor_of: str = "", signer: str = "rso-1",
) -> None:  # fmt: skip
    known = {"jurisdiction": "DE"} if attributes is None else attributes
    adapter.kept["organisation"] = acts.add_organisation(
        *adapter.place, org, audience, known, contractor_of, signer, adapter.secret(signer)
    )


def op_organisation_raw(adapter: "Adapter", org: str) -> None:
    """An organisation under a name that our own program would not write."""
    where, signer = adapter.town.state.deployment, "rso-1"
    table = {"id": org, "deployment": where, "audience": "researchers", "attributes": {}}
    table |= {"contractor_of": "", "by": signer}
    adapter.send("organisation", json.dumps(table, sort_keys=True, separators=(",", ":"),
               ensure_ascii=False).encode(), adapter.town.keys[signer])  # fmt: skip


def op_grant_raw(adapter: "Adapter", find: str, replace_with: str) -> None:
    """A grant whose bytes were edited before signing."""
    now, where = adapter.town.now, adapter.town.state.deployment
    record = Grant(
        new_id("grant"), where, "acme-def", adapter.family, "capybara", "none", Stage.EARLY_ACCESS,
        ("cyber_defence",), (), now, now + DAY, "", "rso-1",
    )  # fmt: skip
    text = payload(record).decode().replace(find, replace_with)
    adapter.send("grant", text.encode(), adapter.town.keys["rso-1"])


def op_grant(
    adapter: "Adapter", org: str = "acme-def", stage: str = "early_access", purposes: list[str] | None = None,
    days: float = 30, starts: float = 0.0, jurisdictions: list[str] | None = None, parent: str = "",
    signer: str = "rso-1", name: str = "grant", profile: str = "none", tier: str = "capybara",
) -> None:  # fmt: skip
    now = adapter.town.now
    adapter.kept[name] = acts.add_grant(
        *adapter.place, org, adapter.family, tier, adapter.kept.get(profile, profile), Stage(stage),
        purposes or ["cyber_defence"], jurisdictions or [], now + starts * DAY, now + days * DAY,
        adapter.kept[parent].id if parent else "", signer, adapter.secret(signer),
    )  # fmt: skip


def op_revoke(adapter: "Adapter", what: str, signer: str = "rso-1") -> None:
    target = adapter.kept[what].id if what in adapter.kept else what
    acts.revoke(*adapter.place, target, "drill", signer, adapter.town.keys[signer])


def op_request(
    adapter: "Adapter",
    org: str = "acme-def",
    root: str = "W1",
    purpose: str = "cyber_defence",
    tier: str = "capybara",
) -> Said:
    try:
        with adapter.town.store.read() as conn:
            now = now_in(conn, adapter.town.clock)
    except ClockError:
        return Said("DENY", frozenset({"CLOCK"}))
    found = access(adapter.town.state, org, adapter.family, tier, adapter.roots[root], purpose, now)
    return Said("GRANT") if isinstance(found, Access) else Said("DENY", frozenset({str(found)}))
