"""Other people's clients, at pinned versions, each in a directory of its own under `.cache/clients`.

What is in the cache and complete is used as it is, without a look at the network. Everything fetched is
checked against the hashes in `locks/`. A registry that cannot be reached, or no longer has a version, is
`Unavailable`, which the tests say as they skip; a wrong hash is an error.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "clients"
RESULTS = CACHE / "results"
LOCKS = Path(__file__).resolve().parent / "locks"
STAMP = "complete.sha256"

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
# What pip and npm print when the network, and not the package, is at fault.
UNREACHED = (
    "Could not find a version that satisfies",
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "Connection refused",
    "Read timed out",
    "Max retries exceeded",
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "E404",
    "ETARGET",
)


class Unavailable(Exception):
    """A client that cannot be had here, and why."""


def python_client(name: str) -> Path:
    """The Python of the environment that `locks/<name>.txt` describes. Raises Unavailable."""
    lock = LOCKS / f"{name}.txt"
    place = CACHE / name
    python = place / "bin" / "python"
    digest = _digest(lock.read_bytes(), sys.version.encode())
    if _complete(place, digest):
        return python
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, symlinks=True)
    into = [*PIP, "--python", str(python), "install", "--quiet", "--only-binary", ":all:"]
    _fetch(name, [*into, "--no-deps", "--require-hashes", "-r", str(lock)])
    (place / STAMP).write_text(digest)
    return python


def python_source(name: str) -> Path:
    """The unpacked source distribution that `locks/<name>.sdist.txt` pins, tests and all. Raises Unavailable.

    pip reads the metadata of what it downloads, so the build backend comes from the client's own environment.
    """
    lock = LOCKS / f"{name}.sdist.txt"
    place = CACHE / f"{name}-source"
    digest = _digest(lock.read_bytes())
    if _complete(place, digest):
        return place / name
    python = python_client(name)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
    download = [*PIP, "--python", str(python), "download", "--quiet", *options]
    _fetch(name, [*download, "-d", str(place), "-r", str(lock)])
    with tarfile.open(place / f"{name}.tar.gz") as archive:
        archive.extractall(place, filter="data")
    (place / STAMP).write_text(digest)
    return place / name


def npm_client(name: str) -> Path:
    """The `node_modules` that `locks/<name>/package-lock.json` describes. Raises Unavailable.

    Install scripts do not run: whatever they would fetch is not under the lock's hashes.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable(f"{name}: npm is not installed")
    locks = LOCKS / name
    place = CACHE / name
    digest = _digest(*((locks / file).read_bytes() for file in ("package.json", "package-lock.json")))
    if _complete(place, digest):
        return place / "node_modules"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(locks, place)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    _fetch(name, [npm, "ci", *quiet], cwd=place)
    (place / STAMP).write_text(digest)
    return place / "node_modules"


def clean_environment(**more: str) -> dict[str, str]:
    """Variables for a client's process: this one's, less those that would steer a client or its Python."""
    steering = ("ANTHROPIC", "OPENAI", "CLAUDE", "AWS_", "LLM_", "PYTHON", "PYTEST", "MYTHOS")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(steering) and "_proxy" not in k.lower()}
    return {**kept, **more}


def _complete(place: Path, digest: str) -> bool:
    stamp = place / STAMP
    return stamp.is_file() and stamp.read_text() == digest


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _fetch(name: str, command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)
    if done.returncode == 0:
        return
    said = f"{done.stderr}\n{done.stdout}"
    if any(sign in said for sign in UNREACHED) and "DO NOT MATCH THE HASHES" not in said:
        last = next((line for line in reversed(said.splitlines()) if any(s in line for s in UNREACHED)), "")
        raise Unavailable(f"{name} cannot be fetched: {last.strip()}")
    raise RuntimeError(f"installing {name} failed:\n{said}")
