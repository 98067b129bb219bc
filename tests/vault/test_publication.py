"""Publication: two other persons, an embargo that holds, another object, and a withdrawal at once."""

import hashlib
import json

import pytest

from mythos.gate import acts
from mythos.gate.state import Rejected
from mythos.ledger.log import last_time
from mythos.records.clock import Clock
from mythos.records.dsse import peek
from mythos.records.principal import OPERATOR
from mythos.records.reasons import Code
from mythos.records.release import Choice
from mythos.serve.apart import running
from mythos.serve.listening import bind
from mythos.serve.public_app import create_public_app
from mythos.store.db import Store
from mythos.vault import publications
from mythos.vault.assets import delete_asset, put_version
from mythos.vault.errors import NoAsset, NotAllowedHere
from tests.gate.town import DAY
from tests.vault.test_exposure import seen
from tests.vault.world import READER, VaultTown, client

WHO = "requester-1"


def requested(town: VaultTown, asset: str, days: float = 0.0, ends: float = 0.0, who=None, as_=OPERATOR):
    person = who or WHO
    times = (town.now + days * DAY, town.now + ends * DAY if ends else 0.0)
    place = (town.store, town.clock, as_)
    return publications.request_publication(*place, asset, *times, "why", person, town.keys[person]).id


def voted(town: VaultTown, request: str, *persons: str, choice: Choice = Choice.APPROVE):
    for person in persons:
        publications.vote_publication(*town.place, request, choice, person, town.keys[person])


def published(town: VaultTown, asset: str, days: float = 0.0, ends: float = 0.0) -> str:
    request = requested(town, asset, days, ends)
    voted(town, request, "rso-1", "board-1")
    return publications.publish(*town.place, request, town.gate).id


def now_public(town: VaultTown) -> set[str]:
    publications.lay_out(*town.place)
    return {path.name for path in publications.place(town.store).iterdir()}


def code(work) -> Code:
    with pytest.raises(Rejected) as refused:
        work()
    return refused.value.code


def test_two_other_persons_and_not_one_fewer(town):
    request = requested(town, town.put().id, who="rso-1")
    gate = town.gate
    assert code(lambda: publications.publish(*town.place, request, gate)) is Code.QUORUM_NOT_MET
    assert code(lambda: voted(town, request, "rso-1")) is Code.REQUESTER_VOTES
    assert code(lambda: voted(town, request, "auditor-1")) is Code.SIGNER_NOT_AUTHORISED
    voted(town, request, "board-1", "board-1")
    assert code(lambda: publications.publish(*town.place, request, gate)) is Code.QUORUM_NOT_MET
    voted(town, request, "board-2")
    assert code(lambda: publications.publish(*town.place, request, town.keys["board-1"])) is (
        Code.SIGNER_NOT_AUTHORISED
    )
    made = publications.publish(*town.place, request, gate)
    assert now_public(town) == {made.id}
    assert code(lambda: publications.publish(*town.place, request, gate)) is Code.ID_TAKEN


def test_a_veto_stands_and_ends_what_is_public(town):
    asset = town.put().id
    made = published(town, asset)
    request = town.state.publications[made].request
    voted(town, request, "safety-1", choice=Choice.VETO)
    assert now_public(town) == set()


def test_only_the_owner_asks(town):
    asset = town.put().id
    with pytest.raises(NoAsset):
        requested(town, asset, as_=READER)
    town.share(asset)
    with pytest.raises(NotAllowedHere):
        requested(town, asset, as_=READER)


def test_the_embargo_holds_to_the_moment_and_so_does_the_end(town):
    made = published(town, town.put().id, days=1, ends=2)
    town.now += DAY - 0.001
    assert now_public(town) == set() and publications.public_now(town.store, town.clock, made) is None
    town.now += 0.001
    assert now_public(town) == {made} and publications.public_now(town.store, town.clock, made)
    town.now += DAY
    assert publications.public_now(town.store, town.clock, made) is None
    assert now_public(town) == set()


def test_nothing_lies_in_clear_before_the_time(town):
    published(town, town.put(b"an embargoed phrase", "An embargoed title").id, days=1)
    for path in town.home.path.rglob("*"):
        assert not path.is_file() or b"embargoed" not in path.read_bytes()


def test_the_public_object_is_another_one_and_provable(town):
    asset = town.put(b"the text", "The title").id
    made = published(town, asset)
    put_version(*town.place, asset, [b"a private edit"])
    delete_asset(*town.place, asset)
    now_public(town)
    found = publications.public_now(town.store, town.clock, made)
    assert found and (found / "content").read_bytes() == b"the text"
    record = json.loads((found / "record.json").read_text())
    signed = peek(record["envelope"].encode())
    assert hashlib.sha256(bytes.fromhex(record["salt"]) + b"the text").hexdigest() == signed["content"]


def test_what_refers_to_a_private_part_is_refused_with_its_list(town):
    image = town.put(b"\x89PNG", "Image").id
    page = town.put(f"<img src='/v1/assets/{image}'>".encode(), "Page").id
    with pytest.raises(NotAllowedHere, match=image):
        requested(town, page)
    part = requested(town, image)
    whole = requested(town, page)
    voted(town, whole, "rso-1", "board-1")
    with pytest.raises(NotAllowedHere, match=image):
        publications.publish(*town.place, whole, town.gate)
    voted(town, part, "rso-1", "board-1")
    publications.publish(*town.place, part, town.gate)
    assert publications.publish(*town.place, whole, town.gate)


