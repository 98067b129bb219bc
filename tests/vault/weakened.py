"""Servers of ours with one thing broken: a layer around the real application, as a careless proxy is."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Reply = tuple[int, list[tuple[bytes, bytes]], bytes]
Wrap = Callable[[ASGIApp], ASGIApp]


@dataclass
class Facts:
    """What a weak server knows and gives away. `old` is an address that was deleted, `public` one in /p."""

    asset: str
    old: str = ""
    tag: str = ""
    owner: str = ""  # a key that may read it all
    title: str = "Capybara launch plan"
    public: str = ""
    cache: dict[str, Reply] = field(default_factory=dict)


@dataclass
class Asked:
    """One request to a weak server."""

    scope: Scope
    facts: Facts

    @property
    def path(self) -> str:
        return self.scope["path"]

    @property
    def method(self) -> str:
        return self.scope["method"]

    def header(self, name: str) -> str:
        return dict(self.scope["headers"]).get(name.encode(), b"").decode("latin-1")

    @property
    def known(self) -> bool:
        return self.facts.asset in self.path

    def told(self, how: str) -> bool:
        """Whether a path that a proxy has not made plain leads to the asset all the same."""
        return self.known and how in self.scope.get("raw_path", b"").decode("latin-1")


def as_owner(asked: Asked, path: str = "", method: str = "") -> Scope:
    """The same request with the owner's key: what the check of a proxy let through."""
    headers = [(n, v) for n, v in asked.scope["headers"] if n != b"x-api-key"]
    headers.append((b"x-api-key", asked.facts.owner.encode()))
    changed = {"headers": headers, "path": path or asked.path, "method": method or asked.method}
    return {**asked.scope, **changed, "query_string": b""}


def _page(text: str) -> Reply:
    return 200, [(b"content-type", b"text/html"), (b"cache-control", b"no-store")], text.encode()


def _empty(status: int, *headers: tuple[bytes, bytes]) -> Reply:
    return status, [(b"cache-control", b"no-store"), *headers], b""


def _missing(text: str) -> Reply:
    return 404, [(b"cache-control", b"no-store")], text.encode()


Weakness = Callable[[Asked], Reply | Scope | None]


def _at(asked: Asked) -> str:
    return f"/v1/assets/{asked.facts.asset}"


def _query(asked: Asked) -> bytes:
    return asked.scope["query_string"]


def _asks_for(asked: Asked, word: bytes) -> bool:
    return asked.path == "/v1/assets/search" and word in _query(asked)


def _by_owner(when: Callable[[Asked], bool], path: Callable[[Asked], str] = _at) -> Weakness:
    return lambda a: as_owner(a, path(a), "HEAD" if a.method == "HEAD" else "GET") if when(a) else None


