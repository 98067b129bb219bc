"""The public area: a listener of its own, without keys, for what is published and nothing else.

Whether an object may be read is asked of the signed records at every request, not of the directory. It
answers with the whole object or with the one 404: no ranges, no conditions, no list, no query.

Each answer is written down before its first byte goes out, with a tag of the caller's address: HMAC-SHA-256
under a key that dies with the listener, so that addresses can be counted and not read.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from mythos.records.canonical import parse
from mythos.records.clock import Clock
from mythos.records.errors import MythosError
from mythos.records.ids import new_id
from mythos.records.principal import LOCAL_ORG, Principal
from mythos.serve.errors import ApiError, Dialect, envelope
from mythos.serve.place import check_place
from mythos.serve.recorder import Recorder
from mythos.serve.vault_front import HEADERS, not_found
from mythos.store.db import Store
from mythos.vault.counting import PUBLIC_READ
from mythos.vault.publications import public_now

PIECE = 1 << 20
PUBLIC = Principal("public", "service", LOCAL_ORG)  # the listener, in whose name its readers are entered
Written = Callable[[Scope, str, int], Awaitable[None]]
_PATH = re.compile(r"/p/(pub_[A-Za-z0-9]{22})(/record)?")


def create_public_app(store: Store, clock: Clock) -> ASGIApp:
    """The application of the public area. It needs no key of the vault."""
    recorder, key = Recorder(store, clock), secrets.token_bytes(32)

    def tag(scope: Scope) -> str:
        address = str((scope.get("client") or ("",))[0])
        return hmac.new(key, address.encode(), hashlib.sha256).hexdigest()[:16]

    async def written(scope: Scope, publication: str, size: int) -> None:
        facts = {"publication": publication, "address": tag(scope), "method": scope["method"], "bytes": size}
        done = recorder.attempt(PUBLIC, PUBLIC_READ, "answered", **facts)
        if done is not None:
            await asyncio.wrap_future(done)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send, recorder)
        if scope["type"] != "http":
            return
        try:
            headers = dict(reversed(scope["headers"]))
            check_place(headers, scope)
            await _serve(store, clock, scope, send, written)
        except (ApiError, MythosError, OSError) as error:  # unknown means no
            refusal = error if isinstance(error, ApiError) else not_found()
            body = envelope(refusal, Dialect.OPENAI, "")
            await _start(send, refusal.status, b"application/json", len(body))
            body = b"" if scope["method"] == "HEAD" else body
            await send({"type": "http.response.body", "body": body})

    return app


async def _serve(store: Store, clock: Clock, scope: Scope, send: Send, written: Written) -> None:
    found = _PATH.fullmatch(scope["path"])
    if scope.get("raw_path", b"") != scope["path"].encode():  # one address, written in one way
        found = None
    if found is None or scope["query_string"] or scope["method"] not in ("GET", "HEAD"):
        raise not_found()
    place = await run_in_threadpool(public_now, store, clock, found.group(1))
    if place is None:
        raise not_found()
    record = await run_in_threadpool((place / "record.json").read_bytes)
    media = b"application/json" if found.group(2) else parse(record)["media"].encode()
    file: Path = place / ("record.json" if found.group(2) else "content")
    with await run_in_threadpool(open, file, "rb") as source:
        size = file.stat().st_size
        await written(scope, found.group(1), size if scope["method"] == "GET" else 0)
        await _start(send, 200, media, size)
        if scope["method"] == "GET":
            while piece := await run_in_threadpool(source.read, PIECE):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _start(send: Send, status: int, media: bytes, size: int) -> None:
    headers = [(b"content-type", media), (b"content-length", b"%d" % size)]
    headers += [(b"request-id", new_id("req").encode()), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _lifespan(receive: Receive, send: Send, recorder: Recorder) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await run_in_threadpool(recorder.close)
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
