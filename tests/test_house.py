"""The house rules, read from the code: floors, torch only where it belongs, light imports, small files."""

import ast
import functools
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "mythos"

FLOORS = {
    0: {"spec", "records"},
    1: {"store", "ledger", "model", "data"},
    2: {"gate", "vault", "plan"},
    3: {"engine"},
    4: {"train", "evaluate"},
    5: {"serve", "switch"},
    6: {"cli", "console"},
}
FLOOR = {package: floor for floor, packages in FLOORS.items() for package in packages}
# Two packages of one floor may know each other in one direction only, for a reason:
SAME_FLOOR = {
    ("store", "ledger"),  # state and its ledger leaf are written in one transaction
    ("spec", "records"),  # a malformed family file is a MythosError
    ("train", "evaluate"),  # the judge that measures refusals also says which answer of a pair declines
    ("vault", "gate"),  # who may read, and who may publish, is decided by the gate
    ("cli", "console"),  # a command starts the web console
}

TORCH = {"model", "engine", "train", "evaluate", "data"}
WITHOUT_TORCH = {
    "model/__init__.py", "model/sealed.py",  # the vault seals with it
    "engine/__init__.py", "engine/request.py", "engine/grammar.py", "engine/schedule.py",
    "data/__init__.py", "data/tokenizer.py", "data/chat.py", "data/fetch.py", "data/prompts/__init__.py",
    "data/pip_sdist.py", "data/documents.py", "data/from_python.py", "data/from_archives.py",
    "data/reasoning.py", "data/own.py", "data/sources.py", "data/overlap.py", "data/encode.py",
    "data/corpus.py", "data/build.py", "data/mix.py", "data/pack.py", "data/safety.py",
    "data/train_tokenizer.py",
}  # fmt: skip
HEAVY = ("torch", "numpy", "sqlalchemy", "fastapi")
LONGEST_FILE = 600


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported(path: Path, tree: ast.AST) -> Iterator[str]:
    """Full dotted names of what a module imports anywhere in it; `from a import b` gives a.b."""
    here = ["mythos", *path.relative_to(PACKAGE).with_suffix("").parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            start = [*base, node.module] if node.module else base
            yield from (".".join([*start, name.name]) for name in node.names)


def crossings(path: Path, text: str) -> list[str]:
    """Imports of `path` that the floors forbid."""
    parts = path.relative_to(PACKAGE).parts
    package = parts[0] if len(parts) > 1 else None
    wrong = []
    for name in imported(path, ast.parse(text)):
        target = name.split(".")
        if target[0] != "mythos" or len(target) < 2 or target[1].startswith("__"):
            continue
        other = target[1]
        if other == package or (package, other) in SAME_FLOOR:
            continue
        if package is None or other not in FLOOR or FLOOR[other] >= FLOOR[package]:
            wrong.append(name)
    return wrong


def torch_imports(path: Path, text: str) -> list[str]:
    """Imports of torch in a file that must do without."""
    if relative(path).split("/")[0] in TORCH and relative(path) not in WITHOUT_TORCH:
        return []
    return [
        name
        for name in imported(path, ast.parse(text))
        if name.split(".")[0] == "torch" or name.startswith("safetensors.torch")
    ]


def test_every_package_has_a_floor() -> None:
    packages = {p.parent.relative_to(PACKAGE).parts[0] for p in sources() if p.parent != PACKAGE}
    packages -= {"policies"}  # TOML only
    assert packages <= set(FLOOR)


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_imports_go_strictly_down(path: Path) -> None:
    assert crossings(path, path.read_text()) == []


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_torch_stays_where_it_belongs(path: Path) -> None:
    assert torch_imports(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("store/db.py", "from mythos.gate import authorize", ["mythos.gate.authorize"]),
        ("store/db.py", "def f():\n    import mythos.engine.engine", ["mythos.engine.engine"]),
        ("model/moe.py", "from mythos import data", ["mythos.data"]),
        ("model/moe.py", "from ..cli import main", ["mythos.cli.main"]),
        ("model/moe.py", "from . import rope\nfrom .rope import turn\nimport torch", []),
        ("ledger/log.py", "from mythos.store import db", ["mythos.store.db"]),
        ("serve/app.py", "from mythos import __version__\nfrom mythos.engine import request", []),
        ("__init__.py", "from mythos.spec import config", ["mythos.spec.config"]),
        ("store/db.py", "import mythos.somewhere", ["mythos.somewhere"]),
    ],
)
def test_the_floor_check_sees(file: str, text: str, wrong: list[str]) -> None:
    assert crossings(PACKAGE / file, text) == wrong


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("serve/app.py", "def f():\n    from torch.nn import functional", ["torch.nn.functional"]),
        ("engine/request.py", "import torch", ["torch"]),
        ("data/tokenizer.py", "from safetensors.torch import load", ["safetensors.torch.load"]),
        ("engine/loader.py", "import torch", []),
        ("serve/app.py", "import torchless", []),
    ],
)
def test_the_torch_check_sees(file: str, text: str, wrong: list[str]) -> None:
    assert torch_imports(PACKAGE / file, text) == wrong


