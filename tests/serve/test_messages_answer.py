"""What a Messages answer looks like, whole and streamed (M30-M47)."""

import time

import httpx
import pytest

from mythos.engine.request import Request, Sampling
from mythos.records.principal import OPERATOR
from mythos.serve.settings import Settings
from mythos.store.weights import revoke_decision
from tests.serve.live import ENDLESS, ask, serve
from tests.serve.sse import USAGE_FIELDS, check_stream, events_of
from tests.tiny import tiny_home


def whole(live, **more) -> dict:
    with live.http() as http:
        got = http.post("/v1/messages", json=ask(**more))
    assert got.status_code == 200, got.text
    return got.json()


def streamed(live, **more):
    with live.http() as http:
        got = http.post("/v1/messages", json=ask(stream=True, **more))
    assert got.status_code == 200, got.text
    return check_stream(got.text)


def test_M30_a_whole_message(live):
    message = whole(live)
    assert message["id"].startswith("msg_") and message["type"] == "message"
    assert message["role"] == "assistant" and message["model"] == "small"
    assert [block["type"] for block in message["content"]] == ["text"]
    assert message["stop_reason"] == "max_tokens" and message["stop_sequence"] is None
    assert message["stop_details"] is None


def test_M33_usage_has_zeros_not_holes_and_counts_what_was_cached(live):
    long = [{"role": "user", "content": "count the cached ones " * 30}]
    first, again = (whole(live, messages=long, max_tokens=2)["usage"] for _ in range(2))
    for usage in (first, again):
        assert all(usage[name] is not None for name in USAGE_FIELDS)
        assert usage["output_tokens"] == 2
    assert first["cache_read_input_tokens"] == 0
    assert again["cache_read_input_tokens"] == 512
    assert again["input_tokens"] + 512 == first["input_tokens"]
    assert streamed(live, messages=long, max_tokens=2).usage["cache_read_input_tokens"] == 512


def test_M33_the_cache_is_not_shared_between_organisations(tiny, engine, live):
    """Nobody else is permitted yet, so the salt shows in the engine alone."""
    prompt = tuple(range(3, 203)) * 2
    for org, cached in (("local", 0), ("local", 256), ("acme", 0)):
        done = list(engine.submit(tiny.permit(org=org), Request(prompt, 1, Sampling(0.0))))[-1]
        assert done.cached_tokens == cached


def test_M31_stop_sequences_end_the_answer_and_are_not_in_it(live):
    text = whole(live, temperature=0, max_tokens=12)["content"][0]["text"]
    stop = text[4:6].strip() or text[3:7].strip()
    got = whole(live, temperature=0, max_tokens=12, stop_sequences=["never", stop])
    assert got["stop_reason"] == "stop_sequence" and got["stop_sequence"] == stop
    assert all(stop not in block["text"] for block in got["content"])
    heard = streamed(live, temperature=0, max_tokens=12, stop_sequences=["never", stop])
    assert heard.stop_reason == "stop_sequence" and heard.stop_sequence == stop
    assert heard.text == "".join(block["text"] for block in got["content"])


def test_M31_a_full_context_has_its_own_reason(live):
    got = whole(live, max_tokens=64, messages=[{"role": "user", "content": "x" * 4060}])
    assert got["stop_reason"] == "model_context_window_exceeded"
    assert got["usage"]["output_tokens"] == 17


def test_M40_streamed_and_whole_answers_are_the_same(live):
    for prefill in ((), ({"role": "assistant", "content": "So,"},)):
        messages = [{"role": "user", "content": "Tell me"}, *prefill]
        message = whole(live, temperature=0, max_tokens=24, messages=messages)
        heard = streamed(live, temperature=0, max_tokens=24, messages=messages)
        assert heard.text == "".join(block["text"] for block in message["content"])
        assert heard.stop_reason == message["stop_reason"]
        assert heard.usage["output_tokens"] == message["usage"]["output_tokens"]


def test_M40_M41_every_stream_keeps_the_order(live):
    for seed in range(6):
        heard = streamed(live, temperature=1.0, max_tokens=seed + 1)
        assert heard.usage["output_tokens"] <= seed + 1


def test_M47_headers_of_a_stream(live):
    with live.http() as http, http.stream("POST", "/v1/messages", json=ask(stream=True)) as got:
        assert got.headers["content-type"].startswith("text/event-stream")
        assert got.headers["cache-control"] == "no-store" and got.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in got.headers
        got.read()


