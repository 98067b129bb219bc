"""The first layer of the console: place, session, form token, one form of refusal, the headers of a page.

Without a session there is one page at every address, the sign-in, the same to the byte. It is sent back to
where it stands and leads on there. With a session, what may not be known, what does not exist and what is no
page get the same 404.
"""

import contextlib
import hmac
import logging
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mythos.console.forms import read_form
from mythos.console.pages import Answer, Visit, bare_page, files, page
from mythos.console.sessions import SessionBook
from mythos.records.ids import new_id
from mythos.records.principal import Principal
from mythos.serve.errors import ApiError, ClientGone
from mythos.serve.place import check_place
from mythos.serve.vault_front import HEADERS as CONTENT_HEADERS
from mythos.serve.vault_front import VaultService, as_refusal
from mythos.store.keys import MAX_SECRET, secret_hash

log = logging.getLogger("mythos.console")

POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    # With no-referrer a browser would send its forms with `Origin: null`.
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
WRONG = "No such key, or it has ended."


class ConsoleFront:
    """ASGI middleware around the pages."""

    def __init__(self, app: ASGIApp, service: VaultService, book: SessionBook) -> None:
        self.app = app
        self.service = service
        self.book = book

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        started = False
        request_id = new_id("req")
        scope["mythos.visit"] = None

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                given = list(message.get("headers", ()))
                content = any(name == b"content-disposition" for name, _ in given)
                named = {name for name, _ in given}
                more = [
                    pair for pair in (CONTENT_HEADERS if content else PAGE_HEADERS) if pair[0] not in named
                ]
                message = {**message, "headers": [*given, *more, (b"request-id", request_id.encode())]}
            await send(message)

        try:
            await self._serve(scope, receive, answer)
        except ClientGone:
            pass
        except Exception as error:
            if started:
                raise RuntimeError(type(error).__name__) from None
            refusal = as_refusal(error, request_id)
            made = await run_in_threadpool(_refusal_page, scope["mythos.visit"], refusal)
            await send_answer(answer, made, scope["method"] == "HEAD")

    async def _serve(self, scope: Scope, receive: Receive, answer: Send) -> None:
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, value)
        method, principal = scope["method"], None
        try:
            check_place(headers, scope)
            found = files().get(scope["path"])
            if found is not None and method in ("GET", "HEAD"):
                made = Answer(200, ((b"content-type", found[0]),), found[1])
                await send_answer(answer, made, method == "HEAD")
                return
            form: dict[str, str] = {}
            if method == "POST":
                if b"origin" not in headers:  # a browser says it with every form
                    raise ApiError(403, "a form must say where it comes from", code="wrong_origin")
                form = await read_form(receive, headers)
            cookie = _cookie(headers, _name(scope))
            session = self.book.find(cookie)
            if session is not None:
                principal = await run_in_threadpool(self.service.principal_of, session.key)
            if session is None or principal is None:
                self.book.end(cookie)
                await send_answer(answer, await self._outside(scope, form), method == "HEAD")
                return
            self.service.limits.take_request(principal.org)
            query = _query(scope["query_string"])
            visit = Visit(self.service, principal, session, method, {}, query, form, headers)
            scope["mythos.visit"] = visit
            if method == "POST":
                if not hmac.compare_digest(form.pop("token", "").encode(), session.token.encode()):
                    raise ApiError(403, "This form is not one of yours, or too old.", code="wrong_token")
                if scope["path"] == "/sign-out":
                    self.book.end(cookie)
                    self._note(principal, "console.sign_out", "answered")
                    await send_answer(answer, _signed_out(_name(scope)))
                    return
            await self.app(scope, receive, answer)
        except ApiError as error:  # refused here or by the router: no function of the vault has seen it
            self._note(principal, "console.http", "refused", str(error.status), error.code or "")
            raise

    async def _outside(self, scope: Scope, form: dict[str, str]) -> Answer:
        """For somebody unknown: the sign-in page, or what their try to sign in comes to."""
        if scope["method"] != "POST" or "key" not in form:
            self._note(None, "console.http", "refused", "401", "no_session")
            return _sign_in("")
        self.book.take_try()
        secret = form["key"].strip()
        try:
            key = secret_hash(secret) if len(secret) <= MAX_SECRET else b""
        except UnicodeEncodeError:
            key = b""
        principal = await run_in_threadpool(self.service.principal_of, key) if key else None
        if principal is None:
            self._note(None, "console.sign_in", "refused")
            return _sign_in(WRONG)
        self._note(principal, "console.sign_in", "answered")
        # Always a new one: what cookie the browser came with counts for nothing.
        cookie = f"{_name(scope)}={self.book.begin(key)}; Path=/; HttpOnly; SameSite=Strict"
        back = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        headers = ((b"location", b"/" + back.lstrip(b"/\\")), (b"set-cookie", cookie.encode()))
        return Answer(303, headers, b"")

    def _note(
        self, principal: Principal | None, action: str, outcome: str, status: str = "", reason: str = ""
    ) -> None:
        facts = {"status": status, "reason": reason} if status else {}
        with contextlib.suppress(ApiError):
            self.service.recorder.attempt(principal, action, outcome, **facts)


async def send_answer(send: Send, made: Answer, head: bool = False) -> None:
    headers = [*made.headers, (b"content-length", b"%d" % len(made.body))]
    await send({"type": "http.response.start", "status": made.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else made.body})


def _sign_in(wrong: str) -> Answer:
    made = bare_page("sign_in.html", {"wrong": wrong}, 401)
    return Answer(401, (*made.headers, (b"www-authenticate", b"MythosKey")), made.body)


def _signed_out(name: str) -> Answer:
    gone = f"{name}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"
    return Answer(303, ((b"location", b"/"), (b"set-cookie", gone.encode())), b"")


def _refusal_page(visit: Visit | None, refusal: ApiError) -> Answer:
    values = {"status": refusal.status, "message": refusal.message}
    if visit is not None:
        with contextlib.suppress(Exception):  # the frame itself needs records that may not be readable
            made = page(visit, "refused.html", values, refusal.status)
            return _with(made, refusal)
    return _with(bare_page("refused_outside.html", values, refusal.status), refusal)


def _with(made: Answer, refusal: ApiError) -> Answer:
    more = tuple((name.encode(), value.encode()) for name, value in refusal.headers.items())
    return Answer(made.status, (*made.headers, *more), made.body)


def _name(scope: Scope) -> str:
    """The cookie's name. Cookies do not know ports: each listener has a name of its own."""
    return f"mythos_console_{(scope.get('server') or ('', 0))[1]}"


def _cookie(headers: dict[bytes, bytes], name: str) -> str:
    try:
        found = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def _query(raw: bytes) -> dict[str, str]:
    """The fields of an address, the first of each name. ApiError 400."""
    try:
        pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise ApiError(400, "the address has too many fields", code="bad_field") from None
    return dict(reversed(pairs))
