"""A home of its own for every test, a clock that can be set, and a small family."""

from pathlib import Path
from time import time as machine_time

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import settings

from mythos.gate.handling import issue_handling
from mythos.ledger.log import last_time
from mythos.records.clock import Clock
from mythos.records.principal import OPERATOR
from mythos.spec.family import Family
from mythos.store.db import Store
from mythos.store.home import Home, write_private
from mythos.store.weights import register
from tests.gate.town import STAFF, VOTERS, W1, Town
from tests.gate.world import ROOT, Time, make_family, open_home

settings.register_profile("no timing", deadline=None)
settings.load_profile("no timing")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return open_home(tmp_path, monkeypatch)


@pytest.fixture
def store(home: Home):
    store = Store.open(home)
    yield store
    store.close()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def clock(store: Store, time: Time) -> Clock:
    return Clock(lambda: last_time(store), time)


@pytest.fixture
def family() -> Family:
    return make_family()


@pytest.fixture
def built(home: Home, store: Store, clock: Clock) -> str:
    """Opus is registered under ROOT; the root is returned."""
    envelope = issue_handling(home, clock, "pocket", "opus", ROOT)
    register(store, clock, OPERATOR, "pocket", "opus", ROOT, {"source": "test"}, envelope)
    return ROOT


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A town whose home is that of the commands, with the gate's and the voters' keys, and opus built."""
    town = Town(tmp_path, pack=None)
    town.now = machine_time()  # the commands' clock is the machine's
    monkeypatch.setenv("MYTHOS_HOME", str(town.home.path))
    monkeypatch.setenv("MYTHOS_KEYS", str(town.home.keys))
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    persons = town.home.keys / "persons"
    persons.mkdir(mode=0o700)
    for who in VOTERS:
        write_private(persons / f"{who}.{STAFF[who]}.key", town.keys[who].private_bytes(*form), False)
    write_private(town.home.keys / "operator.key", town.gate.private_bytes(*form), False)
    handling = issue_handling(town.home, town.clock, "pocket", "opus", W1)
    register(town.store, town.clock, OPERATOR, "pocket", "opus", W1, {"source": "test"}, handling)
    return town
