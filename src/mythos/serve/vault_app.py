"""The application for assets: list, search, read, upload, share. Behind `VaultFront`, on its own listener."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mythos.records.asset import AssetAction, Kind, Retention
from mythos.records.principal import Principal
from mythos.serve.body import parse_object
from mythos.serve.errors import ApiError, ClientGone
from mythos.serve.fields import query_fields
from mythos.serve.vault_front import VaultFront, VaultService, not_found, respond
from mythos.vault.assets import (
    Entry,
    Reading,
    delete_asset,
    list_assets,
    look_at,
    put_asset,
    put_version,
    read_asset,
    require_served,
    show_asset,
)
from mythos.vault.search import search_assets
from mythos.vault.shares import readers_of, revoke_share, share_asset

IDLE_SECONDS = 30.0  # that an upload may stand still
BODY_BYTES = 64 << 10  # of a JSON body
OURS = {"mythos-title", "mythos-kind", "mythos-name", "mythos-retention"}
# Where others let an uploader say who may see it: refused, never accepted silently.
ELSEWHERE = re.compile(r"(mythos|x-amz|x-goog|x-ms|x-object)-.*|.*(acl|visib|public|share).*")
SHARE_FIELDS = {"org", "principal", "actions", "expires_at", "starts_at", "parent"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, its caller known."""

    service: VaultService
    principal: Principal
    method: str
    asset: str  # of the path, "" where it has none
    query: bytes
    headers: dict[bytes, bytes]

    @property
    def place(self) -> tuple[Any, Any, Any]:
        """(store, clock, principal), as every function of the vault begins."""
        return self.service.store, self.service.clock, self.principal

    def header(self, name: str) -> str:
        return self.headers.get(name.encode(), b"").decode("latin-1")


Handler = Callable[[Call, Receive, Send], Awaitable[None]]


