"""kill -9 at every file rename and database step of publishing and of cosigning: nothing is half done, and
what was handed out is remembered. The child is a fork that ends itself with SIGKILL at its n-th step."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, event

from mythos.ledger import heads
from mythos.ledger.log import append, last_time
from mythos.ledger.verify import verify
from mythos.ledger.witness import STATE, cosign, init_witness
from mythos.records.clock import Clock
from mythos.records.note import LOG, Verifier, open_note, parse_verifier
from mythos.records.tlog import request_text
from mythos.store.db import Store
from tests.gate.world import T0, open_home
from tests.ledger.conftest import ORIGIN

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG_KEY = Verifier(ORIGIN, LOG, KEY.public_key().public_bytes_raw())


def run_child(work: Callable[[], bytes], die_at: int) -> tuple[bool, bytes]:
    """Whether the child got to its end, and what it handed out before."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            steps = iter(range(10**6))

            def step(*_: object) -> None:
                if next(steps) == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            replace = os.replace

            def stepping(source: str, target: Path) -> None:
                step()
                replace(source, target)
                step()

            os.replace = stepping
            for name in ("begin", "commit"):
                event.listen(Engine, name, step)
            os.write(writer, work())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code == 0, said


def publish(store: Store) -> bytes:
    return heads.publish(store, clock_of(store), store.home.path / "tiles", ORIGIN, KEY).note


def clock_of(store: Store) -> Clock:
    return Clock(lambda: last_time(store), lambda: T0)


def grow(store: Store, count: int) -> None:
    with store.begin() as conn:
        for n in range(count):
            append(conn, clock_of(store), {"kind": "test", "n": n})


@pytest.mark.parametrize("before", [0, 250])
def test_publishing(tmp_path, monkeypatch, before):
    """From nothing, and from a partial tile to a full one; at every step."""
    first = open_home(tmp_path / "first", monkeypatch)
    store = Store.open(first)
    grow(store, before)
    publish(store)
    grow(store, 20)
    store.close()
    for n in range(200):
        shutil.copytree(first.path, tmp_path / str(n) / "home")
        home = open_home(tmp_path / str(n), monkeypatch)
        survived, note = run_child(lambda home=home: publish(Store.open(home)), n)
        store = Store.open(home)
        tiles = home.path / "tiles"
        report = verify(store, tiles, LOG_KEY)
        assert report.faults == ()  # tiles are written before the head that speaks of them
        if note:
            assert report.signed == before + 20
        grow(store, 10)
        signed = open_note(publish(store), LOG_KEY).head
        assert signed.size == before + 30
        assert verify(store, tiles, LOG_KEY, given=[note] if note else []).faults == ()
        store.close()
        if survived:
            assert n > 8
            return
    raise AssertionError("the child never got to the end")


def test_cosigning(tmp_path, monkeypatch):
    """A cosignature that left is in the state: after the crash the witness refuses any other history."""
    log, fork = (Store.open(open_home(tmp_path / name, monkeypatch)) for name in ("log", "fork"))
    key = Ed25519PrivateKey.generate()
    clock = Clock(system=lambda: T0)
    requests = []
    for store in (log, fork):
        grow(store, 20)
        publish(store)
        requests.append(request_text(heads.consistency(store, store.home.path / "tiles", LOG_KEY, 0)))
        store.close()
    for n in range(50):
        place = tmp_path / f"witness{n}"
        place.mkdir()
        init_witness(place, "w.example/1", key, LOG_KEY, clock)
        survived, note = run_child(lambda place=place: cosign(place, key, requests[0], clock), n)
        if note:
            assert (place / STATE).read_bytes() == note
        if open_note((place / STATE).read_bytes(), _verifier(place)).head.size == 0:
            cosign(place, key, requests[0], clock)
        with pytest.raises(heads.LedgerError):
            cosign(place, key, requests[1], clock)
        if survived:
            assert n > 1
            return
    raise AssertionError("the child never got to the end")


def _verifier(place: Path) -> Verifier:
    return parse_verifier((place / "trust").read_text().splitlines()[1])
