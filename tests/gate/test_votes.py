"""Votes: who counts, for what, for how long; what stands against; what is missing."""

from dataclasses import replace

import pytest

from mythos.gate.votes import count, enrolled, missing, signed_by_quorum, vetoes
from mythos.records.reasons import Code
from mythos.records.release import Choice, Stage
from mythos.records.trust import Key, Role
from tests.gate.plain import HOUSE, KEYS, SECRETS, a_subject, cast, enrolled_state
from tests.gate.town import DAY, T0, W2

RULE = HOUSE.stages[0]  # three persons, a scaling officer and safety among them, 14 days
THREE = ("rso-1", "safety-1", "board-1")


def codes(found) -> list[Code]:
    return [code for code, _ in found]


@pytest.fixture
def state():
    return enrolled_state()


@pytest.fixture
def about(state):
    return a_subject(state)


def counted(state, about, now=T0, requester="requester-1"):
    return count(state, about, requester, RULE, now)


def test_three_persons_with_the_roles_suffice(state, about):
    cast(state, about, *THREE)
    found = counted(state, about)
    assert found.votes == ("vote000", "vote001", "vote002") and found.reasons == ()


def test_two_do_not_though_one_votes_twice(state, about):
    cast(state, about, "rso-1", "safety-1", "safety-1")
    found = counted(state, about)
    assert codes(found.reasons) == [Code.QUORUM_NOT_MET] and "2 of 3" in found.reasons[0][1]
    assert found.votes == ("vote000", "vote002"), "the newer one of a person"


def test_every_wanted_role_is_held(state, about):
    cast(state, about, "rso-1", "board-1", "board-2")
    assert codes(counted(state, about).reasons) == [Code.ROLE_MISSING]
    assert counted(state, about).reasons[0][1] == "safety"
    cast(state, about, "safety-1")
    assert counted(state, about).reasons == () and len(counted(state, about).votes) == 4


def test_the_requester_does_not_count(state, about):
    cast(state, about, *THREE)
    found = counted(state, about, requester="board-1")
    assert codes(found.reasons) == [Code.QUORUM_NOT_MET] and found.votes == ("vote000", "vote001")


def test_a_withdrawn_vote_and_a_veto_are_no_approvals(state, about):
    cast(state, about, *THREE)
    state.votes["vote001"] = replace(state.votes["vote001"], withdrawn=True)
    assert codes(counted(state, about).reasons) == [Code.QUORUM_NOT_MET, Code.ROLE_MISSING]
    cast(state, about, "safety-1", choice=Choice.VETO)
    assert len(counted(state, about).votes) == 2


def test_a_vote_lives_fourteen_days(state, about):
    cast(state, about, *THREE)
    end = T0 + 14 * DAY
    assert counted(state, about, end - 0.001).reasons == ()
    found = counted(state, about, end)
    assert codes(found.reasons) == [Code.QUORUM_NOT_MET, Code.ROLE_MISSING, Code.VOTE_EXPIRED]
    assert found.votes == () and "14 days: board-1, rso-1, safety-1" in found.reasons[-1][1]


def test_who_votes_again_is_not_late(state, about):
    cast(state, about, "rso-1", "safety-1")
    cast(state, about, "safety-1", "board-1", at=T0 + 10 * DAY)
    reasons = counted(state, about, T0 + 14 * DAY).reasons
    assert reasons[-1][0] is Code.VOTE_EXPIRED and reasons[-1][1].endswith(": rso-1")
    cast(state, about, "rso-1", at=T0 + 14 * DAY)
    assert counted(state, about, T0 + 14 * DAY).reasons == (), (
        "an old vote beside enough new ones is no reason"
    )


def test_a_vote_before_a_halt_is_spent(state, about):
    cast(state, about, *THREE)
    state.spent = dict.fromkeys(state.votes, T0)
    found = counted(state, about)
    assert codes(found.reasons) == [Code.QUORUM_NOT_MET, Code.ROLE_MISSING, Code.HALTED]
    assert found.votes == () and found.reasons[-1][1].endswith(": board-1, rso-1, safety-1")
    cast(state, about, "rso-1", "safety-1")
    assert counted(state, about).reasons[-1][1].endswith(": board-1")
    cast(state, about, "board-1")
    assert counted(state, about).reasons == ()


def test_a_vote_on_other_evidence_is_named(state, about):
    other = replace(about, evidence="e" * 64)
    cast(state, other, *THREE)
    found = counted(state, about)
    assert codes(found.reasons) == [Code.QUORUM_NOT_MET, Code.ROLE_MISSING, Code.EVIDENCE_ROOT_CHANGED]
    assert found.votes == () and "board-1, rso-1, safety-1" in found.reasons[-1][1]
    cast(state, about, "safety-1", "rso-1")
    assert counted(state, about).reasons[-1][1].endswith("evidence: board-1")
    cast(state, about, "board-2")
    assert counted(state, about).reasons == ()


