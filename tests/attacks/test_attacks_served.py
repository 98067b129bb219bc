"""Attacks on weights as they lie on disk and on the request path: real files, a real server."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks import runner

CASES = runner.cases("cases_served")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_attack(case: Path, tmp_path: Path) -> None:
    runner.attack(case, tmp_path / "attack")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_control(case: Path, tmp_path: Path) -> None:
    runner.control(case, tmp_path / "control")


def test_the_attacks_on_records_need_no_torch() -> None:
    """They are run once for each mutant of the gate."""
    script = "import sys, tests.attacks.test_attacks; print({'torch', 'httpx'} & {*sys.modules})"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout == "set()\n"
