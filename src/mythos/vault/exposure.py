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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mythos.vault.crawl import Answer, Visitor, crawl

TRIES = 25  # for one median
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
    ("PUT", {"Content-Length": "0"}),
    ("DELETE", {}),
    ("GET", {"X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/", "X-Forwarded-User": "admin"}),
    ("GET", {"Accept": "image/*"}),
)
_RANDOM = re.compile(r"\b(req|rcpt)_[A-Za-z0-9]{22}\b")
Note = Callable[[str, Answer, str], None]
_TIMES = {"date", "last-modified", "age", "expires", "retry-after"}


@dataclass(frozen=True, slots=True)
class Target:
    """A listener. `known` are paths of things that exist and are private, each with that of a made-up twin.

    `allowed` are the paths that may answer without a key, and with what. `stranger` is a key that may see
    nothing, "" for none: with it an answer is no finding, but what it names, and how it differs, is.
    """

    name: str
    base_url: str
    known: tuple[tuple[str, str], ...] = ()
    allowed: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    stranger: str = ""
    seeds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """`what`: answers | names | differs | times | file | stray."""

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


def _visited(target: Target, names: Sequence[str], timing: bool) -> tuple[list[Finding], int]:
    """What there is to find, and how many requests were answered."""
    visitor, findings, count = Visitor(target.base_url), [], 0
    allowed = target.allowed
    told = _Names(names)

    def note(what: str, answer: Answer, detail: str) -> None:
        findings.append(Finding(target.name, what, answer.method, answer.path[:200], detail[:200]))

    def look(answer: Answer, key: bool) -> None:
        if answers_allowed(answer, allowed):
            return
        if answer.status < 400 and not key:
            note("answers", answer, f"status {answer.status}, {len(answer.body)} bytes")
        if told.within(answer):
            note("names", answer, "the answer holds a title, a phrase or an address")

    for answer in crawl(visitor, target.seeds):
        count += 1
        look(answer, key=False)
    for headers in [{}] + ([{"x-api-key": target.stranger}] if target.stranger else []):
        for known, twin in target.known:
            for method, extra in WAYS:
                got = visitor.ask(method, known, {**headers, **extra})
                other = visitor.ask(method, twin, {**headers, **extra})
                if got is None or other is None:
                    continue
                count += 2
                if blurred(got, known) == blurred(other, twin):
                    if got.status < 400:
                        look(got, bool(headers))
                    continue
                if answers_allowed(got, allowed):
                    continue
                look(got, bool(headers))
                note("differs", got, f"{got.status} against {other.status} for a made-up name")
        if timing and target.known:
            count += _timed(visitor, target, headers, note)
    for path in ("/v1/assets", "/v1/models") if target.stranger else ():
        got = visitor.ask("GET", path, {"x-api-key": target.stranger})
        if got is not None:
            count += 1
            look(got, key=True)
    if not count and visitor.ask("GET", "/") is not None:
        count = 1
    visitor.close()
    return list(dict.fromkeys(findings)), count


def answers_allowed(answer: Answer, allowed: Mapping[str, tuple[bytes, ...]]) -> bool:
    return answer.status < 400 and answer.body in allowed.get(answer.path, ())


def blurred(answer: Answer, name: str) -> tuple:
    """All that an outsider sees of an answer but its time, its random ids and the name they asked for."""
    last = name.rpartition("/")[2]
    headers = sorted((n, _RANDOM.sub("ID", v)) for n, v in answer.headers if n not in _TIMES)
    text = _RANDOM.sub("ID", answer.body.decode("latin-1"))
    return answer.status, str(headers).replace(last, "NAME"), text.replace(last, "NAME")


def _timed(visitor: Visitor, target: Target, headers: dict[str, str], note: Note) -> int:
    """Median times of one known path against its twin, by the noise between two made-up ones; interleaved."""
    known, twin = target.known[0]
    third = twin[:-1] + ("A" if twin[-1] != "A" else "B")
    times: dict[str, list[float]] = {known: [], twin: [], third: []}
    last: Answer | None = None
    for _ in range(TRIES):
        for path, taken in times.items():
            got = visitor.ask("GET", path, headers)
            if got is None:
                return 0
            taken.append(got.seconds)
            last = got if path == known else last
    middle = {path: statistics.median(taken) for path, taken in times.items()}
    noise = abs(middle[twin] - middle[third])
    apart = abs(middle[known] - statistics.mean((middle[twin], middle[third])))
    if last is not None and apart > max(SLOWER, 3 * noise):
        note("times", last, f"{apart * 1e3:.1f} ms apart from a made-up name, noise {noise * 1e3:.1f} ms")
    return TRIES * 3


class _Names:
    """Texts that no answer may hold, searched for in one go."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = sorted({name for name in names if len(name) >= 6}, key=len, reverse=True)

    def within(self, answer: Answer) -> bool:
        """Whether the answer holds one of them that was not in the question."""
        text = answer.body.decode("utf-8", "replace") + "\n" + "\n".join(v for _, v in answer.headers)
        return any(name in text and name not in answer.path for name in self._names)
