"""Do the tests notice? A fixed sample of one-node changes to the gate, each met by the tests of the gate.

    python tools/mutate.py [--count 400] [--seed 20260501] [--only verdict] [--json]

Each mutant changes one node of one file: a comparison, a boolean, a constant, a returned value, a dropped
check, a condition that is always true or false, a reason code, a member of a set. Texts, annotations, asserts
and decorators stay as they are. It is killed when a test fails, or takes far longer than without it. The
parent imports what the tests need except mythos; every mutant runs in a fork of it, from memory: no file is
changed. Results are kept in .cache, for the same sources and tests only: an interrupted run goes on.
"""

import argparse
import ast
import hashlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src" / "mythos"
HEAVY = ("pytest", "hypothesis", "hypothesis.stateful", "sqlalchemy", "alembic.command", "scipy.stats")
HEAVY += ("cryptography.hazmat.primitives.serialization",)
UNIT = ("bounds", "verdict", "policy", "votes", "grants", "release", "apply")
WIDE = ("attacks/test_attacks.py",)
BUNDLE = ("receipts/test_bundle.py", "receipts/test_forgeries.py")
GATE = ("verdict", "bounds", "votes", "release", "grants", "policy", "apply", "state", "bundle")
FILES = {name: f"gate/{name}.py" for name in GATE} | {"records.bundle": "records/bundle.py"}
TEXTS = {"detail", "rates", "said", "__all__", "__slots__"}  # names that only hold text
SLOWER = 5.0  # times what the tests take without a mutant, and half a minute: then it hangs


@dataclass(frozen=True, slots=True)
class Mutant:
    """`start` and `end` are byte offsets of what `new` replaces in the file."""

    module: str
    line: int
    start: int
    end: int
    old: str
    new: str

    @property
    def id(self) -> str:
        return f"{self.module}:{self.start}:{self.end}:{self.new}"

    def __str__(self) -> str:
        old, new = (" ".join(text.split())[:90] for text in (self.old, self.new))
        return f"{FILES[self.module]}:{self.line}  {old}  ->  {new}"


def tests_of(module: str, wide: tuple[str, ...] = WIDE) -> tuple[str, ...]:
    """Test files for mutants of a module, the quick and near ones first."""
    if "bundle" in module:
        names = BUNDLE
    else:
        names = [f"gate/test_{name}.py" for name in sorted(UNIT, key=lambda n: n != module)] + list(wide)
    return tuple(f"tests/{name}" for name in names if (ROOT / "tests" / name).exists())


# What may become of a node.

