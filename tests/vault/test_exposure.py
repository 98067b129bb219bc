"""The exposure audit finds each weakness of a weakened server, its own canary, and nothing in ours."""

import functools
import http.server
import re
import threading

import pytest

from mythos.records.errors import MythosError
from mythos.vault import exposure
from mythos.vault.crawl import Answer, Visitor, links
from mythos.vault.exposure import Target, audit_exposure
from mythos.vault.own_exposure import close, open_files
from tests.vault.world import client, listening

IDS = re.compile(r"req_\w{22}")


def seen(got) -> tuple:
    """All that a caller sees of an answer but its random id."""
    return got.status_code, IDS.sub("ID", str(sorted(got.headers.items()))), got.content


def test_a_file_that_others_can_read_is_found_and_closed(filled):
    file = filled.home.path / "mythos.db"
    file.chmod(0o644)
    found = open_files(filled.store)
    assert [one.what for one in found] == ["file"]
    assert close(*filled.place, found) == 1 and open_files(filled.store) == []


def test_a_run_that_misses_its_canary_is_void(filled, monkeypatch):
    monkeypatch.setattr(exposure, "crawl", lambda *_, **__: iter(()))
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
