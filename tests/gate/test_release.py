"""The gate's answer as a pure function: what holds, what blocks, and that each has a legitimate twin."""

from dataclasses import replace

import pytest

from mythos.gate.policy import pack_digest
from mythos.gate.release import (
    against,
    check,
    evidence_root,
    in_force,
    runs_for,
    standing_stage,
)
from mythos.gate.votes import vetoes
from mythos.records.evidence import Evidence, Judge, Labelled, Outcome, Plan, Sample
from mythos.records.profile import CHECKS
from mythos.records.reasons import Code, Verdict
from mythos.records.release import Choice, Incident, Stage, Suspension
from mythos.records.signed import digest
from mythos.records.trust import Role
from tests.gate.plain import DEPLOYMENT, HOUSE, a_subject, cast, enrolled_state, opened
from tests.gate.town import DAY, T0, W1, W2, hexdigest

SOON = T0 + DAY


def run(state, suite, items, successes=0, at=T0, root=W1, profile="none", samples=None, **other):
    """A plan on record with one complete look at it."""
    n = len(state.plans)
    about = {"deployment": DEPLOYMENT, "root": root, "profile": profile, "suite_digest": hexdigest(suite)}
    plan = Plan(
        **{
            **about, "id": f"plan{n}", "family": "fam", "tier": "capybara", "suite": suite, "items": items,
            "harness": hexdigest("h"), "elicitations": ("chat",), "looks": 1, "policy": state.policy,
            "judge": "", "evaluator": "evaluator-1",
        } | other
    )  # fmt: skip
    if samples is None:
        samples = tuple(
            Sample(f"s{i}", f"s{i}", Outcome.SUCCESS if i < successes else Outcome.FAILURE, "chat")
            for i in range(items)
        )
    piece = Evidence(
        **{
            **about, "id": f"ev{n}", "plan": plan.id, "harness": plan.harness, "look": 1, "samples": samples,
            "judge": None, "transcripts": hexdigest("t"), "isolation": "none", "evaluator": "evaluator-1",
            "started": at, "ended": at,
        }
    )  # fmt: skip
    state.plans[plan.id], state.evidence[piece.id] = plan, piece
    state.at |= {plan.id: at, piece.id: at}
    state.signed_as |= {plan.id: Role.EVALUATOR, piece.id: Role.EVALUATOR}
    state.roots[root] = ("fam", "capybara")
    return piece


def measured(state, at=T0, root=W1, profile="none"):
    run(state, "humaneval", 164, 0, at, root, profile)
    run(state, "mmlu_dev", 273, 80, at, root, profile)


def now_about(state, stage=Stage.EARLY_ACCESS, **other):
    """The subject with the evidence that is on record."""
    about = a_subject(state, stage, **other)
    pieces = [piece for found in runs_for(state, about) for piece in found.evidence]
    return replace(about, evidence=evidence_root(pieces))


@pytest.fixture
def state():
    state = enrolled_state()
    measured(state)
    cast(state, now_about(state))
    return state


def asked(state, about=None, now=SOON, requester="requester-1", strategy="staged", rollback=False):
    return check(state, about or now_about(state), requester, strategy, now, rollback)


def codes(answer):
    return [because.code for because in answer.reasons]


def test_all_in_order_is_allowed_with_what_it_rests_on(state):
    answer = asked(state)
    assert (answer.verdict, answer.reasons) == (Verdict.ALLOW, ())
    assert answer.votes == tuple(sorted(state.votes)) and answer.evidence == ("ev0", "ev1")
    assert {found.domain for found in answer.domains} == set(HOUSE.stages[0].domains)
    assert answer.expires_at == SOON + 90 * DAY, "the life of a release"


def test_it_lapses_with_its_oldest_evidence(state):
    late = T0 + 100 * DAY
    cast(state, now_about(state), at=late)
    assert asked(state, now=late).expires_at == T0 + 183 * DAY
    old = T0 + 183 * DAY
    cast(state, now_about(state), at=old - DAY)
    assert asked(state, now=old - 1).verdict is Verdict.ALLOW
    assert set(codes(asked(state, now=old))) == {Code.EVIDENCE_EXPIRED}


