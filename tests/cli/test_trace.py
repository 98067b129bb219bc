"""`mythos trace` as a subprocess, and training under torchrun."""

import json

import pytest


def test_every_kind_of_rank(mythos, tmp_path):
    html = tmp_path / "ranks.html"
    done = mythos(
        "trace", "nano", "--tier", "capybara", "--mesh", "pp=2,ep=4,dp=2", "--all-distinct",
        "--sequence", "256", "--rows", "2", "--html", str(html), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ranks"] == 16 and [one["place"]["pp"] for one in found["traced"]] == [0, 1]
    for one in found["traced"]:
        step = one["step"]
        held = step["parameters"] + step["optimizer"] + step["buffers"]
        assert step["peak"] == held + step["gathered"] + step["activations"] < one["needed"]
        assert one["fits"] and one["decode"]["cache"] > 0 and one["planned"]["weights"] > 0
        groups = {(sent["kind"], sent["group"], sent["ranks"]) for sent in step["sent"]}
        assert {("all-to-all", "ep", 4), ("reduce-scatter", "expert", 2), ("all-gather", "data", 8)} <= groups
    text = html.read_text()
    assert text.startswith("<!doctype html>") and "hottest link" in text and "<table>" in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_one_rank_in_words(mythos):
    done = mythos("trace", "nano", "--tier", "haiku", "--mesh", "dp=2", "--sequence", "128")
    assert done.returncode == 0, done.stderr
    for words in ("nano/haiku on 2 GB300", "planner", "hottest link: data", "a decode step of 64 streams"):
        assert words in done.stdout, words
    assert "nothing ran" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--mesh", "tp=3"), "tp is 3, which does not divide the model's heads"),
        (("--mesh", "dp=2", "--rank", "2"), "rank is 2, and the mesh has ranks 0 to 1"),
        (
            ("--mesh", "dp=2", "--hardware", "H100", "--sequence", "2048", "--rows", "600"),
            "give --recompute, or raise tp (now 1) or cp (now 1)",
        ),
    ],
)
def test_errors_name_the_number_to_change(mythos, arguments, says):
    done = mythos("trace", "nano", "--tier", "capybara", *arguments)
    assert done.returncode != 0 and says in done.stderr and "Traceback" not in done.stderr
