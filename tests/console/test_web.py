"""The console in a real browser: Debian's Chromium by Playwright, with scripts and without.

`make test-web`. With MYTHOS_SCREENSHOTS=DIR the first run leaves the pictures that the documentation shows.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from mythos.cli.local import Records
from mythos.cli.vault_audit import own_audit
from mythos.records.asset import Kind
from mythos.records.incident import Named, Nature, Target
from mythos.records.principal import OPERATOR
from mythos.serve.apart import running
from mythos.serve.listening import bind
from mythos.serve.public_app import create_public_app
from mythos.store.listeners import announced
from mythos.vault import counting, incidents
from mythos.vault.last_audit import keep_audit
from mythos.vault.shares import readers_of
from tests.console.world import ConsoleTown, console
from tests.vault.world import ACME, OTHER

pytestmark = pytest.mark.web

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
WIDE, NARROW = {"width": 1120, "height": 700}, {"width": 390, "height": 700}
TITLE = "Capybara: launch announcement"
TEXT = b"We are announcing Capybara, a fourth tier above Opus. Draft for review; not to be shared."


@dataclass(eq=False)
class Looked:
    """A page in a browser, and what it asked for and complained of."""

    page: Any
    base_url: str
    scripts: bool
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        self.page.goto(self.base_url + path)

    def check(self) -> None:
        """axe finds nothing, wide in light and narrow in dark, and nothing is wider than the screen."""
        for size, scheme in ((WIDE, "light"), (NARROW, "dark")):
            self.page.set_viewport_size(size)
            self.page.emulate_media(color_scheme=scheme)
            wide = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, f"{self.page.url} is {wide} pixels wider than a screen of {size['width']}"
            if self.scripts:  # the pages are the same without
                if not self.page.evaluate("'axe' in window"):
                    self.page.evaluate(AXE.read_text())
                found = self.page.evaluate("rules => axe.run(document, rules)", RULES)["violations"]
                told = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
                assert told == [], f"{self.page.url} {scheme} {size['width']}"
        self.page.set_viewport_size(WIDE)
        self.page.emulate_media(color_scheme="light")

    def picture(self, name: str, narrow: bool = False, dark: bool = False, at: str = "body") -> None:
        place = os.environ.get("MYTHOS_SCREENSHOTS")
        if place and self.scripts:
            Path(place).mkdir(parents=True, exist_ok=True)
            self.page.set_viewport_size(NARROW if narrow else WIDE)
            self.page.emulate_media(color_scheme="dark" if dark else "light")
            self.page.evaluate("at => document.querySelector(at).scrollIntoView()", at)
            self.page.screenshot(path=Path(place) / f"{name}.png", caret="initial")
            self.page.set_viewport_size(WIDE)
            self.page.emulate_media(color_scheme="light")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        pytest.fail("no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(params=[True, False], ids=["scripts", "no-scripts"])
def looked(request, chromium, tmp_path) -> Iterator[tuple[ConsoleTown, Looked]]:
    town = ConsoleTown(tmp_path)
    with console(town) as base_url, announced(town.home, "console", base_url):
        context = chromium.new_context(java_script_enabled=request.param, viewport=WIDE, locale="en-GB")
        page = context.new_page()
        made = Looked(page, base_url, request.param)
        context.on("request", lambda asked: made.asked.append(asked.url))
        page.on("pageerror", lambda error: made.errors.append(str(error)))
        page.on("console", lambda said: made.errors.append(said.text) if said.type == "error" else None)
        yield town, made
        outside = [url for url in made.asked if not url.startswith((base_url + "/", "data:", "blob:"))]
        assert outside == []
        refused = (
            "Failed to load resource: the server responded with a status of"  # of pages that we asked for
        )
        assert [text for text in made.errors if not text.startswith(refused)] == []
        context.close()
    town.store.close()


def sign_in(look: Looked, key: str, path: str = "/vault") -> None:
    look.go(path)
    look.page.get_by_label("API key").fill(key)
    look.page.get_by_role("button", name="Sign in").click()
    look.page.get_by_role("button", name="Sign out").wait_for()


def sign_elsewhere(look: Looked, town: ConsoleTown, place: Path, person: str, paste: bool) -> None:
    """Do on a person's own machine what the page says, and hand in what comes of it."""
    assert "no key ever comes here" in look.page.inner_text("main")
    environment = {**os.environ, **town.persons_machine(place, person)}
    work = place / person
    keep, sign = look.page.locator("ol.steps pre").all_inner_texts()
    subprocess.run(["bash", "-c", keep], cwd=work, check=True)
    command = [sys.executable, "-m", "mythos.cli", *sign.split()[1:], "--yes"]
    subprocess.run(command, cwd=work, env=environment, check=True, capture_output=True)
    file = work / sign.split()[2]
    if paste:
        look.page.get_by_label("Paste the signed file here").fill(file.read_text())
    else:
        look.page.get_by_label("or choose it").set_input_files(file)
    look.page.get_by_role("button", name="Hand it in").click()