# What one question too many is answered with: as the owner would be, or with something that tells.
WEAK: dict[str, Weakness] = {
    "the list without a key": _by_owner(lambda a: a.path == "/v1/assets", lambda a: a.path),
    "a search without a key": _by_owner(lambda a: _asks_for(a, b"capybara"), lambda a: "/v1/assets"),
    "HEAD without a key": _by_owner(lambda a: a.known and a.method == "HEAD"),
    "ranges without a key": _by_owner(lambda a: a.known and bool(a.header("range"))),
    "conditions without a key": _by_owner(lambda a: a.known and bool(a.header("if-none-match"))),
    "another method counts as GET": _by_owner(
        lambda a: a.known and a.header("x-http-method-override") == "GET"
    ),
    "images without a key": _by_owner(lambda a: a.known and a.header("accept") == "image/*"),
    "a header that says who asks": _by_owner(lambda a: a.known and a.header("x-forwarded-user") == "admin"),
    "a preview without a key": _by_owner(lambda a: a.known and a.path.endswith("/preview"), lambda a: a.path),
    "a thumbnail without a key": _by_owner(
        lambda a: a.known and a.path.endswith("/thumbnail"), lambda a: _at(a) + "/preview"
    ),
    "thumbnails in a folder": _by_owner(lambda a: a.known and a.path.startswith("/thumbnails/")),
    "an address by number": _by_owner(lambda a: a.path == "/v1/assets/1"),
    "an address by title": _by_owner(lambda a: a.path == "/drafts/capybara-launch-plan.html"),
    "an address by the file's name": _by_owner(lambda a: a.path == "/uploads/plan-of-capybara.txt"),
    "two slashes pass the check": _by_owner(lambda a: a.told("//v1")),
    "an encoded path passes the check": _by_owner(lambda a: a.told("/%76%31/")),
    "dots pass the check": _by_owner(lambda a: a.told("/x/../")),
    "capitals pass the check": _by_owner(lambda a: a.told("/V1/")),
    "an older version without a key": _by_owner(lambda a: a.known and _query(a) == b"version=1"),
    "an old address leads on": lambda a: (
        _empty(301, (b"location", _at(a).encode())) if a.facts.old in a.path else None
    ),
    "an old address is gone, not unknown": lambda a: _empty(410) if a.facts.old in a.path else None,
    "403 for what exists": lambda a: _empty(403) if a.known else None,
    "403 for what exists, with a key": lambda a: (
        _empty(403) if a.known and a.header("x-api-key") else None
    ),
    "412 for what exists": lambda a: _empty(412) if a.known and a.header("if-match") else None,
    "304 by the true tag": lambda a: (
        _empty(304) if a.facts.tag in a.header("if-none-match") and a.known else None
    ),
    "404 in other words": lambda a: _missing("No such thing.") if a.known else None,
    "OPTIONS tells": lambda a: (
        _empty(204, (b"allow", b"GET")) if a.known and a.method == "OPTIONS" else None
    ),
    "an error that names": lambda a: _missing(f"{a.facts.title} is not yours") if a.known else None,
    "an error that suggests": lambda a: (
        _missing(f"Did you mean {a.facts.title}?") if a.path == "/drafts" else None
    ),
    "a sitemap": lambda a: (
        _page(f"<loc>http://127.0.0.1/v1/assets/{a.facts.asset}</loc>") if a.path == "/sitemap.xml" else None
    ),
    "robots.txt": lambda a: _page(f"Disallow: {_at(a)}") if a.path == "/robots.txt" else None,
    "a count of the rest": lambda a: (
        _page('{"assets":[],"after":null,"total":3}')
        if a.path == "/v1/assets" and a.header("x-api-key")
        else None
    ),
    "a listing of the public area": lambda a: (
        _page(f'<a href="/p/{a.facts.public}">') if a.path == "/p/" else None
    ),
    "a status page": lambda a: _page("3 assets") if a.path == "/status" else None,
}  # fmt: skip

# What is added to every answer, or to one that gives something away.
HEADERS: dict[str, Callable[[Asked], list[tuple[bytes, bytes]]]] = {
    "a cache may keep it": lambda a: [(b"cache-control", b"public, max-age=3600")],
    "nothing said to caches": lambda a: [(b"cache-control", b"")],
    "pages of other origins may read": lambda a: [(b"access-control-allow-origin", b"*")],
    "a header of the cache": lambda a: [(b"x-cache", b"HIT" if a.known else b"MISS")],
    "an entity tag on the refusal": lambda a: [(b"etag", b'"1"')] if a.known else [],
    "a cookie on the refusal": lambda a: [(b"set-cookie", b"seen=1")] if a.known else [],
}


def weakened(how: str, facts: Facts) -> Wrap:
    """A layer that does the one thing `how` wrong."""

    def wrap(app: ASGIApp) -> ASGIApp:
        async def layer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            asked = Asked(scope, facts)
            if how in WEAK and (got := WEAK[how](asked)) is not None:
                if isinstance(got, tuple):
                    await _reply(send, got)
                else:
                    await app(got, receive, send)
                return
            if how == "a slower refusal" and asked.known:
                time.sleep(0.05)
            if how == "any Host":
                port = str(scope["server"][1]).encode()
                headers = [(n, v) for n, v in scope["headers"] if n != b"host"]
                scope = {**scope, "headers": [*headers, (b"host", b"127.0.0.1:" + port)]}
            if how == "a cache in front" and (kept := facts.cache.get(asked.path)):
                await _reply(send, kept)
                return
            await app(scope, receive, _changing(how, asked, send))

        return layer

    return wrap


def _changing(how: str, asked: Asked, send: Send) -> Callable[[Message], Awaitable[None]]:
    kept: dict[str, Any] = {"body": b""}

    async def changed(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept.update(message)
            if how in HEADERS:
                added = HEADERS[how](asked)
                names = {name for name, _ in added}
                headers = [one for one in message["headers"] if one[0] not in names]
                message = {**message, "headers": [*headers, *added]}
        elif how == "a cache in front" and asked.method == "GET" and kept["status"] == 200:
            kept["body"] += message.get("body", b"")
            asked.facts.cache[asked.path] = (200, kept["headers"], kept["body"])
        await send(message)

    return changed


async def _reply(send: Send, reply: Reply) -> None:
    status, headers, body = reply
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
