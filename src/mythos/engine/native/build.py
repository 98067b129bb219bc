"""Making the native library on the machine that will run it, and loading nothing that was not made there.

The library is code only: it holds no weights, so it is no copy of them. It lies in the data directory under
a name that says from which sources, compiler, flags and processor it was made; beside it lies its digest,
sealed with the key of weights at rest. What is not what was sealed is made again and never loaded.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from mythos.records.errors import MythosError
from mythos.records.keyring import Keyring
from mythos.store.home import Home, private_directory, write_private

SOURCES = ("memory.hpp", "pool.hpp", "functions.hpp", "gemm.hpp", "attention.hpp", "model.cpp")
# What g++ 12 tunes for some processors keeps weights on the stack in the innermost loop: half the speed.
FLAGS = (
    *("-std=c++20", "-O3", "-march=native", "-mtune=generic"),
    *("-ffp-contract=off", "-fPIC", "-shared", "-pthread"),
)
NEEDED = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16")
COMPILERS = ("clang++", "g++", "c++")
HERE = Path(__file__).parent


class Unavailable(MythosError):
    """There is no native library here, and why; the plain backend serves."""


def library(home: Home, keyring: Keyring, tell: Callable[[str], None] = lambda _: None) -> ctypes.CDLL:
    """The native library, made first when it is not there or not what was sealed; `tell` then gets a line.

    Unavailable when this processor, or this machine without a compiler, cannot have it.
    """
    if missing := [flag for flag in NEEDED if flag not in processor_flags()]:
        raise Unavailable(f"this processor has no {missing[0]}.", "Nothing to do: the plain backend serves.")
    compiler, version = find_compiler()
    name = _name(version)
    path = private_place(home) / f"{name}.so"
    found = sealed_bytes(path, keyring, name)
    if found is None:
        stale = "what lies there is not what was made here: " if path.exists() else ""
        tell(f"{stale}building the native backend, once, with {compiler}")
        found = _compile(compiler)
        write_private(path, found, replace=True)
        seal = keyring.wrap(hashlib.sha256(found).digest(), _context(name))
        write_private(path.with_suffix(".seal"), seal, replace=True)
        _clear(path)
    return _open(found)


def private_place(home: Home) -> Path:
    place = home.path / "native"
    private_directory(place)
    return place


def sealed_bytes(path: Path, keyring: Keyring, name: str) -> bytes | None:
    """The library's bytes when they are those that were sealed on this machine, else None."""
    try:
        data, seal = path.read_bytes(), path.with_suffix(".seal").read_bytes()
    except OSError:
        return None
    digest = keyring.unwrap(seal, _context(name))
    return data if digest == hashlib.sha256(data).digest() else None


@cache
def processor_flags() -> frozenset[str]:
    """What /proc/cpuinfo says of the first processor; nothing on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def find_compiler() -> tuple[str, str]:
    """(path, what it says of itself). Unavailable without one; CXX names another."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    for name in names:
        if (path := shutil.which(name)) is None:
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
        if said.returncode == 0:
            return path, said.stdout
    raise Unavailable(
        f"there is no C++ compiler ({', '.join(names)}).",
        "Install g++ 12 or clang++ 14, or newer; or set CXX.",
    )


def _name(version: str) -> str:
    digest = hashlib.sha256()
    for source in SOURCES:
        digest.update((HERE / source).read_bytes())
    flags = sorted(processor_flags())
    digest.update(repr((FLAGS, version, flags, platform.machine())).encode())
    return digest.hexdigest()[:32]


def _context(name: str) -> str:
    return f"native:{name}"


def _compile(compiler: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="mythos-native-") as place:
        out = Path(place) / "native.so"
        command = [compiler, *FLAGS, "-o", str(out), str(HERE / "model.cpp")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["nothing"])[0]
            raise Unavailable(
                f"{compiler} could not build the native library: {said[:200]}", "Try a newer one."
            )
        return out.read_bytes()


def _open(data: bytes) -> ctypes.CDLL:
    """Loads the very bytes that were checked: from memory, so that nothing can change the file in between."""
    file = os.memfd_create("mythos-native", os.MFD_CLOEXEC)
    try:
        with os.fdopen(file, "wb", closefd=False) as handle:
            handle.write(data)
        return ctypes.CDLL(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def _clear(kept: Path) -> None:
    """Takes libraries of older sources, compilers and processors away."""
    for path in kept.parent.iterdir():
        if path.stem != kept.stem and path.suffix in (".so", ".seal"):
            path.unlink(missing_ok=True)
