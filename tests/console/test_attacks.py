"""Attacks on the console over HTTP, each beside the same act done legitimately."""

import re
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from sqlalchemy import event

from mythos.console.sessions import TRIES, SessionBook
from mythos.records.asset import Kind
from mythos.store.keys import create_key, list_keys, revoke_key
from mythos.vault.shares import readers_of
from tests.console.world import browser, console
from tests.vault.test_exposure import seen
from tests.vault.world import ACME, OTHER

MADE_UP = "ast_" + "x" * 22
HTML = "<script>alert(1)</script><img src=x onerror=alert(2)>"
QUOTES = "\" autofocus onfocus='alert(3)' x=\""
PAGES = ("/vault", "/vault?q=x", "/publications", "/audit", "/nope", "/vault/" + MADE_UP)


@pytest.fixture
def mine(town, base_url):
    with browser(base_url, town.api["local"]) as made:
        yield made


@pytest.fixture
def theirs(town, base_url):
    with browser(base_url, town.api[ACME]) as made:
        yield made


@pytest.fixture
def nobody(base_url):
    with browser(base_url) as made:
        yield made


@pytest.fixture
def asset(town) -> str:
    return town.put(b"a text that only its owner reads", "A title that only its owner sees").id


def shares(town, asset: str) -> int:
    return len(readers_of(*town.place, asset)) - 1


# Without a session


def test_without_a_session_every_address_is_the_same_page(town, nobody, mine, asset) -> None:
    paths = [
        "/",
        f"/vault/{asset}",
        f"/vault/{asset}/content",
        "/vault/" + MADE_UP,
        *PAGES,
        "/static/nope.css",
    ]
    answers = {seen(nobody.http.get(path)) for path in paths}
    assert len(answers) == 1 and next(iter(answers))[0] == 401
    heads = {seen(nobody.http.head(path)) for path in paths}
    assert len(heads) == 1
    assert seen(nobody.post(f"/vault/{asset}/shares", {"org": OTHER, "days": "1"})) in answers
    assert mine.http.get(f"/vault/{asset}").status_code == 200


def test_a_key_in_a_header_or_the_address_opens_nothing(town, nobody, asset) -> None:
    key = town.api["local"]
    for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}, {"cookie": f"key={key}"}):
        assert nobody.http.get(f"/vault/{asset}", headers=headers).status_code == 401
    assert nobody.http.get(f"/vault/{asset}?key={key}").status_code == 401
    assert nobody.sign_in(key).status_code == 303  # in a form it does


@pytest.mark.parametrize("key", ["", "sk-mythos-", "x" * 600, "\ud800", "' OR 1=1 --", "operator"])
def test_what_is_no_key_signs_nobody_in(nobody, key) -> None:
    body = f"key={quote(key, errors='surrogatepass')}".encode()
    headers = {"origin": nobody.base_url, "content-type": "application/x-www-form-urlencoded"}
    answer = nobody.http.post("/vault", content=body, headers=headers)
    assert answer.status_code in (400, 401) and "set-cookie" not in answer.headers


def test_tries_to_sign_in_are_limited_and_the_right_key_waits_too(town) -> None:
    now = [0.0]
    with console(town, SessionBook(clock=lambda: now[0])) as base_url, browser(base_url) as one:
        assert [one.sign_in("wrong").status_code for _ in range(TRIES)] == [401] * TRIES
        refused = one.sign_in(town.api["local"])
        assert refused.status_code == 429 and "retry-after" in refused.headers
        now[0] += 10
        assert one.sign_in(town.api["local"]).status_code == 303


@pytest.mark.parametrize(
    "path", ["//evil.example/x", "///evil.example", "/%2f/evil.example", "/\\evil.example"]
)
def test_signing_in_leads_nowhere_else(town, nobody, path) -> None:
    answer = nobody.http.post(
        nobody.base_url + path, data={"key": town.api["local"]}, headers={"origin": nobody.base_url}
    )
    to = answer.headers["location"]
    assert answer.status_code == 303 and to.startswith("/") and to[1:2] not in ("/", "\\")


