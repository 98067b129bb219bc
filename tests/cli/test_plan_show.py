"""`mythos plan show`, `compare` and `choose` as a subprocess."""

import json

import pytest


def test_show_in_one_page(mythos, tmp_path):
    html = tmp_path / "plan.html"
    done = mythos("plan", "show", "mythos-10t", "--html", str(html))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) < 60
    for words in (
        "planned, not trained",
        "9.9T",
        "8,192 GB300",
        "80% interval",
        "moved most by",
        "does not fit",
    ):
        assert words in done.stdout, words
    assert "Hundreds of millions for the programme: research decides" in done.stdout
    assert html.read_text().startswith("<!doctype html>") and "plan.html" in done.stderr


def test_show_as_json(mythos):
    done = mythos(
        "plan", "show", "mythos-10t", "--tier", "haiku", "--hardware", "H100", "--budget", "5M$", "--json"
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["tier"] == "haiku" and plan["hardware"] == "H100" and plan["parameters"] == 30_093_617_152
    assert plan["answers"]["rented"]["value"] == pytest.approx(5e6, rel=1e-6)
    for answer in plan["answers"].values():
        assert answer["low"] <= answer["value"] <= answer["high"] and answer["moved_by"]
    assert {"low", "value", "high", "source", "dated"} <= set(plan["assumptions"][0])
    assert sum(plan["spent"].values()) == pytest.approx(5e6)


def test_compare(mythos):
    done = mythos("plan", "compare", "mythos-10t/haiku", "mythos-10t/haiku@H100", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["first"]["hardware"] == "GB300" and found["second"]["hardware"] == "H100"
    ratio = found["answers"]["accelerator_hours"]["ratio"]
    assert ratio["low"] < ratio["value"] < ratio["high"] < 1
    done = mythos("plan", "compare", "mythos-10t/sonnet", "mythos-10t/haiku")
    assert done.returncode == 0 and "moved most by" in done.stdout


def test_choose(mythos):
    done = mythos("plan", "choose", "5.76e23FLOP", "--json")
    assert json.loads(done.stdout)["choice"]["active"] == pytest.approx(72.2e9, rel=0.01)
    done = mythos("plan", "choose", "1e24FLOP", "--served", "10T", "--unique", "2T", "--parameters", "1T")
    assert done.returncode == 0 and "joint" in done.stdout and "extrapolated" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says", "cure"),
    [
        (("show", "mythos-11t"), "No family", "mythos-10t"),
        (("show", "mythos-10t", "--tier", "gorilla"), "has no tier", "capybara"),
        (("show", "mythos-10t", "--hardware", "abacus"), "No accelerator", "GB300"),
        (("show", "mythos-10t", "--budget", "-5M$"), "makes no plan", "Plan for"),
        (("show", "mythos-10t", "--budget", "many"), "no unit", "300M$"),
        (("show", "mythos-10t", "--accelerators", "7"), "Nothing fits", "more accelerators"),
        (("show", "mythos-10t", "--accelerators", "999999999"), "were asked for", "10,000,000"),
        (("show", "mythos-10t", "--assume", "rent=nan"), "finite", ""),
        (("show", "mythos-10t", "--assume", "rent=5:3:1"), "rising order", ""),
        (("show", "mythos-10t", "--html", "/dev/null/x.html"), "cannot be written", "another place"),
        (("compare", "mythos-10t", "mythos-10t"), "the same", "another tier"),
        (("choose", "90d"), "for a compute", "1e26FLOP"),
        (("choose", "1e26FLOP", "--law", "moore"), "no scaling law", "epoch"),
        (("choose", "1e26FLOP", "--served", "lots"), "not understood", "15T"),
        (("choose", "1e26FLOP", "--ratio", "0.1"), "ratio", ""),
    ],
)
def test_nonsense_gets_one_sentence_and_a_cure(mythos, arguments, says, cure):
    done = mythos("plan", *arguments)
    assert done.returncode not in (0, 130) and done.stdout == ""
    assert says in done.stderr and cure in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4
