"""A witness: cosigns growth, refuses everything else, forgets nothing."""

import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.ledger import heads
from mythos.ledger.tiles import LedgerError
from mythos.ledger.witness import LOCK, STATE, TRUST, WitnessRefusal, cosign, init_witness
from mythos.records.canonical import RecordError
from mythos.records.clock import Clock
from mythos.records.note import TreeHead, open_note, parse_verifier, sign_head
from mythos.records.root import tree_hash
from mythos.records.tlog import WitnessRequest, request_text

NAME = "witness.example/w1"


class Witness:
    def __init__(self, place, log):
        self.place = place
        self.key = Ed25519PrivateKey.generate()
        self.clock = Clock(system=log.time)
        place.mkdir(exist_ok=True)
        self.verifier = init_witness(place, NAME, self.key, log.verifier, self.clock)

    def asked(self, request: WitnessRequest) -> bytes:
        return cosign(self.place, self.key, request_text(request), self.clock)

    def refusal(self, request: WitnessRequest) -> int:
        before = (self.place / STATE).read_bytes()
        with pytest.raises(WitnessRefusal) as caught:
            self.asked(request)
        assert (self.place / STATE).read_bytes() == before
        return caught.value.status


@pytest.fixture
def witness(log, tmp_path) -> Witness:
    return Witness(tmp_path / "witness", log)


def request(log, old: int) -> WitnessRequest:
    log.publish()
    return heads.consistency(log.store, log.tiles, log.verifier, old)


def test_a_growing_log_is_cosigned(log, witness):
    last = 0
    for step in (3, 0, 300, 1):
        log.grow(step)
        log.time.now += 60
        note = witness.asked(request(log, last))
        signed = open_note(note, log.verifier, [witness.verifier])
        assert signed.signers == {log.verifier: None, witness.verifier: int(log.time.now)}
        heads.attach(log.store, log.tiles, log.verifier, [witness.verifier], note)
        last = heads.last_cosigned(log.store, log.verifier)
        assert last == signed.head.size
        assert (witness.place / STATE).read_bytes() == note
    assert (log.tiles / "checkpoint").read_bytes().count("—".encode()) == 2
    report = log.verify([witness.verifier])
    assert report.faults == () and report.witnessed == 304
    log.grow(1)
    log.publish()
    assert heads.last_cosigned(log.store, log.verifier) == 304
    assert log.verify([witness.verifier]).witnessed == 304


def test_the_trust_file_names_both(log, witness):
    keys = [parse_verifier(line) for line in (witness.place / TRUST).read_text().splitlines()]
    assert keys == [log.verifier, witness.verifier]


def test_another_old_size(log, witness):
    log.grow(10)
    log.publish()
    log.grow(10)
    assert witness.refusal(request(log, 10)) == 409
    witness.asked(request(log, 0))  # control
    log.grow(1)
    with pytest.raises(WitnessRefusal) as caught:
        witness.asked(request(log, 0))
    assert (caught.value.status, caught.value.size) == (409, 20)
    assert "20" in caught.value.cure


def test_shrinking(log, witness):
    log.grow(10)
    short = log.publish()
    log.grow(10)
    witness.asked(request(log, 0))
    assert witness.refusal(WitnessRequest(20, (), short.note)) == 400
    assert witness.refusal(WitnessRequest(10, (), short.note)) == 409
    assert witness.refusal(WitnessRequest(0, (), short.note)) == 409
    assert witness.asked(request(log, 20))  # control: the same head again


def test_a_fork_of_the_same_size_and_a_longer_one(log, witness, make_log):
    log.grow(20)
    witness.asked(request(log, 0))
    fork = make_log("fork", log.key)
    fork.grow(20)
    assert witness.refusal(WitnessRequest(20, (), fork.publish().note)) == 409
    fork.grow(5)
    assert witness.refusal(request(fork, 20)) == 422
    log.grow(5)
    right = request(log, 20)
    assert witness.refusal(WitnessRequest(20, right.path[:-1], right.note)) == 422
    assert witness.refusal(WitnessRequest(20, (*right.path, bytes(32)), right.note)) == 422
    assert witness.refusal(WitnessRequest(20, (), right.note)) == 422
    assert witness.asked(right)  # control