def test_nothing_is_answered_without_trust_or_policy(state):
    about = now_about(state)
    state.trust = None
    assert codes(asked(state, about)) == [Code.NO_TRUST_ROOT] and asked(state, about).verdict is Verdict.HOLD
    state.policy = ""
    assert codes(asked(state, about)) == [Code.NO_TRUST_ROOT, Code.NO_POLICY]


def test_a_damaged_state_blocks(state):
    state.fault = "a record is missing"
    answer = asked(state)
    assert answer.verdict is Verdict.BLOCK and codes(answer) == [Code.STATE_DAMAGED]


def test_the_requester_is_enrolled(state):
    answer = asked(state, requester="stranger")
    assert answer.verdict is Verdict.BLOCK and codes(answer) == [Code.SIGNER_NOT_AUTHORISED]


def test_the_policy_is_the_one_in_force(state):
    about = now_about(state)
    newer = replace(HOUSE, version="1.0.2")
    state.policy = pack_digest(newer)
    state.packs[state.policy] = newer
    answer = asked(state, about)
    assert answer.verdict is Verdict.BLOCK and Code.POLICY_CHANGED in codes(answer)


def test_a_stage_that_the_pack_does_not_have():
    state = enrolled_state(replace(HOUSE, stages=HOUSE.stages[:1]))
    answer = asked(state, a_subject(state, Stage.GENERAL))
    assert answer.verdict is Verdict.BLOCK and codes(answer) == [Code.STAGE_UNKNOWN]


@pytest.mark.parametrize(
    ("other", "code"),
    [
        ({"audience": "researchers@" + "a" * 16}, Code.AUDIENCE_NOT_ALLOWED),
        ({"stage_of_audience": ""}, Code.AUDIENCE_NOT_ALLOWED),
        ({"purposes": ("cyber_defence", "general")}, Code.PURPOSE_NOT_ALLOWED),
        ({"tier": "opus"}, Code.ROOT_ALREADY_REGISTERED),
        ({"family": "other"}, Code.ROOT_ALREADY_REGISTERED),
    ],
)
def test_what_the_stage_does_not_admit_is_blocked(state, other, code):
    if "stage_of_audience" in other:
        other = {"audience": a_subject(state, Stage.EXPANDED).audience}
    answer = asked(state, replace(now_about(state), **other))
    assert answer.verdict is Verdict.BLOCK
    found = [because for because in answer.reasons if because.code is code]
    assert len(found) == 1 and found[0].verdict is Verdict.BLOCK
    assert code not in codes(asked(state))


def test_weights_that_nobody_planned_to_evaluate_hold(state):
    answer = asked(state, now_about(state, root=W2))
    assert answer.verdict is Verdict.HOLD and Code.NOT_REGISTERED in codes(answer)


def test_an_unknown_strategy_and_one_without_the_step(state):
    assert codes(asked(state, strategy="none such")) == [Code.STRATEGY_NOT_ALLOWED]
    opened(state, now_about(state), at=T0 - 10 * DAY)
    about = now_about(state, Stage.EXPANDED)
    assert Code.STRATEGY_NOT_ALLOWED in codes(asked(state, about, strategy="defence_only"))
    assert Code.STRATEGY_NOT_ALLOWED not in codes(asked(state, about))
    narrow = now_about(state, Stage.EXPANDED, audience=now_about(state).audience)
    assert Code.STRATEGY_NOT_ALLOWED in codes(asked(state, narrow)), "the step is for enterprises"


