"""What lies beside the pages, and what a template may not hold."""

import hashlib
import re
from pathlib import Path

import pytest

from mythos.console.pages import PLACE, files

HERE = Path(__file__).parent
# htmx.org 4.0.1 (dist/htmx.min.js) and axe-core 4.14.1 (axe.min.js), as their packages carry them.
VENDORED = {
    PLACE / "static" / "htmx.min.js": "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130",
    PLACE / "static" / "htmx.LICENSE": "d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38",
    HERE / "vendor" / "axe.min.js": "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c",
    HERE / "vendor" / "axe.LICENSE": "af175b9d96ee93c21a036152e1b905b0b95304d4ae8c2c921c7609100ba8df7e",
}
WRITTEN = sorted(
    [*(PLACE / "templates").iterdir(), PLACE / "static" / "console.css", PLACE / "static" / "console.js"]
)
# What the policy of the pages would refuse, or what would leave them.
REFUSED = {
    "inline script": re.compile(r"<script(?![^>]*\bsrc=)", re.I),
    "inline style": re.compile(r"<style|\sstyle\s*=", re.I),
    "inline handler": re.compile(r"\son\w+\s*=|hx-on|javascript:|\bjs:", re.I),
    "another origin": re.compile(r"https?://|@import|url\(", re.I),
    "not escaped": re.compile(r"\|\s*safe|autoescape"),
}


@pytest.mark.parametrize("path", VENDORED, ids=lambda path: path.name)
def test_what_others_wrote_is_what_they_published(path) -> None:
    assert hashlib.sha256(path.read_bytes()).hexdigest() == VENDORED[path]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_pages_need_nothing_inline_and_nothing_from_elsewhere(path) -> None:
    text = path.read_text()
    assert {what for what, wrong in REFUSED.items() if wrong.search(text)} == set()


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("inline script", "<script>x</script>"),
        ("inline style", '<p style="x">'),
        ("inline handler", '<p onclick="x">'),
        ("another origin", "https://example.org/x.js"),
        ("not escaped", "{{ title | safe }}"),
    ],
)
def test_that_look_sees(what, text) -> None:
    assert REFUSED[what].search(text)


def test_only_known_files_are_served() -> None:
    assert set(files()) == {f"/static/{n}" for n in ("console.css", "console.js", "htmx.min.js", "icon.svg")}


@pytest.mark.parametrize("path", sorted((PLACE / "templates").iterdir()), ids=lambda path: path.name)
def test_every_form_that_is_posted_carries_its_token(path) -> None:
    forms = re.findall(r"<form\b[^>]*method=\"post\".*?</form>", path.read_text(), re.S)
    if path.name != "sign_in.html":  # whoever signs in has no session yet: its origin is checked
        assert all("token_field(token)" in form for form in forms)
