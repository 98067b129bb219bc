"""A home of its own for every test, a clock that can be set, and a small family."""

from pathlib import Path

import pytest
from hypothesis import settings

from mythos.gate.handling import issue_handling
from mythos.ledger.log import last_time
from mythos.records.clock import Clock
from mythos.records.principal import OPERATOR
from mythos.spec.family import Family
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.weights import register
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
