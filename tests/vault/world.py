"""A town with a vault: organisations, keys, and a listener for assets on loopback."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from mythos.gate import acts
from mythos.ledger.log import ledger
from mythos.records.asset import Asset, Kind
from mythos.records.canonical import parse_canonical
from mythos.records.principal import OPERATOR, Principal
from mythos.serve.apart import running
from mythos.serve.listening import bind
from mythos.serve.vault_app import create_vault_app
from mythos.serve.vault_front import VaultService
from mythos.store.keys import create_key
from mythos.vault.assets import put_asset
from mythos.vault.shares import share_asset
from tests.gate.town import DAY, Town

ACME, VENDOR, OTHER = "acme-def", "vendor-x", "beta-labs"
ORGS = {ACME: "", VENDOR: ACME, OTHER: ""}
READER = Principal("key_reader", "key", ACME)
CONTRACTOR = Principal("key_contractor", "key", VENDOR)
OUTSIDER = Principal("key_outsider", "key", OTHER)
STRANGER = Principal("key_stranger", "key", "nobody")


class VaultTown(Town):
    """A town in which three organisations are known, one of them a contractor of another."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        for org, principal in ORGS.items():
            place = {"jurisdiction": "DE"}
            acts.add_organisation(
                *self.place, org, "researchers", place, principal, "rso-1", self.keys["rso-1"]
            )

    @property
    def place(self) -> tuple[Any, Any, Any]:
        return self.store, self.clock, OPERATOR

    def as_(self, who: Principal) -> tuple[Any, Any, Any]:
        return self.store, self.clock, who

    def put(
        self, content: bytes = b"a draft", title: str = "A draft", kind: Kind = Kind.DRAFT, **more: Any
    ) -> Asset:
        return put_asset(*self.place, [content], title, kind, media="text/plain", **more)

    def share(self, asset: str, org: str = ACME, days: float = 1.0, **more: Any) -> str:
        return share_asset(*self.place, asset, org, self.now + days * DAY, **more).id

    def events(self) -> list[dict[str, Any]]:
        with self.store.read() as conn:
            rows = conn.execute(ledger.select().order_by(ledger.c.seq)).all()
        return [parse_canonical(row.event) for row in rows]


@contextmanager
def listening(town: VaultTown, wrap: Any = None) -> Iterator[tuple[str, dict[str, str]]]:
    """The listener for assets: its base URL, and a key for each organisation. `wrap` goes around the app."""
    keys = {org: create_key(*town.place, "k", org=org, purpose="cyber_defence")[1] for org in ORGS}
    keys["local"] = create_key(*town.place, "mine")[1]
    app: ASGIApp = create_vault_app(VaultService(town.store, town.clock))
    with bind("127.0.0.1", 0) as listener, running(wrap(app) if wrap else app, listener) as base_url:
        yield base_url, keys


def client(base_url: str, key: str = "") -> httpx.Client:
    return httpx.Client(base_url=base_url, headers={"x-api-key": key} if key else {}, timeout=60)
