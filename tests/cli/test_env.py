"""The statements of `mythos env`, run by real shells."""

import json
import shutil
import subprocess

import pytest

from mythos.cli.env import UNSET, lines
from mythos.cli.output import CommandError

AWKWARD = {"A_URL": "http://127.0.0.1:1/v1", "A_NAME": 'it\'s $HOME `id` "q" \\ ; end', "A_EMPTY": ""}


@pytest.mark.parametrize("shell", ["bash", "fish", "powershell"])
def test_shells_read_back_the_values_unchanged(shell):
    program = shutil.which("pwsh" if shell == "powershell" else shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    read_back = "python3 -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    script = "\n".join([*lines(shell, AWKWARD), read_back])
    done = subprocess.run(
        [program, "-c", script],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", UNSET[0]: "other"},
    )
    seen = json.loads(done.stdout)
    assert done.stderr == "" and UNSET[0] not in seen
    assert {name: seen.get(name, "") for name in AWKWARD} == AWKWARD


def test_powershell_quotes_are_doubled():
    assert lines("powershell", {"A": "it's"})[-1] == "$env:A = 'it''s'"


def test_unknown_shell():
    with pytest.raises(CommandError):
        lines("tcsh", {})
