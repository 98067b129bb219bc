"""`mythos build FAMILY --seeds 2 --control --json` from end to end: what it trains, tells, draws and keeps.

The text is small, of each suite there are some questions, and neither torch.compile nor a lower priority is
used; all else is what the command does.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mythos.cli import build as command
from mythos.evaluate import run as evaluation
from mythos.evaluate.suite import Suite
from mythos.spec.family import Family
from mythos.store.answering import Idle
from mythos.store.home import Home
from mythos.train.material import Material
from tests.train.test_build_family import FAMILY, SMALL, family, make, material, of

assert family and material  # fixtures


@pytest.fixture
def file(family: Family, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A family's file, whose parent tier is built. The command finds small text and few questions."""
    pytest.importorskip("reasoning_gym")
    load = evaluation.load_suite

    def few(*asked: Any) -> Suite:
        whole = load(*asked)
        return replace(whole, items=whole.items[::14])  # of both kinds of prompt

    monkeypatch.setattr(evaluation, "load_suite", few)
    monkeypatch.setattr(command, "prepared", lambda *_: (material, Idle(Home.open()), False))
    monkeypatch.setattr(command, "give_way", lambda: None)  # a process cannot take it back
    monkeypatch.setattr(command, "json_wanted", lambda: True)
    make(family, "large", of(material, SMALL))
    place = tmp_path / "steps.toml"
    place.write_text(FAMILY)
    return str(place)


def kept() -> tuple[list[str], dict[Path, int]]:
    """The pictures of seeds 0 and 1; when the steps of each run were last written."""
    runs = Home.open().path / "runs"
    pictures = [(runs / name).read_text() for name in ("steps.svg", "steps-1.svg")]
    return pictures, {place: place.stat().st_mtime_ns for place in runs.glob("**/metrics.jsonl")}


def test_each_seed_has_a_line_a_control_and_a_picture(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    def told() -> dict[str, Any]:
        assert command.run(file, "student", "pocket", "20480-tokens", seeds=2, control=True) == 0
        return json.loads(capsys.readouterr().out)

    first = told()
    students = [line for line in first["ladder"] if line["tier"] == "student"]
    assert [line["seed"] for line in students] == [0, 1]
    assert students[0]["general"] != students[1]["general"]
    assert [line["seed"] for line in first["controls"]] == [0, 1]
    assert {line["against"] for line in first["controls"]} == {"the same shape from scratch"}
    over = {line["tier"]: line for line in first["over_seeds"]}
    assert over["student"]["seeds"] == 2 and over["student"]["bits per byte"]
    assert not over["large"]["bits per byte"]  # it was not trained here: one figure, no interval

    pictures, steps = kept()
    assert len(steps) == 5  # the parent, two students, two controls
    assert all("student" in picture for picture in pictures)
    assert "steps-1: loss" in pictures[1] and pictures[0] != pictures[1]
    assert told() == first  # with nothing trained twice: the steps are those written before
    assert kept() == (pictures, steps)
