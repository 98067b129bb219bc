"""The real `mythos` as a subprocess, with a home and keys of its own."""

import os
import shutil
import signal
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


def listen_to_ctrl_c() -> None:
    """For a child, before it starts: a shell's background jobs ignore Ctrl-C, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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
def built(opus_home: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A copy of the shared home with the real opus tier, for the tests of this directory to write to."""
    place = tmp_path_factory.mktemp("built")
    home = {"MYTHOS_HOME": str(place / "home"), "MYTHOS_KEYS": str(place / "keys")}
    for name, path in home.items():
        shutil.copytree(opus_home[name], path, ignore=shutil.ignore_patterns("*.gguf"))
    return home
