"""The exposure audit finds each weakness of a weakened server, its own canary, and nothing in ours."""

import functools
import http.server
import json
import re
import threading
import time
from dataclasses import replace

import pytest

from mythos.records.errors import MythosError
from mythos.vault import exposure
from mythos.vault.assets import delete_asset, list_assets
from mythos.vault.crawl import GUESSES, Answer, Visitor, links
from mythos.vault.exposure import Target, audit_exposure
from mythos.vault.own_exposure import names_within, open_files, vault_target
from tests.vault.world import OTHER, client, listening

IDS = re.compile(r"req_\w{22}")


def seen(got) -> tuple:
    """All that a caller sees of an answer but its random id."""
    return got.status_code, IDS.sub("ID", str(sorted(got.headers.items()))), got.content


def kinds(town, wrap=None) -> set[str]:
    with listening(town, wrap) as (base_url, keys):
        whole = vault_target(town.store, base_url, keys[OTHER])
        target = replace(whole, known=(*whole.known[:3:2], whole.known[-1]))  # a content, a preview, a share
        report = audit_exposure([target], names_within(town.store, town.place[2]), timing=False)
    assert not report.void and report.requests > len(GUESSES) // 2
    return {finding.what for finding in report.findings}


@pytest.fixture
def filled(town):
    town.share(town.put(b"a phrase of the draft", "Capybara launch plan").id)
    delete_asset(*town.place, town.put().id)
    return town


def test_our_own_listener_as_it_is(filled):
    assert kinds(filled) == set() and open_files(filled.store) == []


def weakened(filled, how):
    """An ASGI layer that does one thing wrong."""
    existing = {entry.asset.id for entry in list_assets(*filled.place)}

    def wrap(app):
        async def layer(scope, receive, send):
            path = scope.get("path", "")
            exists = any(one in path for one in existing)
            headers = dict(scope.get("headers", ()))
            answer = None
            if how == "403 for what exists" and exists:
                answer = 403, [], b"forbidden"
            elif how == "304 before the key" and exists and b"if-none-match" in headers:
                answer = 304, [], b""
            elif how == "206 without a key" and exists and b"range" in headers:
                answer = 206, [], b"a"
            elif how == "HEAD with a length" and exists and scope["method"] == "HEAD":
                answer = 200, [(b"content-length", b"21")], b""
            elif how == "a sitemap" and path == "/sitemap.xml":
                answer = 200, [], b"<loc>http://x/v1/assets/" + min(existing).encode() + b"</loc>"
            elif how == "a list" and path == "/v1/assets":
                answer = 200, [], json.dumps({"titles": ["Capybara launch plan"]}).encode()
            elif how == "a preview" and path.endswith("/preview") and exists:
                answer = 200, [], b"a phrase of the draft"
            elif how == "a title in the error" and exists:
                answer = 404, [], b"Capybara launch plan is not yours"
            if answer is None:
                await app(scope, receive, send)
                return
            status, more, body = answer
            await send({"type": "http.response.start", "status": status, "headers": more})
            await send({"type": "http.response.body", "body": body})

        return layer

    return wrap


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("403 for what exists", {"differs"}),
        ("304 before the key", {"differs", "answers"}),
        ("206 without a key", {"differs", "answers"}),
        ("HEAD with a length", {"differs", "answers"}),
        ("a sitemap", {"answers", "names"}),
        ("a list", {"answers", "names"}),
        ("a preview", {"answers", "names", "differs"}),
        ("a title in the error", {"names", "differs"}),
    ],
)
def test_each_weakness_is_found(filled, how, found):
    assert kinds(filled, weakened(filled, how)) == found


def test_a_slower_refusal_is_found(filled):
    def wrap(app):
        async def layer(scope, receive, send):
            if scope.get("path", "").startswith("/v1/assets/" + target_id):
                time.sleep(0.05)
            await app(scope, receive, send)

        return layer

    with listening(filled) as (base_url, _):
        target_id = vault_target(filled.store, base_url).known[0][0].split("/")[3]
    with listening(filled, wrap) as (base_url, _):
        report = audit_exposure([vault_target(filled.store, base_url)], [])
    assert "times" in {finding.what for finding in report.findings}


def test_a_file_that_others_can_read_is_found(filled):
    file = filled.home.path / "mythos.db"
    file.chmod(0o644)
    assert [f.what for f in open_files(filled.store)] == ["file"]


def test_a_run_that_misses_its_canary_is_void(filled, monkeypatch):
    monkeypatch.setattr(exposure, "crawl", lambda *_, **__: [])
    monkeypatch.setattr(exposure, "WAYS", ())
    assert audit_exposure([], []).void


def test_somebody_elses_store_on_loopback(tmp_path):
    """Python's own http.server, which lists its directory."""
    (tmp_path / "drafts").mkdir()
    (tmp_path / "drafts" / "one.txt").write_text("Capybara launch plan")
    handler = functools.partial(exposure._Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        report = audit_exposure([Target("theirs", url)], ["Capybara launch plan"], timing=False)
        server.shutdown()
    assert {("answers", "/drafts/one.txt"), ("names", "/drafts/one.txt")} <= {
        (f.what, f.path) for f in report.findings
    }


@pytest.mark.parametrize("url", ["http://example.org", "https://127.0.0.1", "http://127.0.0.1@example.org"])
def test_it_goes_nowhere_but_loopback(url):
    with pytest.raises(MythosError):
        Visitor(url)


def test_links_stay_on_the_server():
    body = b'<a href="/a?x=1">a</a> <img src=b.png> <loc>http://127.0.0.1:1/c</loc> <a href="http://evil/d">'
    got = links("http://127.0.0.1:1", Answer("GET", "/x/", 200, (), body, 0.0))
    assert got == ["/a?x=1", "/x/b.png", "/c"]


def test_without_a_key_every_path_is_one(filled):
    with listening(filled) as (base_url, _), client(base_url) as http_:
        answers = {seen(http_.get(path)) for path in ("/", "/v1/assets", "/v1/assets/x", "/healthz", "/nix")}
    assert len(answers) == 1 and next(iter(answers))[0] == 401
