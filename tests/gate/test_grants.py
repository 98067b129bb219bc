"""Access of an organisation: each part of it must hold; every refusal beside what is served."""

from dataclasses import replace

import pytest

from mythos.gate.grants import Access, access, ended, live_until, widens
from mythos.gate.state import known_attributes, later, suspended
from mythos.records.reasons import Code
from mythos.records.release import Stage, Suspension
from tests.gate.plain import a_subject, enrolled_state, granted, opened, organisation
from tests.gate.town import DAY, T0, W1, W2


@pytest.fixture
def state():
    state = enrolled_state()
    organisation(state, jurisdiction="DE")
    opened(state, a_subject(state))
    return state


def asked(state, now=T0, org="acme", family="fam", tier="capybara", root=W1, purpose="cyber_defence"):
    return access(state, org, family, tier, root, purpose, now)


def served(state, now=T0, org="acme") -> Access:
    found = asked(state, now, org)
    assert isinstance(found, Access), found
    return found


def suspend(state, tier="", **where):
    state.suspensions["s"] = Suspension("s", state.deployment, tier, where, "", "rso-1")


def test_a_live_grant_on_a_release_serves(state):
    grant = granted(state)
    found = asked(state)
    assert found == Access(state.releases["rel0"], grant, T0 + 10 * DAY)


def test_it_ends_with_the_first_of_grant_and_release(state):
    granted(state, expires_at=T0 + 100 * DAY)
    assert served(state).until == T0 + 90 * DAY
    assert served(state, T0 + 90 * DAY - 1).until == T0 + 90 * DAY
    assert asked(state, T0 + 90 * DAY) is Code.NOT_GRANTED


def test_a_grant_is_half_open(state):
    granted(state, starts_at=T0 + DAY)
    assert asked(state, T0 + DAY - 1) is Code.NOT_GRANTED
    assert isinstance(asked(state, T0 + DAY), Access) and isinstance(asked(state, T0 + 10 * DAY - 1), Access)
    assert asked(state, T0 + 10 * DAY) is Code.NOT_GRANTED


def test_the_way_that_lasts_longest_is_taken(state):
    granted(state)
    longer = granted(state, expires_at=T0 + 20 * DAY)
    granted(state, expires_at=T0 + 5 * DAY)
    assert served(state).grant == longer


@pytest.mark.parametrize(
    "wrong", [{"family": "other"}, {"tier": "opus"}, {"root": W2}, {"purpose": "research"}, {"org": "beta"}]
)
def test_exactly_this_family_tier_root_purpose_and_organisation(state, wrong):
    granted(state)
    organisation(state, "beta", jurisdiction="DE")
    assert isinstance(asked(state), Access) and asked(state, **wrong) is Code.NOT_GRANTED


@pytest.mark.parametrize(
    "other",
    [
        {"family": "other"}, {"tier": "opus"}, {"profile": "strict"}, {"purposes": ("general",)},
        {"stage": Stage.EXPANDED}, {"stage": Stage.GENERAL},
    ],
)  # fmt: skip
def test_a_grant_of_something_else_does_not_serve(state, other):
    granted(state, **other)
    assert asked(state) is Code.NOT_GRANTED
    granted(state)
    assert isinstance(asked(state), Access)


@pytest.mark.parametrize(
    "other",
    [{"family": "x"}, {"tier": "opus"}, {"profile": "strict"}, {"root": W2}, {"purposes": ("research",)}],
)
def test_a_release_of_something_else_does_not_serve(other):
    state = enrolled_state()
    organisation(state)
    granted(state)
    opened(state, a_subject(state, **other))
    assert asked(state) is Code.NOT_GRANTED


def test_a_release_must_be_in_force(state):
    granted(state)
    assert asked(state, T0 - 1) is Code.NOT_GRANTED
    state.fallen["rel0"] = (T0, Code.HALTED)
    assert asked(state) is Code.NOT_GRANTED
    state.fallen.clear()
    state.policy = "f" * 64
    assert asked(state) is Code.NOT_GRANTED


