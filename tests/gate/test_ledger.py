"""The ledger: order, leaves, what it refuses, and what hostile facts do to it."""

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from mythos.ledger.log import append, audit, last_time, ledger, now_in
from mythos.records.canonical import RecordError, canonical, parse_canonical
from mythos.records.clock import Clock, ClockError
from mythos.records.principal import OPERATOR, Principal
from tests.gate.world import T0


def rows(store):
    with store.read() as conn:
        return conn.execute(sa.select(ledger).order_by(ledger.c.seq)).all()


def write(store, clock, event) -> int:
    with store.begin() as conn:
        return append(conn, clock, event)


def test_events_in_order_with_leaves(store, clock, time):
    assert last_time(store) == 0.0
    assert write(store, clock, {"kind": "a"}) == 0
    time.now += 5
    assert write(store, clock, {"kind": "b"}) == 1
    assert audit(store, clock, OPERATOR, "answer", "permitted", tier="opus", tokens=3) == 2
    assert last_time(store) == T0 + 5
    found = rows(store)
    assert [row.seq for row in found] == [0, 1, 2]
    assert len({row.salt for row in found}) == 3
    for row in found:
        event = parse_canonical(row.event)
        assert (event["seq"], event["time"]) == (row.seq, row.time)
        assert row.leaf == hashlib.sha256(b"\x00" + row.salt + row.event).digest()
    assert json.loads(found[2].event) == {
        "kind": "attempt",
        "principal": "operator",
        "org": "local",
        "action": "answer",
        "outcome": "permitted",
        "facts": {"tier": "opus", "tokens": 3},
        "seq": 2,
        "time": T0 + 5,
    }


def test_a_transaction_knows_its_own_head_and_forgets_it_when_rolled_back(store, clock, time):
    write(store, clock, {"kind": "a"})
    with pytest.raises(RuntimeError), store.begin() as conn:
        assert [append(conn, clock, {"kind": kind}) for kind in "bc"] == [1, 2]
        raise RuntimeError
    with store.begin() as conn:
        time.now += 3
        assert [append(conn, clock, {"kind": kind}) for kind in "de"] == [1, 2]
        with pytest.raises(RecordError):
            append(conn, clock, {"kind": "f", "seq": 9})
        assert append(conn, clock, {"kind": "g"}) == 3 and now_in(conn, clock) == T0 + 3
    assert [row.seq for row in rows(store)] == [0, 1, 2, 3] and last_time(store) == T0 + 3


def test_the_same_event_has_another_leaf_each_time(store, clock):
    audit(store, clock, None, "answer", "refused")
    audit(store, clock, None, "answer", "refused")
    one, two = rows(store)
    assert one.leaf != two.leaf
    assert json.loads(one.event)["principal"] is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET time = 0",
        "UPDATE ledger SET event = x'7b7d' WHERE seq = 1",
        "DELETE FROM ledger",
        "DELETE FROM ledger WHERE seq = 1",
        "INSERT OR REPLACE INTO ledger SELECT seq, time + 1, event, salt, leaf FROM ledger WHERE seq = 1",
        "INSERT INTO ledger SELECT 7, time, event, salt, leaf FROM ledger WHERE seq = 1",  # a gap
        "INSERT INTO ledger SELECT NULL, time, event, salt, leaf FROM ledger WHERE seq = 0",
        "INSERT INTO ledger SELECT -1, time, event, salt, leaf FROM ledger WHERE seq = 1",
        "INSERT INTO ledger SELECT 2, time, event, x'00', leaf FROM ledger WHERE seq = 1",
    ],
)
def test_the_past_cannot_be_changed(store, clock, statement):
    write(store, clock, {"kind": "a"})
    write(store, clock, {"kind": "b"})
    before = rows(store)
    with pytest.raises(IntegrityError), store.begin() as conn:
        conn.exec_driver_sql(statement)
    assert rows(store) == before
    assert write(store, clock, {"kind": "c"}) == 2  # control


@pytest.mark.parametrize("event", [{"seq": 1}, {"time": 1}, {"x": math.nan}, {"x": object()}, {"x": 2**70}])
def test_a_malformed_event_is_refused_and_leaves_no_gap(store, clock, event):
    with pytest.raises(RecordError):
        write(store, clock, {"kind": "a", **event})
    assert write(store, clock, {"kind": "b"}) == 0


def test_an_undone_transaction_leaves_no_gap(store, clock):
    with pytest.raises(ZeroDivisionError), store.begin() as conn:
        assert append(conn, clock, {"kind": "a"}) == 0
        _ = 1 / 0
    assert rows(store) == []
    assert write(store, clock, {"kind": "b"}) == 0


def test_hostile_facts_are_written_all_the_same(store, clock):
    audit(
        store,
        clock,
        Principal("key_1", "key", "acme"),
        "answer",
        "refused",
        tier="x" * 100_000,
        half="\ud83d",
        huge=10**400,
        nan=math.nan,
        nested={"\udc00": ["y" * 1000, {"deep": -math.inf}]},
        plain=[1, 2.5, True, None],
    )
    (row,) = rows(store)
    assert len(row.event) < 2000
    facts = json.loads(row.event)["facts"]
    assert facts["tier"] == "x" * 200 + "..."
    assert facts["half"] == "?"
    assert facts["huge"].startswith("1000")
    assert (facts["nan"], facts["nested"]["?"][1]) == ("nan", {"deep": "-inf"})
    assert facts["plain"] == [1, 2.5, True, None]


def test_time_never_decreases(store, time):
    clock = Clock(lambda: 0.0, time)  # one that does not look at the ledger
    for step in (0, 10, -59, -1, 60):
        time.now += step
        write(store, clock, {"kind": "a"})
    times = [row.time for row in rows(store)]
    assert times == sorted(times) == [T0, T0 + 10, T0 + 10, T0 + 10, T0 + 10]


def test_a_clock_behind_refuses_but_the_attempt_is_on_record(store, clock, time):
    write(store, clock, {"kind": "a"})
    time.now -= 61
    with pytest.raises(ClockError):
        clock.now()
    with pytest.raises(ClockError):
        write(store, clock, {"kind": "b"})
    assert audit(store, clock, OPERATOR, "answer", "clock") == 1
    row = rows(store)[1]
    assert row.time == T0
    assert json.loads(row.event)["clock"] == "behind"


def test_many_threads_one_order(store, clock):
    with ThreadPoolExecutor(16) as pool:
        given = list(pool.map(lambda n: audit(store, clock, OPERATOR, "answer", "permitted", n=n), range(64)))
    assert sorted(given) == list(range(64))
    found = rows(store)
    assert [row.seq for row in found] == list(range(64))
    assert {json.loads(row.event)["facts"]["n"] for row in found} == set(range(64))
    assert canonical(json.loads(found[0].event)) == found[0].event