def create_vault_app(service: VaultService) -> FastAPI:
    """The HTTP surface of a vault."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.recorder.close)

    handlers = {HTTPException: _http_error}
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        exception_handlers=handlers,  # type: ignore[arg-type]
    )
    app.router.routes.extend(Route(path, _Endpoint(table), methods=[*table]) for path, table in ROUTES)
    app.add_middleware(VaultFront, service=service)
    return app


class _Endpoint:
    def __init__(self, table: dict[str, Handler]) -> None:
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, principal, headers = scope["mythos"]
        asset = scope.get("path_params", {}).get("id", "")
        method = scope["method"]
        call = Call(service, principal, method, asset, scope["query_string"], headers)
        await self._table.get(method, self._table.get("GET", _missing))(call, receive, send)


async def _missing(call: Call, receive: Receive, send: Send) -> None:
    raise not_found()


async def _http_error(request: Request, error: Exception) -> Response:
    """No such path, or no such method there: one answer."""
    raise not_found()


async def _list(call: Call, receive: Receive, send: Send) -> None:
    given = _query(call, {"limit", "after", "kind"})
    kind = _word(Kind, given["kind"], "kind") if "kind" in given else None
    found = await run_in_threadpool(list_assets, *call.place, _limit(given), given.get("after", ""), kind)
    await respond(send, 200, _page(found), call.method == "HEAD")


async def _search(call: Call, receive: Receive, send: Send) -> None:
    given = _query(call, {"q", "limit"})
    found = await run_in_threadpool(search_assets, *call.place, given.get("q", ""), _limit(given))
    await respond(send, 200, _page(found), call.method == "HEAD")


async def _add(call: Call, receive: Receive, send: Send) -> None:
    _no_elsewhere(call)
    title, kind = _text(call, "mythos-title"), _word(Kind, call.header("mythos-kind"), "mythos-kind")
    kept = call.header("mythos-retention")
    retention = _word(Retention, kept, "mythos-retention") if kept else None
    media = call.header("content-type").lower() or "application/octet-stream"
    await run_in_threadpool(require_served, *call.place, "asset.add")
    name = _text(call, "mythos-name")

    def put(chunks: Iterator[bytes]) -> Any:
        return put_asset(*call.place, chunks, title, kind, name, media, retention)

    asset = await _uploaded(receive, put)
    await respond(send, 201, {"id": asset.id, "version": asset.version, "size": asset.size})


async def _replace(call: Call, receive: Receive, send: Send) -> None:
    _no_elsewhere(call)
    title = _text(call, "mythos-title")
    number = await _uploaded(receive, lambda chunks: put_version(*call.place, call.asset, chunks, title))
    await respond(send, 200, {"id": call.asset, "version": number})


async def read_content(call: Call, receive: Receive, send: Send) -> None:
    """Content, with ranges and conditions. Nothing of them is looked at before leave is given."""
    given = _query(call, {"version"})
    version = int(given["version"]) if given.get("version", "").isdigit() else None
    if "version" in given and version is None:
        raise not_found()
    looked = await run_in_threadpool(look_at, *call.place, call.asset, "asset.read", version)
    entry, number, size = looked
    tag = f'"{entry.tag}"' if number == entry.asset.version else f'"v{number}"'
    about = [(b"etag", tag.encode()), (b"accept-ranges", b"bytes"), attachment(entry.about.name)]
    if call.header("if-match") and not _matches(call.header("if-match"), tag):
        raise ApiError(412, "it has changed", code="changed")
    status, start, end = 200, 0, size
    wanted = call.header("range")
    if _matches(call.header("if-none-match"), tag):
        status = 304
    elif wanted and (not call.header("if-range") or call.header("if-range") == tag):
        span = _range(wanted, size)
        if span == ():
            raise ApiError(416, "no such range", code="range", headers={"content-range": f"bytes */{size}"})
        if span:
            status, (start, end) = 206, span
            about.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, size)))
    if status != 304:
        about += [(b"content-type", entry.about.media.encode()), (b"content-length", b"%d" % (end - start))]
    bare = call.method == "HEAD" or status == 304
    reading = await run_in_threadpool(read_asset, *call.place, call.asset, number, start, end, bare)
    await send({"type": "http.response.start", "status": status, "headers": about})
    await _stream(reading, send)


async def _about(call: Call, receive: Receive, send: Send) -> None:
    entry = await run_in_threadpool(show_asset, *call.place, call.asset)
    shown = _shown(entry)
    if entry.mine:
        readers = await run_in_threadpool(readers_of, *call.place, call.asset)
        shown["readers"] = [{name: getattr(one, name) for name in one.__slots__} for one in readers]
    await respond(send, 200, shown, call.method == "HEAD")


async def _preview(call: Call, receive: Receive, send: Send) -> None:
    entry = await run_in_threadpool(show_asset, *call.place, call.asset)
    await respond(send, 200, {"id": entry.asset.id, "preview": entry.about.preview}, call.method == "HEAD")


async def _delete(call: Call, receive: Receive, send: Send) -> None:
    await run_in_threadpool(delete_asset, *call.place, call.asset)
    await respond(send, 200, {"id": call.asset, "deleted": True})


async def _share(call: Call, receive: Receive, send: Send) -> None:
    body = parse_object(await _small(receive), 8)
    if unknown := set(body) - SHARE_FIELDS:
        raise ApiError(400, f"unknown field {sorted(unknown)[0][:40]!r}", code="FIELD_NOT_ALLOWED")
    try:
        actions = tuple(AssetAction(word) for word in body.get("actions", ["read"]))
        org, who = str(body["org"]), str(body.get("principal", ""))
        starts = None if "starts_at" not in body else float(body["starts_at"])
        ends, parent = float(body["expires_at"]), str(body.get("parent", ""))
    except (KeyError, ValueError, TypeError):
        raise ApiError(400, "org and expires_at (POSIX seconds) are required", code="bad_field") from None

    def share() -> Any:
        return share_asset(*call.place, call.asset, org, ends, who, actions, starts, parent)

    made = await run_in_threadpool(share)
    await respond(send, 201, {"id": made.id, "expires_at": made.expires_at})


async def _revoke(call: Call, receive: Receive, send: Send) -> None:
    await run_in_threadpool(revoke_share, *call.place, call.asset)
    await respond(send, 200, {"id": call.asset, "revoked": True})


def _page(found: list[Entry]) -> dict[str, Any]:
    return {"assets": [_shown(entry) for entry in found], "after": found[-1].asset.id if found else None}


def _shown(entry: Entry) -> dict[str, Any]:
    asset = entry.asset
    return {
        "id": asset.id,
        "title": entry.about.title,
        "name": entry.about.name,
        "kind": str(asset.kind),
        "media": entry.about.media,
        "preview": entry.about.preview,
        "size": asset.size,
        "version": asset.version,
        "tag": entry.tag,
        "created": asset.created,
        "changed": entry.changed,
        "retention": str(asset.retention),
        "held": asset.held if entry.mine else None,
        "mine": entry.mine,
    }


async def _stream(reading: Reading, send: Send) -> None:
    """One part at a time: neither more is decrypted nor held than the client takes."""
    chunks = reading.chunks
    while (chunk := await run_in_threadpool(next, chunks, None)) is not None:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _uploaded(receive: Receive, put: Callable[[Iterator[bytes]], T]) -> T:
    """Run `put` in a thread over the body as it comes: only one piece of it is in memory."""
    loop = asyncio.get_running_loop()

    def chunks() -> Iterator[bytes]:
        while True:
            coming = asyncio.run_coroutine_threadsafe(_next(receive), loop)
            data, more = coming.result()
            if data:
                yield data
            if not more:
                return

    return await run_in_threadpool(put, chunks())


async def _next(receive: Receive) -> tuple[bytes, bool]:
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            message = await receive()
    except TimeoutError:
        raise ApiError(408, "the upload stands still", code="request_body_timeout") from None
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)


async def _small(receive: Receive) -> bytes:
    body = b""
    more = True
    while more:
        data, more = await _next(receive)
        body += data
        if len(body) > BODY_BYTES:
            raise ApiError(413, "the body is too large", code="request_too_large")
    return body


def attachment(name: str) -> tuple[bytes, bytes]:
    """The header that has a browser save an answer, never show it (RFC 6266); `name` "" for none."""
    named = f"; filename*=UTF-8''{quote(name, safe='')}" if name.strip(". ") else ""
    return b"content-disposition", f"attachment{named}".encode()


def _no_elsewhere(call: Call) -> None:
    """ApiError for any field by which an upload could say that others may see it: there is no such thing."""
    names = [name.decode("latin-1") for name in call.headers]
    wrong = [name for name in names if ELSEWHERE.fullmatch(name) and name not in OURS]
    if wrong or call.query:
        message = f"{wrong[0][:60]!r} is not a field of an upload" if wrong else "an upload takes no query"
        raise ApiError(400, message, code="FIELD_NOT_ALLOWED")


def _query(call: Call, known: set[str]) -> dict[str, str]:
    fields = query_fields(call.query)
    if unknown := set(fields) - known:
        raise ApiError(400, f"unknown field {sorted(unknown)[0][:40]!r}", code="FIELD_NOT_ALLOWED")
    return {name: unquote(values[0]) if name != "q" else values[0] for name, values in fields.items()}


def _limit(given: dict[str, str]) -> int:
    text = given.get("limit", "50")
    if not text.isdigit() or len(text) > 4:
        raise ApiError(400, "limit is a number", code="bad_field")
    return int(text)


def _text(call: Call, name: str) -> str:
    """A header that carries text, percent-encoded UTF-8."""
    try:
        return unquote(call.header(name), errors="strict")
    except UnicodeDecodeError:
        raise ApiError(400, f"{name} is percent-encoded UTF-8", code="bad_field") from None


E = TypeVar("E", bound=StrEnum)


def _word(kind: type[E], value: str, where: str) -> E:
    try:
        return kind(value)
    except ValueError:
        raise ApiError(400, f"{where} is one of {', '.join(kind)}", code="bad_field") from None


def _matches(header: str, tag: str) -> bool:
    return bool(header) and (header.strip() == "*" or tag in [one.strip() for one in header.split(",")])


def _range(header: str, size: int) -> tuple[int, int] | tuple[()] | None:
    """[start, end) of a single byte range (RFC 9110, 14.1.2); () when unsatisfiable, None when not one."""
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
    if not found or found.group(0) == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        length = int(last)
        return (max(0, size - length), size) if length and size else ()
    start = int(first)
    end = min(size, int(last) + 1) if last else size
    if last and int(last) < start:
        return None
    return (start, end) if start < size else ()


ROUTES: tuple[tuple[str, dict[str, Handler]], ...] = (
    ("/v1/assets", {"GET": _list, "HEAD": _list, "POST": _add}),
    ("/v1/assets/search", {"GET": _search, "HEAD": _search}),
    ("/v1/assets/{id}", {"GET": read_content, "HEAD": read_content, "PUT": _replace, "DELETE": _delete}),
    ("/v1/assets/{id}/about", {"GET": _about, "HEAD": _about}),
    ("/v1/assets/{id}/preview", {"GET": _preview, "HEAD": _preview}),
    ("/v1/assets/{id}/shares", {"POST": _share}),
    ("/v1/shares/{id}", {"DELETE": _revoke}),
)
