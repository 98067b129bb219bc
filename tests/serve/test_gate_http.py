"""The request path under releases, grants and suspensions: a real server, real records, real streams.

What was answered and who may be is decided anew by records alone; every refusal has a twin that is answered.
"""

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator

import pytest

from mythos.gate.state import Rejected
from mythos.ledger.log import ledger
from mythos.records.principal import LOCAL_ORG, OPERATOR
from mythos.serve.settings import Settings
from mythos.store.keys import create_key, list_keys, revoke_key
from tests.serve.gated import Gated
from tests.serve.live import ENDLESS, Live, ask, chat, serve
from tests.serve.test_leaks import blurred

LONG = ask(stream=True, **ENDLESS)


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Gated:
    """`small` is released; acme has a grant on it, beta none."""
    made = Gated(tmp_path_factory.mktemp("gated"))
    made.released_as = made.release("small")  # type: ignore[attr-defined]
    made.acme = made.organisation("acme-def", jurisdiction="fr")  # type: ignore[attr-defined]
    made.beta = made.organisation("beta-labs", jurisdiction="fr")  # type: ignore[attr-defined]
    made.grant("acme-def")
    return made


@pytest.fixture(scope="module")
def live(gated: Gated) -> Iterator[Live]:
    with gated.tiny.engine() as engine, serve(gated.tiny, engine) as live:
        yield live


def status(live: Live, key: str, model: str = "small") -> int:
    with live.http(key) as http:
        return http.post("/v1/messages", json=ask(model)).status_code


