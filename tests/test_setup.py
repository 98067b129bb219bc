"""Set-up: no gigabytes without leave, nothing fetched twice, an interrupted set-up repairs itself.

The package index is a small one on loopback with made-up wheels; pip, venv and make are the real ones.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CHECK = ROOT / "tools" / "torch_wheel.py"
CPU_SENTENCE = "set TORCH_INDEX to the CPU index URL shown on PyTorch's Get Started page"
COMMON = ("filelock", 'optree>=0.13; extra == "optree"')
CUDA = (
    *COMMON,
    'nvidia-nccl-cu13==2.29.7; platform_system != "Nowhere"',
    'cuda-toolkit[cublas]==13.0.3; platform_system != "Nowhere"',
)


def wheel(name: str, version: str, requires: tuple[str, ...] = (), module: str = "") -> tuple[str, bytes]:
    """(file name, bytes) of a pure wheel with one module."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    files = {
        f"{name.replace('-', '_')}.py": module,
        f"{info}/METADATA": "\n".join([*lines, *(f"Requires-Dist: {r}" for r in requires)]) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return f"{stem}-py3-none-any.whl", buffer.getvalue()


@dataclass
class Index:
    """A package index. `tells` is how it lets a wheel's metadata be known: "announced" (PEP 658), a file
    "beside" the wheel that the page does not announce, "ranges" of the wheel, or "nothing"."""

    tells: str = "announced"
    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    fetched: list[str] = field(default_factory=list)  # paths answered with a whole file

    def add(self, name: str, version: str, requires: tuple[str, ...] = (), module: str = "") -> str:
        """Offer a wheel; the sha256 of it."""
        file, body = wheel(name, version, requires, module)
        self.files[file] = body
        return hashlib.sha256(body).hexdigest()

    def page(self, project: str) -> str | None:
        links = ""
        for file in self.files:
            if canonicalize_name(file.split("-")[0]) == project:
                announced = 'data-core-metadata="true"' if self.tells == "announced" else ""
                links += f'<a href="/files/{file}" {announced}>{file}</a>\n'
        return f"<!DOCTYPE html><html><body>{links}</body></html>" if links else None

    def answer(self, path: str) -> bytes | None:
        kind, _, file = unquote(path).strip("/").partition("/")
        if kind == "simple":
            page = self.page(file)
            return page and page.encode()  # type: ignore[return-value]
        if file.endswith(".metadata") and self.tells in ("announced", "beside"):
            archive = zipfile.ZipFile(BytesIO(self.files[file.removesuffix(".metadata")]))
            return archive.read(next(n for n in archive.namelist() if n.endswith("METADATA")))
        return self.files.get(file)

    def wheels_fetched(self, name: str) -> list[str]:
        return [p for p in self.fetched if p.endswith(".whl") and p.startswith(f"/files/{name}-")]


@pytest.fixture
def index() -> Iterator[Index]:
    offered = Index()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            body = offered.answer(self.path)
            if body is None:
                self.send_error(404)
                return
            status, whole = 200, True
            asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if asked and offered.tells == "ranges":
                size = len(body)
                first, last = (int(g) if g else None for g in asked.groups())
                start = size - min(last or 0, size) if first is None else first
                stop = size if first is None or last is None else min(last + 1, size)
                body, status, whole = body[start:stop], 206, False
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header(
                "Content-Type", "text/html" if self.path.startswith("/simple") else "application/zip"
            )
            if offered.tells == "ranges":
                self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if self.command == "GET":
                if whole:
                    offered.fetched.append(self.path)
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    offered.url = f"http://127.0.0.1:{server.server_port}/simple/"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield offered
    server.shutdown()
    server.server_close()