def test_M47_events_arrive_one_by_one(live):
    with live.http() as http, http.stream("POST", "/v1/messages", json=ask(stream=True, **ENDLESS)) as got:
        arrivals = [chunk for chunk in got.iter_bytes() if chunk]
    assert len(arrivals) > 20


def test_M47_pings_while_nothing_is_said(tiny, engine):
    with serve(tiny, engine, Settings(ping_seconds=0.01)) as live:
        heard = streamed(live, messages=[{"role": "user", "content": "p" * 3000}], max_tokens=2)
    assert heard.pings > 0


def test_M47_a_client_that_leaves_ends_its_generation(live, engine):
    for stream in (True, False):
        before = engine.stats()["completion_tokens"]
        body = ask(stream=stream, **ENDLESS)
        with live.http() as http:
            if stream:
                with http.stream("POST", "/v1/messages", json=body) as got:
                    next(got.iter_bytes())
            else:
                with pytest.raises(httpx.ReadTimeout):
                    http.post("/v1/messages", json=body, timeout=0.2)
        deadline = time.monotonic() + 10
        while live.service.running and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not live.service.running
        assert engine.stats()["completion_tokens"] - before < 1000
    assert live.service.limits.account("local").running == 0


def test_M44_an_error_after_the_first_byte_is_an_event(tiny):
    with tiny.engine() as engine, serve(tiny, engine) as live:
        body = ask(stream=True, **ENDLESS)
        with live.http() as http, http.stream("POST", "/v1/messages", json=body) as got:
            chunks = got.iter_text()
            text = next(chunks)
            live.service.cancel_running()
            text += "".join(chunks)
        heard = check_stream(text)
        assert heard.error is not None and heard.error["type"] == "overloaded_error"


def test_a_withdrawn_decision_ends_running_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    tiny = tiny_home(tmp_path)
    with tiny.engine() as engine, serve(tiny, engine) as live:
        body = ask(stream=True, **ENDLESS)
        with live.http() as http, http.stream("POST", "/v1/messages", json=body) as got:
            chunks = got.iter_text()
            text = next(chunks)
            decision = tiny.standing().decisions["small"].id
            revoke_decision(tiny.store, tiny.clock, OPERATOR, decision, "a test")
            text += "".join(chunks)
        heard = check_stream(text)
        assert heard.error is not None and heard.error["type"] == "permission_error"
        with live.http() as http:
            assert http.post("/v1/messages", json=ask()).status_code == 403
            assert http.get("/v1/models").json()["data"] == []


def test_M44_an_error_before_the_first_byte_is_a_status(tiny):
    """An engine that has stopped: the answer is an HTTP error, not an empty stream."""
    with tiny.engine() as engine, serve(tiny, engine) as live:
        assert whole(live)
        engine.stop()
        with live.http() as http:
            for stream in (True, False):
                got = http.post("/v1/messages", json=ask(stream=stream))
                assert got.status_code == 529
                assert got.json()["error"]["type"] == "overloaded_error"
                assert int(got.headers["retry-after"]) >= 1


def good_stream() -> list[tuple[str, dict]]:
    usage = {name: {} if name in ("cache_creation", "server_tool_use") else 1 for name in USAGE_FIELDS}
    start = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": usage}
    start |= {"stop_reason": None, "stop_sequence": None}
    delta = {"type": "text_delta", "text": "a"}
    rows = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": usage,
        },
        {"type": "message_stop"},
    ]
    return [(row["type"], row) for row in rows]


def test_M46_the_checker_itself_is_strict():
    """What a lenient client lets pass must not pass here."""
    good = good_stream()
    assert check_stream(good).text == "a"
    wrong = [
        good[1:],  # no start
        good[:1] + good,  # two starts
        good[:3] + good[4:],  # a block that never ends
        good[:4] + good[5:],  # no message_delta
        good[:-1],  # no message_stop
        good[:2] + [good[3], good[2]] + good[4:],  # a delta after its block
        good + [("ping", {"type": "ping"})],
        [("data", good[0][1]), *good[1:]],  # an event name that is not the type
    ]
    tool_delta = {**good[2][1], "delta": {"type": "input_json_delta", "partial_json": "{}"}}
    wrong.append(good[:2] + [("content_block_delta", tool_delta)] + good[3:])
    for events in wrong:
        with pytest.raises((AssertionError, KeyError)):
            check_stream(events)
    with pytest.raises(AssertionError):
        events_of('data: {"type":"ping"}\n\n')
