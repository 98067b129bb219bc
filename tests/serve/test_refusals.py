"""Malformed, oversized, slow and excessive requests (M50-M52, M61-M63), and what is written down of them."""

import json
import socket
import time

import httpx
import pytest

from mythos.ledger.log import ledger
from mythos.serve.errors import ApiError, Dialect, envelope
from mythos.serve.limits import LimitBook
from mythos.serve.settings import Limits, Settings
from mythos.store.usage import usage_summary
from tests.serve.live import ENDLESS, OLD, ask, chat, serve

DEEP = b'{"model":' + b"[" * 200_000 + b"]" * 200_000 + b"}"

MALFORMED = {
    "empty": b"",
    "cut": b'{"model": "small"',
    "not an object": b"[1]",
    "text": b"hello",
    "nan": b'{"model": "small", "max_tokens": NaN, "messages": []}',
    "infinity": b'{"model": "small", "max_tokens": Infinity}',
    "twice": b'{"model": "small", "model": "other", "max_tokens": 1}',
    "twice inside": b'{"model": "small", "metadata": {"user_id": "a", "user_id": "b"}}',
    "not utf-8": b'{"model": "\xff\xfe"}',
    "surrogate": b'{"model": "\\ud800"}',
    "deep": DEEP,
    "101 levels": b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
    "trailing comma": b'{"model": "small",}',
    "two values": b"{}{}",
    "bom": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
def test_M50_malformed_json_is_a_400_in_the_envelope(live, name, path):
    with live.http() as http:
        got = http.post(path, content=MALFORMED[name])
    assert got.status_code == 400, got.text
    assert got.json()["error"]["type"] == "invalid_request_error"
    assert "not valid JSON" in got.json()["error"]["message"]


def test_M50_compressed_bodies_are_refused(live):
    with live.http() as http:
        assert http.post("/v1/messages", json=ask(), headers={"content-encoding": "gzip"}).status_code == 400


def big(size: int):
    block = b'{"model": "' + b"x" * (1 << 20)
    for _ in range(size >> 20):
        yield block


def test_M63_bodies_above_32_MB_are_refused_with_and_without_a_length(live):
    with live.http() as http:
        got = http.post("/v1/messages", content=b"x" * (33 << 20))
        assert got.status_code == 413 and got.json()["error"]["type"] == "request_too_large"
        got = http.post("/v1/messages", content=big(40 << 20))
        assert got.status_code == 413
        assert http.get("/v1/models").status_code == 200


def test_M63_a_large_body_is_not_read_when_its_length_says_enough(live):
    with live.raw() as raw:
        raw.sendall(_head(live, "content-length: 99999999999"))
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")


def _head(live, *more: str, path: str = "/v1/messages") -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: 127.0.0.1:{live.port}",
        f"x-api-key: {live.key}",
        f"anthropic-version: {OLD}",
        *more,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _answer(raw: socket.socket) -> bytes:
    got = b""
    while part := raw.recv(65536):
        got += part
    return got


def test_a_client_that_dawdles_with_its_body_gets_a_408(tiny, engine):
    with serve(tiny, engine, Settings(body_seconds=0.3)) as live, live.raw() as raw:
        raw.sendall(_head(live, "content-length: 1000") + b'{"model"')
        got = _answer(raw)
        assert got.startswith(b"HTTP/1.1 408") and b"timeout_error" in got


def test_a_client_that_dawdles_with_its_headers_is_dropped(live, monkeypatch):
    monkeypatch.setattr("mythos.serve.listening.HEADER_SECONDS", 0.3)
    with live.raw() as raw:
        raw.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n")
        assert _answer(raw).startswith(b"HTTP/1.1 408")
    with live.raw() as raw:  # nothing sent, nothing answered
        assert _answer(raw) == b""


def test_endless_headers_are_refused(live):
    with live.raw() as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n")
        try:
            for _ in range(40):
                raw.sendall(b"x-filler: " + b"y" * 4000 + b"\r\n")
            got = _answer(raw)
        except ConnectionError:
            return
        assert got.startswith(b"HTTP/1.1 431")


def test_bad_http_gets_an_envelope(live):
    with live.raw() as raw:
        raw.sendall(b"NONSENSE\r\n\r\n")
        got = _answer(raw)
    assert got.startswith(b"HTTP/1.1 400") and b"request-id: req_" in got
    assert json.loads(got.split(b"\r\n\r\n", 1)[1])["type"] == "error"


def test_a_client_that_reads_nothing_does_not_keep_its_place(tiny, engine):
    with serve(tiny, engine, Settings(write_seconds=0.5)) as live:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.connect(("127.0.0.1", live.port))
        body = json.dumps(chat(max_tokens=1024, stream=True, logprobs=True, top_logprobs=20)).encode()
        raw.sendall(_head(live, f"content-length: {len(body)}", path="/v1/chat/completions") + body)
        deadline = time.monotonic() + 30
        while live.service.limits.account("local").running == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        while live.service.running and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not live.service.running
        raw.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (529, "overloaded_error"),
    ],
)
def test_M50_M51_the_envelope(status, kind):
    error = ApiError(status, "said", code="stable_word", param="field")
    body = json.loads(envelope(error, Dialect.ANTHROPIC, "req_1"))
    inner = {"type": kind, "message": "said", "details": {"error_code": "stable_word"}}
    assert body == {"type": "error", "error": inner, "request_id": "req_1"}
    other = json.loads(envelope(error, Dialect.OPENAI, "req_1"))["error"]
    assert other["message"] == "said" and other["code"] == "stable_word" and other["param"] == "field"