def test_stages_open_in_order_and_wait(state):
    about = now_about(state, Stage.EXPANDED)
    assert Code.STAGE_SKIPPED in codes(asked(state, about))
    release = opened(state, now_about(state), at=T0)
    for now, code in ((T0 + 7 * DAY - 1, [Code.TOO_EARLY]), (T0 + 7 * DAY, [])):
        found = codes(asked(state, about, now))
        assert [c for c in found if c in (Code.TOO_EARLY, Code.STAGE_SKIPPED)] == code
    opened(state, now_about(state), at=T0 + 6 * DAY)
    assert Code.TOO_EARLY not in codes(asked(state, about, T0 + 7 * DAY)), "the earliest counts"
    general = now_about(state, Stage.GENERAL)
    assert Code.STAGE_SKIPPED in codes(asked(state, general, T0 + 80 * DAY))
    state.releases = {release.id: release}
    state.fallen[release.id] = (T0, Code.HALTED)
    assert Code.STAGE_SKIPPED in codes(asked(state, about, T0 + 8 * DAY))
    assert Code.STAGE_SKIPPED in codes(asked(state, about, T0 + 8 * DAY, rollback=True))
    state.fallen.clear()
    later = T0 + 100 * DAY  # its time is over, and nobody ended it
    assert Code.STAGE_SKIPPED in codes(asked(state, about, later))
    assert Code.STAGE_SKIPPED not in codes(asked(state, about, later, rollback=True))


@pytest.mark.parametrize("other", [{"root": W2}, {"profile": "strict"}])
def test_another_profiles_or_roots_stage_opens_nothing(state, other):
    opened(state, a_subject(state, **other), at=T0)
    assert Code.STAGE_SKIPPED in codes(asked(state, now_about(state, Stage.EXPANDED), T0 + 8 * DAY))


@pytest.mark.parametrize(
    ("other", "serves"),
    [
        ({"tier": "opus", "root": W2}, True), ({"root": W2}, False), ({"family": "x", "tier": "opus"}, False),
        ({"tier": "opus", "stage": Stage.EXPANDED}, True),
    ],
)  # fmt: skip
def test_a_lower_tier_stands_first(state, other, serves):
    assert codes(asked(state, strategy="distilled_first")) == [Code.STAGE_SKIPPED]
    release = opened(state, a_subject(state, **other))
    assert codes(asked(state, strategy="distilled_first")) == ([] if serves else [Code.STAGE_SKIPPED])
    state.fallen[release.id] = (T0, Code.HALTED)
    assert codes(asked(state, strategy="distilled_first")) == [Code.STAGE_SKIPPED]


def test_a_suspended_tier_holds(state):
    state.suspensions["s"] = Suspension("s", DEPLOYMENT, "opus", {}, "", "rso-1")
    assert asked(state).verdict is Verdict.ALLOW
    state.suspensions["s"] = Suspension("s", DEPLOYMENT, "capybara", {}, "", "rso-1")
    assert asked(state).verdict is Verdict.HOLD and codes(asked(state)) == [Code.SUSPENDED]


def test_evidence_that_came_after_the_vote(state):
    about = now_about(state)
    run(state, "humaneval", 164)
    assert codes(asked(state, about)) == [Code.EVIDENCE_ROOT_CHANGED]
    assert Code.EVIDENCE_ROOT_CHANGED in codes(asked(state)), "nobody voted on the new evidence"
    cast(state, now_about(state))
    assert asked(state).verdict is Verdict.ALLOW


def test_a_veto_blocks_and_missing_votes_hold(state):
    cast(state, now_about(state), "safety-1", choice=Choice.VETO)
    answer = asked(state)
    assert answer.verdict is Verdict.BLOCK and codes(answer) == [Code.VETOED]
    assert "safety-1" in answer.reasons[0].detail
    state.votes.clear()
    assert asked(state).verdict is Verdict.HOLD
    assert codes(asked(state)) == [Code.QUORUM_NOT_MET, Code.ROLE_MISSING]


@pytest.mark.parametrize("other", [{"root": W2}, {"profile": "strict"}, {"stage": Stage.EXPANDED}])
def test_a_rollback_goes_back_to_what_stood(state, other):
    opened(state, a_subject(state, **other))
    answer = asked(state, rollback=True)
    assert answer.verdict is Verdict.BLOCK and set(codes(answer)) == {Code.ROLLBACK_TARGET_INVALID}
    release = opened(state, now_about(state))
    assert asked(state, rollback=True).verdict is Verdict.ALLOW
    state.fallen[release.id] = (T0, Code.HALTED)
    assert Code.ROLLBACK_TARGET_INVALID in codes(asked(state, rollback=True))


def test_a_rollback_takes_the_same_road(state):
    opened(state, now_about(state))
    assert asked(state, rollback=True).verdict is Verdict.ALLOW
    state.votes.clear()
    answer = asked(state, rollback=True)
    assert answer.verdict is Verdict.BLOCK and codes(answer)[-1] is Code.ROLLBACK_TARGET_INVALID


