"""This deployment's own log: its key, its tiles, and its tree heads."""

from pathlib import Path

from mythos.ledger.heads import origin_of, publish, publish_if_due
from mythos.records.clock import Clock
from mythos.records.note import LOG, SignedHead, Verifier
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.operator_key import LEDGER_KEY, service_key


def own_log(home: Home) -> Verifier:
    """The log of this deployment, by its key, which is made on first use."""
    public = service_key(home, LEDGER_KEY).public_key()
    return Verifier(origin_of(public), LOG, public.public_bytes_raw())


def tiles_of(home: Home) -> Path:
    return home.path / "tiles"


def publish_own(store: Store, clock: Clock, rebuild: bool = False) -> SignedHead:
    """`ledger.heads.publish` with the key of this deployment's log."""
    key = service_key(store.home, LEDGER_KEY)
    return publish(store, clock, tiles_of(store.home), origin_of(key.public_key()), key, rebuild)


def publish_own_if_due(store: Store, clock: Clock, every: float) -> SignedHead | None:
    """`ledger.heads.publish_if_due` with the key of this deployment's log."""
    key = service_key(store.home, LEDGER_KEY)
    return publish_if_due(store, clock, tiles_of(store.home), origin_of(key.public_key()), key, every)