def test_a_grant_from_a_later_stage_is_served_once_that_stage_opens(state):
    granted(state, stage=Stage.EXPANDED)
    assert asked(state) is Code.NOT_GRANTED
    release = opened(state, a_subject(state, Stage.EXPANDED))
    assert served(state).release == release
    state.grants.clear()
    state.granted.clear()
    del state.releases["rel0"]
    granted(state)  # of early access: the later stage serves it too
    assert served(state).release == release


def test_classes_open_in_order(state):
    for name, audience in (("shop", "enterprises"), ("anybody", "public"), ("odd", "unheard-of")):
        organisation(state, name, audience)
        granted(state, name)
    granted(state)
    assert isinstance(asked(state), Access)
    served = [
        name for name in ("acme", "shop", "anybody", "odd") if isinstance(asked(state, org=name), Access)
    ]
    assert served == ["acme"]
    opened(state, a_subject(state, Stage.EXPANDED))
    served = [
        name for name in ("acme", "shop", "anybody", "odd") if isinstance(asked(state, org=name), Access)
    ]
    assert served == ["acme", "shop"]
    opened(state, a_subject(state, audience="vanished@" + "a" * 16))
    assert asked(state, org="odd") is Code.NOT_GRANTED
    state.packs.clear()
    assert asked(state) is Code.NOT_GRANTED


def test_jurisdictions(state):
    organisation(state, "beta", jurisdiction="FR")
    organisation(state, "nowhere")
    for org in ("acme", "beta", "nowhere"):
        granted(state, org, jurisdictions=("DE", "AT"))
    assert isinstance(asked(state), Access)
    assert asked(state, org="beta") is asked(state, org="nowhere") is Code.NOT_GRANTED
    granted(state, "nowhere")
    assert isinstance(asked(state, org="nowhere"), Access), "a grant that names none asks for none"


def test_unknown_ended_and_damaged(state):
    granted(state)
    assert asked(state, org="stranger") is Code.ORGANISATION_UNKNOWN
    state.revoked["acme"] = T0
    assert asked(state) is Code.ORGANISATION_UNKNOWN
    state.revoked = {"grant0": T0}
    assert asked(state) is Code.NOT_GRANTED
    state.revoked = {}
    assert isinstance(asked(state), Access)
    state.fault = "a record is missing"
    assert asked(state) is Code.STATE_DAMAGED


def test_a_contractors_grant_ends_with_its_principals(state):
    organisation(state, "sub", of="acme", jurisdiction="DE")
    parent = granted(state, expires_at=T0 + 5 * DAY)
    child = granted(state, "sub", parent=parent.id)
    assert served(state, org="sub").until == T0 + 5 * DAY == live_until(state, child, T0)
    assert asked(state, T0 + 5 * DAY, org="sub") is Code.NOT_GRANTED
    state.revoked = {parent.id: T0}
    assert live_until(state, child, T0) is None and asked(state, org="sub") is Code.NOT_GRANTED
    state.revoked = {"acme": T0}
    assert ended(state, "sub") and ended(state, "acme") and live_until(state, child, T0) is None
    assert asked(state, org="sub") is Code.ORGANISATION_UNKNOWN
    state.revoked = {"sub": T0}
    assert ended(state, "sub") and not ended(state, "acme") and live_until(state, parent, T0) == T0 + 5 * DAY


@pytest.mark.parametrize(
    ("tier", "where", "hit"),
    [
        ("", {}, True), ("capybara", {}, True), ("opus", {}, False),
        ("", {"jurisdiction": "DE"}, True), ("", {"jurisdiction": "FR"}, False),
        ("", {"nationality": "X"}, True),  # unknown
        ("", {"nationality": "X", "jurisdiction": "FR"}, False), ("", {"org": "acme"}, True),
        ("", {"org": "beta"}, False),
        ("", {"audience": "researchers"}, True), ("", {"audience": "public"}, False),
        ("", {"purpose": "cyber_defence"}, True), ("", {"purpose": "research"}, False),
    ],
)  # fmt: skip
def test_suspensions(state, tier, where, hit):
    granted(state)
    suspend(state, tier, **where)
    assert (asked(state) is Code.SUSPENDED) is hit
    assert isinstance(asked(state), Access) is not hit
    state.suspensions = {"first": Suspension("first", "", "opus", {}, "", "")} | state.suspensions
    assert (asked(state) is Code.SUSPENDED) is hit, "one that does not hit hides no other"
    assert suspended(state, "other", {"jurisdiction": "FR"}) is None or not tier