def loaded_after(code: str) -> set[str]:
    """Top-level modules loaded in a new interpreter after `code`."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_import_mythos_is_light() -> None:
    assert not loaded_after("import mythos") & set(HEAVY)


def test_help_is_light() -> None:
    code = """
import sys
from mythos.cli.main import main
sys.argv = ["mythos", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    assert not loaded_after(code) & set(HEAVY)


def test_torchless_modules_load_without_torch() -> None:
    files = [f for f in sorted(WITHOUT_TORCH) if (PACKAGE / f).exists()]
    names = ["mythos." + f.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for f in files]
    assert "mythos.engine.request" in names
    assert "torch" not in loaded_after("\n".join(f"import {name}" for name in names))


def tracked() -> list[Path]:
    """Files under version control, or about to be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [p for p in paths if p.is_file()]


def test_no_file_is_long() -> None:
    lengths = {p: len(p.read_text().splitlines()) for p in tracked() if p.suffix == ".py"}
    assert {p.relative_to(ROOT).as_posix(): n for p, n in lengths.items() if n > LONGEST_FILE} == {}


def test_no_place_of_one_machine_is_named() -> None:
    """No home directories and no package registry's host, in any tracked file."""
    home = r"(?<![\w.])/(?:home|Users|root|work)/[\w.-]"
    hosts = [
        r"pypi\.org",
        r"pythonhosted\.org",
        r"registry\.npmjs",
        r"download\.pytorch",
        r"deb\.debian\.org",
    ]
    pattern = re.compile("|".join([home, *hosts]))
    found = []
    for path in tracked():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        name = path.relative_to(ROOT)
        found += [f"{name}:{n}" for n, line in enumerate(text.splitlines(), 1) if pattern.search(line)]
    assert found == []


@functools.cache
def tier_names() -> set[str]:
    """Names of the tiers of every family file that are names, not sizes."""
    names = {"haiku", "sonnet", "opus", "capybara"}
    for file in (ROOT / "src").rglob("families/*.toml"):
        names |= {t["name"] for t in tomllib.loads(file.read_text()).get("tiers", []) if isinstance(t, dict)}
    return {name for name in names if name.isalpha()}


def tier_constants(text: str, names: set[str]) -> list[int]:
    """Lines with a string that is exactly a tier's name: code that knows one."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    ]


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_code_knows_no_tier_by_name(path: Path) -> None:
    assert tier_constants(path.read_text(), tier_names()) == []


def test_the_tier_name_check_sees() -> None:
    assert tier_constants('if tier == "opus":\n    pass', {"opus"}) == [1]
    assert tier_constants('"""Served as `opus`."""\nname = "opus magnum"', {"opus"}) == []