def test_bad_signature_wrong_origin_malformed(log, witness, make_log):
    log.grow(5)
    good = request(log, 0)
    stranger = sign_head(TreeHead(log.verifier.name, 5, tree_hash(())), Ed25519PrivateKey.generate())
    assert witness.refusal(WitnessRequest(0, (), stranger)) == 403
    assert witness.refusal(WitnessRequest(0, (), good.note.replace(b"\n5\n", b"\n6\n"))) == 403
    elsewhere = sign_head(TreeHead("log.example/other", 5, tree_hash(())), log.key)
    assert witness.refusal(WitnessRequest(0, (), elsewhere)) == 404
    for text in (
        b"",
        request_text(good)[:-1],
        b"old x\n\n" + good.note,
        request_text(good).replace(b"old 0", b"new 0"),
    ):
        with pytest.raises(WitnessRefusal) as caught:
            cosign(witness.place, witness.key, text, witness.clock)
        assert caught.value.status == 400
    assert witness.asked(good)  # control


@pytest.mark.parametrize("file", [STATE, TRUST, LOCK])
def test_a_witness_without_memory_signs_nothing(log, witness, file):
    log.grow(5)
    (witness.place / file).unlink()
    with pytest.raises(LedgerError, match="memory"):
        witness.asked(request(log, 0))


def test_a_changed_memory_is_noticed(log, witness, make_log):
    """Only the witness's own signature is believed, and only of its own log."""
    log.grow(5)
    witness.asked(request(log, 0))
    state = witness.place / STATE
    good = state.read_bytes()
    state.write_bytes(log.publish().note)  # signed by the log alone
    with pytest.raises(LedgerError, match="memory"):
        witness.asked(request(log, 5))
    state.write_bytes(good.replace(b"\n5\n", b"\n4\n"))
    with pytest.raises(LedgerError, match="memory"):
        witness.asked(request(log, 5))
    state.write_bytes(good)
    assert witness.asked(request(log, 5))  # control


def test_a_witness_is_not_made_twice(log, witness):
    with pytest.raises(LedgerError, match="already"):
        init_witness(witness.place, NAME, witness.key, log.verifier, witness.clock)
    with pytest.raises(RecordError):
        init_witness(witness.place / "x", NAME, witness.key, witness.verifier, witness.clock)


def test_its_time_never_runs_back(log, witness):
    log.grow(5)
    log.time.now += 30
    witness.asked(request(log, 0))
    now = int(log.time.now)
    witness.clock = Clock(system=lambda: now - 30.0)
    assert open_note(witness.asked(request(log, 5)), witness.verifier).signers[witness.verifier] == now


def test_two_histories_at_once_one_is_cosigned(log, witness, make_log):
    fork = make_log("fork", log.key)
    asked = []
    for one in (log, fork):
        one.grow(10)
        asked += [request(one, 0)] * 4
    done, refused = [], []

    def run(wanted: WitnessRequest) -> None:
        try:
            done.append(open_note(witness.asked(wanted), log.verifier).head.root)
        except WitnessRefusal as error:
            refused.append(error.status)

    threads = [threading.Thread(target=run, args=(one,)) for one in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1 and refused == [409] * 7


def test_only_what_a_known_witness_signed_is_attached(log, witness):
    log.grow(5)
    note = witness.asked(request(log, 0))
    plain = log.publish().note
    stranger = Ed25519PrivateKey.generate()
    assert heads.attach(log.store, log.tiles, log.verifier, [], note).note == plain
    with pytest.raises(LedgerError):  # a head that is not stored here
        heads.attach(
            log.store,
            log.tiles,
            log.verifier,
            [],
            sign_head(TreeHead(log.verifier.name, 3, bytes(32)), log.key),
        )
    with pytest.raises(RecordError):  # of this size, with another root, signed by the log: two histories
        heads.attach(
            log.store,
            log.tiles,
            log.verifier,
            [],
            sign_head(TreeHead(log.verifier.name, 5, bytes(32)), log.key),
        )
    with pytest.raises(RecordError):
        heads.attach(
            log.store,
            log.tiles,
            log.verifier,
            [],
            sign_head(TreeHead(log.verifier.name, 5, bytes(32)), stranger),
        )
    attached = heads.attach(log.store, log.tiles, log.verifier, [witness.verifier], note)
    assert witness.verifier in attached.signers
    again = heads.attach(log.store, log.tiles, log.verifier, [witness.verifier], note)
    assert again.note == attached.note
