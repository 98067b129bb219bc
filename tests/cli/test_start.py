"""Start-up, exit codes and the form of errors: the real command as a subprocess."""

import json
import signal
import subprocess
import sys
import time

import pytest

from .conftest import COMMAND, clean_env, listen_to_ctrl_c


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from mythos.cli.main import run; status = run(['--help']);"
        "heavy = {'torch', 'numpy', 'sqlalchemy', 'fastapi', 'pydantic', 'uvicorn', 'prompt_toolkit'};"
        "sys.exit(status or ', '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_loads_little():
    """Modules, 210 when this was written, not seconds: those are the machine's."""
    code = (
        "import sys; from mythos.cli.main import run; status = run(['--help']);"
        "print(status, len(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    status, modules = done.stderr.split()
    assert status == "0" and int(modules) < 230


def test_every_command_takes_json_and_help(mythos):
    for command in (["up"], ["serve"], ["build"], ["chat"], ["compare"], ["models"], ["env"], ["doctor"],
                    ["usage"], ["key", "new"], ["key", "list"], ["key", "revoke"]):  # fmt: skip
        done = mythos(*command, "--help")
        assert done.returncode == 0 and "--json" in done.stdout, command


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["frobnicate"], 2),
        (["models", "--frobnicate"], 2),
        (["up", "--port", "99999"], 2),
        (["key"], 2),
        (["key", "new"], 2),
        (["compare", ""], 2),
        (["chat", "opus", "extra"], 2),
        (["env"], 5),
        (["models", "no-such-family"], 3),
        (["serve", "--host", "0.0.0.0"], 1),
        (["key", "revoke", "key_none"], 1),
        (["build", "no-such-tier"], 3),
        (["chat"], 3),
        (["serve"], 3),
    ],
)
def test_exit_codes(mythos, arguments, code):
    """Where nothing is built. Every failure names a cure; with --json in one object on stdout."""
    done = mythos(*arguments, stdin="hello\n")
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ") and "\ncure: " in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    done = mythos(*arguments, "--json", stdin="hello\n")
    assert done.returncode == code
    error = json.loads(done.stdout)
    assert error["code"] == code and error["error"] and error["cure"]


def test_no_command_shows_help(mythos):
    done = mythos()
    assert done.returncode == 2 and "Commands:" in done.stderr and done.stdout == ""


def test_version(mythos):
    assert mythos("--version").stdout.startswith("mythos ")
    assert json.loads(mythos("--version", "--json").stdout)["version"]


def test_traceback_only_when_asked(mythos, home):
    """A home that is a file is an error with a cure; with MYTHOS_TRACEBACK=1 the place is shown."""
    path = home["MYTHOS_HOME"]
    with open(path, "w"):
        pass
    done = mythos("models")
    assert done.returncode == 1 and "Traceback" not in done.stderr and "cure: " in done.stderr
    assert "Traceback" in mythos("models", env={"MYTHOS_TRACEBACK": "1"}).stderr


def test_completion_names_commands(mythos):
    env = {"_MYTHOS_COMPLETE": "complete_bash", "COMP_WORDS": "mythos ", "COMP_CWORD": "1"}
    assert {"up", "chat", "doctor"} <= set(mythos(env=env).stdout.split())


def test_completion_names_families_and_tiers(mythos):
    for words, expected in [("mythos models ", "pocket"), ("mythos chat ", "capybara")]:
        env = {"_MYTHOS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "2"}
        assert expected in mythos(env=env).stdout.split()


def test_a_failed_download_has_its_own_code(mythos, tmp_path):
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null"}
    done = mythos("up", "--once", "--json", env=env)
    assert done.returncode == 6 and json.loads(done.stdout)["code"] == 6 and "cure: " in done.stderr


def test_ctrl_c_is_130(home):
    """Once it waits for stdin; a signal that comes while Python still starts ends Python itself."""
    for patience in (2, 8, 30):
        process = subprocess.Popen(
            [*COMMAND, "chat", "-"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_env(**home),
            preexec_fn=listen_to_ctrl_c,
        )
        time.sleep(patience)
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=60)
        if process.returncode == 130:
            break
    assert process.returncode == 130 and b"Traceback" not in shown
