"""`mythos incident` and `mythos report` at the command line, in a DRILL of one machine."""

import json
from pathlib import Path

import pytest

from mythos.cli.main import run

PERSONS = ("ana:safety", "ben:scaling_officer", "cho:executive", "eva:evaluator", "rel:release_engineer")


@pytest.fixture
def mythos(tmp_path: Path, monkeypatch, capsysbinary):
    monkeypatch.setenv("MYTHOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))

    def call(*words: object):
        code = run([*map(str, words), "--json"])
        return code, json.loads(capsysbinary.readouterr().out.splitlines()[-1])

    persons = [word for one in PERSONS for word in ("--person", one)]
    assert call("trust", "init", "drill", "--threshold", 2, *persons, "--drill")[0] == 0
    assert call("policy", "activate", "house", "--by", "ana", "--by", "ben", "--by", "cho")[0] == 0
    return call


def test_an_incident_from_the_call_to_the_row_of_the_audit(mythos, tmp_path):
    draft, mail = tmp_path / "draft.txt", tmp_path / "mail.txt"
    draft.write_text("launch plan")
    mail.write_text("I can read your launch plan.")
    asset = mythos("vault", "add", draft, "--kind", "draft")[1]["id"]
    request = mythos("publication", "request", asset, "--why", "x", "--as", "rel")[1]["record"]["id"]
    for who in ("ana", "ben"):
        assert mythos("publication", "vote", request, "--as", who)[0] == 0
    assert mythos("publication", "open", request)[0] == 0

    code, made = mythos("incident", "open", mail, "--from", "a reader", "--reachable", asset, "--as", "ana")
    incident = made["record"]["id"]
    assert code == 0 and made["drill"] and made["due"] > made["record"]["received_at"]
    code, contained = mythos("incident", "contain", incident, "--as", "ana")
    assert code == 0 and {one["what"] for one in contained["record"]["done"]} == {"asset", "publication"}
    assert mythos("publication", "list")[1]["publications"][0]["state"] == "PUBLICATION_WITHDRAWN"
    assert mythos("incident", "count", incident, "--as", "ana")[0] == 0
    assert mythos("incident", "find", incident, "cause", "--text", "a wrong link", "--as", "ben")[0] == 0
    drafted = mythos("incident", "report", incident)[1]
    assert "a wrong link" in drafted["statement"] and "Unknown: no record says it." in drafted["statement"]
    out = tmp_path / "statement.txt"
    duty = ("--duty", "R29", "--phase", "final", "--as", "ana", "--out", out)
    assert mythos("incident", "report", incident, *duty)[0] == 0
    assert out.read_text().startswith("DRILL: Statement") and out.stat().st_mode & 0o077 == 0
    close = ("incident", "close", incident, "--text", "ask twice", "--by", "ana")
    code, refused = mythos(*close)
    assert code == 4 and "QUORUM_NOT_MET" in refused["error"]
    code, closed = mythos(*close, "--by", "ben", "--lesson", f"assets:/v1/assets/{asset}/preview")
    assert code == 0 and closed["record"]["lessons"] == 1
    shown = mythos("incident", "show", incident)[1]
    assert shown["stand"] == "closed" and "I can read your launch plan." in str(shown["texts"])
    assert mythos("incident", "list")[1]["incidents"][0]["id"] == incident


def test_what_is_left_and_what_is_late_is_an_exit_code(mythos, tmp_path):
    mail = tmp_path / "mail.txt"
    mail.write_text("Something is readable.")
    since = ("--received", "2026-01-01T00:00+00:00", "--reachable", "tier:none", "--as", "ana")
    incident = mythos("incident", "open", mail, "--from", "a reader", *since)[1]["record"]["id"]
    code, listed = mythos("incident", "list")
    assert code == 1 and listed["incidents"][0]["overdue"] == 1
    code, contained = mythos("incident", "contain", incident, "--as", "ana")
    assert code == 1 and contained["record"]["failed"][0]["why"] == "UNKNOWN_SUBJECT"
    assert mythos("incident", "open", mail, "--from", "x", "--reachable", "what?", "--as", "ana")[0] == 2
    assert mythos("incident", "find", incident, "nature", "--text", "x", "--as", "ana")[0] == 2
    assert mythos("incident", "report", incident, "--duty", "R29")[0] == 2


def test_a_report_that_nothing_is_known_for_is_refused(mythos, tmp_path):
    assert mythos("report", "list")[1]["reports"] == []
    assert mythos("report", "make", "decision", "--as", "ana")[0] == 2
    code, refused = mythos("report", "make", "decision", "--about", "rel_none", "--as", "ana")
    assert code == 4 and "UNKNOWN_SUBJECT" in refused["error"]
    assert mythos("report", "make", "capability", "opus", "--as", "ana")[0] == 3  # not built here
    assert mythos("report", "verify", tmp_path / "none.html")[0] == 1
    file = tmp_path / "page.html"
    file.write_text("<html></html>")
    code, found = mythos("report", "verify", file)
    assert code == 1 and found["status"] == "broken"
