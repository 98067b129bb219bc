"""Compile llama.cpp with clang for the processor of this machine, as an engine of `mythos bench`.

    python bench/build_llamacpp.py

The source is the archive in bench/llamacpp.lock, fetched by its hash. To .cache/llamacpp go the libraries and
the two files of the Python binding that declare their C interface. A stamp there names lock, compiler,
options and processor; while they are the same nothing is done. Without a compiler it says so and exits 0; it
exits 1 when fetching or compiling fails. `mythos bench` then takes a llama.cpp built for any processor.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from mythos.cli import bench_machine as machine
from mythos.cli.bench_peers import CHECKOUT, lock_digest, processor_digest
from mythos.data.fetch import Archive, FetchError, fetch_archive

LOCK = CHECKOUT / "bench" / "llamacpp.lock"
PLACE = CHECKOUT / ".cache" / "llamacpp"
TOOLS = ("clang", "clang++", "cmake")
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "CMAKE_C_COMPILER": "clang",
    "CMAKE_CXX_COMPILER": "clang++",
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "CMAKE_INSTALL_RPATH": "$ORIGIN",
    "BUILD_SHARED_LIBS": "ON",
    "GGML_NATIVE": "ON",  # -march=native
    "GGML_OPENMP": "OFF",  # a pool of its own threads: not every clang comes with OpenMP
    "GGML_CCACHE": "OFF",
    "LLAMA_BUILD_COMMON": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_TOOLS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
}
BINDING = ("llama_cpp.py", "_ctypes_extensions.py")


def main() -> int:
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    missing += [] if shutil.which("ninja") or shutil.which("make") else ["ninja"]
    if missing:
        print(f"llama.cpp is not compiled: there is no {' or '.join(missing)}", file=sys.stderr)
        print(
            "cure: install them (Debian: apt-get install clang cmake ninja-build), then make bench-peers",
            file=sys.stderr,
        )
        return 0
    wanted = stamp()
    try:
        if json.loads((PLACE / "compiled").read_text()) == wanted:
            return 0
    except (OSError, ValueError):
        pass
    print("Compiling llama.cpp for this processor: 77 MB to download, some minutes", flush=True)
    PLACE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PLACE.parent, prefix="llamacpp-") as name:
        problem = build(Path(name), wanted)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        print("cure: read what is above; `mythos bench` does without it", file=sys.stderr)
    return 1 if problem else 0


def stamp() -> dict[str, str]:
    """What the libraries depend on."""
    said = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "llama-cpp-python": tomllib.loads(LOCK.read_text())["requirement"].partition("==")[2],
        "clang": said.splitlines()[0].partition("version ")[2],
        "lock": lock_digest(CHECKOUT),
        "options": " ".join(f"{name}={value}" for name, value in OPTIONS.items()),
        "processor": processor_digest(),
    }


def build(folder: Path, wanted: dict[str, str]) -> str:
    """Fetches and compiles in `folder`, then puts the result in its place. Empty, or what went wrong."""
    try:
        spec = Archive(**tomllib.loads(LOCK.read_text()))
        archive = fetch_archive(spec, folder, lambda *_: None)
    except FetchError as error:
        return f"{error.message} {error.cure}"
    source, made, log = folder / spec.file.removesuffix(".tar.gz"), folder / "made", folder / "log"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
    commands = [
        ["cmake", "-E", "tar", "xzf", str(archive)],
        ["cmake", "-S", str(source / "vendor" / "llama.cpp"), "-B", str(made), *generator, *options],
        ["cmake", "--build", str(made), "--target", "llama", "--parallel", str(machine.cores())],
    ]
    # Flags of the user's environment are left out: they would be someone else's idea of this machine.
    environment = {k: v for k, v in os.environ.items() if not k.endswith(("CFLAGS", "CXXFLAGS", "LDFLAGS"))}
    for command in commands:
        with log.open("w") as output:
            done = subprocess.run(
                ["nice", "-n", "5", *command], stdout=output, stderr=output, env=environment, cwd=folder
            )
        if done.returncode != 0:
            print("\n".join(log.read_text(errors="replace").splitlines()[-30:]), file=sys.stderr)
            return "llama.cpp could not be compiled"
    fresh = folder / "fresh"
    package = fresh / "llama_cpp"
    (package / "lib").mkdir(parents=True)
    for library in (made / "bin").glob("*.so*"):
        shutil.copy2(library, package / "lib", follow_symlinks=False)
    for name in BINDING:
        shutil.copy2(source / "llama_cpp" / name, package)
    (package / "__init__.py").write_text("")  # its own imports the rest of the binding, and what that needs
    (fresh / "compiled").write_text(json.dumps(wanted, indent=1) + "\n")
    shutil.rmtree(PLACE, ignore_errors=True)
    fresh.replace(PLACE)
    return ""


if __name__ == "__main__":
    sys.exit(main())
