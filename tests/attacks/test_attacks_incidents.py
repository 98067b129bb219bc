"""Attacks on incidents and reports: clocks, duties, statements, figures, commitments, pages."""

from pathlib import Path

import pytest

from tests.attacks import runner

CASES = runner.cases("cases_incidents")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_attack(case: Path, tmp_path: Path) -> None:
    runner.attack(case, tmp_path / "attack")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_control(case: Path, tmp_path: Path) -> None:
    runner.control(case, tmp_path / "control")