def test_the_whole_way_of_one_draft(looked, tmp_path) -> None:
    town, look = looked
    page, machines = look.page, tmp_path / "machines"
    # A vault with a few things in it, one of them somebody else's.
    for kind, title, text in (
        (Kind.REPORT, "Safeguards report, second stage", b"What was measured, and on what."),
        (Kind.EVALUATION_LOG, "HumanEval, capybara at step 110k", b"164 items, one look."),
        (Kind.DOCUMENT, "Pricing, second round", b"Between two and five times Opus."),
        (Kind.DRAFT, "Questions we expect from the press", b"Why is it held back, and until when."),
    ):
        town.now += 3600
        town.put(text, title, kind, name=title.split(",")[0].lower().replace(" ", "-") + ".txt")
    town.now += 3600
    asset = town.put(TEXT, TITLE, name="announcement.txt").id

    # Sign in: first wrongly, then with a key; the address that was asked for comes up by itself.
    look.go(f"/vault/{asset}")
    look.check()
    page.get_by_label("API key").fill("sk-mythos-wrong")
    page.get_by_role("button", name="Sign in").click()
    assert "No such key" in page.get_by_role("alert").inner_text()
    look.check()
    page.get_by_label("API key").fill(town.api["local"])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name=TITLE, level=1).wait_for()
    assert page.url == f"{look.base_url}/vault/{asset}"

    # The list, and a search in it.
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Vault").click()
    assert page.get_by_role("rowheader").count() == 5
    look.check()
    look.picture("vault")
    look.picture("vault-phone", narrow=True, dark=True)
    box = page.get_by_role("searchbox")
    box.fill("pricing")
    if not look.scripts:
        box.press("Enter")
    page.get_by_role("rowheader").filter(has_text=TITLE).wait_for(state="detached")
    assert page.get_by_role("rowheader").all_inner_texts()[0].startswith("Pricing")
    look.check()
    look.go("/vault?q=nothing-has-this-word")
    look.check()

    # Share it, see who can read it and since when, and end it.
    look.go(f"/vault/{asset}")
    page.get_by_text("Share it").click()
    look.check()
    page.get_by_label("Organisation").fill("nobody-knows-them")
    page.get_by_role("button", name="Share", exact=True).click()
    assert "is not served here" in page.get_by_role("alert").inner_text()
    for org in (ACME, OTHER):
        if not page.get_by_label("Organisation").is_visible():
            page.get_by_text("Share it").click()
        page.get_by_label("Organisation").fill(org)
        page.get_by_role("button", name="Share", exact=True).click()
        page.get_by_role("status").filter(has_text=org).wait_for()
    assert "shared by you" in page.get_by_role("row", name=ACME).inner_text()
    page.get_by_role("button", name=f"Revoke the share for {OTHER}").click()
    page.get_by_role("status").filter(has_text="ended").wait_for()
    look.check()
    look.picture("asset")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "announcement.txt"
    assert Path(download.value.path()).read_bytes() == TEXT

    # Ask for it to be published; the one who asks signs elsewhere.
    page.get_by_role("link", name="Ask to publish").click()
    look.check()
    page.get_by_label("Why, for those who vote").fill("The launch, agreed with communications.")
    page.get_by_label("Who signs").select_option("requester-1:release_engineer")
    page.get_by_role("button", name="Make the copy").click()
    page.get_by_role("heading", name="Ask to publish").wait_for()
    look.check()
    sign_elsewhere(look, town, machines, "requester-1", paste=True)
    page.get_by_text("waiting for votes").wait_for()
    assert "None yet" in page.inner_text("main")

    # Two others vote, each signing elsewhere; each vote is there at once.
    for person, paste in (("rso-1:scaling_officer", True), ("board-1:board", False)):
        page.locator("summary", has_text="Vote").click()
        page.get_by_label("Who signs").first.select_option(person)
        page.get_by_label("Approve").check()
        page.get_by_role("button", name="Show what to sign").first.click()
        page.get_by_role("heading", name="Vote on").wait_for()
        if paste:
            look.check()
            look.picture("signing")
        name = person.partition(":")[0]
        sign_elsewhere(look, town, machines, name, paste)
        page.get_by_role("status").filter(has_text=f"{name} says approve").wait_for()
        assert page.get_by_role("row", name=name).inner_text().split()[-1] == "yes"
    look.check()
    look.picture("votes", at="main dl")

    # Open it: anybody can read it, on a listener of its own.
    page.get_by_role("button", name="Open it").click()
    page.get_by_role("status").filter(has_text="The gate has signed").wait_for()
    look.check()
    with (
        bind("127.0.0.1", 0) as listener,
        running(create_public_app(town.store, town.clock), listener) as url,
        announced(town.home, "public", url),
    ):
        page.reload()
        address = page.get_by_role("link", name="/p/pub_").get_attribute("href")
        assert address.startswith(url) and httpx.get(address).content == TEXT
        look.go("/publications")
        look.check()
        page.get_by_role("rowheader").get_by_role("link").click()

        # Withdraw it: nobody can, at once.
        page.locator("summary", has_text="Withdraw it").click()
        page.get_by_label("Who signs").last.select_option("board-2:board")
        page.get_by_label("Why, for the record").fill("A figure in it is wrong.")
        page.get_by_role("button", name="Show what to sign").last.click()
        page.get_by_role("heading", name="Withdraw").wait_for()
        look.check()
        sign_elsewhere(look, town, machines, "board-2", paste=True)
        page.get_by_role("status").filter(has_text="Withdrawn").wait_for()
        assert httpx.get(address).status_code == 404
    look.check()

    # The audit visits this very console too, and finds nothing.
    look.go("/audit")
    assert "None yet" in page.inner_text("main")
    look.check()
    report = own_audit(Records(town.home, town.store, town.clock))
    assert "console" in report.targets and report.findings == () and not report.void
    keep_audit(town.store, town.clock, OPERATOR, report)
    page.reload()
    assert "nothing found" in page.inner_text("main")
    look.check()

    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key").wait_for()
    look.go(f"/vault/{asset}")
    assert TITLE not in page.content()


