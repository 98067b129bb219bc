"""The real `mythos` as a subprocess, with a home and keys of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "mythos.cli"]
Run = Callable[..., subprocess.CompletedProcess[str]]


def clean_env(**extra: str) -> dict[str, str]:
    """This environment without what would change the output."""
    dropped = ("MYTHOS_", "ANTHROPIC_", "OPENAI_", "CLAUDE_CODE_", "COLUMNS", "NO_COLOR", "SHELL")
    return {k: v for k, v in os.environ.items() if not k.startswith(dropped)} | extra


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The variables of a home and a key directory that do not exist yet."""
    return {"MYTHOS_HOME": str(tmp_path / "home"), "MYTHOS_KEYS": str(tmp_path / "keys")}


def runner(base: dict[str, str]) -> Run:
    def run(*arguments: str, stdin: str = "", env: dict[str, str] | None = None, timeout: float = 120):
        return subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env=clean_env(**base | (env or {})),
            timeout=timeout,
        )

    return run


@pytest.fixture
def mythos(home: dict[str, str]) -> Run:
    """`mythos(*arguments)` on a fresh home."""
    return runner(home)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home in which everything is built that can be, for tests that only read it."""
    place = tmp_path_factory.mktemp("built")
    home = {"MYTHOS_HOME": str(place / "home"), "MYTHOS_KEYS": str(place / "keys")}
    done = runner(home)("build", timeout=600)
    assert done.returncode == 0, done.stderr
    return home
