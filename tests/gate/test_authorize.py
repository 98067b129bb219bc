"""authorize: unknown means no, one changed field means no, and who may not know learns nothing."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mythos.gate.authorize import LIFETIME, Standing, authorize, known_tiers
from mythos.records.decision import HANDLING_PURPOSES, Handling
from mythos.records.permit import Action, Permit, Reason, Refusal
from mythos.records.principal import OPERATOR, Principal
from mythos.spec.family import TierState
from tests.gate.world import ROOT, T0, make_family

OWN_KEY = Principal("operator", "key", "local")
ANN = Principal("ann", "key", "local")  # one whom only a decision could name
THEIRS = Principal("key_7", "key", "acme")
NAMES = ("haiku", "sonnet", "opus", "capybara")


def decision(tier: str = "opus", root: str = ROOT, **changes) -> Handling:
    one = Handling(
        id="dec_1",
        family="pocket",
        tier=tier,
        root=root,
        principals=("operator",),
        actions=tuple(Action),
        purposes=HANDLING_PURPOSES,
        policy="local-handling.v1",
        issued_at=T0,
        issued_by="f" * 64,
    )
    return replace(one, **changes)


def standing(decisions: dict[str, Handling] | None = None, built: dict[str, str] | None = None) -> Standing:
    """Opus is built under ROOT with `decision()`, or as given."""
    built = {"opus": ROOT} if built is None else built
    family = make_family()
    tiers = tuple(
        replace(tier, root=built[tier.name], state=TierState.BUILT) if tier.name in built else tier
        for tier in family.tiers
    )
    return Standing(replace(family, tiers=tiers), {"opus": decision()} if decisions is None else decisions)


def ask(
    where: Standing,
    who: Principal = OPERATOR,
    action: Any = Action.ANSWER,  # also what is no Action
    tier: str = "opus",
    purpose: str = "local_tryout",
    now: float = T0 + 1,
) -> Permit | Refusal:
    return authorize(where, who, action, tier, purpose, now)


@pytest.mark.parametrize("who", [OPERATOR, OWN_KEY])
@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("purpose", HANDLING_PURPOSES)
def test_the_permit_says_what_was_asked(who, action, purpose):
    assert ask(standing(), who, action, purpose=purpose) == Permit(
        principal=who,
        action=action,
        tier="opus",
        root=ROOT,
        profile="none",
        purpose=purpose,
        decision="dec_1",
        issued_at=T0 + 1,
        expires_at=T0 + 1 + LIFETIME[action],
    )


def test_every_action_has_a_finite_lifetime():
    assert set(LIFETIME) == set(Action)
    assert all(0 < seconds <= 3600 for seconds in LIFETIME.values())


@pytest.mark.parametrize(
    "asked, reason",
    [
        ({"tier": "mythos-9"}, Reason.UNKNOWN_TIER),
        ({"tier": ""}, Reason.UNKNOWN_TIER),
        ({"tier": "OPUS"}, Reason.UNKNOWN_TIER),
        ({"tier": "opus "}, Reason.UNKNOWN_TIER),
        ({"tier": "haiku"}, Reason.NOT_BUILT),
        ({"action": "export"}, Reason.ACTION_NOT_GRANTED),
        ({"action": ""}, Reason.ACTION_NOT_GRANTED),
        ({"purpose": "production"}, Reason.PURPOSE_NOT_GRANTED),
        ({"purpose": ""}, Reason.PURPOSE_NOT_GRANTED),
        ({"now": T0 - 61}, Reason.CLOCK),
        ({"now": -math.inf}, Reason.CLOCK),
        ({"now": math.inf}, Reason.CLOCK),
        ({"now": math.nan}, Reason.CLOCK),
    ],
)
def test_what_the_operator_is_refused_and_told(asked, reason):
    refusal = ask(standing(), **asked)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is reason
    assert refusal.may_know is (reason is not Reason.UNKNOWN_TIER)
    assert isinstance(ask(standing()), Permit)  # control


def test_sixty_seconds_of_clock_correction_are_allowed():
    assert isinstance(ask(standing(), now=T0 - 60), Permit)


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"family": "other"}, Reason.NO_DECISION),
        ({"tier": "sonnet"}, Reason.NO_DECISION),
        ({"root": "cd" * 32}, Reason.NO_DECISION),
        ({"principals": ("ann",)}, Reason.NOT_NAMED),
        ({"actions": (Action.KNOW,)}, Reason.ACTION_NOT_GRANTED),
        ({"purposes": ("evaluation",)}, Reason.PURPOSE_NOT_GRANTED),
        ({"issued_at": T0 + 62}, Reason.CLOCK),
    ],
)
def test_a_decision_about_something_else_does_not_count(changed, reason):
    refusal = ask(standing({"opus": decision(**changed)}))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.may_know) == (reason, True)


def test_a_built_tier_needs_root_and_state():
    whole = standing()
    for change in ({"root": None}, {"state": TierState.BUILDING}, {"state": TierState.FAILED}):
        tiers = tuple(replace(t, **change) if t.name == "opus" else t for t in whole.family.tiers)
        refusal = ask(replace(whole, family=replace(whole.family, tiers=tiers)))
        assert isinstance(refusal, Refusal) and refusal.reason is Reason.NOT_BUILT
        assert "mythos build opus" in refusal.message


def test_a_decision_that_did_not_verify_is_named_as_such():
    refusal = ask(replace(standing({}), faults={"opus": "the signature does not verify"}))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.BAD_SIGNATURE
    assert "does not verify" in refusal.message and "mythos build opus" in refusal.message


NEAR_OPERATOR = [
    Principal("operator", "key", "acme"),
    Principal("operator", "operator", "acme"),
    Principal("operator", "operator", "Local"),
    Principal("Operator", "operator", "local"),
    Principal("", "operator", "local"),
    Principal("key_7", "operator", "local"),
    THEIRS,
    ANN,
]


@pytest.mark.parametrize("who", NEAR_OPERATOR)
def test_nobody_else_knows_anything(who):
    """For every tier, action, purpose and time: the same refusal as for a tier that does not exist."""
    nothing = replace(standing(), family=replace(make_family(), tiers=()), decisions={})
    for where in (standing(), standing({}), standing({}, {}), replace(standing({}), faults={"opus": "x"})):
        for tier in (*NAMES, "mythos-9"):
            for action in (*Action, "export"):
                for purpose in (*HANDLING_PURPOSES, "production"):
                    for now in (T0 + 1, T0 - 1000, math.nan):
                        refusal = ask(where, who, action, tier, purpose, now)
                        assert refusal == ask(nothing, who, action, tier, purpose, now)
                        assert refusal == Refusal(Reason.UNKNOWN_TIER, False, f"no tier named {tier!r}")
        assert known_tiers(where, who, T0 + 1) == []


def test_a_handling_decision_never_reaches_another_organisation():
    named = standing({"opus": decision(principals=("operator", "key_7", "ann"))})
    for who in (THEIRS, Principal("ann", "key", "acme"), Principal("operator", "key", "acme")):
        assert (
            ask(named, who)
            == ask(named, who, tier="opus")
            == Refusal(Reason.UNKNOWN_TIER, False, "no tier named 'opus'")
        )
    assert isinstance(ask(named, ANN), Permit)  # control: of this organisation, and named
    refusal = ask(named, ANN, purpose="production")
    assert isinstance(refusal, Refusal) and refusal.may_know  # whom a decision names may learn the reason
    assert ask(named, ANN, tier="haiku") == Refusal(Reason.UNKNOWN_TIER, False, "no tier named 'haiku'")


def test_the_refusal_of_a_long_name_is_short():
    refusal = ask(standing(), THEIRS, tier="x" * 10**6)
    assert isinstance(refusal, Refusal) and len(refusal.message) < 200


# -- properties ----------------------------------------------------------------------------------------------

roots = st.sampled_from([ROOT, "cd" * 32, "ef" * 32])
principals = st.builds(
    Principal,
    st.sampled_from(["operator", "ann", "key_7"]),
    st.sampled_from(["operator", "key"]),
    st.sampled_from(["local", "acme"]),
)


def subsets(values):
    return st.lists(st.sampled_from(values), min_size=1, unique=True).map(tuple)


decisions = st.builds(
    decision,
    tier=st.sampled_from(NAMES),
    root=roots,
    family=st.sampled_from(["pocket", "pocket", "other"]),
    principals=subsets(["operator", "ann", "key_7"]),
    actions=subsets(list(Action)),
    purposes=subsets(HANDLING_PURPOSES),
    issued_at=st.floats(T0 - 100, T0 + 100),
)
standings = st.builds(
    standing,
    st.dictionaries(st.sampled_from(NAMES), decisions),
    st.dictionaries(st.sampled_from(NAMES), roots),
)
questions = st.fixed_dictionaries(
    {
        "who": principals,
        "action": st.sampled_from([*Action, "export"]),
        "tier": st.sampled_from([*NAMES, "mythos-9"]),
        "purpose": st.sampled_from([*HANDLING_PURPOSES, "production"]),
        "now": st.floats(T0 - 200, T0 + 200) | st.sampled_from([math.nan, math.inf]),
    }
)


def allowed(where: Standing, who, action, tier, purpose, now) -> bool:
    """The rule again, as one sentence: the reference the function is held against."""
    return any(
        t.name == tier
        and t.root is not None
        and d.tier == filed == tier
        and d.root == t.root
        and d.family == where.family.name
        and who.org == "local"
        and who.id in d.principals
        and action in d.actions
        and purpose in d.purposes
        and math.inf > now >= d.issued_at - 60
        for t in where.family.tiers
        for filed, d in where.decisions.items()
    )


@given(standings, questions)
def test_yes_exactly_when_the_rule_says_so(where, question):
    answer = ask(where, **question)
    assert isinstance(answer, Permit) == allowed(where, **question)
    if isinstance(answer, Permit):
        found = where.decisions[question["tier"]]
        assert (answer.root, answer.decision) == (found.root, found.id)
        assert answer.root == where.family.tier(question["tier"]).root
        assert question["now"] == answer.issued_at < answer.expires_at
    elif not answer.may_know:
        assert answer == Refusal(Reason.UNKNOWN_TIER, False, f"no tier named {question['tier']!r}")
    else:
        who = question["who"]
        found = where.decisions.get(question["tier"])
        assert who.org == "local"
        assert who.id == "operator" or (found is not None and who.id in found.principals)


@given(standings, principals, st.floats(T0 - 200, T0 + 200))
def test_known_tiers_are_those_that_may_be_known(where, who, now):
    permitted = [name for name in NAMES if isinstance(ask(where, who, Action.KNOW, name, now=now), Permit)]
    assert [tier.name for tier in known_tiers(where, who, now)] == permitted


@given(standings, questions)
def test_taking_a_decision_away_never_permits(where, question):
    before = ask(where, **question)
    for name in where.decisions:
        rest = {tier: found for tier, found in where.decisions.items() if tier != name}
        after = ask(replace(where, decisions=rest), **question)
        if isinstance(after, Permit):
            assert after == before


OTHER_VALUES = {
    "principal": st.builds(
        Principal,
        st.text().filter(lambda text: text != "operator"),
        st.sampled_from(["operator", "key"]),
        st.text(),
    )
    | st.builds(
        Principal,
        st.just("operator"),
        st.sampled_from(["operator", "key"]),
        st.text().filter(lambda t: t != "local"),
    ),
    "action": st.text().filter(lambda text: text not in list(Action)),
    "tier": st.text().filter(lambda text: text != "opus"),
    "purpose": st.text().filter(lambda text: text not in HANDLING_PURPOSES),
    "now": st.floats(max_value=T0 - 60.001) | st.just(math.nan),
}
WORDS = {"principal": "who"}
TESTED = ("family", "tier", "root", "principals", "actions", "purposes", "issued_at")


@pytest.mark.parametrize("field", list(OTHER_VALUES))
@given(data=st.data())
def test_one_changed_field_of_a_permitted_question_refuses(field, data):
    changed: Any = {WORDS.get(field, field): data.draw(OTHER_VALUES[field])}
    assert isinstance(ask(standing(), **changed), Refusal)
    assert isinstance(ask(standing()), Permit)  # control


@pytest.mark.parametrize("field", TESTED)
@given(data=st.data())
def test_one_changed_field_of_the_decision_refuses(field: str, data):
    names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
    values: dict[str, st.SearchStrategy[Any]] = {
        "family": names.filter(lambda name: name != "pocket"),
        "tier": names.filter(lambda name: name != "opus"),
        "root": st.binary(min_size=32, max_size=32).map(bytes.hex).filter(lambda root: root != ROOT),
        "principals": names.filter(lambda name: name != "operator").map(lambda name: (name,)),
        "actions": subsets([action for action in Action if action is not Action.ANSWER]),
        "purposes": subsets([purpose for purpose in HANDLING_PURPOSES if purpose != "local_tryout"]),
        "issued_at": st.floats(T0 + 61.001, 1e12),
    }
    change: Any = {field: data.draw(values[field])}
    changed = decision(**change)
    assert isinstance(ask(standing({"opus": changed})), Refusal)
    assert isinstance(ask(standing()), Permit)  # control


def test_every_field_of_a_decision_is_looked_at_or_only_a_label():
    labels = {"id", "policy", "issued_by"}
    assert {field.name for field in fields(Handling)} == labels | set(TESTED)
