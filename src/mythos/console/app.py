"""The application: every page by its address, behind `ConsoleFront`, on a listener of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from starlette.concurrency import run_in_threadpool
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from mythos.console import audit, incidents, publications, vault
from mythos.console.front import ConsoleFront, send_answer
from mythos.console.pages import Answer, Visit, lead
from mythos.console.sessions import SessionBook
from mythos.serve.vault_app import Call, attachment, read_content
from mythos.serve.vault_front import VaultService, not_found
from mythos.vault.following import read_request

Handler = Callable[[Visit], Answer]


def create_console_app(service: VaultService, book: SessionBook | None = None) -> ASGIApp:
    """The web console of a deployment; `book` holds its sessions."""

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.recorder.close)

    routes = [Route(path, _Endpoint(table)) for path, table in PAGES]
    routes.append(Route("/vault/{asset}/content", _Bytes(_content)))
    routes.append(Route("/publications/{request}/copy", _Bytes(_copy)))
    router = Router(routes, redirect_slashes=False, default=_missing, lifespan=lifespan)
    return ConsoleFront(router, service, book or SessionBook())


class _Endpoint:
    """The functions of one address as an ASGI application: each runs in a thread and gives a whole answer."""

    def __init__(self, table: dict[str, Handler]) -> None:
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        handler = self._table.get("GET" if method == "HEAD" else method)
        if handler is None:
            raise not_found()
        visit = replace(scope["mythos.visit"], path=scope["path_params"])
        await send_answer(send, await run_in_threadpool(handler, visit), method == "HEAD")


class _Bytes:
    """An address that gives bytes to keep, not a page."""

    def __init__(self, handler: Callable[[Visit, bytes, Receive, Send], Awaitable[None]]) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise not_found()
        visit = replace(scope["mythos.visit"], path=scope["path_params"])
        await self._handler(visit, scope["query_string"], receive, send)


async def _content(visit: Visit, query: bytes, receive: Receive, send: Send) -> None:
    """An asset's bytes, with ranges, as the listener for assets gives them."""
    call = Call(visit.service, visit.principal, visit.method, visit.path["asset"], query, visit.headers)
    await read_content(call, receive, send)


async def _copy(visit: Visit, query: bytes, receive: Receive, send: Send) -> None:
    """The very bytes that are voted on."""
    request = visit.path["request"]
    copy, pieces = await run_in_threadpool(read_request, *visit.place, request, visit.method == "HEAD")
    headers = [(b"content-type", copy.media.encode()), (b"content-length", b"%d" % copy.size)]
    headers.append(attachment(copy.name or request))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while (piece := await run_in_threadpool(next, pieces, None)) is not None:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _missing(scope: Scope, receive: Receive, send: Send) -> None:
    raise not_found()


def _home(visit: Visit) -> Answer:
    return lead(visit, "/vault")


def _up(visit: Visit) -> Answer:
    """Where only forms go, a browser comes back to after signing in: lead it to the page they stand on."""
    part = "vault" if "asset" in visit.path else "publications"
    return lead(visit, f"/{part}/{visit.path.get('asset') or visit.path['request']}")


PAGES: tuple[tuple[str, dict[str, Handler]], ...] = (
    ("/", {"GET": _home}),
    ("/sign-out", {"GET": _home}),
    ("/vault", {"GET": vault.listing}),
    ("/vault/{asset}", {"GET": vault.show}),
    ("/vault/{asset}/shares", {"GET": _up, "POST": vault.share}),
    ("/vault/{asset}/revoke", {"GET": _up, "POST": vault.revoke}),
    ("/vault/{asset}/publish", {"GET": publications.ask, "POST": publications.draft}),
    ("/vault/{asset}/publish/{request}", {"GET": publications.drafted, "POST": publications.request}),
    ("/publications", {"GET": publications.listing}),
    ("/publications/{request}", {"GET": publications.show}),
    ("/publications/{request}/statement", {"GET": _up, "POST": publications.statement}),
    ("/publications/{request}/records", {"GET": _up, "POST": publications.record}),
    ("/publications/{request}/open", {"GET": _up, "POST": publications.open_}),
    ("/audit", {"GET": audit.show}),
    ("/incidents", {"GET": incidents.listing}),
    ("/incidents/{incident}", {"GET": incidents.show}),
    ("/incidents/{incident}/statement", {"GET": incidents.statement}),
)