def test_a_reader_of_another_organisation(looked) -> None:
    town, look = looked
    page = look.page
    shared, secret = town.put(TEXT, TITLE).id, town.put(b"x", "Nothing of this").id
    sign_in(look, town.api[ACME])
    assert "What others share with you" in page.inner_text("main")
    look.check()
    town.share(shared)
    page.reload()
    page.get_by_role("link", name=TITLE).click()
    assert "You can, by the share" in page.inner_text("main")
    assert page.get_by_role("link", name="Ask to publish").count() == 0
    look.check()
    look.go("/publications")
    look.check()
    look.go(f"/vault/{secret}")
    assert page.get_by_role("heading", level=1).inner_text() == "Not found"
    look.check()
    look.go("/audit")
    assert page.get_by_role("heading", level=1).inner_text() == "Not found"


def test_an_incident(looked) -> None:
    town, look = looked
    asset = town.put(TEXT, TITLE).id
    town.share(asset)
    sign_in(look, town.api["local"], "/incidents")
    look.check()
    hand = incidents.Hand("safety-1", town.keys["safety-1"], town.gate)
    named = [Named(Target.ASSET, asset)]
    made = incidents.open_incident(
        *town.place, "They could read it.", "A reader", town.now, [Nature.CYBER_BREACH], named, hand
    )
    incidents.contain_incident(*town.place, made.id, [], hand)
    town.now += 3600
    counting.count_incident(*town.place, made.id, hand)
    look.page.reload()
    look.check()
    look.page.get_by_role("rowheader").get_by_role("link").click()
    look.page.get_by_role("heading", name="Incident: cyber breach").wait_for()
    look.check()
    look.picture("incident")
    look.page.get_by_role("link", name="The statement").click()
    look.page.get_by_role("heading", name="The statement").wait_for()
    look.check()


