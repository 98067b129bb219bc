"""A log of its own for every test: home, clock that can be set, signing key."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings

from mythos.ledger import heads, verify
from mythos.ledger.log import append, last_time
from mythos.records.clock import Clock
from mythos.records.note import LOG, SignedHead, Verifier
from mythos.store.db import Store
from mythos.store.home import Home
from tests.gate.world import Time, open_home

settings.register_profile("no timing", deadline=None)
settings.load_profile("no timing")

ORIGIN = "log.example/test"


@dataclass
class Log:
    store: Store
    time: Time
    tiles: Path
    key: Ed25519PrivateKey

    @property
    def clock(self) -> Clock:
        return Clock(lambda: last_time(self.store), self.time)

    @property
    def verifier(self) -> Verifier:
        return Verifier(ORIGIN, LOG, self.key.public_key().public_bytes_raw())

    def grow(self, count: int) -> None:
        with self.store.begin() as conn:
            for n in range(count):
                append(conn, self.clock, {"kind": "test", "n": n})

    def publish(self, rebuild: bool = False) -> SignedHead:
        return heads.publish(self.store, self.clock, self.tiles, ORIGIN, self.key, rebuild)

    def verify(self, witnesses: Sequence[Verifier] = (), given: Sequence[bytes] = ()) -> verify.Report:
        return verify.verify(self.store, self.tiles, self.verifier, witnesses, given)

    def attack(self, *statements: str) -> None:
        """Change the database as someone who owns the file can: without its triggers."""
        with self.store.begin() as conn:
            triggers = (
                conn.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars().all()
            )
            for name in triggers:
                conn.exec_driver_sql(f"DROP TRIGGER {name}")
            for statement in statements:
                conn.exec_driver_sql(statement)


@pytest.fixture
def make_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stores = []

    def make(name: str = "a", key: Ed25519PrivateKey | None = None) -> Log:
        home = open_home(tmp_path / name, monkeypatch)
        stores.append(Store.open(home))
        return Log(stores[-1], Time(), home.path / "tiles", key or Ed25519PrivateKey.generate())

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def log(make_log: Callable[..., Log]) -> Log:
    return make_log()


@pytest.fixture
def home(log: Log) -> Home:
    return log.store.home
