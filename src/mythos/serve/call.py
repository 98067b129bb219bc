"""One request on its way through the server, and how to answer it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from mythos.records.principal import Principal
from mythos.serve.asked import Asked
from mythos.serve.body import INLINE, read_json
from mythos.serve.errors import Dialect, bad, clean
from mythos.serve.fields import query_fields
from mythos.serve.service import Service

# Where gateways are told a model. Only the body, or the path, is obeyed here; nothing may contradict it.
MODEL_HEADERS = ("model", "x-model", "x-model-id", "anthropic-model", "openai-model", "mythos-model")
_HEADER_BYTES = 1_000  # of the names listed in one of our headers
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/[]=")


@dataclass(slots=True, eq=False)
class Call:
    """`headers` hold the first value of each name; `anthropic-beta` all of them, joined.

    `principal` is set before any handler runs. `noted` are response headers a handler adds on its way.
    """

    service: Service
    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    request_id: str
    receipt: str
    dialect: Dialect
    began: float  # seconds, monotonic
    principal: Principal | None = None
    noted: list[tuple[bytes, bytes]] = field(default_factory=list)
    action: str = ""  # what the attempt is called in the ledger
    recorded: bool = False  # the handler has written its attempt down
    started: bool = False  # the response has begun
    status: int = 0

    @property
    def caller(self) -> Principal:
        if self.principal is None:
            raise PermissionError("no handler runs without a principal")
        return self.principal

    def header(self, name: str) -> str:
        return self.headers.get(name.encode(), b"").decode("latin-1")

    def one_model(self, name: str) -> None:
        """ApiError 400 when query or headers name another model than `name`, whichever of them exists."""
        fields = query_fields(self.query)
        named = [self.header(header) for header in MODEL_HEADERS if header.encode() in self.headers]
        if any(other != name for other in [*fields.get("model", []), *named]):
            raise bad("model", "query or headers name another model", code="AMBIGUOUS_MODEL")

    def note(self, header: str, names: list[str]) -> None:
        """Name things in one of our headers, bounded and harmless whatever the caller wrote."""
        value = _listed(names)
        if value:
            self.noted.append((header.encode(), value))

    async def read(self, receive: Receive, check: Callable[[dict[str, Any]], Asked]) -> Asked:
        """The request in the body. `check` runs off the event loop when the body is large."""
        body, size = await read_json(receive, self.headers, self.service.settings)
        return check(body) if size <= INLINE else await asyncio.to_thread(check, body)


def _listed(names: list[str]) -> bytes:
    out: list[str] = []
    size = 0
    seen: set[str] = set()
    for index, name in enumerate(names):
        plain = "".join(c if c in _PLAIN else "?" for c in clean(name, 64))
        if not plain or plain in seen:
            continue
        if size + len(plain) > _HEADER_BYTES:
            out.append(f"+{len(names) - index} more")
            break
        seen.add(plain)
        out.append(plain)
        size += len(plain) + 2
    return ", ".join(out).encode("ascii")


def call_of(scope: Scope) -> Call:
    """The Call that the front layer has put into a scope."""
    return scope["mythos"]


async def respond(
    send: Send, status: int, body: bytes, content_type: bytes = b"application/json", *, head: bool = False
) -> None:
    """A whole response."""
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})