@pytest.mark.parametrize(
    "other",
    [{"root": W2}, {"profile": "strict"}, {"stage": Stage.GENERAL}, {"audience": "public@" + "a" * 16}],
)
def test_a_vote_on_something_else_says_nothing(state, about, other):
    cast(state, replace(about, evidence="e" * 64, **other), *THREE)
    found = counted(state, about)
    assert found.votes == () and Code.EVIDENCE_ROOT_CHANGED not in codes(found.reasons)
    cast(state, replace(about, **other), *THREE)
    assert counted(state, about) == found


def test_votes_for_other_purposes_tier_or_policy_do_not_count(state, about):
    for other in ({"purposes": ("general",)}, {"tier": "opus"}, {"family": "x"}, {"policy": "f" * 64}):
        cast(state, replace(about, **other), *THREE)
    assert counted(state, about).votes == ()


def test_who_left_or_changed_role_does_not_count(state, about):
    cast(state, about, *THREE)
    assert state.trust is not None
    stayed = tuple(key for key in KEYS if key.holder != "board-1")
    moved = Key("ab" * 32, "board-1", Role.AUDITOR)
    state.trust = replace(state.trust, keys=(*stayed, moved))
    assert enrolled(state, "board-1", Role.AUDITOR) and not enrolled(state, "board-1", Role.BOARD)
    assert not enrolled(state, "rso-1", Role.BOARD), "somebody else's role"
    state.keys = state.trust.public_keys()
    assert counted(state, about).votes == ("vote000", "vote001")
    state.trust = None
    assert not enrolled(state, "rso-1", Role.SCALING)


def test_who_is_enrolled_anew_votes_anew(state, about):
    cast(state, about, *THREE)
    assert state.trust is not None
    stayed = tuple(key for key in KEYS if key.holder != "board-1")
    state.trust = replace(state.trust, keys=(*stayed, Key("ab" * 32, "board-1", Role.BOARD)))
    state.keys = state.trust.public_keys()
    assert enrolled(state, "board-1", Role.BOARD) and counted(state, about).votes == ("vote000", "vote001")


@pytest.mark.parametrize(
    ("other", "stands"),
    [
        ({}, True),
        ({"profile": "strict", "evidence": "e" * 64, "purposes": ("general",)}, True),
        ({"audience": "public@" + "a" * 16, "policy": "f" * 64, "tier": "opus"}, True),
        ({"stage": Stage.EARLY_ACCESS}, True),
        ({"stage": Stage.GENERAL}, False),
        ({"root": W2}, False),
    ],
)
def test_a_veto_stands_on_the_same_weights_at_this_stage_or_an_earlier_one(state, other, stands):
    about = a_subject(state, Stage.EXPANDED)
    cast(state, about, "rso-1")
    assert vetoes(state, about) == []
    cast(state, replace(about, **other), "safety-1", choice=Choice.VETO)
    assert [found.vote.id for found in vetoes(state, about)] == (["vote001"] if stands else [])
    state.votes["vote001"] = replace(state.votes["vote001"], withdrawn=True)
    assert vetoes(state, about) == []


def test_a_person_fills_one_role_once():
    boards = {"board-1": Role.BOARD, "board-2": Role.BOARD}
    assert missing(boards, 2, (Role.BOARD, Role.BOARD)) == []
    assert missing({"board-1": Role.BOARD}, 1, (Role.BOARD, Role.BOARD)) == [(Code.ROLE_MISSING, "board")]
    assert missing(boards, 3, ()) == [(Code.QUORUM_NOT_MET, "2 of 3 persons")]
    lacking = missing(boards, 2, (Role.SAFETY, Role.BOARD, Role.EXECUTIVE))
    assert lacking == [(Code.ROLE_MISSING, "safety, executive")]


def test_a_quorum_of_signatures_counts_persons_that_vote(state):
    by = {key.holder: key.id for key in KEYS}
    three = [by[who] for who in THREE]
    wanted = (Role.SCALING, Role.SAFETY)
    assert SECRETS and signed_by_quorum(state, three, 3, wanted) == []
    for extra in (by["requester-1"], by["auditor-1"], by["evaluator-1"], by["rso-1"], "f" * 64):
        found = signed_by_quorum(state, [*three[:2], extra], 3, wanted)
        assert found == [(Code.QUORUM_NOT_MET, "2 of 3 persons")]
