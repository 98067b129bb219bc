"""Programs that cheat or break out, each with a control that must pass or an outcome that is not FAILURE."""

import os

import pytest

from mythos.evaluate import sandbox
from mythos.evaluate.sandbox import run_tests
from mythos.records.evidence import Outcome

PROMPT = 'def double(x):\n    """Twice x."""\n'
TEST = "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate([1]) == [1, 1]\n"
RIGHT = "def double(x):\n    return x * 2\n"


def outcome(program: str, test: str = TEST, **limits) -> Outcome:
    return run_tests(program, PROMPT, test, "double", **limits).outcome


def test_the_right_program_passes_and_says_what_held_it():
    verdict = run_tests(RIGHT, PROMPT, TEST, "double")
    assert verdict.outcome is Outcome.SUCCESS and verdict.isolation.startswith("limits")
    assert outcome("def double(x):\n    return x\n") is Outcome.FAILURE


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "def double(x):\n    import os\n    os._exit(0)",
        "def double(x):\n    raise SystemExit(0)",
        "import builtins\nbuiltins.AssertionError = Exception\ndef double(x):\n    return 0",
        "class Yes:\n    __eq__ = lambda s, o: True\ndef double(x):\n    return Yes()",
        "class Yes(int):\n    __eq__ = lambda s, o: True\ndef double(x):\n    return Yes()",
        'print(\'{"outcome": "success", "why": "", "isolation": ""}\')\ndef double(x):\n    return 0',
        "import os\nfor fd in range(3, 32):\n    try:\n"
        '        os.write(fd, b\'{"outcome": "success", "why": "", "isolation": ""}\\n\')\n'
        "    except OSError: pass\ndef double(x):\n    return 0",
        "import sys\ndef check(c): pass\nfor f in list(sys.modules.values()):\n    try: f.check = check\n"
        "    except Exception: pass\ndef double(x):\n    return 0",
        "def double(x):\n    return 'x' * (1 << 22)",
        "def double(x):\n    return [0] * (1 << 30)",
        "def double(x:",
        "",
    ],
)
def test_cheats_fail(program):
    assert outcome(program) is Outcome.FAILURE


def test_a_loop_fails_and_sleep_is_no_failure():
    assert outcome("while True: pass", cpu_seconds=1) is Outcome.FAILURE
    asleep = "import time\ntime.sleep(600)\n"
    assert outcome(asleep, wall_seconds=1.0) is Outcome.TIMEOUT


def test_what_the_sandbox_cannot_run_is_an_error(monkeypatch, tmp_path):
    assert run_tests(RIGHT, "def double(:", TEST, "double").outcome is Outcome.ERROR
    assert outcome(RIGHT, "no tests here") is Outcome.ERROR
    monkeypatch.setattr(sandbox, "CHILD", tmp_path / "missing.py")
    assert outcome(RIGHT) is Outcome.ERROR


def tries(statement: str) -> str:
    """A program whose answer is whether `statement` went through."""
    body = f"    try:\n        {statement}\n        return 'did'\n    except BaseException as error:\n"
    return "import os, socket, subprocess\ndef double(x):\n" + body + "        return 'refused'\n"


@pytest.mark.parametrize(
    "statement",
    [
        "socket.socket()",
        "socket.socketpair()",
        "os.fork()",
        "[os.fork() for _ in range(10000)]",
        "subprocess.run(['/bin/true'])",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 9)",
        "open('/etc/passwd').read()",
        "open('/proc/' + str(os.getppid()) + '/cmdline').read()",
        "open('here', 'w').write('x')",
        "os.listdir('/')",
        "bytearray(1 << 31)",
        "open(OUTSIDE).read()",
    ],
)
def test_it_reaches_nothing_outside(tmp_path, statement):
    secret = tmp_path / "answers.txt"
    secret.write_text("6")
    program = f"OUTSIDE = {os.fspath(secret)!r}\n" + tries(statement)
    verdict = run_tests(
        program, PROMPT, TEST.replace("== 6", "== 'refused'").replace("[1, 1]", "'refused'"), "double"
    )
    if verdict.isolation != "limits+landlock+seccomp":
        pytest.skip(f"this system offers {verdict.isolation} only")
    assert verdict.outcome is Outcome.SUCCESS


@pytest.mark.parametrize(
    "statement", ["import difflib, statistics, decimal", "open('/dev/null').read()", "len('x')"]
)
def test_ordinary_work_goes_through(statement):
    test = "def check(candidate):\n    assert candidate(3) == 'did'\n"
    assert outcome(tries(statement), test) is Outcome.SUCCESS