def test_M61_M62_limits_are_shown_and_kept(tiny, engine):
    limits = Limits(requests=3, input_tokens=10_000, output_tokens=10_000)
    with serve(tiny, engine, Settings(limits=limits)) as live, live.http() as http:
        for left in (2, 1, 0):
            got = http.post("/v1/messages", json=ask(max_tokens=1))
            assert got.status_code == 200
            assert int(got.headers["anthropic-ratelimit-requests-remaining"]) == left
            for name in ("requests", "tokens", "input-tokens", "output-tokens"):
                stem = f"anthropic-ratelimit-{name}"
                assert int(got.headers[f"{stem}-limit"]) in (3, 10_000)
                time.strptime(got.headers[f"{stem}-reset"], "%Y-%m-%dT%H:%M:%SZ")
        got = http.post("/v1/messages", json=ask())
        assert got.status_code == 429 and got.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(got.headers["retry-after"]) <= 60 and got.headers["x-should-retry"] == "true"
        got = http.post("/v1/chat/completions", json=chat())
        assert got.status_code == 429 and got.json()["error"]["code"] == "rate_limit_exceeded"
        assert got.headers["x-ratelimit-limit-requests"] == "3"
        # The budget is the organisation's: another key of it changes nothing.
        assert http.get("/v1/models", headers={"x-api-key": live.stored}).status_code == 429
        assert http.get("/v1/models", headers={"x-api-key": live.foreign}).status_code == 200


def test_M61_token_budgets_refill_over_a_minute():
    now = [0.0]
    book = LimitBook(Limits(requests=60, input_tokens=600, output_tokens=60, concurrent=2), lambda: now[0])
    book.begin("a", 500)
    with pytest.raises(ApiError, match="input tokens") as caught:
        book.begin("a", 500)
    assert caught.value.headers["retry-after"] == "40"
    book.end("a", cached_tokens=500, output_tokens=120)  # cached tokens are given back, output is in debt
    with pytest.raises(ApiError, match="output tokens") as caught:
        book.begin("a", 10)
    assert caught.value.headers["retry-after"] == "61"
    now[0] = 62
    book.begin("a", 10_000)  # a full budget lets any one prompt through
    now[0] = 2000
    book.begin("a", 1)
    with pytest.raises(ApiError, match="at the same time"):
        book.begin("a", 1)
    book.begin("b", 1)