def environment(index: Index, tmp_path: Path, **more: str) -> dict[str, str]:
    """This process's environment with pip told of nothing but the index."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "MAKE", "MFLAGS"))}
    kept = {k: v for k, v in kept.items() if k not in ("TORCH_INDEX", "ALLOW_CUDA", "VIRTUAL_ENV", "ARGS")}
    pip = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": index.url,
        "PIP_CACHE_DIR": str(tmp_path / "cache"),
    }
    return {**kept, **pip, "PIP_RETRIES": "0", **more}


def check(index: Index, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHECK), "check", "2.13.0"]
    return subprocess.run(
        command, env=environment(index, tmp_path), capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("tells", ["announced", "beside", "ranges"])
def test_cuda_build_is_told_without_fetching_it(index: Index, tmp_path: Path, tells: str) -> None:
    index.tells = tells
    index.add("torch", "2.13.0", CUDA)
    result = check(index, tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(
        "error: torch 2.13.0 would come as its CUDA build, a download of about 3 GB"
    )
    assert (
        CPU_SENTENCE in result.stderr and "about 0.2 GB" in result.stderr and "ALLOW_CUDA=1" in result.stderr
    )
    assert result.stderr.strip().count("\n") == 0
    assert index.fetched and index.wheels_fetched("torch") == []


@pytest.mark.parametrize("tells", ["announced", "beside", "ranges"])
def test_cpu_build_passes(index: Index, tmp_path: Path, tells: str) -> None:
    index.tells = tells
    index.add("torch", "2.13.0", COMMON)
    result = check(index, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert index.wheels_fetched("torch") == []


def test_requirements_of_other_systems_do_not_count(index: Index, tmp_path: Path) -> None:
    index.add("torch", "2.13.0", (*COMMON, 'nvidia-nccl-cu13==2.29.7; platform_system == "Nowhere"'))
    assert check(index, tmp_path).returncode == 0


def test_local_version_marks_a_build(index: Index, tmp_path: Path) -> None:
    index.add("torch", "2.13.0+cpu", COMMON)
    assert check(index, tmp_path).returncode == 0
    index.add("torch", "2.13.0+cu130", COMMON)  # sorts above +cpu: pip would take it
    assert check(index, tmp_path).returncode == 1
    assert index.wheels_fetched("torch") == []


def test_an_index_that_does_not_tell_stops_too(index: Index, tmp_path: Path) -> None:
    index.tells = "nothing"
    index.add("torch", "2.13.0", COMMON)
    result = check(index, tmp_path)
    assert result.returncode == 1 and "does not tell" in result.stderr and CPU_SENTENCE in result.stderr
    assert index.wheels_fetched("torch") == []


def test_no_torch_for_this_python(index: Index, tmp_path: Path) -> None:
    result = check(index, tmp_path)
    assert result.returncode == 1 and result.stderr.startswith("error: pip finds no torch 2.13.0")


BACKEND = """
import zipfile
from pathlib import Path
from urllib.parse import unquote

def build_editable(directory, config_settings=None, metadata_directory=None):
    name = "mythopoeia-1.0-py3-none-any.whl"
    info = "mythopoeia-1.0.dist-info"
    with zipfile.ZipFile(Path(directory) / name, "w") as wheel:
        wheel.writestr("mythopoeia.pth", str(Path.cwd()))
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: mythopoeia\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\\nmythos = program:main\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


def project(directory: Path, index: Index) -> Path:
    """A checkout with our Makefile and tools, a project of a few lines, and a lock of one package."""
    directory.mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", directory)
    shutil.copytree(ROOT / "tools", directory / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "mythopoeia"\nversion = "1.0"\ndependencies = ["torch==2.13.0"]\n'
    )
    (directory / "backend.py").write_text(BACKEND)
    (directory / "program.py").write_text(
        "import sys, torch, filelock\n\ndef main():\n    print('ready', torch.BUILD, *sys.argv[1:])\n"
    )
    digest = index.add("filelock", "4.0", module="")
    for lock in ("requirements.lock", "requirements-dev.lock"):
        (directory / lock).write_text(f"filelock==4.0 \\\n    --hash=sha256:{digest}\n")
    return directory


