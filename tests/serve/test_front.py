"""Who is let in, from where, and what a refusal looks like (M1, M2, M14, M16, M60)."""

import httpx
import pytest

from tests.serve.live import NEW, OLD, ask, chat


def test_M1_both_credentials_are_accepted_and_x_api_key_wins(live):
    with live.http() as http:
        assert http.get("/v1/models").status_code == 200
    url = f"{live.base_url}/v1/models"
    for header in ("Bearer", "bearer"):
        assert httpx.get(url, headers={"authorization": f"{header} {live.key}"}).status_code == 200
    assert httpx.get(url, headers={"authorization": f"Basic {live.key}"}).status_code == 401
    both = {"x-api-key": live.key, "authorization": "Bearer wrong"}
    assert httpx.get(url, headers=both).status_code == 200
    wrong = {"x-api-key": "wrong", "authorization": f"Bearer {live.key}"}
    assert httpx.get(url, headers=wrong).status_code == 401
    empty = {"x-api-key": "", "authorization": f"Bearer {live.key}"}
    assert httpx.get(url, headers=empty).status_code == 200


def test_M1_a_stored_key_is_as_good_as_the_session_key(live):
    with live.http(live.stored) as http:
        assert http.post("/v1/messages", json=ask()).status_code == 200


@pytest.mark.parametrize("key", ["", "wrong", "sk-mythos-" + "a" * 43, "x" * 10_000, "schlüssel"])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/nothing", "/metrics", "/openapi.json", "/"])
def test_M2_without_a_valid_key_there_is_a_401_and_nothing_else(live, key, path):
    headers = {"x-api-key": key.encode("latin-1"), "anthropic-version": OLD}
    got = httpx.post(live.base_url + path, headers=headers, content=b"not json")
    assert got.status_code == 401
    body = got.json()
    assert body["type"] == "error" and body["error"]["type"] == "authentication_error"
    assert body["request_id"] == got.headers["request-id"] == got.headers["x-request-id"]
    assert (key in got.text) is (key == "")


def test_O3_a_401_in_the_other_envelope(live):
    got = httpx.post(f"{live.base_url}/v1/chat/completions", json=chat())
    assert got.status_code == 401
    assert set(got.json()) == {"error"} and got.json()["error"]["code"] == "invalid_api_key"


def test_M14_probes_need_no_key(live):
    assert httpx.head(live.base_url + "/").status_code == 200
    assert httpx.head(live.base_url + "/api/hello").status_code == 200
    got = httpx.get(live.base_url + "/healthz")
    assert got.status_code == 200 and got.json() == {"status": "ok"}


def test_M16_unknown_paths_are_404_in_the_envelope(live):
    with live.http() as http:
        for path in ("/v1/files", "/v1/messages/batches", "/v1/skills", "/nowhere", "/docs", "/v1/messages/"):
            got = http.get(path)
            assert got.status_code == 404 and got.json()["error"]["type"] == "not_found_error", path
        got = http.post("/v1/responses", json={})
        assert got.status_code == 404 and set(got.json()) == {"error"}
        got = http.delete("/v1/messages")
        assert got.status_code == 405 and "POST" in got.headers["allow"]
        assert got.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.nip.io:{port}", ""]
)
def test_a_host_that_is_not_ours_is_refused_before_the_key_is_looked_at(live, host):
    headers = {"host": host.format(port=live.port), "x-api-key": live.key}
    got = httpx.get(f"{live.base_url}/healthz", headers=headers)
    assert got.status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_our_own_names_are_accepted(live, host):
    headers = {"host": host.format(port=live.port), "x-api-key": live.key}
    assert httpx.get(f"{live.base_url}/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "https://127.0.0.1:{port}"}, 403),
        ({"origin": "http://127.0.0.1:{port}"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_pages_of_other_origins_are_refused(live, headers, status):
    headers = {name: value.format(port=live.port) for name, value in headers.items()}
    with live.http(**headers) as http:
        got = http.get("/v1/models")
        assert got.status_code == status
        assert "access-control-allow-origin" not in got.headers


def test_M60_every_answer_has_ids(live):
    seen = set()
    with live.http() as http:
        answers = [
            http.get("/v1/models"),
            http.post("/v1/messages", json=ask()),
            http.post("/v1/messages", json=ask(stream=True)),
            http.post("/v1/messages", json={}),
            http.get("/nowhere"),
            httpx.get(f"{live.base_url}/v1/models"),
            httpx.get(f"{live.base_url}/healthz"),
        ]
    for got in answers:
        assert got.headers["request-id"].startswith("req_")
        assert got.headers["x-request-id"] == got.headers["request-id"]
        assert got.headers["mythos-receipt"].startswith("rcpt_")
        seen |= {got.headers["request-id"], got.headers["mythos-receipt"]}
    assert len(seen) == 2 * len(answers)


def test_M3_versions(live):
    with live.http(version=None) as http:
        got = http.post("/v1/messages", json=ask())
        assert got.status_code == 400 and "anthropic-version: header is required" in got.text
        got = http.post("/v1/messages", json=ask(), headers={"anthropic-version": "2024-01-01"})
        assert got.status_code == 400 and "2024-01-01" in got.text
    sampling = {"temperature": 0.5, "top_p": 1, "top_k": 3}
    with live.http(version=OLD) as http:
        assert http.post("/v1/messages", json=ask(**sampling)).status_code == 200
    with live.http(version=NEW) as http:
        assert http.post("/v1/messages", json=ask()).status_code == 200
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            for name in sampling:
                got = http.post(path, json=ask(**{name: 1}))
                assert got.status_code == 400
                assert got.json()["error"]["message"] == f"`{name}`: Extra inputs are not permitted"


def test_M4_beta_flags_are_ignored_and_named(live):
    with live.http() as http:
        headers = [("anthropic-beta", "one-2025-01-01, two"), ("anthropic-beta", "three\t(evil)")]
        got = http.post("/v1/messages?beta=true", json=ask(), headers=headers)
        assert got.status_code == 200
        assert got.headers["mythos-ignored"] == "beta:one-2025-01-01, beta:two, beta:three??evil?"


def test_M5_unknown_fields_are_ignored_and_named(live):
    with live.http() as http:
        got = http.post("/v1/messages", json=ask(context_management={"edits": []}, new_field=1))
        assert got.status_code == 200
        assert got.headers["mythos-ignored"] == "context_management, new_field"
        body = ask(messages=[{"role": "user", "content": [{"type": "text", "text": "Hi", "odd": 1}], "n": 2}])
        got = http.post("/v1/messages", json=body)
        assert got.headers["mythos-ignored"] == "messages.n, messages.content.odd"
        many = {f"field_{i}_{'x' * 90}\n": 1 for i in range(200)}
        got = http.post("/v1/messages", json=ask(**many))
        assert got.status_code == 200 and len(got.headers["mythos-ignored"]) < 1_100
        assert got.headers["mythos-ignored"].endswith("more")
