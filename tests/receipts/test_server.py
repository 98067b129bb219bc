"""Receipts over real HTTP: one for every answer, for its caller only, on disk before the answer ends."""

import asyncio
import concurrent.futures
import hashlib
import json
import subprocess
import sys
import time
from functools import partial

import pytest

from mythos.cli.main import run
from mythos.engine.request import Finish
from mythos.records.bundle import BROKEN, UNTRUSTED, VERIFIED, salted
from mythos.records.canonical import canonical
from mythos.records.dsse import peek
from mythos.records.principal import OPERATOR
from mythos.records.receipt import Receipt
from mythos.records.signed import from_plain
from mythos.serve.receipts import differences
from mythos.serve.recorder import Recorder
from mythos.serve.repeat import repeat
from mythos.store.db import Store
from mythos.store.operator_key import operator_keys
from mythos.store.receipts import find_receipt
from mythos.store.usage import UsageRow
from tests.gate.test_crash import check, clock_of, every_step
from tests.receipts.world import alone, both, judged
from tests.serve.live import ENDLESS, ask, chat, serve
from tests.tiny import tiny_home


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("receipts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYTHOS_KEYS", str(path / "keys"))
        yield tiny_home(path, ("small", "large"))


@pytest.fixture(scope="module")
def live(tiny):
    with tiny.engine() as engine, serve(tiny, engine, aliases={"nick": "small"}) as live:
        yield live


def answer(live, path="/v1/messages", body=None, key=None):
    with live.http(key) as http:
        got = http.post(path, json=ask() if body is None else body)
    assert got.status_code == 200, got.text
    return got


def receipt(live, receipt_id, key=None):
    with live.http(key) as http:
        return http.get(f"/v1/receipts/{receipt_id}")


def text_of(got) -> str:
    return "".join(block["text"] for block in got.json()["content"])


def operator(tiny) -> str:
    return operator_keys(tiny.home).public_key().public_bytes_raw().hex()


def test_an_answer_has_a_receipt_that_verifies_offline(live, tiny):
    body = ask(temperature=0, messages=[{"role": "user", "content": "Hello there"}])
    got = answer(live, body=body)
    document = receipt(live, got.headers["mythos-receipt"]).content
    assert both(document) == UNTRUSTED
    assert both(document, operator(tiny)) == VERIFIED
    assert both(document, "00" * 32) == BROKEN
    said = peek(json.loads(document)["receipt"].encode())
    assert (said["tier"], said["asked"], said["mode"], said["profile"]) == ("small", "small", "exact", "none")
    assert said["output_tokens"] == got.json()["usage"]["output_tokens"] and said["leaf"] >= 0
    opening = json.loads(document)["opening"]
    assert salted(opening["answer"], text_of(got).encode()) == said["answer"]
    assert salted(opening["prompt"], canonical(body["messages"])) == opening["value"]["messages"]
    said = judged(document, operator(tiny), json.dumps(body).encode(), text_of(got).encode())
    assert said == (VERIFIED, "")
    assert "Hello there" not in document.decode() and text_of(got) not in document.decode()


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_every_surface_gives_one(live, path, stream):
    body = (ask if path == "/v1/messages" else chat)(stream=stream, model="nick")
    document = receipt(live, answer(live, path, body).headers["mythos-receipt"]).content
    assert both(document) == UNTRUSTED
    assert (
        peek(json.loads(document)["receipt"].encode())["asked"] == "small"
    )  # an alias is a name, no fallback


def test_nobody_else_learns_that_a_receipt_exists(live):
    mine = answer(live).headers["mythos-receipt"]
    with live.http() as http:
        assert http.get(f"/v1/receipts/{mine}").status_code == 200
        assert http.get(f"/v1/receipts/{mine}", headers={"x-api-key": live.stored}).status_code == 200
        bearer = {"x-api-key": "", "authorization": f"Bearer {live.key}"}
        assert http.get(f"/v1/receipts/{mine}", headers=bearer).status_code == 200

    def seen(receipt_id: str, key: str):
        got = receipt(live, receipt_id, key)
        body = got.json()
        body.pop("request_id", None)
        return got.status_code, body, sorted(got.headers)

    assert seen(mine, live.foreign) == seen("rcpt_made-up", live.foreign)
    assert seen(mine, live.foreign)[0] == 404
    assert receipt(live, mine, "sk-mythos-nobody").status_code == 401


def test_it_is_pending_until_it_is_on_disk_and_so_is_the_answer(live, tiny):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with tiny.store.begin():  # nothing can be written
            running = pool.submit(answer, live)
            while not live.service.drafts:
                time.sleep(0.01)
            name = next(iter(live.service.drafts))
            assert receipt(live, name).json() == {"id": name, "status": "pending"}
            assert receipt(live, name, live.foreign).status_code == 404
            assert not running.done()
        assert running.result(60).headers["mythos-receipt"] == name
    assert receipt(live, name).json()["status"] == "logged"


def test_an_answer_that_its_client_left_is_recorded_too(live):
    with live.http() as http, http.stream("POST", "/v1/messages", json=ask(stream=True, **ENDLESS)) as got:
        next(got.iter_text())
    name = got.headers["mythos-receipt"]
    while (found := receipt(live, name).json())["status"] == "pending":
        time.sleep(0.05)
    assert peek(found["receipt"].encode())["finish"] in (Finish.CANCELLED, Finish.MAX_TOKENS)


