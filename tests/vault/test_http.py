"""The listener for assets over real HTTP: contents, ranges, conditions; one 404 for the rest."""

import os
import sys

import pytest

from mythos.vault.assets import list_assets
from mythos.vault.blobs import PART
from tests.vault.test_exposure import seen
from tests.vault.world import ACME, OTHER, client, listening

DATA = bytes(range(256)) * (PART // 256) + b"the end"
UP = {"mythos-title": "Stra%C3%9Fe", "mythos-kind": "draft", "content-type": "text/plain"}


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    from tests.vault.world import VaultTown

    town = VaultTown(tmp_path_factory.mktemp("live"))
    with listening(town) as (base_url, keys):
        yield town, base_url, keys
    town.store.close()


@pytest.fixture
def mine(live):
    with client(live[1], live[2]["local"]) as http:
        yield http


@pytest.fixture
def theirs(live):
    with client(live[1], live[2][ACME]) as http:
        yield http


@pytest.fixture
def asset(mine) -> str:
    made = mine.post("/v1/assets", content=DATA, headers=UP)
    assert made.status_code == 201 and made.json()["size"] == len(DATA)
    return made.json()["id"]


def test_what_was_sent_comes_back(mine, asset):
    got = mine.get(f"/v1/assets/{asset}")
    assert got.content == DATA and got.headers["content-type"] == "text/plain"
    assert mine.get(f"/v1/assets/{asset}/about").json()["title"] == "Straße"
    assert got.headers["cache-control"] == "no-store" and "sandbox" in got.headers["content-security-policy"]
    assert asset not in got.headers["etag"]


@pytest.mark.parametrize(
    ("header", "status", "span"),
    [
        ("bytes=0-0", 206, (0, 1)),
        (f"bytes={PART - 2}-{PART + 1}", 206, (PART - 2, PART + 2)),
        ("bytes=-7", 206, (PART, PART + 7)),
        (f"bytes={PART}-", 206, (PART, PART + 7)),
        ("bytes=5-99999999999", 206, (5, PART + 7)),
        (f"bytes={PART + 7}-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=3-2", 200, (0, PART + 7)),
        ("bytes=0-1,3-4", 200, (0, PART + 7)),
        ("lines=1-2", 200, (0, PART + 7)),
        ("bytes=-", 200, (0, PART + 7)),
    ],
)
def test_ranges(mine, asset, header, status, span):
    got = mine.get(f"/v1/assets/{asset}", headers={"range": header})
    assert got.status_code == status
    if span:
        assert got.content == DATA[slice(*span)]
    if status == 206:
        assert got.headers["content-range"] == f"bytes {span[0]}-{span[1] - 1}/{len(DATA)}"


def test_conditions(mine, asset):
    place = f"/v1/assets/{asset}"
    tag = mine.head(place).headers["etag"]
    assert mine.get(place, headers={"if-none-match": f'"x", {tag}'}).status_code == 304
    assert mine.get(place, headers={"if-none-match": '"x"'}).status_code == 200
    assert mine.get(place, headers={"if-match": '"x"'}).status_code == 412
    assert mine.get(place, headers={"range": "bytes=0-0", "if-range": '"x"'}).status_code == 200
    assert mine.get(place, headers={"range": "bytes=0-0", "if-range": tag}).status_code == 206
    assert mine.put(place, content=b"new").json()["version"] == 2
    assert mine.get(place, headers={"if-none-match": tag}).content == b"new"
    assert mine.get(f"{place}?version=1").content == DATA


def test_head_is_get_without_the_body(mine, asset):
    for path in ("", "/about", "/preview"):
        got, head = mine.get(f"/v1/assets/{asset}{path}"), mine.head(f"/v1/assets/{asset}{path}")
        assert head.content == b"" and head.headers["content-length"] == got.headers["content-length"]


def test_sharing_and_its_end(live, mine, theirs, asset):
    place, made_up = f"/v1/assets/{asset}", "/v1/assets/ast_" + "x" * 22
    assert seen(theirs.get(place)) == seen(theirs.get(made_up)) == seen(theirs.get("/nix"))
    share = mine.post(f"{place}/shares", json={"org": ACME, "expires_at": live[0].now + 60}).json()["id"]
    assert theirs.get(place).content == DATA
    assert [one["id"] for one in theirs.get("/v1/assets").json()["assets"]] == [asset]
    assert theirs.get("/v1/assets/search?q=STRASSE").json()["assets"][0]["held"] is None
    assert "readers" not in theirs.get(f"{place}/about").json()
    assert theirs.delete(place).status_code == 403
    assert mine.delete(f"/v1/shares/{share}").status_code == 200
    assert seen(theirs.get(place)) == seen(theirs.get(made_up))
    assert seen(theirs.delete(f"/v1/shares/{share}")) == seen(theirs.delete("/v1/shares/shr_none"))


@pytest.mark.parametrize("field", ["public", "visibility", "acl"])
def test_no_body_says_that_an_asset_is_public(mine, asset, field):
    body = {"org": ACME, "expires_at": 1, field: True}
    got = mine.post(f"/v1/assets/{asset}/shares", json=body)
    assert (got.status_code, got.json()["error"]["code"]) == (400, "FIELD_NOT_ALLOWED")


def test_an_upload_that_breaks_off_leaves_nothing(live, mine):
    before = len(list_assets(*live[0].place, limit=200))

    def half():
        yield b"half"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        mine.post("/v1/assets", content=half(), headers=UP)
    assert len(list_assets(*live[0].place, limit=200)) == before


@pytest.mark.parametrize(
    ("header", "value"),
    [("host", "evil.example"), ("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")],
)
def test_a_page_in_a_browser_gets_nothing(mine, asset, header, value):
    got = mine.get(f"/v1/assets/{asset}", headers={header: value})
    assert got.status_code in (403, 421)


def test_an_organisation_that_nobody_knows_cannot_put(live):
    from mythos.store.keys import create_key

    key = create_key(*live[0].place, "k", org="nobody", purpose="x")[1]
    with client(live[1], key) as http:
        got = http.post("/v1/assets", content=b"x", headers=UP)
    assert got.status_code == 403


def test_a_caller_sees_only_their_own(live, mine, asset):
    with client(live[1], live[2][OTHER]) as http:
        made = http.post("/v1/assets", content=b"theirs", headers=UP).json()["id"]
        assert [one["id"] for one in http.get("/v1/assets").json()["assets"]] == [made]
    assert mine.get(f"/v1/assets/{made}").status_code == 404  # not even for the operator


def test_a_request_behind_the_owners_on_one_connection_has_no_key(town):
    import socket
    from urllib.parse import urlsplit

    asset = town.put(b"the secret phrase").id
    with listening(town) as (base_url, keys):
        place = urlsplit(base_url)
        host = f"Host: {place.netloc}\r\n"
        first = f"HEAD /v1/assets/{asset} HTTP/1.1\r\n{host}x-api-key: {keys['local']}\r\n\r\n"
        second = f"GET /v1/assets/{asset} HTTP/1.1\r\n{host}Connection: close\r\n\r\n"
        with socket.create_connection((place.hostname, place.port), timeout=60) as line:
            line.sendall((first + second).encode())
            got = b"".join(iter(lambda: line.recv(1 << 16), b""))
    assert got.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 401" in got and b"secret" not in got


def test_a_stranger_writes_nothing_to_the_operators_terminal(town, capfd):
    import socket
    from urllib.parse import urlsplit

    with listening(town) as (base_url, _):
        place = urlsplit(base_url)
        for sent in (
            b"nonsense\r\n\r\n",
            b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade, close\r\n\r\n",
        ):
            with socket.create_connection((place.hostname, place.port), timeout=60) as line:
                line.sendall(sent)
                assert line.recv(1 << 16).startswith(b"HTTP/1.1 4")
    assert capfd.readouterr() == ("", "")


_opened: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple) -> None:
    if _watching and event == "open" and isinstance(arguments[0], str | bytes):
        _opened.append(os.path.realpath(os.fsdecode(arguments[0])))


def test_no_address_opens_a_file_outside(town):
    """With a hook on every file that this process opens, and the same hook on one that it does open."""
    global _watching
    canary = town.home.path.parent / "canary"
    canary.write_text("canary")
    asset = town.put(b"text").id
    sys.addaudithook(_watch)  # for good: it is quiet but for this test
    with listening(town) as (base_url, keys), client(base_url, keys["local"]) as mine:
        _watching = True
        try:
            for up in ("..%2f", "%2e%2e/", "..%5c", "....//", "%2f"):
                for target in ("canary", "mythos.db", "vault/key", "etc/passwd"):
                    for times in (1, 2, 3, 8):
                        assert mine.get(f"/v1/assets/{up * times}{target}").status_code == 404
            outside = {str(canary), "/etc/passwd", str(town.home.database), str(town.home.path / "vault/key")}
            assert not outside & set(_opened)
            assert mine.get(f"/v1/assets/{asset}").content == b"text"
            assert any("vault/blobs" in path for path in _opened)
        finally:
            _watching = False
