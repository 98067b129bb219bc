"""The whole log checked: every way of changing it is found and named, and an unchanged one is not accused."""

import json
import shutil

import pytest
import sqlalchemy as sa

from mythos.ledger import heads, verify
from mythos.ledger.log import leaf_hash, ledger, tree_heads
from mythos.records.canonical import canonical
from mythos.records.note import TreeHead, sign_head
from mythos.records.root import tree_hash


def kinds(report) -> list[tuple[str, int | None]]:
    return [(fault.kind, fault.seq) for fault in report.faults]


@pytest.fixture
def grown(log):
    """40 events, signed at 10, 30 and 40, and 5 that are not signed."""
    for step in (10, 20, 10):
        log.grow(step)
        log.time.now += 10
        log.publish()
    log.grow(5)
    return log


def test_an_untouched_log_is_whole(grown, log):
    report = grown.verify()
    assert report == verify.Report(size=45, heads=3, signed=40, witnessed=0, faults=())
    assert verify.verify(grown.store, grown.tiles, None) == verify.Report(45, 3, 0, 0, ())


def test_an_empty_log_is_whole(log):
    assert log.verify() == verify.Report(0, 0, 0, 0, ())
    log.publish()
    assert log.verify() == verify.Report(0, 1, 0, 0, ())


def rewritten(log, seq: int, data: bytes) -> list[str]:
    """Statements that replace an event and make its leaf fit."""
    salt = bytes(16)
    fields = {"event": data, "salt": salt, "leaf": leaf_hash(salt, data)}
    return [
        f"UPDATE ledger SET {name} = x'{value.hex()}' WHERE seq = {seq}" for name, value in fields.items()
    ]


def event_of(log, seq: int) -> dict:
    with log.store.read() as conn:
        return json.loads(conn.execute(sa.select(ledger.c.event).where(ledger.c.seq == seq)).scalar_one())


def test_an_edited_event(grown):
    changed = canonical({**event_of(grown, 17), "n": 1000})
    grown.attack(f"UPDATE ledger SET event = x'{changed.hex()}' WHERE seq = 17")
    assert kinds(grown.verify()) == [("event", 17)]


def test_an_event_edited_with_its_leaf(grown):
    """The heads from 30 on tell; the tile tells which event. With forged tiles the heads still tell."""
    grown.attack(*rewritten(grown, 17, canonical({**event_of(grown, 17), "n": 1000})))
    report = grown.verify()
    assert kinds(report) == [("changed", None), ("changed", None), ("tile", 17)]
    assert "one from 10 on" in report.faults[0].message
    path = grown.tiles / "tile/0/000.p/40"
    with grown.store.read() as conn:
        every = conn.execute(sa.select(ledger.c.leaf).order_by(ledger.c.seq)).scalars().all()
    path.write_bytes(b"".join(every[:40]))
    assert kinds(grown.verify()) == [("changed", None), ("changed", None)]


def test_an_event_after_the_last_head_is_not_protected_yet(grown):
    """What is not signed yet can be replaced by whoever owns the database: `signed` says how far it is."""
    grown.attack(*rewritten(grown, 42, canonical({**event_of(grown, 42), "n": 1000})))
    report = grown.verify()
    assert report.faults == () and (report.signed, report.size) == (40, 45)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("DELETE FROM ledger WHERE seq = 17", ("order", 17)),
        ("UPDATE ledger SET seq = 100 WHERE seq = 44", ("order", 44)),
        ("UPDATE ledger SET time = time - 1000 WHERE seq = 20", ("order", 20)),
        ("UPDATE ledger SET time = time + 1 WHERE seq = 44", ("event", 44)),
        ("UPDATE ledger SET salt = zeroblob(16) WHERE seq = 3", ("event", 3)),
        ("UPDATE ledger SET leaf = zeroblob(32) WHERE seq = 3", ("event", 3)),
        ("UPDATE ledger SET event = 'text' WHERE seq = 3", ("event", 3)),
        ("UPDATE ledger SET time = 'text' WHERE seq = 3", ("event", 3)),
    ],
)
def test_rows_changed(grown, statement, found):
    grown.attack(statement)
    assert found in kinds(grown.verify())