def test_many_at_once_share_a_transaction(live, tiny):
    """Every answer has its receipt and usage though they are written in batches."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        names = [got.headers["mythos-receipt"] for got in pool.map(lambda _: answer(live), range(16))]
    assert len(set(names)) == 16
    assert all(find_receipt(tiny.store, OPERATOR, name) is not None for name in names)


def test_the_commands(live, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MYTHOS_HOME", str(tiny.home.path))
    monkeypatch.setenv("MYTHOS_KEYS", str(tiny.home.keys))
    name = answer(live, body=ask(temperature=0)).headers["mythos-receipt"]
    assert run(["receipt", "get", name]) == 0
    place = tmp_path / "receipt.json"
    place.write_text(capsys.readouterr().out)
    assert run(["receipt", "verify", str(place)]) == 5
    assert run(["receipt", "verify", str(place), "--trust", operator(tiny), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["status"] == VERIFIED
    assert run(["why", name, "--trust", operator(tiny)]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("answer", "weights", "decision", "log", name)), shown
    place.write_text(place.read_text().replace("small", "large"))
    assert run(["receipt", "verify", str(place)]) == run(["why", str(place)]) == 1
    assert run(["receipt", "get", "rcpt_made-up"]) == 1
    done = subprocess.run([sys.executable, alone.__file__, str(place)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(BROKEN)


def test_a_greedy_answer_repeats_and_another_request_does_not(live):
    body = ask(temperature=0, messages=[{"role": "user", "content": "Once more"}])
    document = receipt(live, answer(live, body=body).headers["mythos-receipt"]).json()
    said = from_plain(Receipt, peek(document["receipt"].encode()))

    def differs(**more) -> list[str]:
        sent = json.dumps({**body, **more}).encode()
        draft, _ = asyncio.run(repeat(live.service, OPERATOR, "/v1/messages", sent))
        return differences(draft, said, document["opening"])

    assert differs() == []
    assert differs(max_tokens=7) == ["text", "max_tokens", "answer_tokens"]
    assert {"root", "text"} <= set(differs(model="large"))
    other = [{"role": "user", "content": "Another"}]
    assert {"prompt", "messages"} <= set(differs(messages=other))


# The recorder.

ROW = {
    "input_tokens": 1,
    "cached_tokens": 0,
    "output_tokens": 1,
    "cost": 0.1,
    "finish": "end",
    "seconds": 0.1,
}


def row(n: int, org: str = "local") -> UsageRow:
    return UsageRow(f"req_{n}", org, "small", **ROW)


def test_one_bad_job_takes_no_other_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    tiny = tiny_home(tmp_path)
    recorder = Recorder(tiny.store, tiny.clock)
    with tiny.store.begin():  # the recorder waits with what it has taken, and what comes after is one batch
        # A job of a batch that fails hears its place again when it is written alone: the last one counts.
        seen: dict[int, int] = {}
        jobs = [
            recorder.attempt(OPERATOR, "answer", "permitted", partial(seen.__setitem__, n), n=n)
            for n in range(3)
        ]
        bad = recorder.answered(OPERATOR, row(0, "acme"), lambda conn: None)
        jobs += [recorder.answered(OPERATOR, row(1), lambda conn: None)]
    assert all(job is not None and job.result(30) is None for job in jobs)
    with pytest.raises(Exception, match="recorded for a caller"):
        bad.result(30)
    recorder.close()
    assert [seen[n] - seen[0] for n in range(3)] == [0, 1, 2]


def test_killed_at_every_step_between_attempt_and_receipt(tmp_path, monkeypatch):
    """What was acknowledged is there; usage, receipt and its ledger event come together or not at all."""
    from mythos.store.receipts import store_receipt

    def work(store: Store, acknowledge) -> None:
        clock = clock_of(store)
        recorder = Recorder(store, clock)
        attempt = recorder.attempt(OPERATOR, "answer", "permitted", receipt="rcpt_1")
        assert attempt is not None
        attempt.result()
        acknowledge("attempted")

        def write(conn) -> None:
            store_receipt(conn, clock, OPERATOR, "rcpt_1", b"{}", {"salt": "00"})

        recorder.answered(OPERATOR, row(1), write).result()
        acknowledge("answered")
        recorder.close()

    def verify(store: Store, said: list[str]) -> None:
        events = check(store)
        kinds = [event["kind"] for event in events]
        assert "attempted" not in said or "attempt" in kinds
        stored = find_receipt(store, OPERATOR, "rcpt_1")
        with store.read() as conn:
            used = conn.exec_driver_sql("SELECT count(*) FROM usage").scalar()
        assert (stored is not None) == (used == 1) == ("receipt" in kinds)
        assert "answered" not in said or stored is not None
        if stored is not None:
            assert "attempt" in kinds
            assert events[stored.logged]["digest"] == hashlib.sha256(stored.envelope).hexdigest()

    assert every_step(tmp_path, monkeypatch, work, verify) > 10
