"""The exposure audit: what an outsider gets to see of this deployment, or of another store on loopback.

It looks for a canary of its own, which it plants in a public place that it makes for the run, with the same
means as for all else: a run that misses the canary is void.
"""

import contextlib
import functools
import http.server
import re
import secrets
import statistics
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mythos.vault.crawl import Answer, Visitor, crawl

TRIES = 25  # for one median
ROUNDS = 2  # of medians that must all lie apart: a busy moment is no finding
FOREIGN_HOST = {"Host": "rebound.example"}  # what a page elsewhere sends when its name leads here
SLOWER = 0.005  # seconds; below it, or below three times the noise, two medians are alike
# What asks for the same thing in another way: a part, a condition, another method, a header that some obey.
WAYS: tuple[tuple[str, dict[str, str]], ...] = (
    ("GET", {}),
    ("HEAD", {}),
    ("GET", {"Range": "bytes=0-0"}),
    ("GET", {"Range": "bytes=-1"}),
    ("GET", {"If-None-Match": "*"}),
    ("GET", {"If-Modified-Since": "Thu, 01 Jan 2026 00:00:00 GMT"}),
    ("GET", {"If-Match": '"x"'}),
    ("OPTIONS", {}),
    ("POST", {"Content-Length": "0", "X-HTTP-Method-Override": "GET"}),
    ("PUT", {"Content-Length": "0"}),
    ("DELETE", {}),
    ("GET", {"X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/", "X-Forwarded-User": "admin"}),
    ("GET", {"Accept": "image/*"}),
)
_PARTS = re.compile(r"[^\w%-]+")
_RANDOM = re.compile(r"\b(req|rcpt)_[A-Za-z0-9]{22}\b")
_TIMES = {"date", "last-modified", "age", "expires", "retry-after"}


