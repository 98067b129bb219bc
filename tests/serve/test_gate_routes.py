"""Every way to a tier passes `authorize`: all routes of the application, all places that reach an engine."""

import re
from pathlib import Path

import pytest

from mythos.records.permit import Permit, Reason, Refusal
from mythos.serve import app as application
from mythos.serve import service as serving
from mythos.serve.app import ENDPOINTS, create_app
from tests.serve.live import ask, chat

SOURCE = Path(application.__file__).resolve().parent.parent
# A request for each route that reaches a tier; and the routes that reach none.
REACH = {
    ("POST", "/v1/messages"): ask(),
    ("POST", "/v1/messages/count_tokens"): {"model": "small", "messages": ask()["messages"]},
    ("POST", "/v1/chat/completions"): chat(),
    ("GET", "/v1/models"): None,
    ("GET", "/v1/models/{model_id:path}"): None,
}
REACH_NONE = {("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/v1/receipts/{receipt_id}")}


def test_every_route_is_listed_here(live):
    routes = {(method, path) for method, path, _ in ENDPOINTS}
    assert routes == set(REACH) | REACH_NONE
    mounted = {route.path for route in create_app(live.service).routes}  # type: ignore[attr-defined]
    assert mounted == {path for _, path in routes}


@pytest.mark.parametrize("route", REACH, ids=" ".join)
@pytest.mark.parametrize("stream", [False, True])
def test_no_route_does_anything_before_the_gate_has_said_yes(live, monkeypatch, route, stream):
    """A gate that denies all: nothing is answered, and the engine hears nothing. The twin: the real gate."""
    method, path = route
    body = REACH[route]
    if body and stream and "count" not in path:
        body = {**body, "stream": True}
    asked: list[str] = []
    touched: list[str] = []
    engine = live.service.engine

    def deny(standing, principal, action, tier, purpose, now):
        asked.append(tier)
        return Refusal(Reason.UNKNOWN_TIER, False, "no")

    def request():
        with live.http() as http:
            return http.request(method, path.replace("{model_id:path}", "small"), json=body)

    for name in ("loaded", "submit"):
        real = getattr(engine, name)
        monkeypatch.setattr(engine, name, lambda *a, n=name, r=real: (touched.append(n), r(*a))[1])
    monkeypatch.setattr(live.service, "_texts", {})
    with monkeypatch.context() as denied:
        denied.setattr(serving, "authorize", deny)
        denied.setattr("mythos.gate.authorize.authorize", deny)
        got = request()
        assert asked and not touched
        assert got.status_code == 404 or got.json()["data"] == []
    got = request()
    assert got.status_code == 200 and "small" in got.text + str(body)
    assert bool(touched) is (body is not None)


def test_only_these_places_reach_an_engine_and_each_holds_a_permit():
    """The command line answers over HTTP; only evaluations and benchmarks ask an engine directly."""
    reach = re.compile(r"\bengine\.(submit|loaded)\(|[^s] Loader\(|\(Loader\(")
    found = {p.relative_to(SOURCE).as_posix() for p in SOURCE.rglob("*.py") if reach.search(p.read_text())}
    given_a_permit = {"engine/score.py", "evaluate/suite.py"}
    ask_the_gate = {"bench_ours", "bench_speculation", "local", "profiles", "up", "run", "answer", "service"}
    assert {Path(name).stem for name in found - given_a_permit} <= ask_the_gate, found
    for name in found - given_a_permit:
        assert re.search(r"\b(authorize|require|decide|_permit)\(", (SOURCE / name).read_text()), name


def test_an_engine_takes_nothing_but_a_permit(live):
    for forged in (None, {"tier": "small"}, object()):
        with pytest.raises((PermissionError, AttributeError)):
            live.service.engine.submit(forged, None)
    from mythos.records.permit import Action
    from mythos.records.principal import OPERATOR

    permit = live.service.decide(OPERATOR, Action.KNOW, "small")
    assert isinstance(permit, Permit)
    with pytest.raises(PermissionError):
        live.service.engine.submit(permit, None)