def test_a_bad_measurement_holds_and_names_the_domain():
    state = enrolled_state()
    run(state, "humaneval", 164, 150)
    run(state, "mmlu_dev", 273, 80)
    cast(state, now_about(state))
    answer = asked(state)
    assert answer.verdict is Verdict.HOLD and set(codes(answer)) == {Code.PRECURSOR_ABOVE_ALERT}
    assert {because.detail.split(":")[0] for because in answer.reasons} == {
        "cyber", "autonomy", "ai_rnd", "misalignment",
    }  # fmt: skip


def test_only_runs_on_these_weights_under_this_profile_or_none_count():
    state = enrolled_state()
    run(state, "humaneval", 164, root=W2)
    run(state, "humaneval", 164, profile="strict")
    run(state, "humaneval", 164, profile="lax")
    run(state, "humaneval", 164)
    assert [found.plan.id for found in runs_for(state, a_subject(state, profile="strict"))] == [
        "plan1",
        "plan3",
    ]
    assert [found.plan.id for found in runs_for(state, a_subject(state))] == ["plan3"]
    found = runs_for(state, a_subject(state))[0]
    assert (found.planned_at, found.role, found.org) == (T0, Role.EVALUATOR, "town")
    state.evidence["later"] = replace(state.evidence["ev3"], id="later", look=2)
    state.evidence = dict(reversed(state.evidence.items()))
    assert [piece.look for piece in runs_for(state, a_subject(state))[0].evidence] == [1, 2]


def test_an_incident_voids_until_measured_again(state):
    state.incidents["i"] = Incident("i", DEPLOYMENT, "none", "", "rso-1")
    state.at["i"] = T0
    assert codes(asked(state)) == [Code.EVIDENCE_VOID] and asked(state).verdict is Verdict.HOLD
    state.incidents["i"] = Incident("i", DEPLOYMENT, "strict", "", "rso-1")
    assert asked(state).verdict is Verdict.ALLOW, "another profile's"
    state.incidents["i"] = Incident("i", DEPLOYMENT, "none", "", "rso-1")
    state.incidents["older"] = Incident("older", DEPLOYMENT, "none", "", "rso-1")
    state.at["older"] = T0 - DAY
    run(state, "humaneval", 164, at=T0 + 1)
    cast(state, now_about(state))
    assert asked(state).verdict is Verdict.ALLOW
    state.at["i"] = T0 + 1
    assert codes(asked(state)) == [Code.EVIDENCE_VOID]
    del state.evidence["ev2"]
    state.at["i"] = T0
    assert Code.EVIDENCE_VOID in codes(asked(state)), "a plan is no measurement"


def test_a_stage_with_a_safety_level_needs_safeguards_that_were_measured(state):
    opened(state, now_about(state))
    about = now_about(state, Stage.EXPANDED)
    cast(state, about, at=T0 + 8 * DAY)
    answer = asked(state, about, T0 + 8 * DAY)
    assert answer.verdict is Verdict.HOLD and codes(answer) == [Code.SAFEGUARD_UNMEASURED]
    assert answer.reasons[0].detail.startswith("expanded: guarded")


def test_a_release_is_in_force_for_its_time(state):
    release = opened(state, now_about(state), days=10)
    assert not in_force(state, release, T0 - 1) and in_force(state, release, T0)
    assert in_force(state, release, T0 + 10 * DAY - 1) and not in_force(state, release, T0 + 10 * DAY)
    for part, value in (("fault", "x"), ("policy", "f" * 64), ("fallen", {release.id: (T0, Code.HALTED)})):
        was = getattr(state, part)
        setattr(state, part, value)
        assert not in_force(state, release, SOON)
        setattr(state, part, was)
    assert in_force(state, release, SOON)


