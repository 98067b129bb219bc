"""A full queue over HTTP: 529 with retry-after for whoever fills it, answers for others, and its end."""

import contextlib
import threading

from mythos.engine import engine as engine_module
from mythos.engine.request import Lane
from tests.serve.gated import Gated
from tests.serve.live import ENDLESS, ask, chat, serve


def test_who_fills_the_queue_is_told_to_wait_and_others_are_answered(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "MAX_WAITING", 4)
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    gated = Gated(tmp_path)
    gated.release("small")
    greedy, modest = (gated.organisation(org) for org in ("greedy", "modest"))
    for org in ("greedy", "modest"):
        gated.grant(org)
    with gated.tiny.engine() as engine, serve(gated.tiny, engine) as live, contextlib.ExitStack() as stack:
        going, step = threading.Event(), engine._step
        monkeypatch.setattr(engine, "_step", lambda runner: going.wait() and step(runner))
        stack.callback(going.set)
        going.set()
        http = stack.enter_context(live.http(greedy))
        streams = []
        for _ in range(2):
            body = ask(stream=True, **ENDLESS)
            streams.append(stack.enter_context(http.stream("POST", "/v1/messages", json=body)))
            assert streams[-1].status_code == 200
        going.clear()
        refused = http.post("/v1/messages", json=ask())
        assert refused.status_code == 529 and refused.json()["error"]["type"] == "overloaded_error"
        assert refused.json()["error"]["details"] == {"error_code": "overloaded"}
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        with live.http(greedy, version=None) as other_form:
            refused = other_form.post("/v1/chat/completions", json=chat())
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        going.set()
        with live.http(modest) as other:
            assert other.post("/v1/messages", json=ask()).status_code == 200
        for stream in streams:
            assert "message_stop" in "".join(stream.iter_text())
        assert http.post("/v1/messages", json=ask()).status_code == 200
        with live.http() as operator:
            page = operator.get("/metrics").text
        assert "mythos_engine_waiting_batch 0.0" in page and "mythos_engine_preemptions 0.0" in page


def test_flex_is_the_batch_lane(live, monkeypatch):
    lanes = []
    submit = live.service.engine.submit

    def watched(permit, request, drafter):
        lanes.append(request.lane)
        return submit(permit, request, drafter)

    monkeypatch.setattr(live.service.engine, "submit", watched)
    with live.http(version=None) as http:
        for asked, said in (("flex", "flex"), ("auto", "default"), ("default", "default"), (None, "default")):
            got = http.post("/v1/chat/completions", json=chat(service_tier=asked))
            assert got.status_code == 200 and got.json()["service_tier"] == said
            streamed = http.post("/v1/chat/completions", json=chat(service_tier=asked, stream=True))
            assert f'"service_tier":"{said}"' in streamed.text
        unknown = http.post("/v1/chat/completions", json=chat(service_tier="gold"))
        assert unknown.status_code == 200 and unknown.headers["mythos-ignored"] == "service_tier"
        assert http.post("/v1/chat/completions", json=chat(service_tier=1)).status_code == 400
    with live.http() as http:
        got = http.post("/v1/messages", json=ask(service_tier="standard_only"))
        assert got.json()["usage"]["service_tier"] == "standard"
    assert lanes == [Lane.BATCH] * 2 + [Lane.INTERACTIVE] * 8
