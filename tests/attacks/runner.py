"""Plays a case: its steps in order, what must come of each, and what holds after every refusal."""

import importlib
import os
import time
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ADAPTER = importlib.import_module(os.environ.get("MYTHOS_ATTACK_ADAPTER", "tests.attacks.adapter"))
GOOD = {"OK", "ALLOW", "GRANT"}


def cases(folder: str) -> list[Path]:
    return sorted(path for path in (HERE / folder).iterdir() if path.is_dir())


def attack(case: Path, place: Path) -> None:
    """The attack ends with the verdict that its folder's name begins with."""
    verdict = case.name.split("_")[0]
    word = run(case / "attack.toml", place)
    assert word not in GOOD and verdict in ("REFUSED", word), f"{case.name} ended with {word}"


def control(case: Path, place: Path) -> None:
    """Its legitimate twin succeeds."""
    word = run(case / "control.toml", place)
    assert word in GOOD, f"the control of {case.name} ended with {word}"


def run(path: Path, place: Path) -> str:
    """Play the steps of a file; returns the word of the last one."""
    script = tomllib.loads(path.read_text())
    gate = ADAPTER.Adapter(place, script.get("setting", {}))
    word = ""
    try:
        for step in script["step"]:
            step = dict(step)
            operation, expected = step.pop("do"), step.pop("expect", None)
            before = (gate.standing(), len(gate.attempts())) if expected else None
            got = gate.do(operation, step)
            word = got.word
            if expected is None:
                assert word in GOOD, f"{path}: {operation} {step} said {got}"
                continue
            wanted = expected if isinstance(expected, list) else [expected]
            assert {*wanted} <= {word, *got.codes}, f"{path}: {operation} {step} said {got}"
            if word not in GOOD:
                refused(gate, operation, step, got, before)
    finally:
        gate.close()
    return word


def refused(gate: Any, operation: str, step: dict[str, Any], got: Any, before: Any) -> None:
    """A refusal changes nothing but the audit log, and stays the same, also after a restart.

    An attempt to write, or a request, leaves exactly one entry, which says why; a question leaves none.
    """
    standing, attempts = before
    assert gate.standing() == standing, "a refused step changed the state"
    written = ADAPTER.entries(operation, step, got)
    until = time.monotonic() + 10
    while len(gate.attempts()) < attempts + written and time.monotonic() < until:
        time.sleep(0.01)  # a server writes it down a moment after it has answered
    found = gate.attempts()[attempts:]
    assert len(found) == written, f"{len(found)} entries for one attempt"
    assert all({got.word, *got.codes} & {*map(str, why(entry))} for entry in found), (
        f"one says not why: {found}"
    )
    for again in range(3):
        if again == 2:
            gate.restart()
        assert gate.do(operation, step) == got


def why(entry: dict[str, Any]) -> Any:
    """Every value that an entry states as a fact, lists opened."""
    for value in entry["facts"].values():
        yield from value if isinstance(value, list) else [value]
