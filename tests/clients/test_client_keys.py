"""The keys and names that the vendors' suites use work in the deployment made for them, and nowhere else."""

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mythos.serve.app import ENDPOINTS
from mythos.serve.settings import Settings
from tests.clients.deployment import KEY, TIER, deployed
from tests.clients.suites import SUITES

VENDOR_KEYS = [key for suite in SUITES for key in suite.keys]
MODES = {
    "default": Settings(),
    "strict": Settings(strict=True),
    "no version needed": Settings(require_version=False),
}
BODY = b'{"model":"%s","max_tokens":1,"messages":[{"role":"user","content":"x"}]}'


def ask(base_url: str, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> int:
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=60)
    try:
        connection.request(method, path, body, {"anthropic-version": "2023-06-01", **headers})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def forms(key: str) -> Iterator[dict[str, str]]:
    yield {"x-api-key": key}
    yield {"authorization": f"Bearer {key}"}
    yield {"x-api-key": key, "authorization": f"Bearer {KEY}"}  # x-api-key wins


@pytest.mark.parametrize("mode", MODES)
def test_unknown_keys_are_refused_everywhere(mode: str, tmp_path: Path):
    body = BODY % TIER.encode()
    with deployed(tmp_path / "one", [KEY], settings=MODES[mode]) as (_, base_url):
        for method, path, _ in ENDPOINTS:
            path = path.replace("{model_id:path}", TIER)
            found = 404 if "{receipt_id}" in path else 200  # of a receipt that does not exist
            sent = body if method == "POST" else b""
            assert ask(base_url, method, path, {}, sent) == 401
            for key in [*VENDOR_KEYS, "", KEY[:-1], KEY + "x"]:
                for headers in forms(key):
                    if key or len(headers) == 1:  # an empty x-api-key leaves the other header to speak
                        assert ask(base_url, method, path, headers, sent) == 401, (path, headers)
            assert ask(base_url, method, path, {"x-api-key": KEY}, sent) == found, path


def test_further_names_come_from_the_caller_of_create_app_only(tmp_path: Path):
    for i, aliases in enumerate([None, {"another-name": TIER}]):
        with deployed(tmp_path / str(i), [KEY], aliases) as (_, base_url):
            for name, expected in [(TIER, 200), ("another-name", 200 if aliases else 404)]:
                headers = {"x-api-key": KEY}
                assert ask(base_url, "POST", "/v1/messages", headers, BODY % name.encode()) == expected
                assert ask(base_url, "GET", f"/v1/models/{name}", headers) == expected


@pytest.mark.clients
def test_mythos_up_knows_neither(pocket: dict[str, str]):
    base_url, own = pocket["ANTHROPIC_BASE_URL"], {"x-api-key": pocket["ANTHROPIC_API_KEY"]}
    for key in VENDOR_KEYS:
        for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
            assert ask(base_url, "POST", "/v1/messages", headers, BODY % b"opus") == 401
    assert ask(base_url, "POST", "/v1/messages", own, BODY % b"opus") == 200
    for name in (name for suite in SUITES for name in suite.models):
        assert ask(base_url, "POST", "/v1/messages", own, BODY % name.encode()) == 404