class Streams:
    """Running answers of one key; `ended` holds when each one's last byte came, `texts` what it was."""

    def __init__(self, live: Live, key: str, count: int = 1) -> None:
        self.ended: list[float] = []
        self.texts: list[str] = []
        begun = threading.Barrier(count + 1)

        def read() -> None:
            with live.http(key) as http, http.stream("POST", "/v1/messages", json=LONG) as got:
                pieces = got.iter_text()
                text = next(pieces)
                begun.wait(60)
                text += "".join(pieces)
                self.ended.append(time.monotonic())
                self.texts.append(text)

        self._threads = [threading.Thread(target=read, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        begun.wait(60)

    def running(self) -> bool:
        return not self.ended

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads)
        assert all("withdrawn" in text for text in self.texts)


def acknowledgements(gated: Gated, record: str) -> list[str]:
    """The servers that have acknowledged a record, once there is one."""
    deadline = time.monotonic() + 20
    while not gated.state.acknowledged.get(record) and time.monotonic() < deadline:
        time.sleep(0.05)
    return list(gated.state.acknowledged.get(record, ()))


def test_a_granted_organisation_is_answered_under_the_release_and_nobody_else(gated, live):
    with live.http(gated.acme) as http:
        got = http.post("/v1/messages", json=ask())
        assert got.status_code == 200
        assert [m["id"] for m in http.get("/v1/models").json()["data"]] == ["small"]
    with gated.store.read() as conn:
        events = [json.loads(e) for e in conn.scalars(ledger.select().with_only_columns(ledger.c.event))]
    of_it = [e for e in events if e.get("facts", {}).get("receipt") == got.headers["mythos-receipt"]]
    assert of_it[0]["facts"]["decision"] == gated.released_as.id and of_it[0]["org"] == "acme-def"
    assert status(live, gated.beta) == status(live, gated.acme, "large") == 404
    other = create_key(gated.store, gated.clock, OPERATOR, "p", org="acme-def", purpose="general")[1]
    assert status(live, other) == 404  # a purpose that neither grant nor release names
    assert status(live, live.stored) == 200


def test_nothing_a_request_says_changes_organisation_purpose_or_profile(gated, live):
    claims = {"org": "acme-def", "organization": "acme-def", "purpose": "cyber_defence", "profile": "none"}
    headers = {f"mythos-{k}": v for k, v in claims.items()}
    headers |= {"openai-organization": "acme-def", "x-forwarded-for": "127.0.0.1", "cookie": "org=acme-def"}
    for key, expected in ((gated.beta, 404), (gated.acme, 200)):
        with live.http(key, **headers) as http:
            query = "&".join(f"{k}={v}" for k, v in claims.items())
            body = ask(metadata={"user_id": "acme-def"}) | claims
            assert http.post(f"/v1/messages?{query}", json=body).status_code == expected
            assert http.post(f"/v1/chat/completions?{query}", json=chat() | claims).status_code == expected


@pytest.mark.parametrize("model", ["small", "large", "smelt"])
def test_two_names_for_one_model_are_refused_whichever_exist(gated, live, model):
    with live.http(gated.acme) as http:
        for url, body in (("/v1/messages", ask(model)), ("/v1/chat/completions", chat(model))):
            for more in ({"params": {"model": "large2"}}, {"headers": {"x-model": "large2"}}):
                got = http.post(url, json=body, **more)
                assert got.status_code == 400 and "AMBIGUOUS_MODEL" in got.text
                assert model not in got.text
            same = http.post(url, json=body, params={"model": model}, headers={"x-model": model})
            assert same.status_code == (200 if model == "small" else 404)
        assert http.get(f"/v1/models/{model}?model=large2").status_code == 400
        assert http.post("/v1/messages?" + "a=1&" * 100, json=ask(model)).status_code == 400


def test_a_hidden_tier_looks_like_none_on_every_route_and_method(gated, live):
    """`small` is released to others, `large` to nobody, `smelt` and `lurge` do not exist."""

    def tries(http, name):
        for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST"):
            yield http.request(method, f"/v1/models/{name}")
            yield http.request(method, f"/v1/models?before_id={name}")
        for method in ("GET", "HEAD", "OPTIONS", "PUT"):
            yield http.request(method, "/v1/messages", params={"model": name})
        for url, body in (
            ("/v1/messages", ask(name)),
            ("/v1/messages", ask(name, stream=True, max_tokens=10**9)),
            ("/v1/messages", ask(name, messages=[])),
            ("/v1/messages", ask(name, tools=[{"name": "t", "input_schema": {"not": {}}}])),
            ("/v1/messages/count_tokens", {"model": name, "messages": ask()["messages"]}),
            ("/v1/messages/count_tokens", {"model": name, "messages": 1}),
            ("/v1/chat/completions", chat(name, stream=True)),
            ("/v1/chat/completions", chat(name, n=7, logprobs=True, top_logprobs=20)),
        ):
            yield http.post(url, json=body)
        yield http.get("/metrics")
        yield http.get(f"/v1/receipts/{name}")

    for version in ("2023-06-01", None):
        for key, hidden, unknown in ((gated.beta, "small", "smelt"), (gated.acme, "large", "lurge")):
            with live.http(key, version=version) as http:
                for a, b in zip(tries(http, hidden), tries(http, unknown), strict=True):
                    assert blurred(a, hidden) == blurred(b, unknown)
                assert "small" not in http.get("/openapi.json").text
                assert http.get("/metrics").status_code == 404
    with live.http(gated.acme) as http:  # the twin
        assert http.get("/v1/models/small").status_code == 200


def test_a_used_up_budget_says_the_same_of_every_tier(gated):
    limits = Settings().limits
    tight = Settings(limits=type(limits)(requests=6, input_tokens=10, output_tokens=10))
    with (
        gated.tiny.engine() as engine,
        serve(gated.tiny, engine, tight) as live,
        live.http(gated.beta) as http,
    ):
        first = [blurred(http.post("/v1/messages", json=ask(n)), n) for n in ("small", "smelt")]
        for _ in range(4):
            http.get("/v1/models")
        second = [blurred(http.post("/v1/messages", json=ask(n)), n) for n in ("small", "smelt")]
    assert first[0] == first[1] and first[0][0] == 404
    assert second[0][0] == second[1][0] == 429
    assert second[0][2] == second[1][2]


def test_a_suspension_ends_twenty_streams_and_a_quorum_brings_answers_back(gated, live):
    streams = Streams(live, gated.acme, 20)
    suspension = gated.suspend(tier="small")
    streams.wait()
    assert status(live, gated.acme) == 404
    assert status(live, live.stored) == 200  # handling decisions are not suspended
    assert acknowledgements(gated, suspension.id) == ["server"]
    with pytest.raises(Rejected):
        gated.resume(suspension, ("rso-1",))
    assert status(live, gated.acme) == 404
    gated.resume(suspension)
    assert status(live, gated.acme) == 200


def test_a_suspension_by_attribute_hits_the_unknown_too(gated, live):
    unknown = gated.organisation("nowhere")  # no jurisdiction is vetted
    gated.grant("nowhere")
    hinted = {"x-forwarded-for": "192.0.2.1", "cf-ipcountry": "FR"}
    assert status(live, unknown) == 200
    streams = Streams(live, gated.acme)
    suspension = gated.suspend(jurisdiction="de")
    assert status(live, unknown) == 404
    with live.http(unknown, **hinted) as http:
        assert http.post("/v1/messages", json=ask()).status_code == 404
    assert status(live, gated.acme) == 200  # known to be elsewhere
    acknowledgements(gated, suspension.id)
    assert streams.running()
    gated.resume(suspension)
    assert status(live, unknown) == 200
    other = gated.suspend(jurisdiction="fr")
    streams.wait()
    gated.resume(other)


def test_a_cached_prompt_answers_nobody_who_has_no_permit(gated, live):
    body = ask(messages=[{"role": "user", "content": "x" * 600}], temperature=0)
    with live.http(gated.acme) as http:
        http.post("/v1/messages", json=body)
        assert http.post("/v1/messages", json=body).json()["usage"]["cache_read_input_tokens"] > 0
        suspension = gated.suspend()
        got = http.post("/v1/messages", json=body)
        assert got.status_code == 404 and "content" not in got.json()
        gated.resume(suspension)
        assert http.post("/v1/messages", json=body).status_code == 200


def test_a_grant_that_is_revoked_or_runs_out_ends_its_streams_and_no_others(gated, live):
    keys = [gated.organisation(f"client-{n}") for n in range(3)]
    grants = [gated.grant("client-0"), gated.grant("client-1", seconds=600.0), gated.grant("client-2")]
    revoked, expiring, staying = (Streams(live, key) for key in keys)
    record = gated.revoke(grants[0].id)
    revoked.wait()
    assert status(live, keys[0]) == 404
    assert acknowledgements(gated, record) == ["server"]
    gated.ahead += 601.0
    expiring.wait()
    assert status(live, keys[1]) == 404
    assert staying.running() and status(live, keys[2]) == 200
    gated.revoke("client-2")
    staying.wait()


def test_a_longer_grant_carries_a_stream_past_the_end_of_a_shorter_one(gated, live):
    key = gated.organisation("renewed")
    gated.grant("renewed", seconds=600.0)
    stream = Streams(live, key)
    second = gated.grant("renewed")
    deadline, watch = time.monotonic() + 30, live.service.watch
    while (
        watch._standing is None or watch._standing.state.seq < gated.state.seq
    ):  # sees it before the time jumps
        assert time.monotonic() < deadline
        time.sleep(0.02)
    gated.ahead += 601.0
    time.sleep(0.5)  # several looks of the watch
    assert stream.running()
    gated.revoke(second.id)
    stream.wait()


def test_a_contractor_works_under_its_principal_and_ends_with_it(gated, live):
    gated.organisation("prime")
    prime = gated.grant("prime")
    key = gated.organisation("vendor-x", contractor_of="prime")
    assert status(live, key) == 404
    gated.grant("vendor-x", parent=prime.id)
    assert status(live, key) == 200
    stream = Streams(live, key)
    gated.revoke(prime.id)
    stream.wait()
    assert status(live, key) == 404


def test_a_revoked_key_ends_its_streams(gated, live):
    key = gated.organisation("leaver")
    gated.grant("leaver")
    stream, other = Streams(live, key), Streams(live, gated.acme)
    row = next(row for row in list_keys(gated.store) if row.org == "leaver")
    revoke_key(gated.store, gated.clock, OPERATOR, row.id)
    stream.wait()
    assert status(live, key) == 401 and other.running()
    suspension = gated.suspend()
    other.wait()
    gated.resume(suspension)


def test_an_answer_that_was_permitted_before_a_suspension_and_begins_after_it_ends(gated, live, monkeypatch):
    """The watch has seen the suspension when the answer is added: it is decided again all the same."""
    from mythos.serve import answer as serving

    prepared, made = serving.prepare, []

    async def slow(call, asked, action):
        ready = await prepared(call, asked, action)
        made.append(gated.suspend())
        while call.service.watch._standing.state.seq < gated.state.seq:
            await asyncio.sleep(0.01)
        return ready

    monkeypatch.setattr(serving, "prepare", slow)
    with live.http(gated.acme) as http:
        text = http.post("/v1/messages", json=LONG).text
    monkeypatch.undo()
    assert "message_stop" not in text
    gated.resume(made[0])
    assert status(live, gated.acme) == 200


def test_a_server_cut_off_from_its_records_suspends_itself_and_comes_back(tmp_path):
    """The data directory is moved away: after the lease nobody is answered, the operator neither."""
    gated = Gated(tmp_path)
    gated.release("small")
    key = gated.organisation("acme")
    gated.grant("acme")
    home, away = gated.home.path, tmp_path / "away"
    settings = Settings(lease_seconds=2.0)
    with gated.tiny.engine() as engine, serve(gated.tiny, engine, settings) as live:
        streams = [Streams(live, key), Streams(live, live.stored)]
        os.rename(home, away)
        gated.store.close()
        try:
            for stream in streams:
                for thread in stream._threads:
                    thread.join(60)
                assert stream.ended and "message_stop" not in stream.texts[0]
            for secret in (key, live.stored, live.key):
                for version, kind in (("2023-06-01", "overloaded_error"), (None, "server_error")):
                    with live.http(secret, version=version) as http:
                        got = http.get("/v1/models")
                        assert got.status_code == 503 and got.json()["error"]["type"] == kind
        finally:
            gated.store.close()
            os.rename(away, home)
        deadline = time.monotonic() + 30
        while not status(live, key) == status(live, live.stored) == 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_server_that_is_not_enrolled_says_so_in_the_ledger(tmp_path):
    gated = Gated(tmp_path, enrolled=False)
    gated.release("small")
    key = gated.organisation("acme")
    gated.grant("acme")
    with gated.tiny.engine() as engine, serve(gated.tiny, engine) as live:
        stream = Streams(live, key)
        suspension = gated.suspend()
        stream.wait()
        found: list[dict] = []
        deadline = time.monotonic() + 20
        while not found and time.monotonic() < deadline:
            time.sleep(0.05)
            with gated.store.read() as conn:
                rows = conn.scalars(ledger.select().with_only_columns(ledger.c.event))
                found = [e for e in map(json.loads, rows) if e.get("action") == "acknowledge"]
        assert [e["facts"] for e in found] == [{"record": suspension.id, "streams_ended": 1}]
        assert found[0]["org"] == LOCAL_ORG and gated.state.acknowledged == {}


def test_a_halt_is_for_good(gated, live):
    """Last of this module: nothing brings this release back."""
    stream = Streams(live, gated.acme)
    record = gated.halt(gated.released_as)
    stream.wait()
    assert status(live, gated.acme) == 404
    assert acknowledgements(gated, record) == ["server"]
    assert status(live, live.stored) == 200


ASKED = {
    "an answer": lambda http, name: http.post("/v1/messages", json=ask(name)),
    "a count": lambda http, name: http.post("/v1/messages/count_tokens", json=ask(name)),
    "a model": lambda http, name: http.get(f"/v1/models/{name}"),
    "a list": lambda http, name: http.get(f"/v1/models?after_id={name}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", ASKED)
def test_timing_tells_a_hidden_tier_from_no_other(gated, live, what):
    """Medians over 200 tries, in turns: hidden and made-up differ by less than max(5 ms, 3 x the noise)."""
    names = {"small": [], "smelt": [], "smolt": []}  # the last two do not exist: what differs there is noise
    with live.http(gated.beta) as http:
        for _ in range(200):
            for name, times in names.items():
                began = time.perf_counter()
                ASKED[what](http, name)
                times.append(time.perf_counter() - began)
    hidden, unknown, other = (sorted(times)[100] for times in names.values())
    print(f"{what}: {hidden * 1e3:.2f} ms hidden, {unknown * 1e3:.2f} and {other * 1e3:.2f} ms made up")
    assert abs(hidden - unknown) < max(0.005, 3 * abs(unknown - other))
