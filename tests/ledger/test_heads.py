"""Publishing and proving: growth, tiles as C2SP lays them out, and what refuses to be signed."""

import dataclasses
import hashlib
import os
import shutil
import stat
import threading

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.ledger import heads
from mythos.ledger.log import leaf_hash, ledger, tree_heads
from mythos.ledger.tiles import LedgerError, RightEdge, Tiles, read_tile, tile_path, write_tile
from mythos.records.canonical import canonical
from mythos.records.clock import ClockError
from mythos.records.dsse import SignatureError
from mythos.records.note import TreeHead, open_note
from mythos.records.root import audit_path, tree_hash
from mythos.records.tlog import (
    consistency_holds,
    consistency_path,
    inclusion_holds,
    inclusion_path,
    parse_proof,
    proof_text,
)
from mythos.store.db import Store
from tests.ledger.conftest import ORIGIN


def leaves(log) -> list[bytes]:
    with log.store.read() as conn:
        return list(conn.execute(sa.select(ledger.c.leaf).order_by(ledger.c.seq)).scalars())


def stored(log) -> list[int]:
    with log.store.read() as conn:
        return list(conn.execute(sa.select(tree_heads.c.size).order_by(tree_heads.c.size)).scalars())


def files(log) -> dict[str, bytes]:
    found = [path for path in (log.tiles / "tile").rglob("*") if path.is_file()]
    return {path.relative_to(log.tiles).as_posix(): path.read_bytes() for path in found}