def test_signing_in_leads_back_to_where_one_was(town, nobody, asset) -> None:
    answer = nobody.post(f"/vault/{asset}?x=1", {"key": town.api["local"]})
    assert answer.headers["location"] == f"/vault/{asset}?x=1"
    stale = nobody.get(f"/vault/{asset}/shares")  # where only forms go
    assert stale.status_code == 200 and stale.url.path == f"/vault/{asset}"


# Forms from elsewhere


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, ""),
        ({}, "x" * 43),
        ({}, "another"),
        ({"origin": ""}, "own"),
        ({"origin": "null"}, "own"),
        ({"origin": "http://evil.example"}, "own"),
        ({"origin": "http://127.0.0.1:1"}, "own"),
        ({"sec-fetch-site": "cross-site"}, "own"),
        ({"sec-fetch-site": "same-site"}, "own"),
        ({"host": "evil.example"}, "own"),
    ],
)
def test_a_form_from_elsewhere_changes_nothing(town, mine, theirs, asset, headers, token) -> None:
    tokens = {"own": mine.token(), "another": theirs.token()}
    fields = {"org": OTHER, "days": "1", "token": tokens.get(token, token)}
    given = {"origin": mine.base_url, **headers}
    sent = {name: value for name, value in given.items() if value}
    answer = mine.http.post(f"/vault/{asset}/shares", data=fields, headers=sent)
    assert answer.status_code in (403, 421) and shares(town, asset) == 0
    assert mine.send(f"/vault/{asset}/shares", {"org": OTHER, "days": "1"}).status_code == 200
    assert shares(town, asset) == 1


def test_nobody_is_signed_in_or_out_from_elsewhere(town, mine) -> None:
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {}):
        answer = mine.http.post("/vault", data={"key": town.api[ACME]}, headers=headers)
        assert answer.status_code == 403 and "set-cookie" not in answer.headers
    assert mine.post("/sign-out", {"token": "x"}).status_code == 403
    assert mine.get("/vault").status_code == 200
    mine.send("/sign-out", {})
    assert mine.get("/vault").status_code == 401


def test_no_address_changes_anything(town, mine, asset) -> None:
    share = town.share(asset)
    for path in (
        f"/vault/{asset}/revoke?share={share}",
        f"/vault/{asset}/shares?org={OTHER}&days=1",
        "/sign-out",
    ):
        mine.get(path)
    assert shares(town, asset) == 1 and mine.get("/vault").status_code == 200


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("text/plain", b"token=x", 415),
        ("application/x-www-form-urlencoded", b"a=" + b"x" * (300 << 10), 413),
        ("application/x-www-form-urlencoded", b"a=%ff", 400),
        ("application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(100)), 400),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=b", b"no end", 400),
    ],
)
def test_what_is_no_form_is_refused(mine, asset, kind, body, status) -> None:
    headers = {"origin": mine.base_url, "content-type": kind}
    assert mine.http.post(f"/vault/{asset}/shares", content=body, headers=headers).status_code == status


# Cookies


def test_a_cookie_is_out_of_reach_of_scripts_and_other_sites(town, nobody) -> None:
    header = nobody.sign_in(town.api["local"]).headers["set-cookie"]
    name, _, value = header.split(";")[0].partition("=")
    assert "HttpOnly" in header and "SameSite=Strict" in header and "Domain" not in header
    assert name.endswith(nobody.base_url.rpartition(":")[2]) and len(value) >= 43
    assert all(value not in nobody.get(path).text for path in PAGES)


def test_a_cookie_is_what_its_key_is_and_no_more(town, mine, theirs, asset) -> None:
    """Another's cookie gives what the other may see, and the thief's own key adds nothing to it."""
    stolen = dict(theirs.http.cookies)
    with browser(mine.base_url) as thief:
        thief.http.cookies.update(stolen)
        answer = thief.http.get(f"/vault/{asset}", headers={"x-api-key": town.api["local"]})
        assert answer.status_code == 404
        theirs.send("/sign-out", {})
        assert thief.get("/vault").status_code == 401  # worth nothing once its owner has signed out
    assert mine.get(f"/vault/{asset}").status_code == 200