def test_laying_out_is_idempotent_across_restarts_half_done_work_and_clock_steps(town):
    made = published(town, town.put().id, days=1)
    area = publications.place(town.store)
    town.now += DAY
    (area / f".{made}.half").mkdir()
    (area / "stray").mkdir()
    assert now_public(town) == {made}
    before = [e for e in town.events() if e["kind"] == "publication.opened"]
    store = Store.open(town.home)
    clock = Clock(lambda: last_time(store), lambda: town.now - 30)  # a small step back
    assert publications.lay_out(store, clock, OPERATOR) == []
    assert publications.public_now(store, clock, made)
    clock = Clock(lambda: last_time(store), lambda: town.now - DAY)  # a large one: nobody is answered
    publications.lay_out(store, clock, OPERATOR)
    store.close()
    assert [e for e in town.events() if e["kind"] == "publication.opened"] == before and len(before) == 1
    assert now_public(town) == {made}


def test_withdrawn_at_once_whoever_asks_however_and_for_good(town):
    made = published(town, town.put(b"the text").id)
    request = town.state.publications[made].request
    app = create_public_app(town.store, town.clock)
    with bind("127.0.0.1", 0) as listener, running(app, listener) as base_url, client(base_url) as http:
        got = http.get(f"/p/{made}")
        assert (got.status_code, got.content) == (200, b"the text")
        assert "etag" not in got.headers and got.headers["cache-control"] == "no-store"
        made_up = "/p/pub_" + "x" * 22
        assert http.get(f"/p/{made}?version=2").status_code == 404
        said = publications.withdraw(*town.place, request, "why not", "board-2", town.keys["board-2"])
        assert "no-store" in said
        for more in ({}, {"range": "bytes=0-1"}, {"if-none-match": "*"}, {"if-modified-since": "x"}):
            for path in (f"/p/{made}", f"/p/{made}/record"):
                assert seen(http.get(path, headers=more)) == seen(http.get(made_up, headers=more))
    assert code(lambda: voted(town, request, "board-2")) is Code.PUBLICATION_WITHDRAWN
    assert now_public(town) == set()


def test_a_vote_falls_with_its_key(town):
    published(town, town.put().id)
    trust = town.state.trust
    persons = [p for p in trust.persons if p.id != "board-1"]
    keys = [k for k in trust.keys if k.holder != "board-1"]
    signers = [town.keys[who] for who in ("rso-1", "executive-1", "safety-1")]
    acts.enrol(*town.place, acts.next_root(town.state, persons, keys), signers)
    assert now_public(town) == set()


def test_a_refused_request_leaves_no_copy(town):
    asset = town.put().id

    def copies() -> int:
        with town.store.read() as conn:
            return conn.exec_driver_sql("SELECT count(*) FROM publication_copies").scalar_one()

    assert code(lambda: requested(town, asset, days=-2, ends=-1)) is Code.EXPIRED and copies() == 0
    requested(town, asset)
    assert copies() == 1  # the control


def test_what_somebody_lays_into_the_public_area_is_removed_and_stops_nothing(town, tmp_path):
    made = published(town, town.put().id)
    area, outside = publications.place(town.store), tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (area / "stray.txt").write_text("x")
    (area / "folder").mkdir()
    (area / "link").symlink_to(outside)
    assert now_public(town) == {made} and (outside / "kept").exists()


def test_two_processes_lay_out_the_public_area_at_once(town):
    from concurrent.futures import ThreadPoolExecutor

    made = {published(town, town.put(b"%d" % n).id, days=1) for n in range(6)}
    town.now += 2 * DAY
    other = Store.open(town.home)
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(publications.lay_out, s, town.clock, OPERATOR) for s in (town.store, other) * 2]
        opened = [one for done in work for one in done.result()]
    other.close()
    assert set(opened) == made and len(opened) == len(made) and now_public(town) == made


def test_a_leap_of_the_clock_opens_nothing_until_it_is_started_again(town, monkeypatch):
    import threading
    import time as clocks

    from mythos.cli import publications as commands

    made = published(town, town.put().id, days=1)
    real, boot, leap = clocks.time, clocks.clock_gettime, [0.0]
    said, looked = threading.Event(), threading.Event()

    def since_boot(which: int) -> float:
        looked.set()
        return boot(which)

    monkeypatch.setattr(commands, "note", lambda text: said.set() if "leapt" in text else None)
    monkeypatch.setattr(commands.time, "time", lambda: real() + leap[0])
    monkeypatch.setattr(commands.time, "clock_gettime", since_boot)
    stop = threading.Event()
    ticking = threading.Thread(target=commands._tick, args=(town.place, stop))
    ticking.start()
    assert looked.wait(60)
    leap[0], town.now = 2 * DAY, town.now + 2 * DAY
    assert said.wait(60)
    stop.set()
    ticking.join()
    assert list(publications.place(town.store).iterdir()) == []
    assert now_public(town) == {made}  # as at the next start
