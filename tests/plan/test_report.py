"""The report is one sound file without anything from elsewhere, and each drawing has its numbers beside
it."""

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from mythos.plan.page import Section, page
from mythos.plan.report import report
from mythos.plan.svg import curves, ranges, short, stacked, tornado
from mythos.plan.tier import TierPlan, plan_tier
from mythos.spec.load import load_family

FAMILY = load_family("mythos-10t")
VOID = {"meta", "link", "br"}


@pytest.fixture(scope="module")
def plan() -> TierPlan:
    return plan_tier(FAMILY.tiers[-1])


@pytest.fixture(scope="module")
def html(plan) -> str:
    return report(FAMILY, plan)


class Checker(HTMLParser):
    """Counts tags and what the file would fetch or run; fails on tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.fetched += [value for key, value in attrs if key in ("src", "href") or key.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_one_file_that_needs_nothing_else(html) -> None:
    checker = Checker()
    checker.feed(html)
    assert checker.open == [] and checker.fetched == []
    assert not {"script", "link", "img", "iframe"} & set(checker.tags)
    outside = [
        found for found in re.findall(r"https?://[^\s\"'<]+", html) if "www.w3.org/2000/svg" not in found
    ]
    assert outside == [] and "url(" not in html and "@import" not in html
    assert "prefers-color-scheme: dark" in html and "@media print" in html
    assert "never trained by this project" in html


def test_every_drawing_is_sound_and_has_its_table(html) -> None:
    sections = html.split("<section>")[1:]
    drawings = [one for one in sections if "<svg" in one]
    assert len(drawings) >= 9 and all("<table>" in one for one in sections)
    for one in drawings:
        drawn = one[one.index("<svg") : one.index("</svg>") + 6]
        root = ElementTree.fromstring(drawn)
        assert root.attrib["aria-label"]
        numbers = [
            float(value) for found in root.iter() for key, value in found.attrib.items() if key in ("x", "y")
        ]
        _, _, wide, high = map(float, root.attrib["viewBox"].split())
        assert all(0 <= number <= max(wide, high) for number in numbers)
        assert "nan" not in drawn and "inf" not in drawn
        assert set(re.findall(r"var\((--\w+)\)", drawn)) <= set(re.findall(r"(--\w+):", html))


def test_the_numbers_of_the_plan_are_in_it(html, plan) -> None:
    assert f"{plan.parameters:,}" in html and f"{plan.accelerators:,} GB300" in html
    for one in plan.assumptions:
        assert one.name in html
    assert report(FAMILY, plan) == html


def test_what_cannot_be_served_is_said(plan) -> None:
    made = report(FAMILY, plan_tier(FAMILY.tiers[-1], part_name="H100", explain=False))
    assert "No replica within 8 H100 holds the weights" in made


def test_text_is_escaped() -> None:
    made = page("<b>", ["a & b"], [Section("x<y", "", ["<i>"], [["<script>"]])], "'\"")
    assert "<script>" not in made and "&lt;script&gt;" in made and "<b>" not in made.split("</title>")[1]


def test_drawings_of_single_and_equal_values() -> None:
    for drawn in (
        curves({"one": [(1.0, 2.0)]}, "x", "y"),
        curves({"one": [(1e20, 2.0), (1e26, 2.0)]}, "x", "y", log_across=True, log_up=True, dots=True),
        stacked([("row", [("part", 0.0)])], "GiB", 1.0),
        ranges([("a", 1.0, 1.0, 1.0)], "$"),
        ranges([("a", 0.01, 1.0, 100.0), ("b", 2.0, 3.0, 4.0)], "$", log=True),
        tornado([("a", 1.0, 3.0)], 2.0, "$"),
    ):
        ElementTree.fromstring(drawn)
        assert "nan" not in drawn


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    drawn = ElementTree.fromstring(stacked([("row", [("a", 30.0), ("b", 10.0)])], "GiB", 80.0))
    bars = [one for one in drawn.iter() if one.tag.endswith("rect") and one.attrib["height"] == "14"]
    a, b = (float(bar.attrib["width"]) for bar in bars)
    assert a == pytest.approx(3 * b, abs=0.3)
    assert float(bars[1].attrib["x"]) == pytest.approx(float(bars[0].attrib["x"]) + a, abs=0.2)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234, "1.23k"),
        (5.6e10, "56B"),
        (9.9999e8, "1B"),
        (9.98e8, "998M"),
        (2.5e25, "2.5e+25"),
        (0.00123, "0.00123"),
    ],
)
def test_short_numbers(value, text) -> None:
    assert short(value) == text
