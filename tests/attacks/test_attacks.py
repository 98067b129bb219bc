"""Every attack on the gate ends as its folder's name says, and its legitimate twin succeeds."""

from pathlib import Path

import pytest

from tests.attacks import runner

CASES = runner.cases("cases")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_attack(case: Path, tmp_path: Path) -> None:
    runner.attack(case, tmp_path / "attack")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_control(case: Path, tmp_path: Path) -> None:
    runner.control(case, tmp_path / "control")


def test_every_case_has_both() -> None:
    found = CASES + [case for f in ("served", "assets", "incidents") for case in runner.cases(f"cases_{f}")]
    assert found and all({"attack.toml", "control.toml"} == {f.name for f in c.iterdir()} for c in found)
    assert len({case.name.split("_")[1] for case in found}) > 100
