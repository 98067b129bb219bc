"""`--draft` of `release open` and `vote cast`: persons sign elsewhere, the gate when a draft is handed in."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mythos.cli.main import run
from mythos.gate.policy import load_pack
from mythos.records import dsse
from mythos.records.canonical import canonical
from mythos.records.signed import payload_type
from mythos.store.home import write_private
from tests.gate.town import VOTERS, W1, Town

OPEN = ("release", "open", "opus", "--stage", "early_access", "--as", "requester-1")


def said(capsys, *arguments: object):
    code = run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def ready(here: Town) -> Town:
    """Measured and voted on. Only the requester's word is missing, whose key is not on this machine."""
    here.activate(load_pack("house"))
    for suite, items, successes in (("humaneval", 164, 0), ("mmlu_dev", 273, 80)):
        here.evidence(here.plan(suite, W1, items, family="pocket", tier="opus"), successes)
    for who in VOTERS:
        assert run(["vote", "cast", "opus", "--stage", "early_access", "--as", who]) == 0
    return here


@pytest.fixture
def draft(ready: Town, tmp_path, capsys):
    file = tmp_path / "release.json"
    assert run([*OPEN, "--draft", str(file)]) == 0
    capsys.readouterr()
    assert json.loads(file.read_bytes())["signatures"] == [] and not ready.state.releases
    return file


def sign_elsewhere(town: Town, file: Path, who: str = "requester-1", role: str = "release_engineer"):
    """A signature from a machine that has that person's key and nothing else: no records, no trust root."""
    home, keys = file.parent / f"home of {who}", file.parent / f"keys of {who}"
    (keys / "persons").mkdir(mode=0o700, parents=True, exist_ok=True)
    keys.chmod(0o700)
    pem = town.keys[who].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(keys / "persons" / f"{who}.{role}.key", pem, False)
    with pytest.MonkeyPatch.context() as there:
        there.setenv("MYTHOS_HOME", str(home))
        there.setenv("MYTHOS_KEYS", str(keys))
        assert run(["sign", str(file), "--as", f"{who}:{role}", "--yes"]) == 0


def test_without_a_draft_the_requesters_key_is_missing_here(ready, capsys):
    code, answer = said(capsys, *OPEN)
    assert code == 1 and "requester-1" in answer["error"] and not ready.state.releases


def test_signed_elsewhere_and_handed_in_it_opens(ready, draft, capsys):
    sign_elsewhere(ready, draft)
    capsys.readouterr()
    code, answer = said(capsys, "submit", draft)
    assert code == 0, answer
    (release,) = ready.state.releases.values()
    assert release.id == answer["record"]["id"] and release.requester == "requester-1"
    assert len(json.loads(draft.read_bytes())["signatures"]) == 1  # the gate's signature is not in the file
    assert said(capsys, "release", "status")[1]["releases"][0]["state"] == "open"
    code, answer = said(capsys, "submit", draft)
    assert code == 4 and "ID_TAKEN" in answer["error"] and len(ready.state.releases) == 1


def test_unsigned_or_signed_by_somebody_else_it_does_not(ready, draft, capsys):
    unsigned = draft.read_bytes()
    code, answer = said(capsys, "submit", draft)
    assert code == 4 and "SIGNER_NOT_AUTHORISED" in answer["error"]
    assert run(["sign", str(draft), "--as", "board-1", "--yes"]) == 0
    capsys.readouterr()
    code, answer = said(capsys, "submit", draft)
    assert code == 4 and "SIGNER_NOT_AUTHORISED" in answer["error"] and not ready.state.releases
    draft.write_bytes(unsigned)  # the control
    sign_elsewhere(ready, draft)
    assert run(["submit", str(draft)]) == 0 and len(ready.state.releases) == 1


def test_the_gate_decides_again_when_it_is_handed_in(ready, draft, capsys):
    sign_elsewhere(ready, draft)
    veto = ("vote", "cast", "opus", "--stage", "early_access", "--as", "safety-1", "--veto")
    capsys.readouterr()
    vetoed = said(capsys, *veto)[1]["record"]["id"]
    code, answer = said(capsys, "submit", draft)
    assert code == 4 and "VETOED" in answer["error"] and not ready.state.releases
    assert run(["vote", "withdraw", vetoed, "--as", "safety-1"]) == 0  # the control: as it was, it opens
    assert run(["submit", str(draft)]) == 0 and len(ready.state.releases) == 1


@pytest.mark.parametrize(
    ("change", "to"),
    [("votes", []), ("expires_at", 4e9), ("requester", "board-1"), ("strategy", "none_of_the_policy")],
)
def test_what_the_draft_says_is_not_believed(ready, draft, capsys, change, to):
    """A requester who signs a better draft than the gate's gets no signature of the gate on record."""
    good = dsse.peek(draft.read_bytes())
    requester = ready.keys["requester-1"]
    draft.write_bytes(dsse.sign(payload_type("release"), canonical({**good, change: to}), requester))
    code, answer = said(capsys, "submit", draft)
    assert code == 4 and not ready.state.releases, answer
    draft.write_bytes(dsse.sign(payload_type("release"), canonical(good), requester))  # the control
    assert said(capsys, "submit", draft)[0] == 0 and good["id"] in ready.state.releases


def test_what_the_gate_would_not_open_gives_no_draft(here, tmp_path, capsys):
    here.activate(load_pack("house"))
    code, answer = said(capsys, *OPEN, "--draft", tmp_path / "release.json")
    assert code == 3 and answer["verdict"] == "HOLD" and not (tmp_path / "release.json").exists()


def test_what_is_no_record_is_refused_and_written_down(ready, tmp_path, capsys):
    (tmp_path / "junk").write_text("{}")
    code, answer = said(capsys, "submit", tmp_path / "junk")
    assert code == 4 and "RECORD_MALFORMED" in answer["error"]


def test_a_vote_signed_elsewhere_counts_and_one_in_anothers_name_does_not(here, tmp_path, capsys):
    here.activate(load_pack("house"))
    for who, role in (("rso-1", "scaling_officer"), ("safety-1", "safety")):
        (here.home.keys / "persons" / f"{who}.{role}.key").unlink()
    cast = ("vote", "cast", "opus", "--stage", "early_access", "--as", "rso-1")
    assert said(capsys, *cast)[0] == 1  # the key is elsewhere
    draft = tmp_path / "vote.json"
    assert run([*cast, "--draft", str(draft)]) == 0 and not here.state.votes
    unsigned = draft.read_bytes()
    sign_elsewhere(here, draft, "safety-1", "safety")
    capsys.readouterr()
    code, answer = said(capsys, "submit", draft)
    assert code == 4 and "SIGNER_NOT_AUTHORISED" in answer["error"] and not here.state.votes
    draft.write_bytes(unsigned)
    sign_elsewhere(here, draft, "rso-1", "scaling_officer")
    assert run(["submit", str(draft)]) == 0
    (vote,) = here.state.votes
    draft.unlink()
    assert run(["vote", "withdraw", vote, "--as", "rso-1", "--draft", str(draft)]) == 0
    (tmp_path / "keys of rso-1/persons/rso-1.scaling_officer.key").unlink()
    sign_elsewhere(here, draft, "rso-1", "scaling_officer")
    assert run(["submit", str(draft)]) == 0 and here.state.votes[vote].withdrawn
