"""`mythos report` about weights that are built: made, written twice, checked by itself, published."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mythos.cli.main import run
from mythos.gate.policy import load_pack
from mythos.store.home import write_private
from tests.gate.town import W1, Town

WORDS = """
[[claims]]
field = "threat_models"
text = "Of {%s.samples} tasks at most a share of {%s.at_most}; the alert is {policy.domains.cyber.alert}."

[[redactions]]
field = "domain.cyber"
ground = "safety"
reason = "It names the tasks that were tried."
"""


def said(capsys, *arguments: object):
    code = run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def measured(here: Town, tmp_path: Path) -> Town:
    pem = here.ledger.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(here.home.keys / "ledger.key", pem, replace=False)
    here.activate(load_pack("house"))
    for suite, items, successes in (("humaneval", 164, 0), ("mmlu_dev", 273, 80)):
        here.evidence(here.plan(suite, W1, items, family="pocket", tier="opus"), successes)
    return here


def test_a_report_from_the_command_line(measured, tmp_path, capsys):
    piece = next(iter(measured.state.evidence))
    words, full, public = (tmp_path / name for name in ("words.toml", "full.html", "public.html"))
    words.write_text(WORDS % (piece, piece))
    make = ("report", "make", "capability", "opus", "--as", "rso-1", "--words", words)
    code, made = said(capsys, *make, "--html", full)
    assert code == 0 and made["drill"] and made["record"]["missing"], made
    report = made["record"]["id"]
    assert said(capsys, "report", "write", report, "--public", "--html", public)[0] == 0
    assert said(capsys, "report", "write", report, "--html", public)[0] == 1  # never over a file
    trust = measured.state.deployment
    fields = {}
    for file in (full, public):
        code, found = said(capsys, "report", "verify", file, "--trust", trust)
        assert (code, found["status"], found["report"]["id"]) == (0, "verified", report)
        fields[file] = {one["name"]: one["field"] for one in found["fields"]}
    assert fields[public]["domain.cyber"] is None and fields[full]["domain.cyber"] is not None
    text = fields[public]["threat_models"]["lines"][0]["text"]
    assert text == "Of 164 tasks at most a share of 0.0182; the alert is 0.3."
    assert [one["id"] for one in said(capsys, "report", "list")[1]["reports"]] == [report]
    code, asked = said(capsys, "report", "publish", report, "--as", "safety-1")
    assert code == 0 and asked["request"] in measured.state.laid_open


def test_a_figure_typed_in_is_named_in_one_sentence(measured, tmp_path, capsys):
    words = tmp_path / "words.toml"
    words.write_text('[[claims]]\nfield = "forecast"\ntext = "At most 0.04 by summer."\n')
    code, refused = said(capsys, "report", "make", "capability", "opus", "--as", "rso-1", "--words", words)
    assert (
        code == 4 and refused["error"] == "UNSOURCED_FIGURE: forecast: the figure '0.04' is typed in by hand"
    )
    words.write_text("[[claims]]\nnonsense = 1\n")
    assert said(capsys, "report", "make", "capability", "opus", "--as", "rso-1", "--words", words)[0] == 1
    assert not measured.state.reports
