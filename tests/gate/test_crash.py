"""kill -9 at every step of every write: what was acknowledged is there, and nothing is there by half.

The child process is a fork that ends itself with SIGKILL at its n-th database step, for n = 0, 1, 2, ...
until it gets to the end. This stands for a crash of the process; `synchronous = FULL` is for a power cut.
"""

import hashlib
import importlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from mythos.gate.authorize import authorize, load_standing
from mythos.gate.handling import issue_handling
from mythos.ledger.log import append, audit, last_time, ledger
from mythos.records.canonical import parse_canonical
from mythos.records.clock import Clock
from mythos.records.permit import Action, Permit
from mythos.records.principal import OPERATOR
from mythos.store.db import Store
from mythos.store.keys import create_key, list_keys, principal_for_secret, revoke_key
from mythos.store.tables import api_keys, decisions, usage, weights
from mythos.store.usage import UsageRow, record_usage
from mythos.store.weights import register, revoke_decision
from tests.gate.world import ROOT, T0, make_family, open_home


def clock_of(store: Store) -> Clock:
    return Clock(lambda: last_time(store), lambda: T0)


def run_child(work: Callable[[Callable[[str], None]], None], die_at: int | None) -> tuple[bool, list[str]]:
    """Run `work(acknowledge)` in a fork killed at its step `die_at`; (survived?, acknowledgements)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            steps = iter(range(10**6))

            def step(*_: object) -> None:
                if next(steps) == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            def acknowledge(text: str) -> None:
                os.write(writer, text.encode() + b"\n")
                step()

            for name in ("begin", "before_cursor_execute", "commit"):
                event.listen(sa.Engine, name, step)
            work(acknowledge)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read().split()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code == 0, said


def check(store: Store) -> list[dict]:
    """The ledger is whole, and every row of state has its leaf and every leaf its state; the events."""
    with store.read() as conn:
        assert conn.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert conn.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        rows = conn.execute(sa.select(ledger).order_by(ledger.c.seq)).all()
        keys = conn.execute(sa.select(api_keys)).all()
        registry = conn.execute(sa.select(weights)).all()
        decided = conn.execute(sa.select(decisions)).all()
    assert [row.seq for row in rows] == list(range(len(rows)))
    for row in rows:
        assert row.leaf == hashlib.sha256(b"\x00" + row.salt + row.event).digest()
    events = [parse_canonical(row.event) for row in rows]

    def named(kind: str, field: str) -> list[str]:
        return sorted(one[field] for one in events if one["kind"] == kind)

    assert named("key.created", "key") == sorted(key.id for key in keys)
    assert named("key.revoked", "key") == sorted(key.id for key in keys if key.revoked is not None)
    assert named("weights.registered", "decision") == sorted(one.id for one in decided)
    assert set(named("weights.registered", "root")) == {row.root for row in registry}
    assert named("decision.revoked", "decision") == sorted(o.id for o in decided if o.revoked is not None)
    return events


def every_step(tmp_path: Path, monkeypatch, work, verify: Callable[[Store, list[str]], None]) -> int:
    """Kill `work(store, acknowledge)` at each step, in a fresh home each time; the number of steps."""
    first = open_home(tmp_path / "first", monkeypatch)
    Store.open(first).close()
    for n in range(1000):
        shutil.copytree(first.path, tmp_path / str(n) / "home")
        home = open_home(tmp_path / str(n), monkeypatch)
        survived, said = run_child(lambda acknowledge, home=home: work(Store.open(home), acknowledge), n)
        store = Store.open(home)
        check(store)
        verify(store, said)
        check(store)
        store.close()
        if survived:
            return n
    raise AssertionError("the child never got to the end")


def test_making_the_store(tmp_path, monkeypatch):
    """A first start that was killed is finished by the next one."""
    importlib.import_module("mythos.store.migrate")  # once, not in every child
    for n in range(0, 1000, 3):  # every third step: it is all one transaction
        home = open_home(tmp_path / str(n), monkeypatch)
        survived, _ = run_child(lambda _, home=home: Store.open(home).close(), n)
        store = Store.open(home)
        assert check(store) == []
        audit(store, clock_of(store), OPERATOR, "test", "ok")
        store.close()
        if survived:
            assert n > 20
            return
    raise AssertionError("the child never got to the end")


def test_registering_weights(tmp_path, monkeypatch):
    def work(store, acknowledge):
        register(
            store,
            clock_of(store),
            OPERATOR,
            "pocket",
            "opus",
            ROOT,
            {"source": "test"},
            issue_handling(store.home, clock_of(store), "pocket", "opus", ROOT),
        )
        acknowledge("registered")

    def permitted(store) -> bool:
        standing = load_standing(store.home, store, make_family())
        return isinstance(authorize(standing, OPERATOR, Action.ANSWER, "opus", "local_tryout", T0), Permit)

    def verify(store, said):
        assert permitted(store) or not said
        work(store, lambda _: None)  # the next try goes through, whatever the first left
        assert permitted(store)

    assert every_step(tmp_path, monkeypatch, work, verify) > 10


def test_keys_and_their_revocation(tmp_path, monkeypatch):
    def work(store, acknowledge):
        row, secret = create_key(store, clock_of(store), OPERATOR, "laptop")
        acknowledge(secret)
        revoke_key(store, clock_of(store), OPERATOR, row.id)
        acknowledge("revoked")

    def verify(store, said):
        assert len(list_keys(store)) >= (1 if said else 0)
        if "revoked" in said:
            assert principal_for_secret(store, said[0]) is None
            assert list_keys(store)[0].revoked == T0
        elif said and list_keys(store)[0].revoked is None:
            assert principal_for_secret(store, said[0]) is not None

    assert every_step(tmp_path, monkeypatch, work, verify) > 10


def test_revoking_a_decision_and_usage_and_audit(tmp_path, monkeypatch):
    def work(store, acknowledge):
        clock = clock_of(store)
        envelope = issue_handling(store.home, clock, "pocket", "opus", ROOT)
        register(store, clock, OPERATOR, "pocket", "opus", ROOT, {}, envelope)
        audit(store, clock, OPERATOR, "answer", "permitted", tier="opus")
        acknowledge("audited")
        record_usage(store, clock, OPERATOR, UsageRow("req_1", "local", "opus", 1, 0, 1, 0.1, "end", 0.1))
        acknowledge("metered")
        with store.read() as conn:
            decision = conn.execute(sa.select(decisions.c.id)).scalar_one()
        revoke_decision(store, clock, OPERATOR, decision, "a critical finding")
        acknowledge("revoked")

    def verify(store, said):
        events = check(store)
        assert ("audited" not in said) or any(one["kind"] == "attempt" for one in events)
        with store.read() as conn:
            metered = conn.execute(sa.select(sa.func.count()).select_from(usage)).scalar()
        assert metered or "metered" not in said
        if "revoked" in said:
            assert load_standing(store.home, store, make_family()).decisions == {}

    assert every_step(tmp_path, monkeypatch, work, verify) > 25


def test_state_and_leaf_go_together_even_if_the_caller_writes_both(tmp_path, monkeypatch):
    """`append` in a caller's own transaction, the caller's write first."""

    def work(store, acknowledge):
        with store.begin() as conn:
            row = {"id": "key_1", "name": "x", "org": "acme", "secret_hash": bytes(32), "created": T0}
            conn.execute(api_keys.insert().values(**row))
            append(conn, clock_of(store), {"kind": "key.created", "key": "key_1"})
        acknowledge("done")

    def verify(store, said):
        assert len(list_keys(store)) == 1 or not said

    every_step(tmp_path, monkeypatch, work, verify)


@pytest.mark.parametrize("after", [1, 7, 20])
def test_killed_from_outside_in_the_middle_of_a_loop(tmp_path, monkeypatch, after):
    """Two writers at once; both killed after some acknowledgements. All of those are in the ledger."""
    home = open_home(tmp_path, monkeypatch)
    Store.open(home).close()
    children, pipes = [], []
    for name in "ab":
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                store = Store.open(home)
                clock = clock_of(store)
                for n in range(10**6):
                    _, secret = create_key(store, clock, OPERATOR, f"{name}{n}", "acme")
                    os.write(writer, secret.encode() + b"\n")
            finally:
                os._exit(1)
        os.close(writer)
        children.append(child)
        pipes.append(os.fdopen(reader))
    said = [[pipe.readline().strip() for _ in range(after)] for pipe in pipes]
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    for pipe, lines in zip(pipes, said, strict=True):
        lines += pipe.read().split()
        pipe.close()
    store = Store.open(home)
    events = check(store)
    acknowledged = [secret for lines in said for secret in lines]
    assert len(acknowledged) >= 2 * after
    assert all(principal_for_secret(store, secret) for secret in acknowledged)
    assert len(acknowledged) <= len(events) <= len(acknowledged) + 2  # at most one each on its way
    assert json.loads(json.dumps(events)) == events
    store.close()
