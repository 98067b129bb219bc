"""An outsider on loopback: asks without a key, follows what it is shown, guesses the rest."""

import http.client
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, urljoin, urlsplit

from mythos.records.errors import MythosError

BODY = 1 << 20  # bytes of an answer that are looked at
PATIENCE = 10.0  # seconds for one answer
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LINK = re.compile(rb"(?:href|src)\s*=\s*[\"']?([^\"'\s>]+)|<loc>\s*([^<\s]+)|<Key>([^<]+)</Key>", re.I)
_SITEMAP = re.compile(rb"^\s*(?:sitemap|allow|disallow):\s*(\S+)", re.I | re.M)

# Names that outsiders try: indexes, feeds, stores' own interfaces, what is left lying about.
GUESSES = tuple(
    [
        "/",
        "/robots.txt",
        "/sitemap.xml",
        "/sitemap_index.xml",
        "/index.html",
        "/index.json",
        "/feed",
        "/rss.xml",
        "/.env",
        "/.git/config",
        "/.git/HEAD",
        "/.DS_Store",
        "/backup.zip",
        "/dump.sql",
        "/mythos.db",
        "/vault",
        "/assets",
        "/assets/",
        "/asset",
        "/files",
        "/files/",
        "/file",
        "/uploads",
        "/uploads/",
        "/media",
        "/media/",
        "/drafts",
        "/drafts/",
        "/draft",
        "/public",
        "/public/",
        "/static",
        "/static/",
        "/images",
        "/images/",
        "/documents",
        "/docs",
        "/blog",
        "/posts",
        "/items",
        "/list",
        "/all",
        "/search",
        "/search?q=a",
        "/preview",
        "/thumbnails",
        "/cache",
        "/api",
        "/api/",
        "/api/v1",
        "/api/assets",
        "/api/files",
        "/api/documents",
        "/graphql",
        "/openapi.json",
        "/swagger.json",
        "/v1",
        "/v1/",
        "/v1/assets",
        "/v1/assets/",
        "/v1/assets/search?q=a",
        "/v1/shares",
        "/v1/models",
        "/v1/files",
        "/v1/receipts",
        "/metrics",
        "/healthz",
        "/health",
        "/status",
        "/server-status",
        "/debug",
        "/admin",
        "/login",
        "/?list-type=2",
        "/?prefix=",
        "/?versions",
        "/bucket",
        "/bucket/",
        "/p",
        "/p/",
        "/publications",
        "/wp-json/wp/v2/posts",
        "/wp-content/uploads/",
        "/.well-known/security.txt",
        "/%2e%2e/",
        "/..%2f..%2fetc%2fpasswd",
        "/~root/",
        "/v1/assets/1",
        "/assets/1",
        "/files/1",
        "/drafts/1",
        "/posts/1",
        "/p/1",
        "/thumbnails/1",
        "/v1/assets/search?q=draft",
        "/v1/assets?limit=1",
        "/v1/assets.json",
        "//v1/assets",
        "/V1/assets",
        "/v1/./assets",
    ]
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `headers` are lower-case names with values; `seconds` until the whole was there."""

    method: str
    path: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    seconds: float


class Visitor:
    """One connection to one server on loopback, opened again when it was closed."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "http" or parts.hostname not in LOOPBACK or parts.username:
            raise MythosError(
                f"{base_url[:80]} is not an http address on loopback", "for example http://127.0.0.1:8055"
            )
        self.base = f"http://{parts.netloc}"
        self.under = parts.path.rstrip("/")
        self._place = parts.hostname, parts.port or 80
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer | None:
        """One answer; None when there is none (the server is gone, or closes the connection)."""
        for again in (False, True):
            fresh = self._connection is None
            if self._connection is None:
                self._connection = http.client.HTTPConnection(*self._place, timeout=PATIENCE)
            began = time.perf_counter()
            try:
                self._connection.request(method, path, headers=dict(headers or {}))
                got = self._connection.getresponse()
                body = got.read(BODY)
                if not got.isclosed():
                    self.close()
                taken = time.perf_counter() - began
                pairs = tuple((name.lower(), value) for name, value in got.getheaders())
                return Answer(method, path, got.status, pairs, body, taken)
            except (OSError, http.client.HTTPException, ValueError):
                self.close()
                if fresh or again:
                    return None
        return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def crawl(
    visitor: Visitor, seeds: Iterable[str] = (), most: int = 20_000, seconds: float = 120.0
) -> Iterator[Answer]:
    """Every answer, refusals too, to the guesses, `seeds` and the links between pages that answer."""
    until = time.monotonic() + seconds
    waiting = deque(dict.fromkeys([*(visitor.under + guess for guess in GUESSES), *seeds]))
    seen = set(waiting)
    while waiting and len(seen) <= most and time.monotonic() < until:
        answer = visitor.ask("GET", waiting.popleft())
        if answer is None:
            continue
        yield answer
        for link in links(visitor.base, answer) if answer.status < 400 else ():
            if link not in seen:
                seen.add(link)
                waiting.append(link)


def links(base: str, answer: Answer) -> list[str]:
    """Paths on the same server that an answer leads to."""
    raw = [next(filter(None, groups)) for groups in _LINK.findall(answer.body)]
    raw += _SITEMAP.findall(answer.body) if answer.path.endswith("robots.txt") else []
    raw += [value.encode("latin-1", "replace") for name, value in answer.headers if name == "location"]
    found = []
    for one in raw:
        target = urlsplit(urljoin(base + answer.path, one.decode("utf-8", "replace")))
        if f"{target.scheme}://{target.netloc}" == base:
            path = quote(unquote(target.path or "/"), safe="/:@!$&'()*+,;=~-._")
            found.append(path + (f"?{target.query}" if target.query else ""))
    return found