def test_where_weights_stand(state):
    def stands(root=W1, profile="none"):
        return standing_stage(state, root, profile, SOON)

    assert stands() is Stage.INTERNAL
    opened(state, a_subject(state, Stage.GENERAL))
    opened(state, a_subject(state))
    opened(state, a_subject(state, Stage.EXPANDED, profile="strict"))
    assert stands() is Stage.GENERAL and stands(profile="strict") is Stage.EXPANDED
    assert stands(W2) is stands(profile="lax") is Stage.INTERNAL
    state.fallen["rel0"] = (T0, Code.HALTED)
    assert stands() is Stage.EARLY_ACCESS


def test_what_ends_a_release(state):
    release = opened(state, now_about(state), votes=sorted(state.votes))

    def ends(now=SOON):
        return against(state, release, now)

    assert ends() is None
    cast(state, now_about(state), "rso-1", choice=Choice.VETO)
    assert vetoes(state, release.subject) and ends() is Code.VETOED
    del state.votes["vote005"]
    was = state.votes["vote000"]
    state.votes["vote000"] = replace(was, withdrawn=True)
    assert ends() is Code.QUORUM_NOT_MET
    state.votes["vote000"] = replace(was, role=Role.BOARD)
    assert ends() is Code.QUORUM_NOT_MET, "no longer enrolled in the role of the vote"
    state.votes["vote000"] = was
    assert ends() is None
    run(state, "humaneval", 164, 150)
    assert ends() is Code.PRECURSOR_ABOVE_ALERT
    state.policy = ""
    assert ends() is Code.POLICY_CHANGED
    fewer = replace(HOUSE, stages=HOUSE.stages[1:])
    state.policy = pack_digest(fewer)
    state.packs[state.policy] = fewer
    assert ends() is Code.POLICY_CHANGED
    release = replace(release, subject=replace(release.subject, policy=state.policy))
    assert against(state, release, SOON) is Code.STAGE_UNKNOWN
    state.policy = "ee" * 32
    release = replace(release, subject=replace(release.subject, policy=state.policy))
    assert against(state, release, SOON) is Code.POLICY_CHANGED, "nobody has the pack in force"


def test_the_root_of_evidence_does_not_depend_on_its_order(state):
    pieces = list(state.evidence.values())
    assert evidence_root(pieces) == evidence_root(reversed(pieces)) != evidence_root(pieces[:1])
    assert evidence_root(()) == hexdigest("[]")


def test_only_the_broken_profile_measured_again_mends_it():
    state = enrolled_state()
    measured(state)
    about = {"profile": "strict"}
    run(state, "humaneval", 164, profile="strict")
    state.incidents["i"] = Incident("i", DEPLOYMENT, "strict", "", "rso-1")
    state.at["i"] = T0
    run(state, "humaneval", 164, at=T0 + 1)
    assert Code.EVIDENCE_VOID in codes(asked(state, now_about(state, **about)))
    run(state, "humaneval", 164, at=T0 + 1, profile="strict")
    assert Code.EVIDENCE_VOID not in codes(asked(state, now_about(state, **about)))


@pytest.mark.parametrize(("profile", "serves"), [("strict", True), ("none", False)])
def test_safeguards_count_under_the_profile_they_were_measured_with(profile, serves):
    state = enrolled_state()
    measured(state)
    samples = tuple(
        Sample(f"{kind}:{i}", f"{kind}:{i}", outcome, "chat")
        for kind, outcome in (("refuse", Outcome.REFUSAL), ("answer", Outcome.SUCCESS))
        for i in range(60)
    )
    by = Judge("judge", tuple(Labelled(f"{n}", n < 99, n < 99, "human", "somebody") for n in range(198)))
    about = {"profile": profile, "judge": digest(by)}
    piece = run(state, "refusal_held_out", 120, samples=samples, **about)
    has = {"checks": CHECKS, "categories": ("cbrn", "cyber", "manipulation")}
    state.evidence[piece.id] = replace(piece, judge=by, **has)
    opened(state, a_subject(state, profile="strict"))
    about = now_about(state, Stage.EXPANDED, profile="strict")
    cast(state, about)
    answer = asked(state, about, T0 + 8 * DAY)
    assert codes(answer) == ([] if serves else [Code.SAFEGUARD_UNMEASURED])


def test_an_answer_without_a_pack_has_no_end(state):
    state.policy = ""
    assert asked(state, a_subject(enrolled_state())).expires_at == 0.0