def test_a_revoked_key_ends_its_sessions(town, base_url) -> None:
    key = create_key(*town.place, "to be revoked", org=ACME, purpose="review")[1]
    with browser(base_url, key) as one:
        assert one.get("/vault").status_code == 200
        row = next(row for row in list_keys(town.store) if row.name == "to be revoked" and not row.revoked)
        revoke_key(*town.place, row.id)
        assert one.get("/vault").status_code == 401
        assert one.sign_in(key).status_code == 401


def test_a_session_that_somebody_else_chose_is_never_taken(town, nobody) -> None:
    port = nobody.base_url.rpartition(":")[2]
    chosen = "A" * 43
    nobody.http.cookies.set(f"mythos_console_{port}", chosen, domain="127.0.0.1")
    header = nobody.sign_in(town.api["local"]).headers["set-cookie"]
    assert chosen not in header
    with browser(nobody.base_url) as other:
        other.http.cookies.set(f"mythos_console_{port}", chosen, domain="127.0.0.1")
        assert other.get("/vault").status_code == 401


# Framing, sniffing, caching


def test_every_answer_says_how_it_may_be_used(town, mine, nobody, asset) -> None:
    answers = [
        mine.get(path)
        for path in (*PAGES, f"/vault/{asset}", f"/vault/{asset}/publish", "/static/console.css")
    ]
    answers += [nobody.get("/vault"), nobody.http.get("/vault", headers={"host": "evil.example"})]
    answers += [mine.post("/vault", {}), mine.http.head("/vault")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
        assert "unsafe" not in policy and "form-action 'self'" in policy and "base-uri 'none'" in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers and "server" not in answer.headers


# Words of others in our pages

TAGS = {
    *("a", "blockquote", "body", "br", "button", "caption", "code", "datalist", "dd", "details", "div", "dl"),
    *(
        "dt",
        "fieldset",
        "form",
        "h1",
        "h2",
        "head",
        "header",
        "html",
        "input",
        "label",
        "legend",
        "li",
        "link",
    ),
    *("main", "meta", "nav", "option", "p", "pre", "script", "section", "select", "span", "summary", "table"),
    *("tbody", "td", "textarea", "th", "thead", "time", "title", "tr", "ul"),
}


class Look(HTMLParser):
    """What a browser would make of a page: its tags, and all that would run in it."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        names = [name for name, _ in attrs]
        self.inline += [name for name in names if name.startswith("on") or name == "style"]
        if tag == "script" and "src" not in names:
            self.inline.append(tag)


@pytest.mark.parametrize("text", [HTML, QUOTES, "{{ 7 * 7 }}", "</title><h1>x"])
def test_titles_names_and_searches_are_text(town, mine, text) -> None:
    asset = town.put(text.encode(), text, name=text.replace("/", "")).id
    told = [mine.get(path).text for path in ("/vault", f"/vault/{asset}", f"/vault/{asset}/publish")]
    told.append(mine.get("/vault?q=" + quote(text)).text)
    told.append(mine.send(f"/vault/{asset}/shares", {"org": text, "days": text}).text)
    told.append(mine.send(f"/vault/{asset}/publish", {"why": "", "person": text, "starts": text}).text)
    for page in told:
        look = Look()
        look.feed(page)
        assert look.inline == [] and look.tags <= TAGS
        assert "49" not in re.sub(r"[\w=/-]{20,}", "", page) or text != "{{ 7 * 7 }}"
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = escaped.replace('"', "&#34;").replace("'", "&#39;")
    assert escaped in told[1]  # and it is all there


def test_a_document_is_saved_and_never_shown(town, mine) -> None:
    asset = town.put(HTML.encode(), "A page", Kind.DOCUMENT, name="page.html").id
    answer = mine.get(f"/vault/{asset}/content")
    assert answer.text == HTML
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''page.html"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ('a"; filename=evil.html', "attachment; filename*=UTF-8''a%22%3B%20filename%3Devil.html"),
        ("Übersicht.txt", "attachment; filename*=UTF-8''%C3%9Cbersicht.txt"),
        ("..", "attachment"),
        ("", "attachment"),
    ],
)
def test_a_name_stays_a_name(town, mine, name, said) -> None:
    asset = town.put(b"x", "x", name=name).id
    assert mine.get(f"/vault/{asset}/content").headers["content-disposition"] == said


@pytest.mark.parametrize(
    "path",
    [
        "/vault/..%2f..%2fetc%2fpasswd/content",
        "/vault/%2e%2e/%2e%2e/mythos.db",
        "/vault/../../mythos.db",
        "/vault/key/content",
        "/static/../front.py",
        "/static/..%2ffront.py",
        "/static/%2e%2e/templates/page.html",
        "/static//etc/passwd",
        "/static/htmx.LICENSE",
        "/publications/..%2f..%2fvault%2fkey/copy",
    ],
)
def test_no_path_leads_out(mine, path) -> None:
    answer = mine.http.request("GET", mine.base_url + path)
    assert answer.status_code == 404 and seen(answer) == seen(mine.get("/nope"))
    assert mine.get("/static/htmx.min.js").status_code == 200


# What may not be known


def test_what_may_not_be_known_is_what_does_not_exist(town, mine, theirs, asset) -> None:
    forms = (
        "/vault/{}",
        "/vault/{}/content",
        "/vault/{}/content?version=1",
        "/vault/{}/publish",
        "/vault?after={}",
    )
    for form in forms:
        assert seen(theirs.get(form.format(asset))) == seen(theirs.get(form.format(MADE_UP)))
        assert seen(theirs.http.head(form.format(asset))) == seen(theirs.http.head(form.format(MADE_UP)))
        assert mine.get(form.format(asset)).status_code == 200
    for form in ("/vault/{}/shares", "/vault/{}/revoke", "/vault/{}/publish", "/vault/{}/publish/pubreq_x"):
        fields = {
            "token": theirs.token(),
            "org": OTHER,
            "days": "1",
            "share": "shr_x",
            "why": "x",
            "person": "x",
        }
        assert seen(theirs.post(form.format(asset), fields)) == seen(
            theirs.post(form.format(MADE_UP), fields)
        )
    share = town.share(asset, OTHER)
    fields = {"token": theirs.token(), "share": share}
    own = town.put().id
    assert theirs.post(f"/vault/{own}/revoke", fields).status_code == 404
    assert shares(town, asset) == 1


def test_the_same_work_is_done_for_what_is_hidden_and_for_what_is_not_there(town, theirs, asset) -> None:
    ran: list[str] = []

    def note(conn, cursor, statement, *_) -> None:
        if "instr(ledger.event" not in statement:  # what is new in the log is read by whoever comes first
            ran.append(statement)

    event.listen(town.store.engine, "before_cursor_execute", note)
    try:
        for form in ("/vault/{}", "/vault/{}/content", "/vault/{}/publish"):
            theirs.get(form.format("ast_" + "y" * 22))  # so that what is new in the log is seen already
            ran[:] = []
            theirs.get(form.format(asset))
            hidden, ran[:] = list(ran), []
            theirs.get(form.format(MADE_UP))
            assert hidden == ran and ran
            ran[:] = []
    finally:
        event.remove(town.store.engine, "before_cursor_execute", note)


def test_no_title_and_no_count_of_others(town, theirs) -> None:
    hidden = [town.put(b"quokka in the text", f"Wombat {n}").id for n in range(3)]
    for path in ("/vault", "/vault?q=wombat", "/vault?q=quokka", "/vault?kind=draft", "/publications"):
        page = theirs.get(path).text
        assert "Wombat" not in page and "quokka in" not in page and not any(one in page for one in hidden)
        assert not re.search(r"\b\d+ (of|more|in all|found)\b", page)
    found, none = theirs.get("/vault?q=wombat").text, theirs.get("/vault?q=nobodys").text
    assert found.replace("wombat", "WORD") == none.replace("nobodys", "WORD")
    town.share(hidden[0])
    assert "Wombat 0" in theirs.get("/vault?q=wombat").text and "Wombat 1" not in theirs.get("/vault").text


def test_the_audit_is_the_operators(theirs, mine) -> None:
    assert seen(theirs.get("/audit")) == seen(theirs.get("/nope"))
    assert "/audit" not in theirs.get("/vault").text
    assert mine.get("/audit").status_code == 200
