"""The application: every endpoint, behind the front layer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import unquote

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mythos.records.permit import Action, Refusal
from mythos.records.principal import is_operator
from mythos.serve import chat_out, messages_out
from mythos.serve.answer import begin, note_betas, prepare, refused
from mythos.serve.asked import Asked
from mythos.serve.call import Call, call_of, respond
from mythos.serve.chat_in import read_chat
from mythos.serve.errors import ApiError, Dialect
from mythos.serve.front import Front
from mythos.serve.messages_in import read_messages, wire_version
from mythos.serve.metrics import CONTENT_TYPE
from mythos.serve.models import anthropic_model, anthropic_page, openai_model, openai_page, page_of
from mythos.serve.openapi import document
from mythos.serve.receipts import receipt_for
from mythos.serve.service import Service

Handler = Callable[[Call, Receive, Send], Awaitable[None]]

SAMPLING_ATTRIBUTE = "sampling"  # a key with sampling=allowed may send sampling fields under any version


def create_app(service: Service, aliases: Mapping[str, str] | None = None) -> FastAPI:
    """The HTTP surface of `service`. `aliases` map further model names to tiers."""
    service.aliases = dict(aliases or {})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(service.watch.run())
        yield
        watching.cancel()
        await asyncio.wait({watching})
        service.close()

    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error},
    )
    app.router.routes.extend(
        Route(path, _Endpoint(handler), methods=[method]) for method, path, handler in ENDPOINTS
    )
    app.add_middleware(Front, service=service)
    return app


class _Endpoint:
    """A handler as an ASGI application of its own: nothing stands between it and the client."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler(call_of(scope), receive, send)


async def _http_error(request: HttpRequest, error: Exception) -> Response:
    """What the router says (no such path, wrong method), for the front layer to put into the envelope."""
    if not isinstance(error, HTTPException):
        raise error
    allow = (error.headers or {}).get("Allow", "")
    if error.status_code == 405:
        raise ApiError(405, "Method Not Allowed", headers={"allow": allow})
    raise ApiError(error.status_code, "Not found", code="not_found")


async def _messages(call: Call, receive: Receive, send: Send) -> None:
    call.action = "answer"
    asked = await _read_messages(call, receive, counting=False)
    note_betas(call, asked)
    answer = await begin(call, asked)
    out = messages_out.answer_stream if asked.stream else messages_out.answer_whole
    await out(answer, receive, send)


async def _read_messages(call: Call, receive: Receive, counting: bool) -> Asked:
    version, strict = _version(call), call.service.settings.strict
    allowed = call.caller.attributes.get(SAMPLING_ATTRIBUTE) == "allowed"
    asked = await call.read(receive, lambda body: read_messages(body, version, strict, counting, allowed))
    call.one_model(asked.model)
    return asked


async def _count_tokens(call: Call, receive: Receive, send: Send) -> None:
    call.action = "count"
    asked = await _read_messages(call, receive, counting=True)
    note_betas(call, asked)
    ready = await prepare(call, asked, Action.COUNT)
    call.note("mythos-ignored", asked.ignored)
    await respond(send, 200, orjson.dumps({"input_tokens": len(ready.prompt)}))


async def _chat(call: Call, receive: Receive, send: Send) -> None:
    call.action = "answer"
    asked = await call.read(receive, lambda body: read_chat(body, call.service.settings.strict))
    call.one_model(asked.model)
    answer = await begin(call, asked)
    out = chat_out.answer_stream if asked.stream else chat_out.answer_whole
    await out(answer, receive, send)


async def _models(call: Call, receive: Receive, send: Send) -> None:
    call.action = "list"
    if call.dialect is Dialect.ANTHROPIC:
        _version(call)
    tiers, rows = await asyncio.to_thread(call.service.tiers_for, call.caller)
    dated = [(tier, rows[tier.root].created if tier.root in rows else 0.0) for tier in tiers]
    page = page_of(dated, call.query)
    call.note("mythos-ignored", page.unknown)
    shape = openai_page if call.dialect is Dialect.OPENAI else anthropic_page
    await respond(send, 200, orjson.dumps(shape(page)), head=call.method == "HEAD")


async def _model(call: Call, receive: Receive, send: Send) -> None:
    call.action = "know"
    if call.dialect is Dialect.ANTHROPIC:
        _version(call)
    given = unquote(call.path.removeprefix("/v1/models/"))
    call.one_model(given)
    name = call.service.aliases.get(given, given)
    decided = await asyncio.to_thread(call.service.decide, call.caller, Action.KNOW, name)
    if isinstance(decided, Refusal):
        raise refused(decided, given)
    if given != name:
        call.note("mythos-alias", [given])
    _, rows = await asyncio.to_thread(call.service.tiers_for, call.caller)
    created = rows[decided.root].created if decided.root in rows else 0.0
    shape = openai_model if call.dialect is Dialect.OPENAI else anthropic_model
    body = orjson.dumps(shape(call.service.tier(decided), created))
    await respond(send, 200, body, head=call.method == "HEAD")


async def _receipt(call: Call, receive: Receive, send: Send) -> None:
    call.action = "receipt"
    given = unquote(call.path.removeprefix("/v1/receipts/"))
    found = await asyncio.to_thread(receipt_for, call.service, call.caller, given)
    if found is None:
        raise ApiError(404, "Not found", code="not_found")
    await respond(send, 200, found, head=call.method == "HEAD")


async def _metrics(call: Call, receive: Receive, send: Send) -> None:
    call.action = "metrics"
    if not is_operator(call.caller):
        raise ApiError(404, "Not found", code="not_found")
    page = call.service.metrics.page(call.service.engine.stats())
    await respond(send, 200, page, CONTENT_TYPE.encode(), head=call.method == "HEAD")


async def _openapi(call: Call, receive: Receive, send: Send) -> None:
    call.action = "openapi"
    await respond(send, 200, orjson.dumps(document()), head=call.method == "HEAD")


def _version(call: Call) -> str:
    return wire_version(call.header("anthropic-version"), call.service.settings.require_version)


ENDPOINTS: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v1/messages", _messages),
    ("POST", "/v1/messages/count_tokens", _count_tokens),
    ("POST", "/v1/chat/completions", _chat),
    ("GET", "/v1/models", _models),
    ("GET", "/v1/models/{model_id:path}", _model),
    ("GET", "/v1/receipts/{receipt_id}", _receipt),
    ("GET", "/metrics", _metrics),
    ("GET", "/openapi.json", _openapi),
)
