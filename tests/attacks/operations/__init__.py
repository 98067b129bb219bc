"""Operations by name, a file for each kind of record: `op_NAME(adapter, **arguments)`.

An operation returns a `Said`, or nothing when it succeeded; what the gate refuses is raised as `Rejected`.
"""

from collections.abc import Callable
from typing import Any

from tests.attacks.operations import access, evidence, log, served, trust, votes

FILES = (access, evidence, log, served, trust, votes)


def operation(name: str) -> Callable[..., Any] | None:
    """The function of this name in the one file that has it; None for none."""
    found = [getattr(file, f"op_{name}") for file in FILES if hasattr(file, f"op_{name}")]
    assert len(found) <= 1, f"{name} stands in several files"
    return found[0] if found else None
