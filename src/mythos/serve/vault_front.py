"""The first layer of the listener for assets: place, key, one entry for each attempt, one form of refusal.

Without a key every path gets the same 401. With one, an asset that may not be known, one that does not exist,
and a path that is no route get the same 404, to the byte.
"""

import contextlib
import hashlib
import logging
from dataclasses import dataclass, field

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mythos.records.clock import Clock, ClockError
from mythos.records.errors import MythosError
from mythos.records.ids import new_id
from mythos.records.principal import NotAllowed, Principal
from mythos.serve.errors import ApiError, ClientGone, Dialect, envelope
from mythos.serve.limits import LimitBook
from mythos.serve.place import check_place, credential
from mythos.serve.recorder import Recorder
from mythos.serve.settings import Limits
from mythos.store.db import Store, StoreError
from mythos.store.keys import principal_for_hash, principal_for_secret
from mythos.vault.errors import BadField, NoAsset, NotAllowedHere, OverLimit

log = logging.getLogger("mythos.serve")

REQUESTS = 6_000  # of one organisation in a minute
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


@dataclass(eq=False)
class VaultService:
    """What the listener for assets needs. `session_keys` are SHA-256 (hex) of keys that die with it."""

    store: Store
    clock: Clock
    session_keys: dict[str, Principal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.limits = LimitBook(Limits(requests=REQUESTS))
        self.recorder = Recorder(self.store, self.clock)

    def principal_for(self, secret: str) -> Principal | None:
        """Who holds this credential; None for nobody. Blocks."""
        digest = hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
        return self.session_keys.get(digest) or principal_for_secret(self.store, secret)

    def principal_of(self, digest: bytes) -> Principal | None:
        """As `principal_for`, by the SHA-256 of the credential."""
        return self.session_keys.get(digest.hex()) or principal_for_hash(self.store, digest)


class VaultFront:
    """ASGI middleware around the application for assets."""

    def __init__(self, app: ASGIApp, service: VaultService) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        started = False
        request_id = new_id("req")

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = [(b"request-id", request_id.encode()), *HEADERS]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        try:
            await self._serve(scope, receive, answer)
        except ClientGone:
            pass
        except Exception as error:
            if started:  # an answer that breaks off: the connection ends, its length does not fit
                raise _bare(error) from None
            refusal = as_refusal(error, request_id)
            body = envelope(refusal, Dialect.OPENAI, request_id)
            head = scope["method"] == "HEAD"
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            headers += [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
            await answer({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await answer({"type": "http.response.body", "body": b"" if head else body})

    async def _serve(self, scope: Scope, receive: Receive, answer: Send) -> None:
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, value)
        principal: Principal | None = None
        try:
            check_place(headers, scope)
            if secret := credential(headers):
                principal = await run_in_threadpool(self.service.principal_for, secret)
            if principal is None:
                message = "a key is required: send x-api-key or Authorization: Bearer"
                raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
            self.service.limits.take_request(principal.org)
            scope["mythos"] = (self.service, principal, headers)
            await self.app(scope, receive, answer)
        except ApiError as error:  # refused here or by the router: no function of the vault has seen it
            with contextlib.suppress(ApiError):
                facts = {"status": str(error.status), "reason": error.code or ""}
                self.service.recorder.attempt(principal, "asset.http", "refused", **facts)
            raise


def as_refusal(error: Exception, request_id: str) -> ApiError:
    """What a caller hears of an error. Of an asset they may not know: that there is nothing."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, NoAsset):
        return not_found()
    if isinstance(error, NotAllowedHere | NotAllowed):
        return ApiError(403, error.message, code="not_allowed")
    if isinstance(error, OverLimit):
        return ApiError(429, error.message, code="egress_limit", headers={"retry-after": "3600"})
    if isinstance(error, BadField):
        return ApiError(400, error.message, code="bad_field")
    if isinstance(error, ClockError | StoreError):
        log.error("%s failed: %s", request_id, type(error).__name__)
        return ApiError(503, "the server cannot read its records and answers nobody until it can")
    # The type and place, never the text: it may hold what a caller sent.
    cause = error.message if isinstance(error, MythosError) else type(error).__name__
    log.error("%s failed: %s", request_id, cause, exc_info=_bare(error))
    return ApiError(500, "internal server error")


def not_found() -> ApiError:
    return ApiError(404, "Not found", code="not_found")


async def respond(send: Send, status: int, value: object, head: bool = False) -> None:
    """A whole response in JSON; None for an empty one."""
    body = b"" if value is None else orjson.dumps(value)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})


def _bare(error: BaseException) -> BaseException:
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)