@pytest.mark.parametrize(
    ("known", "hit"),
    [
        ("DE", True),
        ("de", True),
        (" De ", True),
        ("\uff24\uff25", True),
        ("", True),
        (" ", True),
        ("D E", False),
    ],
)
def test_a_suspension_is_read_widely(state, known, hit):
    organisation(state, "acme", jurisdiction=known)
    granted(state)
    suspend(state, "Capybara", jurisdiction="De")
    assert (asked(state) is Code.SUSPENDED) is hit


def test_a_contractor_is_suspended_with_its_principal(state):
    organisation(state, "sub", of="acme", jurisdiction="FR")
    organisation(state, "below", of="sub", jurisdiction="FR")
    first = granted(state)
    second = granted(state, "sub", parent=first.id)
    granted(state, "below", parent=second.id)
    suspend(state, jurisdiction="FR")
    assert isinstance(asked(state), Access)
    assert asked(state, org="sub") is asked(state, org="below") is Code.SUSPENDED
    state.suspensions.clear()
    suspend(state, jurisdiction="DE")
    assert asked(state) is asked(state, org="sub") is asked(state, org="below") is Code.SUSPENDED
    state.suspensions.clear()
    assert all(isinstance(asked(state, org=org), Access) for org in ("acme", "sub", "below"))


def test_a_contractor_is_served_where_its_principal_is(state):
    organisation(state, "shop", "enterprises", jurisdiction="DE")
    organisation(state, "sub", of="shop", jurisdiction="DE")
    parent = granted(state, "shop", jurisdictions=("DE",))
    granted(state, "sub", parent=parent.id, jurisdictions=("DE",))
    assert asked(state, org="shop") is asked(state, org="sub") is Code.NOT_GRANTED, "not yet its class"
    opened(state, a_subject(state, Stage.EXPANDED))
    assert isinstance(asked(state, org="shop"), Access) and isinstance(asked(state, org="sub"), Access)
    organisation(state, "shop", "enterprises", jurisdiction="FR")
    assert asked(state, org="shop") is asked(state, org="sub") is Code.NOT_GRANTED, "not its jurisdiction"


def test_what_is_known_of_an_organisation(state):
    assert known_attributes(state, "acme") == {"jurisdiction": "DE", "org": "acme", "audience": "researchers"}
    assert known_attributes(state, "stranger") == {}


def test_stages_in_order():
    order = (Stage.INTERNAL, Stage.EARLY_ACCESS, Stage.EXPANDED, Stage.GENERAL)
    assert [[later(a, b) for b in order] for a in order] == [[i > j for j in range(4)] for i in range(4)]


@pytest.mark.parametrize(
    ("other", "wider"),
    [
        ({}, False), ({"family": "x"}, True), ({"tier": "x"}, True), ({"profile": "x"}, True),
        ({"stage": Stage.GENERAL}, False), ({"stage": Stage.EARLY_ACCESS}, True),
        ({"purposes": ("cyber_defence",)}, False), ({"purposes": ("cyber_defence", "general", "x")}, True),
        ({"jurisdictions": ("DE",)}, False),
        ({"jurisdictions": ("DE", "FR")}, True), ({"jurisdictions": ()}, True),
        ({"starts_at": T0 + 1}, False), ({"starts_at": T0 - 1}, True),
        ({"expires_at": T0 + DAY}, False), ({"expires_at": T0 + 11 * DAY}, True),
    ],
)  # fmt: skip
def test_a_contractors_grant_may_only_narrow(state, other, wider):
    parent = granted(
        state, stage=Stage.EXPANDED, purposes=("cyber_defence", "general"), jurisdictions=("DE", "AT")
    )
    assert widens(replace(parent, **other), parent) is wider


def test_a_grant_that_names_no_jurisdiction_may_be_narrowed_to_one(state):
    anywhere = granted(state)
    assert not widens(replace(anywhere, jurisdictions=("DE",)), anywhere) and not widens(anywhere, anywhere)
