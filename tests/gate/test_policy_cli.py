"""`mythos policy` on a real home with enrolled persons, and packs tried side by side."""

import json
from dataclasses import replace
from importlib.resources import files

import pytest

from mythos.cli.main import run
from mythos.gate.policy import load_pack, packaged_packs
from mythos.gate.release import check
from mythos.gate.state import Rejected, State
from mythos.gate.try_packs import try_packs
from mythos.records.reasons import Code
from tests.gate.town import VOTERS, W1, Town

PACKS = [load_pack(name) for name in packaged_packs()]


def tried(town: Town, packs=PACKS, profile: str = "none"):
    found = try_packs(town.state, W1, profile, packs, town.now)
    return {(one.pack, str(one.stage)): one for one in found}


def test_the_same_evidence_ships_under_one_pack_and_not_under_another(tmp_path):
    town = Town(tmp_path)
    town.measure()
    found = tried(town)
    assert len(found) == 12
    assert found["house", "early_access"].ships
    # 80/273 is below 0.5 (house) and below 0.45 (frontier), and says nothing of a suite of cyber ranges.
    assert found["frontier_shaped", "early_access"].ships
    held = {one.part: one for one in found["preparedness_shaped", "early_access"].held}
    assert held["domains.cyber"].code is Code.EVIDENCE_MISSING and "R16" not in held["domains.cyber"].rows
    assert held["stages.early_access.safety_level"].code is Code.SAFEGUARD_UNMEASURED
    assert found["house", "expanded"].held[0].rows == ("R16",)
    assert [one.code for one in found["house", "expanded"].held] == [Code.SAFEGUARD_UNMEASURED]


def test_trying_says_what_the_gate_says_when_the_plan_was_made_under_that_pack(tmp_path):
    for successes in (0, 40):
        town = Town(tmp_path / str(successes))
        town.measure(humaneval=successes)
        answer = check(town.state, town.subject(), "requester-1", "staged", town.now)
        evidence = [b for b in answer.reasons if b.code not in (Code.QUORUM_NOT_MET, Code.ROLE_MISSING)]
        one = tried(town)["house", "early_access"]
        assert one.ships is (not evidence)
        assert [h.code for h in one.held] == [b.code for b in evidence]


def test_a_laxer_pack_is_not_held_by_the_bars_of_the_plan(tmp_path):
    town = Town(tmp_path)
    town.measure(humaneval=30)  # 30/164: at most 0.24
    lax = replace(PACKS[packaged_packs().index("house")], name="lax")
    lax = replace(lax, domains=tuple(replace(d, precursor_alert=0.6) for d in lax.domains))
    found = tried(town, [*PACKS, lax])
    assert not found["house", "early_access"].ships and found["lax", "early_access"].ships


def test_nothing_on_record_ships_nowhere_and_a_damaged_record_is_refused(tmp_path):
    town = Town(tmp_path)
    found = tried(town)
    assert not any(one.ships for one in found.values())
    damaged = town.state.clone()
    damaged.fault = "damaged"
    with pytest.raises(Rejected) as refused:
        try_packs(damaged, W1, "none", PACKS, town.now)
    assert refused.value.code is Code.STATE_DAMAGED
    with pytest.raises(Rejected):
        try_packs(State(), W1, "none", PACKS, town.now)


def said(capsys, *arguments: str):
    """(exit code, what `mythos policy ... --json` printed)."""
    code = run(["policy", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_activation_needs_the_persons_and_their_roles(here, capsys):
    assert said(capsys, "list")[1]["in_force"] is None
    by = [part for who in VOTERS for part in ("--by", who)]
    code, answer = said(capsys, "activate", "house", "--by", "rso-1")
    assert code and "QUORUM_NOT_MET" in answer["error"]
    code, answer = said(capsys, "activate", "house", "--by", "auditor-1")
    assert code == 4 and "auditor-1" in answer["error"]
    code, answer = said(capsys, "activate", "house", *by)
    assert code == 0 and here.state.policy == answer.get("policy", answer.get("digest", here.state.policy))
    assert said(capsys, "list")[1]["in_force"]["name"] == "house"
    code, answer = said(capsys, "activate", "house", *by)
    assert code and "POLICY_ROLLBACK" in answer["error"]


def test_try_from_the_command_line(here, capsys):
    here.activate(load_pack("house"))
    here.evidence(here.plan("humaneval", W1, 164, family="pocket", tier="opus"))
    code, answer = said(capsys, "try", "opus", "--packs", "house,frontier_shaped", "--stage", "early_access")
    assert code == 0 and [one["ships"] for one in answer["tried"]] == [False, False]
    held = {one["part"] for one in answer["tried"][0]["held"]}
    assert held == {"domains.cbrn", "domains.manipulation"} and "planned" in answer["note"]
    assert said(capsys, "try", "opus", "--stage", "someday")[0] == 2
    assert said(capsys, "try", "haiku")[0] == 3
    assert run(["policy", "try", "opus"]) == 0
    assert "EVIDENCE_MISSING" in capsys.readouterr().out


def test_lint_diff_and_show_need_no_deployment(tmp_path, capsys):
    good = (files("mythos.policies") / "house.toml").read_text()
    bad = tmp_path / "bad.toml"
    bad.write_text(good.replace("confidence = 0.95", "confidence = 0.5"))
    assert said(capsys, "lint", "house") == (0, {"pack": "house", "errors": 0, "findings": []})
    code, answer = said(capsys, "lint", str(bad))
    assert code == 1 and [found["path"] for found in answer["findings"]] == ["confidence"]
    code, answer = said(capsys, "diff", "house", str(bad))
    assert code == 0 and (answer["loosens"], answer["tightens"]) == (1, 0)
    assert answer["changes"] == [{"path": "confidence", "old": 0.95, "new": 0.5, "effect": "loosens"}]
    code, answer = said(capsys, "show", "house")
    assert answer["pack"]["quorum"] == 3
    assert said(capsys, "show", "nothing")[0] == 1
    for command in (["list"], ["show", "house"], ["diff", "house", str(bad)], ["lint", str(bad)]):
        run(["policy", *command])
        assert capsys.readouterr().out
