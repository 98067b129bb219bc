"""The first layer of every request: ids, where it comes from, who it is; all before a body is read.

Loopback is no boundary: a page in the user's browser can reach it, under any name that resolves here. So the
Host must be one of our names with our port, a browser's Origin must be that same place, and a key is always
required.
"""

import asyncio
import contextlib
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mythos.records.clock import ClockError
from mythos.records.errors import MythosError
from mythos.records.ids import new_id
from mythos.serve.call import Call, respond
from mythos.serve.errors import ApiError, ClientGone, Dialect, envelope
from mythos.serve.place import check_place, credential
from mythos.serve.service import Service
from mythos.store.db import StoreError

log = logging.getLogger("mythos.serve")

OPENAI_PATHS = (
    "/v1/chat/",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/audio/",
    "/v1/images/",
)
PUBLIC = {("HEAD", "/"), ("HEAD", "/api/hello"), ("GET", "/healthz"), ("HEAD", "/healthz")}
_LINGER_SECONDS = 2.0  # for a refused body, so that its sender sees the refusal and not a reset
_LINGER_BYTES = 64 * 2**20


class Front:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets here
            return
        call = _call(self.service, scope)
        scope["mythos"] = call

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.started = True
                call.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *_headers(call)]}
            await send(message)

        try:
            await self._serve(call, scope, receive, answer)
        except ClientGone:
            call.status = 499
        except ApiError as error:
            await _refuse(call, error, receive, answer)
        except ClockError as error:
            await _refuse(call, ApiError(503, error.message, code="clock"), receive, answer)
        except StoreError:  # whoever asks, and for whatever: unknown means no
            log.error("%s failed: the records cannot be read", call.request_id)
            await _refuse(call, _unreadable(), receive, answer)
        except Exception as error:
            # The type and place, never the text: it may hold what a caller sent.
            cause = error.message if isinstance(error, MythosError) else type(error).__name__
            log.error("%s failed: %s", call.request_id, cause, exc_info=_bare(error))
            await _refuse(call, ApiError(500, "internal server error"), receive, answer)
        finally:
            _finish(call)

    async def _serve(self, call: Call, scope: Scope, receive: Receive, answer: Send) -> None:
        check_place(call.headers, scope)
        if self.service.watch.lapsed:
            raise _unreadable()
        if (call.method, call.path) in PUBLIC:
            body = b'{"status":"ok"}' if call.path == "/healthz" else b""
            await respond(answer, 200, body, head=call.method == "HEAD")
            return
        secret = credential(call.headers)
        call.principal = await self.service.principal_for(secret) if secret else None
        if call.principal is None:
            raise _unauthenticated(bool(secret), call.dialect)
        self.service.limits.take_request(call.principal.org)
        await self.app(scope, receive, answer)


def _call(service: Service, scope: Scope) -> Call:
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name == b"anthropic-beta" and name in headers:
            headers[name] += b"," + value
        else:
            headers.setdefault(name, value)
    path = scope["path"]
    if path.startswith(OPENAI_PATHS):
        dialect = Dialect.OPENAI
    elif path == "/v1/models" or path.startswith("/v1/models/"):
        dialect = Dialect.ANTHROPIC if b"anthropic-version" in headers else Dialect.OPENAI
    else:
        dialect = Dialect.ANTHROPIC
    return Call(
        service=service,
        method=scope["method"],
        path=path,
        query=scope["query_string"],
        headers=headers,
        request_id=new_id("req"),
        receipt=new_id("rcpt"),
        dialect=dialect,
        began=time.monotonic(),
    )


def _unreadable() -> ApiError:
    message = "the server cannot read its records and answers nobody until it can"
    return ApiError(503, message, code="records_unreadable", headers={"retry-after": "5"})


def _unauthenticated(given: bool, dialect: Dialect) -> ApiError:
    if given:
        message = "invalid x-api-key" if dialect is Dialect.ANTHROPIC else "Incorrect API key provided."
    else:
        message = "a key is required: send x-api-key or Authorization: Bearer (`mythos env` prints one)"
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _headers(call: Call) -> list[tuple[bytes, bytes]]:
    """What every response carries."""
    request_id = call.request_id.encode()
    headers = [
        (b"request-id", request_id),
        (b"x-request-id", request_id),
        (b"mythos-receipt", call.receipt.encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *call.noted,
    ]
    if call.principal is not None:
        headers += call.service.limits.headers(call.principal.org, call.dialect)
    return headers


async def _refuse(call: Call, error: ApiError, receive: Receive, answer: Send) -> None:
    """Answer with an error, unless an answer has begun: a handler that streams ends its own stream."""
    if call.started:
        return
    _record(call, error)
    body = envelope(error, call.dialect, call.request_id)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
    unread = _has_unread_body(call, error)
    if unread:
        headers.append((b"connection", b"close"))
    await answer(
        {"type": "http.response.start", "status": error.status_for(call.dialect), "headers": headers}
    )
    head = call.method == "HEAD"
    await answer({"type": "http.response.body", "body": b"" if head else body, "more_body": unread})
    if unread:
        await _linger(receive)
        await answer({"type": "http.response.body", "body": b""})


def _has_unread_body(call: Call, error: ApiError) -> bool:
    if error.status in (408, 413):
        return True
    length = call.headers.get(b"content-length", b"0")
    large = not length.isdigit() or int(length[:20]) > 64 * 1024
    return error.status in (401, 403, 404, 405, 421, 429) and (large or b"transfer-encoding" in call.headers)


async def _linger(receive: Receive) -> None:
    """Throw away, within bounds, what the client is still sending."""
    left = _LINGER_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))


def _record(call: Call, error: ApiError | None) -> None:
    """One event for each attempt: the handler's own, or this one."""
    if call.recorded or (call.method, call.path) in PUBLIC:
        return
    call.recorded = True
    outcome = "answered" if error is None else "refused"
    facts = {"receipt": call.receipt, "request": call.request_id}
    if error is not None:
        facts |= {"status": str(error.status), "reason": error.code or ""}
    with contextlib.suppress(ApiError):  # a full queue: the refusal itself still goes out
        call.service.recorder.attempt(call.principal, call.action or "other", outcome, **facts)


def _finish(call: Call) -> None:
    if call.status and call.status < 400:
        _record(call, None)
    surface = call.dialect.value if call.path.startswith("/v1/") else "other"
    call.service.metrics.requests.labels(surface, str(call.status)).inc()


def _bare(error: BaseException) -> BaseException:
    """The same traceback under an exception without text."""
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)
