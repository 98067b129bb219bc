"""Every attack ends as its folder's name says, and its legitimate twin succeeds."""

import importlib
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

CASES = sorted((Path(__file__).parent / "cases").iterdir())
ADAPTER = importlib.import_module(os.environ.get("MYTHOS_ATTACK_ADAPTER", "tests.attacks.adapter"))
GOOD = {"OK", "ALLOW", "GRANT"}


def run(path: Path, place: Path) -> tuple[Any, Any]:
    """Play the steps of a file; returns what the last one said, and the gate as it then stands."""
    script = tomllib.loads(path.read_text())
    gate = ADAPTER.Adapter(place, script.get("setting", {}))
    got = None
    for step in script["step"]:
        step = dict(step)
        operation, expected = step.pop("do"), step.pop("expect", None)
        before, entries = gate.standing(), gate.entries()
        got = gate.do(operation, step)
        if expected is None:
            assert got.word in GOOD, f"{path}: {operation} {step} said {got}"
            continue
        wanted = expected if isinstance(expected, list) else [expected]
        assert {*wanted} <= {got.word, *got.codes}, f"{path}: {operation} {step} said {got}"
        if got.word not in GOOD:
            refused(gate, operation, step, got, before, entries)
    return got, gate


def refused(gate: Any, operation: str, step: dict[str, Any], got: Any, before: Any, entries: int) -> None:
    """A refusal changes nothing but the audit log, and stays the same, also after a restart."""
    assert gate.standing() == before, "a refused step changed the state"
    writes = operation not in ("gate", "request", "release")
    assert gate.entries() - entries == (1 if writes else 0), "one entry for each attempt to write"
    for again in range(3):
        if again == 2:
            gate.restart()
        assert gate.do(operation, step) == got


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_attack(case: Path, tmp_path: Path) -> None:
    verdict = case.name.split("_")[0]
    got, gate = run(case / "attack.toml", tmp_path / "attack")
    gate.close()
    assert got.word not in GOOD and (verdict in ("REFUSED", got.word)), f"{case.name} ended with {got}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_control(case: Path, tmp_path: Path) -> None:
    got, gate = run(case / "control.toml", tmp_path / "control")
    gate.close()
    assert got.word in GOOD, f"the control of {case.name} ended with {got}"


def test_every_case_has_both() -> None:
    assert CASES and all({"attack.toml", "control.toml"} == {f.name for f in c.iterdir()} for c in CASES)
