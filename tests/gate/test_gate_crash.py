"""kill -9 at every write of the gate, two writers, a full disk: what was said counts, nothing by half.

As in test_crash: a fork ends itself at its n-th database step. The state read back is replayed from the
records by a store that never saw the write, so whatever it holds is on disk.
"""

import contextlib
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from mythos.gate import acts
from mythos.gate.release import in_force
from mythos.gate.state import Rejected, State
from mythos.gate.submit import load_state, submit
from mythos.ledger.log import ledger
from mythos.records.canonical import parse_canonical
from mythos.records.clock import Clock
from mythos.records.ids import new_id
from mythos.records.principal import OPERATOR
from mythos.records.reasons import Code
from mythos.records.release import Choice, Vote
from mythos.records.signed import seal
from mythos.store.db import Store, StoreError
from mythos.store.home import Home
from mythos.store.tables import records
from tests.gate.test_crash import check, run_child
from tests.gate.town import VOTERS, Town


def town_for(path: Path) -> Town:
    """Measured weights that all but one person approved, at rest."""
    town = Town(path / "base")
    town.measure()
    for who in VOTERS[1:]:
        town.vote(who, town.subject())
    town.store.close()
    return town


def moved(town: Town, to: Path) -> Home:
    shutil.copytree(town.home.path, to)
    return Home(to, town.home.keys)


def replayed(home: Home) -> State:
    """The state from the records on disk; every record has its leaf and every leaf its record."""
    store = Store.open(home)
    try:
        events = [e for e in check(store) if e["kind"] == "record"]
        with store.read() as conn:
            rows = conn.execute(sa.select(records.c.seq).order_by(records.c.seq)).scalars().all()
            logged = conn.execute(sa.select(ledger.c.seq, ledger.c.event).order_by(ledger.c.seq)).all()
        assert rows == [seq for seq, what in logged if parse_canonical(what)["kind"] == "record"]
        state = load_state(store)
        assert not state.fault and len(events) == len(rows)
        return state
    finally:
        store.close()


def life(town: Town, store: Store, say: Callable[[str], None]) -> None:
    """The last vote, a release, its halt, a suspension: each said once it returned."""
    place = (store, Clock(system=lambda: town.now), OPERATOR)

    def done(what: str) -> None:
        say("")  # on disk, not yet said: may be killed here
        say(what)

    person, key = VOTERS[0], town.keys[VOTERS[0]]
    about = town.subject()
    with contextlib.suppress(Rejected):
        acts.withdraw_vote(*place, "vote_none", person, key)
    done(acts.cast_vote(*place, about, Choice.APPROVE, person, key).id)
    release, answer = acts.open_release(
        *place, about, "staged", "requester-1", town.keys["requester-1"], town.gate
    )
    assert release is not None, answer
    done(release.id)
    done(acts.halt(*place, release.id, "why not", person, key).id)
    done(acts.suspend(*place, "", {}, "why not", person, key).id)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_step(tmp_path, stride):
    town = town_for(tmp_path)
    before = len(replayed(town.home).at)
    for n in range(0, 1000, stride):
        home = moved(town, tmp_path / str(n))
        survived, said = run_child(lambda say, home=home: life(town, Store.open(home), say), n)
        state = replayed(home)
        assert set(said) <= set(state.at), "what was said is lost"
        assert len(said) <= len(state.at) - before <= len(said) + 1, "one write at most is on its way"
        for release in state.releases.values():
            assert state.votes.keys() >= set(release.votes) and len(release.votes) == len(VOTERS)
            fell = len(state.at) - before > 2
            assert in_force(state, release, town.now) is not fell
        if survived:
            assert n > 40 and len(said) == 4
            break
        shutil.rmtree(home.path)
    else:
        raise AssertionError("the child never got to the end")
    store = Store.open(home)  # and the next writer goes on
    assert (
        acts.suspend(store, town.clock, OPERATOR, "", {}, "", VOTERS[1], town.keys[VOTERS[1]]).id
        in load_state(store).at
    )
    store.close()


def forked(work: Callable[[Callable[[str], object]], None]) -> Callable[[], list[str]]:
    """Start `work(say)` in a fork; call the result to wait for it and get what it said."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            work(lambda text: os.write(writer, text.encode() + b"\n"))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)

    def wait() -> list[str]:
        with os.fdopen(reader) as pipe:
            said = pipe.read().split()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        return said

    return wait


def test_two_writers(tmp_path):
    """Both take every other record at once; one and the same record is taken from one of them."""
    town = town_for(tmp_path)
    about, person = town.subject(), VOTERS[0]
    deployment = town.state.deployment
    town.store.close()
    same = [
        seal(Vote(new_id("vote"), deployment, person, Choice.APPROVE, about, ""), town.keys[person])
        for _ in range(6)
    ]

    def work(say: Callable[[str], object], who: str) -> None:
        store, clock = Store.open(town.home), Clock(system=lambda: town.now)
        for envelope in same:
            say(acts.cast_vote(store, clock, OPERATOR, about, Choice.APPROVE, who, town.keys[who]).id)
            try:
                say(submit(store, clock, OPERATOR, envelope)[0].id)
            except Rejected as refused:
                assert refused.code is Code.ID_TAKEN

    first, second = (forked(lambda say, who=who: work(say, who)) for who in VOTERS[1:3])
    said = first() + second()
    state = replayed(town.home)
    assert len(said) == len(set(said)) == 18 and set(said) <= set(state.votes)
    assert len(state.votes) == len(VOTERS) - 1 + 18


@pytest.mark.parametrize("how", ["pages", "file size"])
def test_a_full_disk(tmp_path, how):
    """The write that finds no room says so and leaves nothing; the ones before it stay."""
    town = town_for(tmp_path)
    about, person = town.subject(), VOTERS[0]
    town.store.close()

    def work(say: Callable[[str], object]) -> None:
        store, clock = Store.open(town.home), Clock(system=lambda: town.now)
        with store.read() as conn:
            pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one() + 4
        if how == "pages":
            store.close()
            event.listen(
                store.engine, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count = {pages}").fetchall()
            )
        else:
            most = 1 << 17  # of the write-ahead log
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        for _ in range(200):
            try:
                vote = acts.cast_vote(
                    store, clock, OPERATOR, about, Choice.APPROVE, person, town.keys[person], "x" * 2000
                )
            except StoreError:
                say("full")
                return
            say(vote.id)

    said = forked(work)()
    assert said[-1] == "full" and len(said) > 1
    state = replayed(town.home)
    assert set(said[:-1]) == {i for i in state.votes if state.votes[i].vote.person == person}
    store = Store.open(town.home)  # with room again
    found = acts.cast_vote(store, town.clock, OPERATOR, about, Choice.APPROVE, person, town.keys[person])
    assert found.id in load_state(store).votes
    store.close()
