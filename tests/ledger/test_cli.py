"""`mythos ledger`: the way from an event to a cosigned head, and the exit codes."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mythos.cli import main, output

OK, BROKEN, USAGE, REFUSED, UNTRUSTED = 0, 1, 2, 4, 5


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MYTHOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    return tmp_path / "home"


@pytest.fixture
def mythos(home, capsys, monkeypatch):
    """One command line, in this process."""

    def run(*arguments: str) -> SimpleNamespace:
        monkeypatch.setattr(output._Mode, "json", False)
        capsys.readouterr()
        code = main.run(list(arguments))
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return run


@pytest.fixture
def log(mythos, tmp_path):
    """A home with two events; the file of its verifier key."""
    for name in "ab":
        mythos("key", "new", name)
    key = tmp_path / "log.vkey"
    key.write_text(mythos("ledger", "key").stdout)
    return str(key)


def test_from_event_to_witness(mythos, log, tmp_path):
    place, request, cosigned = (str(tmp_path / name) for name in ("witness", "request", "cosigned"))
    shown = mythos("ledger", "list")
    assert shown.stdout.count("key.created") == 2
    head = json.loads(mythos("ledger", "head", "--json").stdout)
    assert head["size"] == 2 and head["note"].startswith(head["origin"] + "\n2\n")
    assert mythos("ledger", "witness", "init", place, "--log", log, "--name", "w.example/1").returncode == OK
    trust = f"{place}/trust"
    assert mythos("ledger", "witness", "request", "--out", request).returncode == OK
    assert mythos("ledger", "witness", "cosign", place, request, "--out", cosigned).returncode == OK
    refused = mythos("ledger", "witness", "cosign", place, request)
    assert refused.returncode == REFUSED and "409" in refused.stderr and "--since 2" in refused.stderr
    assert mythos("ledger", "witness", "attach", cosigned, "--trust", trust).returncode == OK
    mythos("key", "new", "c")
    assert mythos("ledger", "witness", "request", "--out", request).returncode == OK
    assert mythos("ledger", "witness", "cosign", place, request).returncode == OK
    report = json.loads(
        mythos("ledger", "verify", "--trust", trust, "--head", f"{place}/cosigned", "--json").stdout
    )
    assert report == {"size": 3, "heads": 2, "signed": 3, "witnessed": 3, "faults": [], "trusted": True}


def test_proof_and_its_check(mythos, log, tmp_path):
    closed, opened = str(tmp_path / "closed"), str(tmp_path / "opened")
    leaf = json.loads(mythos("ledger", "prove", "1", "--out", closed, "--json").stdout)["leaf"]
    mythos("ledger", "prove", "1", "--out", opened, "--disclose")
    assert "extra" not in Path(closed).read_text()
    assert mythos("ledger", "check", closed).returncode == USAGE
    assert mythos("ledger", "check", closed, "--leaf", leaf).returncode == UNTRUSTED
    assert mythos("ledger", "check", closed, "--leaf", leaf, "--trust", log).returncode == OK
    assert mythos("ledger", "check", closed, "--leaf", "00" * 32, "--trust", log).returncode == BROKEN
    done = mythos("ledger", "check", opened, "--trust", log, "--json")
    assert done.returncode == OK and json.loads(json.loads(done.stdout)["event"])["seq"] == 1
    text = Path(opened).read_text()
    Path(opened).write_text(text.replace("index 1", "index 0"))
    assert mythos("ledger", "check", opened, "--trust", log).returncode == BROKEN
    Path(opened).write_text(text[:-8] + "AAAAAA=\n")
    assert mythos("ledger", "check", opened, "--trust", log).returncode == BROKEN
    assert mythos("ledger", "prove", "7").returncode == BROKEN


def test_verify_says_what_is_trusted_and_what_is_broken(mythos, log, home, tmp_path):
    assert mythos("ledger", "verify").returncode == UNTRUSTED
    nothing_signed = mythos("ledger", "verify", "--trust", log)
    assert nothing_signed.returncode == UNTRUSTED
    kept = str(tmp_path / "kept")
    mythos("ledger", "head", "--out", kept)
    assert mythos("ledger", "verify").returncode == UNTRUSTED
    trusted = mythos("ledger", "verify", "--trust", log)
    assert trusted.returncode == OK and "no head from elsewhere" in trusted.stderr
    assert mythos("ledger", "verify", "--trust", log, "--head", kept).returncode == OK
    assert mythos("ledger", "verify", "--trust", "nonsense").returncode == USAGE
    tile = home / "tiles/tile/0/000.p/2"
    tile.write_bytes(bytes(64))
    broken = mythos("ledger", "verify", "--trust", log)
    assert broken.returncode == BROKEN and "--rebuild" in broken.stderr
    mythos("ledger", "head", "--rebuild")
    assert mythos("ledger", "verify", "--trust", log).returncode == OK
    with sqlite3.connect(home / "mythos.db") as conn:
        conn.execute("DROP TRIGGER ledger_no_delete")
        conn.execute("DELETE FROM ledger WHERE seq = 1")
    broken = mythos("ledger", "verify", "--trust", log, "--json")
    assert broken.returncode == BROKEN
    assert "cut" in {fault["kind"] for fault in json.loads(broken.stdout)["faults"]}


def test_a_witness_does_not_live_in_the_home(mythos, log, home):
    inside = str(home / "witness")
    done = mythos("ledger", "witness", "init", inside, "--log", log, "--name", "w.example/1")
    assert done.returncode == BROKEN and "inside" in done.stderr
    assert not Path(inside).exists()


def test_the_real_process(home):
    done = subprocess.run(
        [sys.executable, "-m", "mythos.cli", "ledger", "verify", "--json"], capture_output=True, timeout=120
    )
    assert done.returncode == UNTRUSTED and json.loads(done.stdout)["size"] == 0
