"""A tier the caller may not know looks like one that does not exist; no secret leaves by log or error."""

import logging
import re

import pytest

from tests.serve.live import ask, chat

IDS = re.compile(r"(req|rcpt)_\w{22}")
UNKNOWN = "smelt"  # as long as `small`, and nowhere declared


def blurred(got, name: str) -> tuple:
    """All a caller can see of an answer, but ids, times and the name it asked for."""
    headers = {k: v for k, v in got.headers.items() if not re.search("reset|remaining|date", k)}
    return got.status_code, IDS.sub("ID", str(headers)), IDS.sub("ID", got.text).replace(name, "NAME")


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21", None])
def test_a_hidden_tier_and_a_made_up_one_get_the_same_bytes(live, version):
    def tries(http, name):
        yield http.get(f"/v1/models/{name}")
        yield http.get(f"/v1/models?after_id={name}")
        yield http.post("/v1/messages", json=ask(name))
        yield http.post("/v1/messages", json=ask(name, stream=True))
        yield http.post("/v1/messages", json=ask(name, max_tokens=10**9))
        yield http.post("/v1/messages", json=ask(name, messages=[{"role": "user", "content": "x" * 9000}]))
        yield http.post("/v1/messages", json=ask(name, max_tokens=-1))
        yield http.post("/v1/messages/count_tokens", json=ask(name))
        yield http.post("/v1/chat/completions", json=chat(name))
        yield http.post("/v1/chat/completions", json=chat(name, stream=True))
        schema = {"type": "json_schema", "schema": {"not": {}}}
        yield http.post("/v1/messages", json=ask(name, output_config={"format": schema}))

    with live.http(live.foreign, version=version) as http:
        pairs = list(zip(tries(http, "small"), tries(http, UNKNOWN), strict=True))
    for hidden, unknown in pairs:
        assert blurred(hidden, "small") == blurred(unknown, UNKNOWN)
        assert hidden.status_code != 200 or "after_id" in str(hidden.request.url)
    statuses = {hidden.status_code for hidden, _ in pairs}
    assert 404 in statuses


def test_a_caller_without_tiers_sees_empty_lists(live):
    with live.http(live.foreign) as http:
        assert http.get("/v1/models").json()["data"] == []
        assert http.get("/v1/models/small").status_code == 404
        description = http.get("/openapi.json").text
    assert "small" not in description
    with live.http(live.foreign, version=None) as http:
        assert http.get("/v1/models").json() == {"object": "list", "data": []}


def test_the_control_the_operator_sees_and_uses_it(live):
    with live.http(live.stored) as http:
        assert http.get("/v1/models/small").status_code == 200
        assert http.post("/v1/messages", json=ask()).status_code == 200


def test_a_revoked_key_is_dead_at_once(tiny, live):
    from mythos.records.principal import OPERATOR
    from mythos.store.keys import create_key, revoke_key

    row, secret = create_key(tiny.store, tiny.clock, OPERATOR, "short")
    with live.http(secret) as http:
        assert http.get("/v1/models").status_code == 200
        revoke_key(tiny.store, tiny.clock, OPERATOR, row.id)
        assert http.get("/v1/models").status_code == 401


def test_no_key_and_no_text_of_a_caller_in_logs_or_errors(live, caplog):
    secret = "sk-mythos-" + "s3cretS3cret" * 3 + "1234567"
    prompt = "a very private sentence"
    body = ask(messages=[{"role": "user", "content": prompt}])
    with caplog.at_level(logging.DEBUG):
        with live.http(secret) as http:
            texts = [http.post("/v1/messages", json=body).text]
        with live.http() as http:
            texts.append(http.post(f"/v1/messages?key={secret}", json={**body, "max_tokens": "x"}).text)
            texts.append(http.post("/v1/messages", json={**body, "model": "nothing"}).text)
            texts.append(http.get(f"/nowhere/{secret}").text)
    ours = [r for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    said = "\n".join([*texts, *(record.getMessage() for record in ours)])
    for word in (secret, prompt, live.key, live.stored):
        assert word not in said


def test_a_failure_inside_is_a_plain_500_without_a_trace(live, monkeypatch, caplog):
    detail = " ".join(["private", "detail"])

    def broken(*args):
        raise RuntimeError(detail)

    monkeypatch.setattr(live.service, "decide", broken)
    with live.http() as http:
        for body in (ask(), ask(stream=True)):
            got = http.post("/v1/messages", json=body)
            assert got.status_code == 500
            error = got.json()["error"]
            assert error == {"type": "api_error", "message": "internal server error"}
    assert detail not in caplog.text and "RuntimeError" in caplog.text