@pytest.mark.parametrize(
    "spelling",
    [
        lambda e: json.dumps(e, sort_keys=True).encode(),  # spaces
        lambda e: json.dumps(dict(reversed(sorted(e.items()))), separators=(",", ":")).encode(),  # key order
        lambda e: canonical(e).replace(b'"n":42', b'"n":42.0'),  # number form
        lambda e: canonical(e).replace(b'"n":42', b'"n":4.2e1'),
        lambda e: canonical(e).replace(b'"kind"', b'"\\u006bind"'),  # escapes
        lambda e: canonical(e).replace(b'"n":42', b'"n":42,"n":42'),  # twice
        lambda e: canonical(e) + b"\n",
        lambda e: b"[]",
    ],
)
def test_au_14_the_same_event_in_other_bytes(log, spelling):
    """Refused although its leaf fits; the canonical form of the same event is accepted."""
    log.grow(43)
    event = event_of(log, 42)
    log.attack(*rewritten(log, 42, canonical(event)))
    assert log.verify().faults == ()  # control
    assert spelling(event) != canonical(event)
    log.attack(*rewritten(log, 42, spelling(event)))
    assert kinds(log.verify()) == [("event", 42)]


def test_au_02_the_last_rows_cut(grown):
    """Cut alone, the stored heads tell; cut with its heads and tiles, only a head kept elsewhere tells."""
    witnessed = grown.publish().note
    grown.attack("DELETE FROM ledger WHERE seq >= 35")
    report = grown.verify()
    assert ("cut", None) in kinds(report) and "10 were cut off" in report.faults[-1].message
    grown.attack("DELETE FROM tree_heads WHERE size > 30")
    shutil.rmtree(grown.tiles)
    grown.publish(rebuild=True)
    assert grown.verify().faults == ()  # agrees with itself
    assert kinds(grown.verify(given=[witnessed])) == [("cut", None)]


def test_au_02_the_whole_log_replaced(grown, make_log):
    """By an empty one, and by another with the same key and as many events."""
    witnessed = grown.publish().note
    assert grown.verify(given=[witnessed]).faults == ()  # control
    assert grown.verify(given=[witnessed]).witnessed == 45
    empty = make_log("b", grown.key)
    assert empty.verify().faults == ()  # agrees with itself
    assert kinds(empty.verify(given=[witnessed])) == [("cut", None)]
    empty.grow(45)
    empty.publish()
    assert empty.verify().faults == ()
    assert kinds(empty.verify(given=[witnessed])) == [("changed", None)]


def test_a_head_from_elsewhere_needs_the_logs_signature(grown):
    witnessed = grown.publish().note
    forged = witnessed.replace(b"\n45\n", b"\n44\n")
    assert kinds(grown.verify(given=[forged])) == [("signature", None)]
    assert kinds(grown.verify(given=[b"", b"x" * 100_000])) == [("signature", None)] * 2


def test_stored_heads_changed(grown, make_log):
    with grown.store.read() as conn:
        notes = dict(conn.execute(sa.select(tree_heads.c.size, tree_heads.c.note)).all())
    grown.attack(f"UPDATE tree_heads SET note = x'{notes[10].hex()}' WHERE size = 30")
    assert kinds(grown.verify()) == [("signature", None)]
    stranger = make_log("b")
    note = sign_head(TreeHead("log.example/test", 30, tree_hash(())), stranger.key)
    grown.attack(f"UPDATE tree_heads SET note = x'{note.hex()}' WHERE size = 30")
    assert kinds(grown.verify()) == [("signature", None)]
    note = sign_head(TreeHead("log.example/test", 30, tree_hash(())), grown.key)  # a lie by the log itself
    grown.attack(f"UPDATE tree_heads SET note = x'{note.hex()}' WHERE size = 30")
    assert kinds(grown.verify()) == [("changed", None)]


def test_many_faults_are_cut_short(grown):
    grown.attack("UPDATE ledger SET salt = zeroblob(16)")
    assert len(grown.verify().faults) <= verify.MAX_FAULTS


def test_a_proof_survives_what_comes_after(grown):
    """A proof made before stays right after the log has grown; the two heads are consistent."""
    proof, _ = heads.prove(grown.store, grown.tiles, grown.verifier, 7, 10)
    grown.grow(500)
    grown.publish()
    assert heads.prove(grown.store, grown.tiles, grown.verifier, 7, 10)[0] == proof