COMPARE: dict[type, tuple[type, ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
BINARY: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}  # fmt: skip
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
ENUMS = {"Code": "mythos.records.reasons", "Verdict": "mythos.records.reasons"}


def changed_expression(node: ast.AST) -> Iterator[ast.expr]:
    """Every expression that stands in for this one."""
    match node:
        case ast.Compare(left, ops, right):
            for i, op in enumerate(ops):
                for other in COMPARE[type(op)]:
                    yield ast.Compare(left, [*ops[:i], other(), *ops[i + 1 :]], right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            for i in range(len(values)):
                rest = values[:i] + values[i + 1 :]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.BinOp(left, op, right) if type(op) in BINARY and not (is_text(left) or is_text(right)):
            yield ast.BinOp(left, BINARY[type(op)](), right)
        case ast.Name(name, ast.Load()) if name in CALLS:
            yield ast.Name(CALLS[name])
        case ast.Attribute(ast.Name(enum) as owner, member) if enum in ENUMS and member.isupper():
            members = [m.name for m in getattr(importlib.import_module(ENUMS[enum]), enum)]
            yield ast.Attribute(owner, members[(members.index(member) + 1) % len(members)])
        case ast.Set(items) | ast.Tuple(items, ast.Load()) | ast.List(items, ast.Load()) if len(items) > 1:
            for i in range(len(items)):
                rest = items[:i] + items[i + 1 :]
                yield ast.Set(rest) if isinstance(node, ast.Set) else type(node)(rest, ast.Load())


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(node, ast.Constant) and isinstance(node.value, str)


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """(what is replaced, by what source text) for one node."""
    for other in changed_expression(node):
        yield node, f"({ast.unparse(other)})"
    match node:
        case ast.If(test) | ast.IfExp(test):
            yield test, "True"
            yield test, "False"
        case ast.While(test):
            yield test, "False"
        case ast.comprehension(ifs=ifs):
            for test in ifs:
                yield test, "True"
                yield test, "False"
        case ast.Return(ast.AST() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield value, "None"
        case ast.Raise() | ast.Expr(ast.Call()) | ast.Continue() | ast.AugAssign():
            yield node, "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript() | ast.Tuple([ast.Attribute(), *_])]):
            yield node, "pass"


def visited(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that say what the code does."""
    if isinstance(node, ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.Assign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id in TEXTS for target in targets):
            return
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases") or name == "type":
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from visited(child)


def mutants_of(module: str) -> list[Mutant]:
    """Every mutant of a file, in order; each compiles."""
    source = (SOURCES / FILES[module]).read_bytes()
    starts = [0]
    for text in source.split(b"\n"):
        starts.append(starts[-1] + len(text) + 1)
    found: dict[str, Mutant] = {}
    for node in visited(ast.parse(source)):
        for where, new in changes(node):
            start = starts[where.lineno - 1] + where.col_offset  # type: ignore[attr-defined]
            end = starts[where.end_lineno - 1] + where.end_col_offset  # type: ignore[attr-defined]
            old = source[start:end].decode()
            mutant = Mutant(module, where.lineno, start, end, old, new)  # type: ignore[attr-defined]
            if new.strip("()") != old.strip("()"):
                found[mutant.id] = mutant
    return sorted(found.values(), key=lambda m: (m.start, m.end, m.new))


def code_of(mutant: Mutant) -> bytes:
    source = (SOURCES / FILES[mutant.module]).read_bytes()
    return source[: mutant.start] + mutant.new.encode() + source[mutant.end :]


# Running the tests on one.


class Exchange(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Imports the mutant instead of the file."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = "mythos." + FILES[mutant.module].removesuffix(".py").replace("/", ".")
        self.path = str(SOURCES / FILES[mutant.module])
        self.code = code_of(mutant)

    def find_spec(self, fullname, path, target=None):  # noqa: ANN001, ANN201
        found = fullname == self.name
        return importlib.util.spec_from_loader(fullname, self, origin=self.path) if found else None

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_data(self, path: str | bytes) -> bytes:
        return self.code


class FirstFailure:
    """Writes down which test was the first to fail."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report) -> None:  # noqa: ANN001
        if report.failed and not self.path.exists():
            self.path.write_text(report.nodeid)


def prepare() -> None:
    """Import, before the forks, all that no mutant changes."""
    for name in HEAVY:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # then no test needs it
    from hypothesis import Phase, settings

    # A failing example is enough: it need not be made small. Profiles of the tests inherit from this one.
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutants", phases=phases, database=None, derandomize=True, deadline=None)
    settings.load_profile("mutants")
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    os.chdir(ROOT)
    sys.path[:0] = [str(SOURCES.parent), str(ROOT)]


def start(mutant: Mutant | None, tests: tuple[str, ...], place: Path) -> int:
    """Fork a child that runs `tests` on the mutant; its exit status is pytest's. Returns its process id."""
    place.mkdir(parents=True)
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        os.setsid()
        out = os.open(place / "output", os.O_CREAT | os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ["TMPDIR"] = tempfile.tempdir = str(place)
        for name in [name for name in sys.modules if name.split(".")[0] in ("mythos", "tests")]:
            del sys.modules[name]
        if mutant is not None:
            sys.meta_path.insert(0, Exchange(mutant))
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={place / 'base'}", "--tb=line"]
        status = int(pytest.main([*options, *tests], plugins=[FirstFailure(place / "failed")]))
    finally:
        os._exit(status)


def run_all(
    mutants: list[Mutant], tests: dict[str, tuple[str, ...]], limits: dict[str, float], jobs: int, place: Path
) -> Iterator[tuple[Mutant, str, str, float]]:
    """(mutant, outcome, first failed test, seconds) as they end."""
    waiting = list(reversed(mutants))
    running: dict[int, tuple[Mutant, Path, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            where = place / hashlib.sha256(mutant.id.encode()).hexdigest()[:16]
            running[start(mutant, tests[mutant.module], where)] = mutant, where, time.monotonic()
        time.sleep(0.02)
        for child, (mutant, where, began) in list(running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            late = time.monotonic() - began > limits[mutant.module]
            if not done and not late:
                continue
            if not done:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
            del running[child]
            code = os.waitstatus_to_exitcode(status)
            outcome = "survived" if done and code == 0 else "killed" if done else "timeout"
            failed = where / "failed"
            by = failed.read_text() if failed.exists() else f"exit {code}" if done else "time"
            if done and code in (4, 5, 99):  # pytest itself was not in order
                raise SystemExit((where / "output").read_text())
            shutil.rmtree(where, ignore_errors=True)
            yield mutant, outcome, by, time.monotonic() - began


def baseline(files: dict[str, tuple[str, ...]], place: Path) -> dict[str, float]:
    """The tests pass without a mutant; how long each module's may take with one, in seconds."""
    took: dict[frozenset[str], float] = {}
    for tests in files.values():  # in whatever order
        if frozenset(tests) in took:
            continue
        began = time.monotonic()
        where = place / f"baseline{len(took)}"
        status = os.waitpid(start(None, tests, where), 0)[1]
        if status:
            raise SystemExit(f"the tests fail without a mutant:\n{(where / 'output').read_text()}")
        took[frozenset(tests)] = seconds = time.monotonic() - began
        print(f"baseline {seconds:.1f} s: {' '.join(tests)}", file=sys.stderr, flush=True)
    return {module: 30 + SLOWER * took[frozenset(tests)] for module, tests in files.items()}


def results_file(run: str) -> Path:
    """Named by the digest of the sources and tests it holds for."""
    whole = hashlib.sha256()
    for path in sorted([*SOURCES.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), Path(__file__)]):
        whole.update(path.read_bytes())
    for path in sorted([*(ROOT / "tests" / "attacks").rglob("*.toml"), *SOURCES.rglob("*.toml")]):
        whole.update(path.read_bytes())
    return ROOT / ".cache" / "mutants" / f"{run}-{whole.hexdigest()[:16]}.jsonl"


def report(mutants: list[Mutant], seen: dict[str, dict[str, str]], as_json: bool) -> None:
    from mythos.gate.bounds import lower

    survivors = [m for m in mutants if seen[m.id]["outcome"] == "survived"]
    killed, bound = len(mutants) - len(survivors), 0.0
    if mutants:
        bound = lower(killed, len(mutants), 0.95)
    table = {}
    for module in FILES:
        outcomes = Counter(seen[m.id]["outcome"] for m in mutants if m.module == module)
        if outcomes:
            table[module] = {"mutants": outcomes.total(), **outcomes}
    if as_json:
        values = {"killed": killed, "mutants": len(mutants), "lower95": bound, "modules": table}
        print(json.dumps({**values, "survivors": [str(m) for m in survivors]}, indent=1))
        return
    for module, row in table.items():
        gone = row["mutants"] - row.get("survived", 0)
        print(f"{FILES[module]:20} {gone:4} of {row['mutants']:4} killed, {row.get('timeout', 0)} by time")
    for mutant in survivors:
        print(f"survived: {mutant}")
    print(f"killed {killed} of {len(mutants)}, at least {bound:.3f} of all (one-sided 95 %)")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=20260501)
    parser.add_argument("--only", choices=FILES, action="append", help="sample from these modules alone")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--near", action="store_true", help="the unit tests alone, not the attacks")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    prepare()
    modules = chosen.only or list(FILES)
    pool = [mutant for module in modules for mutant in mutants_of(module)]
    mutants = random.Random(chosen.seed).sample(pool, min(chosen.count, len(pool)))
    kept = results_file(f"{chosen.seed}{'-near' * chosen.near}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    lines = kept.read_text().splitlines() if kept.exists() else []
    seen = {row["id"]: row for row in map(json.loads, lines)}
    missing = [mutant for mutant in mutants if mutant.id not in seen]
    out = sys.stderr if chosen.json else sys.stdout
    print(f"{len(mutants)} of {len(pool)} mutants, {len(missing)} still to run", file=out, flush=True)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where fsync costs nothing
    with tempfile.TemporaryDirectory(prefix="mutants-", dir=memory) as place, kept.open("a") as log:
        tests = {m.module: tests_of(m.module, () if chosen.near else WIDE) for m in missing}
        limits = baseline(tests, Path(place))
        ran = run_all(missing, tests, limits, chosen.jobs, Path(place))
        for n, (mutant, outcome, by, seconds) in enumerate(ran, 1):
            seen[mutant.id] = {"id": mutant.id, "outcome": outcome, "by": by}
            print(json.dumps(seen[mutant.id]), file=log, flush=True)
            print(f"{n}/{len(missing)} {outcome} {seconds:.1f} s {mutant}  [{by}]", file=out, flush=True)
    report(mutants, seen, chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