@dataclass(frozen=True, slots=True)
class Target:
    """A listener. `known` are paths of things that exist and are private, each with that of a made-up twin.

    `also` are more of them, asked for in the plain way only; `tags` the entity tags that some of `known` have
    for those who may read them. `allowed` are the paths that may answer without a key, and with what.
    `stranger` is a key that may see nothing, "" for none: with it an answer is no finding, but what it names,
    and how it differs, is; `empty` are lists, with what they say to whom they show nothing. `ours`: no answer
    may be kept by a cache, read by pages of other origins, or given to a foreign Host.
    """

    name: str
    base_url: str
    known: tuple[tuple[str, str], ...] = ()
    also: tuple[tuple[str, str], ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    allowed: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    stranger: str = ""
    empty: Mapping[str, bytes] = field(default_factory=dict)
    seeds: tuple[str, ...] = ()
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """`what`: answers | names | differs | times | header | file | stray."""

    target: str
    what: str
    method: str
    path: str
    detail: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """`void`: the canary was missed, so that nothing that was not found means anything."""

    void: bool
    canary: tuple[str, ...]  # how it was found
    targets: tuple[str, ...]
    requests: int
    findings: tuple[Finding, ...]
    unreachable: tuple[str, ...]


def audit_exposure(targets: Sequence[Target], names: Sequence[str], timing: bool = True) -> AuditReport:
    """Visit every target without a key (and with a stranger's), looking for anything of `names` as well.

    `names` are texts that no answer may hold: titles, ids, phrases.
    """
    findings: list[Finding] = []
    unreachable: list[str] = []
    requests = 0
    with planted() as (base_url, path, token):
        bait = Target("canary", base_url, ((path, path + secrets.token_hex(4)),))
        caught = [f for f in _visited(bait, [token], timing=False)[0] if f.target == "canary"]
        canary = tuple(sorted({f.what for f in caught}))
    for target in targets:
        found, count = _visited(target, names, timing)
        findings += found
        requests += count
        if not count:
            unreachable.append(target.name)
    void = not {"answers", "names", "differs"} <= set(canary)
    listed = tuple(target.name for target in targets)
    return AuditReport(void, canary, listed, requests, tuple(findings), tuple(unreachable))


@contextlib.contextmanager
def planted() -> Iterator[tuple[str, str, str]]:
    """A public place with one thing in it: base URL, path and token. Gone when the block ends."""
    token = f"canary-{secrets.token_hex(16)}"
    with tempfile.TemporaryDirectory(prefix="mythos-canary-") as place:
        path = Path(place) / "drafts" / f"{secrets.token_hex(8)}.txt"
        path.parent.mkdir()
        path.write_text(f"Nothing but {token}.\n")
        handler = functools.partial(_Quiet, directory=place)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                base_url = f"http://127.0.0.1:{server.server_port}"
                yield base_url, f"/drafts/{path.name}", token
            finally:
                server.shutdown()
                thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass(slots=True)
class _Visit:
    """One target while it is looked at."""

    target: Target
    visitor: Visitor
    told: "_Names"
    findings: list[Finding] = field(default_factory=list)
    answered: int = 0

    def ask(self, method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
        got = self.visitor.ask(method, path, headers)
        self.answered += got is not None
        return got

    def note(self, what: str, answer: Answer, detail: str) -> None:
        self.findings.append(Finding(self.target.name, what, answer.method, answer.path[:200], detail[:200]))


def _visited(target: Target, names: Sequence[str], timing: bool) -> tuple[list[Finding], int]:
    """What there is to find, and how many requests were answered."""
    visit = _Visit(target, Visitor(target.base_url), _Names(names))
    for answer in crawl(visit.visitor, target.seeds):
        visit.answered += 1
        _look(visit, answer, key=False)
    for headers in [{}] + ([{"x-api-key": target.stranger}] if target.stranger else []):
        for pair in target.known:
            for method, extra in _ways(target, pair[0]):
                _compare(visit, method, pair, {**headers, **extra}, bool(headers))
        for pair in target.also:
            _compare(visit, "GET", pair, headers, bool(headers))
        if timing and target.known:
            _time(visit, headers)
    for path, body in target.empty.items() if target.stranger else ():
        got = visit.ask("GET", path, {"x-api-key": target.stranger})
        if got is not None:
            _look(visit, got, key=True)
            if got.body != body:
                visit.note("differs", got, "a list says more to who may see nothing than that it is empty")
    for path in ("/", *target.allowed, *(path for path, _ in target.known[:1])) if target.ours else ():
        got = visit.ask("GET", path, FOREIGN_HOST)
        if got is not None and got.status < 400:
            visit.note("answers", got, f"status {got.status} to a foreign Host")
    visit.visitor.close()
    return list(dict.fromkeys(visit.findings)), visit.answered


def _ways(target: Target, path: str) -> Iterator[tuple[str, dict[str, str]]]:
    yield from WAYS
    if tag := target.tags.get(path):  # as one who once could read it knows it
        yield "GET", {"If-None-Match": tag}
        yield "GET", {"If-Match": tag}
        yield "GET", {"If-Range": tag, "Range": "bytes=0-0"}


def _look(visit: _Visit, answer: Answer, key: bool) -> None:
    """What may not be in an answer, whatever was asked for."""
    if visit.target.ours:
        _look_at_headers(visit, answer)
    if answers_allowed(answer, visit.target.allowed):
        return
    if not key and (answer.status < 300 or visit.target.ours and answer.status < 400):
        visit.note("answers", answer, f"status {answer.status}, {len(answer.body)} bytes")
    if visit.told.within(answer):
        visit.note("names", answer, "the answer holds a title, a phrase or an address")


def _look_at_headers(visit: _Visit, answer: Answer) -> None:
    """Each fault once for a target: it is mostly that of every answer."""
    headers = dict(answer.headers)
    faults = []
    kept = headers.get("cache-control", "")
    if "no-store" not in kept:
        faults.append(f"a cache may keep it: cache-control {kept!r}")
    if (origin := headers.get("access-control-allow-origin")) is not None:
        faults.append(f"pages of other origins may read it: access-control-allow-origin {origin!r}")
    for fault in faults:
        if all(finding.detail != fault[:200] for finding in visit.findings):
            visit.note("header", answer, fault)


def _compare(
    visit: _Visit, method: str, pair: tuple[str, str], headers: Mapping[str, str], key: bool
) -> None:
    """Ask for a thing and for its made-up twin: nobody may tell the two answers apart."""
    known, twin = pair
    got, other = visit.ask(method, known, headers), visit.ask(method, twin, headers)
    if got is None and other is None:
        return
    if got is None or other is None:
        one = got or other
        assert one is not None
        visit.note("differs", one, "one of a thing and its made-up twin gets no answer")
        return
    _look(visit, got, key)
    if blurred(got, pair) != blurred(other, pair) and not answers_allowed(got, visit.target.allowed):
        visit.note("differs", got, f"{got.status} against {other.status} for a made-up name")


def answers_allowed(answer: Answer, allowed: Mapping[str, tuple[bytes, ...]]) -> bool:
    return answer.status < 400 and answer.body in allowed.get(answer.path, ())


def blurred(answer: Answer, pair: tuple[str, str]) -> tuple:
    """All that an outsider sees of an answer but its time, its random ids and the name they asked for."""
    names = sorted((name for path in pair for name in _own_words(*pair, path)), key=len, reverse=True)

    def without(text: str) -> str:
        text = _RANDOM.sub("ID", text)
        for name in names:
            text = text.replace(name, "NAME")
        return text

    counted = _TIMES | {n for n, _ in answer.headers if "ratelimit" in n}  # one less with each question
    headers = sorted((n, without(v)) for n, v in answer.headers if n not in counted)
    return answer.status, headers, without(answer.body.decode("latin-1"))


def _own_words(known: str, twin: str, path: str) -> list[str]:
    """The parts of `path`, one of the two, that the other does not have."""
    both = set(_PARTS.split(known)) & set(_PARTS.split(twin))
    return [part for part in _PARTS.split(path) if part and part not in both]


def _time(visit: _Visit, headers: Mapping[str, str]) -> None:
    """Median times of one known path against its twin, by the noise between two made-up ones; interleaved."""
    known, twin = visit.target.known[0]
    third = twin[:-1] + ("A" if twin[-1] != "A" else "B")
    told = ""
    last: Answer | None = None
    for _ in range(ROUNDS):
        times: dict[str, list[float]] = {known: [], twin: [], third: []}
        for _ in range(TRIES):
            for path, taken in times.items():
                got = visit.ask("GET", path, headers)
                if got is None:
                    return
                taken.append(got.seconds)
                last = got if path == known else last
        middle = {path: statistics.median(taken) for path, taken in times.items()}
        noise = abs(middle[twin] - middle[third])
        apart = abs(middle[known] - statistics.mean((middle[twin], middle[third])))
        if apart <= max(SLOWER, 3 * noise):
            return
        told = f"{apart * 1e3:.1f} ms apart from a made-up name, noise {noise * 1e3:.1f} ms"
    if last is not None:
        visit.note("times", last, told)


class _Names:
    """Texts that no answer may hold, searched for in one go."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = sorted({name for name in names if len(name) >= 6}, key=len, reverse=True)

    def within(self, answer: Answer) -> bool:
        """Whether the answer holds one of them that was not in the question."""
        text = answer.body.decode("utf-8", "replace") + "\n" + "\n".join(v for _, v in answer.headers)
        return any(name in text and name not in answer.path for name in self._names)