EVIL = """<!doctype html><title>Evil</title><iframe src="{console}/vault/{asset}"></iframe>
<form method="post" action="{console}/vault/{asset}/shares">
<input name="org" value="{org}"><input name="days" value="9"><button>Win a prize</button></form>"""


def test_another_server_on_this_machine_gets_nothing(chromium, tmp_path) -> None:
    """Its pages are of the same site, so that a browser sends them the cookie; they are of another origin."""
    town = ConsoleTown(tmp_path)
    asset = town.put(TEXT, TITLE).id

    async def evil(scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            return await nothing_to_start(receive, send)
        body = EVIL.format(console=console_url, asset=asset, org=ACME).encode()
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def nothing_to_start(receive, send) -> None:
        for _ in range(2):
            await send({"type": f"{(await receive())['type']}.complete"})

    with (
        console(town) as console_url,
        bind("127.0.0.1", 0) as listener,
        running(evil, listener) as evil_url,
    ):
        page = chromium.new_context().new_page()
        look = Looked(page, console_url, scripts=True)
        sign_in(look, town.api["local"], f"/vault/{asset}")
        page.goto(evil_url)
        assert TITLE not in "".join(frame.content() for frame in page.frames)  # it is not framed
        read = "url => fetch(url, {credentials: 'include'}).then(got => got.text(), () => 'refused')"
        assert page.evaluate(read, f"{console_url}/vault/{asset}") == "refused"
        page.get_by_role("button", name="Win a prize").click()
        assert "other" in page.inner_text("main") and page.url.startswith(console_url)
        look.check()
        assert len(readers_of(*town.place, asset)) == 1
        look.go(f"/vault/{asset}")  # and the session stands: the same form, of the console's own, is obeyed
        page.get_by_text("Share it").click()
        page.get_by_label("Organisation").fill(ACME)
        page.get_by_role("button", name="Share", exact=True).click()
        page.get_by_role("status").filter(has_text=ACME).wait_for()
        assert len(readers_of(*town.place, asset)) == 2
        page.context.close()
    town.store.close()


def test_by_keyboard_alone(looked) -> None:
    town, look = looked
    page = look.page
    asset = town.put(TEXT, TITLE).id
    look.go(f"/vault/{asset}")
    if look.scripts:
        assert page.evaluate("document.activeElement.id") == "key"
    elif page.evaluate("document.activeElement.id") != "key":  # Chromium gives no focus where no scripts run
        page.keyboard.press("Tab")
    page.keyboard.type(town.api["local"])
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=TITLE, level=1).wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim()"))
        if seen[-1] == "Share it":
            break
    assert seen[-1] == "Share it" and "Sign out" not in seen
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type(ACME)
    page.keyboard.press("Enter")
    page.get_by_role("status").filter(has_text=ACME).wait_for()
    if look.scripts:  # answered in place: the reader is put where the answer is
        assert ACME in page.evaluate("document.activeElement.textContent")