def test_M62_too_many_answers_at_once(tiny, engine):
    limits = Limits(concurrent=1)
    with serve(tiny, engine, Settings(limits=limits)) as live, live.http() as http:
        with http.stream("POST", "/v1/messages", json=ask(stream=True, **ENDLESS)) as first:
            pieces = first.iter_bytes()
            next(pieces)
            assert http.post("/v1/messages", json=ask()).status_code == 429
        deadline = time.monotonic() + 10
        while live.service.running and time.monotonic() < deadline:
            time.sleep(0.01)
        assert http.post("/v1/messages", json=ask()).status_code == 200


def events(tiny) -> list[dict]:
    import sqlalchemy as sa

    with tiny.store.read() as conn:
        return [json.loads(row.event) for row in conn.execute(sa.select(ledger.c.event))]


def test_one_event_and_one_usage_row_for_each_attempt(tiny, engine):
    with serve(tiny, engine) as live:
        seen = len(events(tiny))
        requests = sum(row.requests for row in usage_summary(tiny.store, "local"))
        private = [{"role": "user", "content": "a private question"}]
        with live.http() as http:
            answers = [
                http.post("/v1/messages", json=ask(messages=private)),
                http.post("/v1/messages", json=ask(stream=True)),
                http.post("/v1/chat/completions", json=chat()),
                http.post("/v1/messages/count_tokens", json=ask()),
                http.get("/v1/models"),
                http.post("/v1/messages", json=ask("nothing")),
                http.post("/v1/messages", json={}),
                http.get("/nowhere"),
                httpx.post(f"{live.base_url}/v1/messages", json=ask()),
            ]
    new = events(tiny)[seen:]
    receipts = [got.headers["mythos-receipt"] for got in answers]
    signed = [event["id"] for event in new if event["kind"] == "receipt"]
    assert sorted(signed) == sorted(receipts[:3])  # one for each answer, and nothing else beside the attempts
    attempts = [event for event in new if event["kind"] != "receipt"]
    assert sorted(event["facts"]["receipt"] for event in attempts) == sorted(receipts)
    by_receipt = {event["facts"]["receipt"]: event for event in attempts}
    outcomes = [by_receipt[receipt]["outcome"] for receipt in receipts]
    assert outcomes == ["permitted"] * 3 + ["answered"] * 2 + ["refused"] * 4
    assert by_receipt[receipts[-1]]["principal"] is None
    assert sum(row.requests for row in usage_summary(tiny.store, "local")) == requests + 3
    written = json.dumps(new)
    assert live.key not in written and "private" not in written


def test_a_flood_without_a_key_does_not_fill_the_disk(tiny, engine):
    with serve(tiny, engine) as live:
        seen = len(events(tiny))
        with httpx.Client() as http:
            for _ in range(150):
                assert http.post(f"{live.base_url}/v1/messages", content=b"").status_code == 401
    new = events(tiny)[seen:]
    assert len(new) == 61
    assert new[-1]["facts"] == {"attempts": 90}


def test_metrics_are_the_operators_and_name_nobody(tiny, live):
    with live.http() as http:
        http.post("/v1/messages", json=ask())
        page = http.get("/metrics")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/plain")
        assert 'mythos_http_requests_total{status="200",surface="anthropic"}' in page.text
        assert "mythos_engine_weight_bytes" in page.text
        for word in ("small", "large", "local", "acme", "operator", live.key, live.stored):
            assert word not in page.text
        hidden = http.get("/metrics", headers={"x-api-key": live.foreign})
        nowhere = http.get("/nowhere", headers={"x-api-key": live.foreign})
        assert hidden.status_code == nowhere.status_code == 404