def test_heads_while_the_log_grows(log):
    """Every head is the root of a prefix and extends every earlier one; events are provable in each."""
    sizes, signed = [], []
    for step in (0, 1, 0, 5, 250, 1, 255, 300):
        log.grow(step)
        signed.append(log.publish())
        sizes.append((sizes[-1] if sizes else 0) + step)
    assert [one.head.size for one in signed] == sizes
    assert stored(log) == sorted(set(sizes))  # nothing new: the same head again, not another
    every = leaves(log)
    for one in signed:
        assert one.head.root == tree_hash(every[: one.head.size])
        assert open_note(one.note, log.verifier).head == one.head
    for new in signed:
        for old in signed:
            if old.head.size <= new.head.size:
                proof = heads.consistency(log.store, log.tiles, log.verifier, old.head.size, new.head.size)
                assert proof.note == new.note and consistency_holds(old.head, new.head, proof.path)
        for seq in {0, new.head.size // 2, new.head.size - 1} & set(range(new.head.size)):
            proof, entry = heads.prove(log.store, log.tiles, log.verifier, seq, new.head.size)
            assert proof.path == audit_path(every[: new.head.size], seq)
            assert leaf_hash(entry[:16], entry[16:]) == every[seq]
            assert parse_proof(proof_text(proof)) == proof
    assert (log.tiles / "checkpoint").read_bytes() == signed[-1].note
    assert log.verify().faults == ()


def test_tiles_lie_where_the_specification_says(log, tmp_path):
    assert tile_path(tmp_path, 0, 1234067) == tmp_path / "tile/0/x001/x234/067"
    assert tile_path(tmp_path, 2, 0, 17) == tmp_path / "tile/2/000.p/17"
    assert tile_path(tmp_path, 1, 5000, 1) == tmp_path / "tile/1/x005/000.p/1"
    log.grow(256)
    log.publish()
    assert set(files(log)) == {"tile/0/000", "tile/1/000.p/1"}
    log.grow(44)
    log.publish()
    every = leaves(log)
    assert files(log) == {
        "tile/0/000": b"".join(every[:256]),
        "tile/0/001.p/44": b"".join(every[256:]),
        "tile/1/000.p/1": tree_hash(every[:256]),
    }
    for path in log.tiles.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_the_example_of_70000_leaves():
    """c2sp.org/tlog-tiles: 273 full and one partial tile of 112, one full and one partial of 17, one of 1."""
    edge, full = RightEdge(), []
    for n in range(70_000):
        full += edge.add(hashlib.sha256(b"%d" % n).digest())
    assert [level for level, _, _ in full].count(0) == 273
    assert [(level, index) for level, index, _ in full if level] == [(1, 0)]
    assert [(level, index, len(h)) for level, index, h in edge.partial()] == [
        (0, 273, 112),
        (1, 1, 17),
        (2, 0, 1),
    ]


@pytest.fixture(scope="module")
def tall(tmp_path_factory):
    """Tiles of 70,000 leaves on disk, and the leaves."""
    place = tmp_path_factory.mktemp("tall")
    every = [hashlib.sha256(b"%d" % n).digest() for n in range(70_000)]
    edge = RightEdge()
    for leaf in every:
        for tile in edge.add(leaf):
            if tile[0] or tile[1] > 250 or tile[1] < 3:  # some are enough, and fsync is slow
                write_tile(place, tile)
    for tile in edge.partial():
        write_tile(place, tile)
    return place, every, edge.root()


def test_three_levels(tall):
    place, every, root = tall
    assert root == tree_hash(every) == Tiles(place, 70_000).edge().root()
    head = TreeHead("log.example", 70_000, root)
    for index in (0, 1, 255, 256, 700, 65_535, 65_536, 69_887, 69_888, 69_999):
        tiles = Tiles(place, 70_000)
        path = inclusion_path(tiles.hash_of, index, 70_000)
        assert path == audit_path(every, index) and inclusion_holds(every[index], index, head, path)
        assert len(tiles._read) <= 5  # only the tiles that it needs
    for old in (1, 255, 256, 257, 65_535, 65_536, 65_537, 69_999):
        tiles = Tiles(place, 70_000)
        was = TreeHead("log.example", old, tree_hash(every[:old]))
        assert consistency_holds(was, head, consistency_path(tiles.hash_of, old, 70_000))
        assert len(tiles._read) <= 5


@settings(max_examples=30)
@given(st.lists(st.integers(0, 600), min_size=1, max_size=4))
def test_the_edge_grows_as_the_tree(steps):
    edge, every = RightEdge(), []
    for step in steps:
        for _ in range(step):
            every.append(hashlib.sha256(b"%d" % len(every)).digest())
            edge.add(every[-1])
        assert edge.root() == tree_hash(every)


@pytest.mark.parametrize("how", ["missing", "one missing", "flipped", "short", "empty", "of another tile"])
@pytest.mark.parametrize("then", ["prove", "publish"])
def test_damaged_tiles_are_repaired_from_the_table(log, how, then):
    log.grow(600)
    log.publish()
    good = files(log)
    first, edge = tile_path(log.tiles, 0, 0), tile_path(log.tiles, 0, 2, 88)
    if how == "missing":
        shutil.rmtree(log.tiles)
    for path in (first, edge) if how != "missing" else ():
        data = path.read_bytes()
        if how == "one missing":
            path.unlink()
        elif how == "flipped":
            path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        elif how == "short":
            path.write_bytes(data[:-32])
        elif how == "empty":
            path.write_bytes(b"")
        else:
            path.write_bytes(data[32:] + data[:32])
    assert {fault.kind for fault in log.verify().faults} == {"tile"}
    if then == "prove":
        proof, entry = heads.prove(log.store, log.tiles, log.verifier, 77)
        assert inclusion_holds(
            leaf_hash(entry[:16], entry[16:]), 77, open_note(proof.note, log.verifier).head, proof.path
        )
        assert files(log) == good
    else:
        log.grow(1)
        signed = log.publish()
        assert signed.head.root == tree_hash(leaves(log))
        assert log.verify().faults == ()


def test_rebuild_on_demand(log):
    log.grow(300)
    log.publish()
    path = tile_path(log.tiles, 0, 0)
    good = files(log)
    path.write_bytes(bytes(8192))  # a full tile, which publishing does not read again
    log.publish()
    assert files(log) != good
    log.publish(rebuild=True)
    assert files(log) == good


EDITS = {
    "an event edited with its leaf": "UPDATE ledger SET leaf = zeroblob(32) WHERE seq = 5",
    "a row taken out": "DELETE FROM ledger WHERE seq = 5",
    "the tail cut": "DELETE FROM ledger WHERE seq >= 10",
    "emptied": "DELETE FROM ledger",
}


@pytest.mark.parametrize("statement", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("tiles", ["there", "gone"])
def test_a_changed_log_is_not_signed(log, statement, tiles):
    log.grow(20)
    head = log.publish()
    before = files(log)
    log.attack(statement)
    if tiles == "gone":
        shutil.rmtree(log.tiles)
        with pytest.raises(LedgerError):
            log.publish()
        assert not log.tiles.exists()  # no tile is made from a table that does not lead to the signed root
    else:
        # the tiles still agree with the head, so this is the same head again: nothing new is signed
        assert log.publish().head == head.head
        with pytest.raises(LedgerError):
            log.publish(rebuild=True)
        assert files(log) == before
    assert stored(log) == [20] and log.verify().faults


def test_an_event_edited_before_it_was_signed_is_not_signed(log):
    log.grow(5)
    log.publish()
    log.grow(5)
    log.attack("UPDATE ledger SET event = x'7b7d' WHERE seq = 7")
    with pytest.raises(LedgerError, match="event 7"):
        log.publish()
    assert stored(log) == [5]


def test_nobody_else_signs_this_log(log):
    log.grow(3)
    log.publish()
    log.grow(1)
    with pytest.raises(SignatureError):
        heads.publish(log.store, log.clock, log.tiles, "log.example/test", Ed25519PrivateKey.generate())
    with pytest.raises(Exception, match="not of"):
        heads.publish(log.store, log.clock, log.tiles, "log.example/other", log.key)
    assert log.publish().head.size == 4  # control


def test_a_clock_behind_signs_nothing(log):
    log.grow(3)
    log.time.now -= 100
    with pytest.raises(ClockError):
        log.publish()
    assert stored(log) == []


def test_what_cannot_be_proved(log):
    with pytest.raises(LedgerError):
        heads.prove(log.store, log.tiles, log.verifier, 0)
    log.grow(5)
    log.publish()
    log.grow(1)
    for seq, size in ((5, None), (-1, None), (0, 3), (9, None)):
        with pytest.raises(LedgerError):
            heads.prove(log.store, log.tiles, log.verifier, seq, size)
    for old, new in ((3, 5), (5, 6), (6, 5)):
        with pytest.raises(LedgerError):
            heads.consistency(log.store, log.tiles, log.verifier, old, new)
    assert heads.prove(log.store, log.tiles, log.verifier, 4)[0].index == 4  # control


def test_an_event_edited_after_it_was_signed_is_not_proved(log):
    log.grow(5)
    log.publish()
    log.attack("UPDATE ledger SET event = x'7b7d' WHERE seq = 3")
    with pytest.raises(LedgerError):
        heads.prove(log.store, log.tiles, log.verifier, 3)
    assert heads.prove(log.store, log.tiles, log.verifier, 2)[0].index == 2  # control


def test_au_10_nothing_public_gives_a_name_away(log):
    """A dictionary of 1e6 candidate events, all but the name known, against all that is public."""
    from mythos.ledger.log import append

    with log.store.begin() as conn:
        for name in ("unreleased-123456", "unreleased-777777"):
            append(conn, log.clock, {"kind": "weights.registered", "tier": name})
    log.publish()
    public = b"".join(path.read_bytes() for path in log.tiles.rglob("*") if path.is_file())
    proof, entry = heads.prove(log.store, log.tiles, log.verifier, 0)
    public += proof_text(proof)
    assert b"unreleased" not in public and entry not in public and entry[:16] not in public
    hashes = {public[at : at + 32] for at in range(len(public) - 31)} | set(proof.path)
    event = {"kind": "weights.registered", "tier": "unreleased-NNNNNN", "seq": 0, "time": log.time.now}
    before, _, after = canonical(event).partition(b"NNNNNN")
    assert before + b"123456" + after == entry[16:]  # the dictionary has the right event in it
    guesses = (before + b"%06d" % n + after for n in range(10**6))
    assert not any(hashlib.sha256(b"\x00" + guess).digest() in hashes for guess in guesses)
    leaf = hashlib.sha256(b"\x00" + entry).digest()  # control: the owner opens it with the salt
    assert leaf in hashes and inclusion_holds(leaf, 0, open_note(proof.note, log.verifier).head, proof.path)


def test_read_tile_takes_the_first_hashes_of_a_wider_one(log):
    log.grow(256)
    log.publish()
    assert read_tile(log.tiles, 0, 0, 10) == leaves(log)[:10]


def due(log, every: float = 60.0):
    return heads.publish_if_due(log.store, log.clock, log.tiles, ORIGIN, log.key, every)


def test_a_head_is_due_when_there_are_new_events_and_the_last_one_is_old(log):
    assert due(log) is None and stored(log) == []  # nothing to sign
    log.grow(3)
    assert due(log).head.size == 3  # no head yet: at once
    log.time.now += 3_600
    assert due(log) is None and stored(log) == [3]  # old, but nothing new
    log.grow(1)
    assert due(log).head.size == 4
    log.grow(1)
    log.time.now += 59
    assert due(log) is None  # new, but not old
    log.time.now += 1
    assert due(log).head.size == 5 and stored(log) == [3, 4, 5]
    log.grow(1)
    log.publish()  # by somebody else: it counts for all
    log.grow(1)
    log.time.now += 59
    assert due(log) is None and stored(log) == [3, 4, 5, 6]
    assert log.verify().faults == ()


def test_a_new_event_that_is_not_what_its_leaf_says_is_not_signed(log):
    log.grow(3)
    log.publish()
    log.grow(1)
    log.attack("UPDATE ledger SET event = x'7b7d' WHERE seq = 3")
    log.time.now += 60
    with pytest.raises(LedgerError):
        due(log)
    assert stored(log) == [3]


def test_a_head_that_is_due_waits_for_nobody(log):
    log.grow(3)
    with heads._alone(log.tiles) as alone:
        assert alone and due(log) is None
    assert due(log).head.size == 3


def test_two_publish_at_once(log, monkeypatch):
    """One is about to write a partial tile when another has filled that tile and would take it away."""
    replace, paused, go_on = os.replace, threading.Event(), threading.Event()

    def slowly(*paths) -> None:
        if str(paths[1]).endswith("000.p/200"):
            paused.set()
            go_on.wait(30)
        replace(*paths)

    monkeypatch.setattr(os, "replace", slowly)
    errors = []

    def publish(events: int) -> None:
        store = Store.open(log.store.home)  # as another process would; locks are per open file
        try:
            other = dataclasses.replace(log, store=store)
            other.grow(events)
            other.publish()
        except Exception as error:
            errors.append(error)
        finally:
            store.close()

    first, second = (threading.Thread(target=publish, args=(events,)) for events in (200, 100))
    first.start()
    assert paused.wait(30)
    second.start()
    second.join(1)  # long enough to be done with it, if nothing keeps it back
    go_on.set()
    first.join()
    second.join()
    assert errors == [] and stored(log) == [200, 300]
    assert log.verify().faults == ()
    assert open_note((log.tiles / "checkpoint").read_bytes(), log.verifier).head.size == 300