def make(*arguments: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["make", f"PYTHON={sys.executable}", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )


def test_make_up_from_nothing_to_offline(index: Index, tmp_path: Path) -> None:
    checkout = project(tmp_path / "a checkout", index)  # the space is part of the test
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    index.add("torch", "2.13.0", CUDA, "BUILD = 'cuda'")
    index.add("nvidia-nccl-cu13", "2.29.7")
    index.add("cuda-toolkit", "13.0.3")
    online = environment(index, tmp_path)

    stopped = make("-C", str(checkout), "up", cwd=elsewhere, env=online)
    assert stopped.returncode != 0 and CPU_SENTENCE in stopped.stderr and "ready" not in stopped.stdout
    assert [p for p in index.fetched if p.endswith(".whl")] == []

    allowed = make("-C", str(checkout), "up", "ALLOW_CUDA=1", cwd=elsewhere, env=online)
    assert "ready cuda up" in allowed.stdout, allowed.stdout + allowed.stderr
    for name in ("torch", "nvidia_nccl_cu13", "cuda_toolkit", "filelock"):
        assert len(index.wheels_fetched(name)) == 1

    offline = {**online, "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_NO_INDEX": "1"}
    index.fetched.clear()
    again = make("-f", str(checkout / "Makefile"), "up", "ARGS=--once", cwd=elsewhere, env=offline)
    assert again.stdout == "ready cuda up --once\n", again.stdout + again.stderr
    assert index.fetched == []

    # A changed lock changes the environment in place; a failure in the middle is made good by the next run.
    digest = index.add("filelock", "5.0")
    for lock in ("requirements.lock", "requirements-dev.lock"):
        (checkout / lock).write_text(f"filelock==5.0 \\\n    --hash=sha256:{digest}\n")
    assert make("-C", str(checkout), "up", cwd=elsewhere, env=offline).returncode != 0
    repaired = make("-C", str(checkout), "up", "ALLOW_CUDA=1", cwd=elsewhere, env=online)
    assert "ready cuda up" in repaired.stdout, repaired.stdout + repaired.stderr
    installed = subprocess.run(
        [checkout / ".venv/bin/python", "-c", "import importlib.metadata as m; print(m.version('filelock'))"],
        capture_output=True,
        text=True,
    )
    assert installed.stdout.strip() == "5.0"


def test_torch_index_is_where_torch_comes_from(index: Index, tmp_path: Path) -> None:
    """TORCH_INDEX goes without the check, and a development set-up serves make up as well."""
    checkout = project(tmp_path / "checkout", index)
    index.add("torch", "2.13.0+cpu", ("filelock",), "BUILD = 'cpu'")
    nowhere = environment(index, tmp_path, TORCH_INDEX="http://127.0.0.1:9/simple")
    assert make("-C", str(checkout), "setup-dev", cwd=tmp_path, env=nowhere).returncode != 0
    assert index.wheels_fetched("torch") == []
    # An unfinished .venv, torn in any way, is made anew.
    shutil.rmtree(checkout / ".venv/bin")
    result = make("-C", str(checkout), "setup-dev", f"TORCH_INDEX={index.url}", cwd=tmp_path, env=nowhere)
    assert result.returncode == 0, result.stdout + result.stderr
    assert set(json.loads((checkout / ".venv/setup.json").read_text())) == {"root", "run", "dev"}
    up = make("-C", str(checkout), "up", cwd=tmp_path, env=nowhere)
    assert "ready cpu up" in up.stdout


def test_too_old_a_python_is_told(tmp_path: Path) -> None:
    """The set-up script runs with whatever python3 there is."""
    code = (
        "import runpy, sys; sys.version_info = (3, 9); sys.version = '3.9.2 (made up)';"
        f"runpy.run_path({str(ROOT / 'tools/setup_env.py')!r}, run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1 and "Python 3.11 or newer is needed, this is 3.9.2" in result.stderr


def locked(name: str) -> dict[str, tuple[str, str]]:
    """{package: (version, marker)} of a lock file."""
    found = re.findall(
        r"^([a-z0-9._-]+)==([^ ;\\]+)(?: ; ([^\\]+?))? \\$", (ROOT / name).read_text(), re.MULTILINE
    )
    return {package: (version, marker) for package, version, marker in found}


def test_locks_are_hashed_and_name_no_place() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        lines = (ROOT / name).read_text().splitlines()
        for number, line in enumerate(lines):
            code = line.split(" #")[0].strip()
            if code.startswith("#") or not code:
                continue
            assert re.match(r"(--hash=sha256:[0-9a-f]{64}|[a-z0-9._-]+==\S+)", code), (name, line)
            if "==" in code and not code.startswith("--hash"):
                assert lines[number + 1].strip().startswith("--hash=sha256:"), (name, line)
        assert "://" not in "\n".join(lines) and "--index" not in "\n".join(lines)
    assert not [
        p for p in locked("requirements-dev.lock") if p.startswith(("torch", "nvidia", "cuda", "triton"))
    ]


def test_development_lock_holds_the_run_lock() -> None:
    run, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert len(run) > 50
    assert {p: v[0] for p, v in run.items()} == {p: dev.get(p, ("absent",))[0] for p in run}


def test_lock_meets_pyproject_and_the_installed_torch() -> None:
    """Every requirement of ours, and of torch itself, is in the lock at a version that meets it."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    ours = [Requirement(r) for r in pyproject["project"]["dependencies"]]
    torch = next(r for r in ours if r.name == "torch")
    of_torch = [Requirement(r) for r in importlib.metadata.requires("torch") or []]
    needed = [r for r in of_torch if r.marker is None or r.marker.evaluate({"extra": ""})]
    needed = [r for r in needed if not r.name.startswith(("nvidia-", "cuda-", "triton"))]
    assert {"filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec"} <= {
        r.name for r in needed
    }
    groups = [Requirement(r) for r in pyproject["dependency-groups"]["build"]]
    for requirement in [*(r for r in ours if r is not torch), *needed, *groups]:
        version = run[canonicalize_name(requirement.name)][0]
        assert requirement.specifier.contains(version, prereleases=True), requirement
    for requirement in map(Requirement, pyproject["project"]["optional-dependencies"]["dev"]):
        version = dev[canonicalize_name(requirement.name)][0]
        assert requirement.specifier.contains(version, prereleases=True), requirement
    (table,) = pyproject["tool"]["uv"]["dependency-metadata"]
    assert str(torch.specifier) == f"=={table['version']}"
    assert {str(r) for r in map(Requirement, table["requires-dist"])} == {str(r) for r in needed}


def test_wheel_holds_all_that_a_clone_has(tmp_path: Path) -> None:
    """The built wheel carries the package, the family files and the database migrations."""
    tree = tmp_path / "tree"
    ignore = shutil.ignore_patterns(".git", ".venv", ".cache", "__pycache__", "dist")
    shutil.copytree(ROOT, tree, ignore=ignore)
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=tree,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (path,) = tmp_path.glob("mythopoeia-*.whl")
    names = set(zipfile.ZipFile(path).namelist())
    for source in (tree / "src").rglob("*"):
        if source.is_file():
            assert str(source.relative_to(tree / "src")) in names
    families = {p.name for p in tree.rglob("families/*.toml")}
    assert families == {Path(n).name for n in names if "/families/" in n}
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names)
    entry = next(n for n in names if n.endswith("entry_points.txt"))
    assert "mythos = mythos.cli.main:main" in zipfile.ZipFile(path).read(entry).decode()
