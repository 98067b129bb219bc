"""Packs: what the linter refuses, what the reader refuses, and what a diff says and leaves out."""

from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.gate.policy import (
    diff,
    leaves,
    lint,
    load_pack,
    pack_digest,
    pack_from_json,
    pack_json,
    packaged_packs,
    parse_pack,
)
from mythos.gate.verdict import DAY, domain_verdict
from mythos.records.canonical import RecordError
from mythos.records.errors import MythosError
from mythos.records.policy import Crosswalk, Strategy
from mythos.records.reasons import Verdict
from mythos.records.trust import Role
from tests.gate.test_verdict import run, samples

HOUSE = load_pack("house")
TEXT = (files("mythos.policies") / "house.toml").read_text()
CYBER, EARLY = HOUSE.domains[0], HOUSE.stages[0]


def cyber(**change):
    return replace(HOUSE, domains=(replace(CYBER, **change), *HOUSE.domains[1:]))


def stage(i=0, **change):
    stages = list(HOUSE.stages)
    stages[i] = replace(stages[i], **change)
    return replace(HOUSE, stages=tuple(stages))


def level(**change):
    return replace(HOUSE, safety_levels=(replace(HOUSE.safety_levels[0], **change), *HOUSE.safety_levels[1:]))


@pytest.mark.parametrize("name", packaged_packs())
def test_packaged_packs_are_sound_and_survive_the_record(name):
    pack = load_pack(name)
    assert lint(pack) == [] and diff(pack, pack) == []
    assert pack_from_json(pack_json(pack).decode()) == pack
    assert pack.name == name and "not" in pack.description or "none of them" in pack.description


BAD = {
    "a version of two parts": ("version", replace(HOUSE, version="1.0")),
    "a version with a leading zero": ("version", replace(HOUSE, version="1.0.01")),
    "confidence of a half": ("confidence", replace(HOUSE, confidence=0.5)),
    "certainty": ("confidence", replace(HOUSE, confidence=1.0)),
    "no looks": ("looks", replace(HOUSE, looks=0)),
    "many looks": ("looks", replace(HOUSE, looks=21)),
    "one person": ("quorum", replace(HOUSE, quorum=1)),
    "fewer persons than roles": ("quorum", replace(HOUSE, quorum=2, roles=tuple(Role)[2:5])),
    "a domain twice": ("domains", replace(HOUSE, domains=(*HOUSE.domains, CYBER))),
    "a level twice": ("safety_levels", replace(HOUSE, safety_levels=HOUSE.safety_levels * 2)),
    "a domain missing": ("domains", replace(HOUSE, domains=HOUSE.domains[1:])),
    "no domains": ("domains", replace(HOUSE, domains=())),
    "a percentage": ("domains.0", cyber(level=50.0)),
    "not a number": ("domains.0", cyber(alert=float("nan"))),
    "alert above level": ("domains.0", cyber(alert=0.6)),
    "margin above alert": ("domains.0", cyber(margin=0.3)),
    "negative margin": ("domains.0", cyber(margin=-0.1)),
    "precursor without alert": ("domains.0", cyber(precursor_alert=0.0)),
    "nothing to measure": ("domains.0", cyber(precursor="", suites=())),
    "evidence for ever": ("domains.0", cyber(max_age_days=1000.0)),
    "a handful of samples": ("domains.0", cyber(min_samples=29)),
    "stages left out": ("stages", replace(HOUSE, stages=HOUSE.stages[1:])),
    "stages out of order": ("stages", replace(HOUSE, stages=HOUSE.stages[::-1])),
    "a stage that skips a domain": ("stages.0", stage(domains=EARLY.domains[1:])),
    "a stage with an unknown domain": ("stages.0", stage(domains=(*EARLY.domains, "weather"))),
    "an unknown class": ("stages.0", stage(audiences=("friends",))),
    "an unknown level": ("stages.0", stage(safety_level="best")),
    "an unknown level for what is ruled in": ("stages.0", stage(ruled_in_level="best")),
    "a stage for one person": ("stages.0", stage(quorum=1, roles=(Role.SAFETY,))),
    "a stage without roles": ("stages.0", stage(roles=())),
    "a stage without purposes": ("stages.0", stage(purposes=())),
    "votes that never live": ("stages.0", stage(vote_days=0.0)),
    "a later stage easier than the one before": ("stages.1", stage(1, quorum=2)),
    "a later stage without a role of the one before": ("stages.1", stage(1, roles=(Role.BOARD, Role.SAFETY))),
    "a detection of 80": ("safety_levels.0", level(min_detection=80.0)),
    "an over-refusal of 20": ("safety_levels.0", level(max_over_refusal=20.0)),
    "a level that never ages": ("safety_levels.0", level(max_age_days=0.0)),
    "an unknown safeguard": ("safety_levels.0", level(safeguards=("prayer",))),
    "votes of no days": ("stages.0", stage(vote_days=0.0)),
    "a release of no days": ("stages.0", stage(release_days=0.0)),
    "a wait back in time": ("stages.0", stage(after_days=-1.0)),
    "evidence a day older than a year": ("domains.0", cyber(max_age_days=366.1)),
    "a later step back in time": (
        "strategies.0",
        replace(HOUSE, strategies=(replace(HOUSE.strategies[0], steps=(
            *HOUSE.strategies[0].steps[:-1], replace(HOUSE.strategies[0].steps[-1], after_days=-1.0))),)),
    ),
    "a strategy backwards": (
        "strategies.0",
        replace(HOUSE, strategies=(replace(HOUSE.strategies[0], steps=HOUSE.strategies[0].steps[::-1]),)),
    ),
    "a strategy of no steps": ("strategies.0", replace(HOUSE, strategies=(Strategy("x", "", (), False),))),
    "a crosswalk to nowhere": (
        "crosswalk.0", replace(HOUSE, crosswalk=(Crosswalk("R09", "RSP", "1", "says", "domains.weather"),))),
    "a crosswalk from nowhere": (
        "crosswalk.0", replace(HOUSE, crosswalk=(Crosswalk("9", "RSP", "1", "says", "quorum"),))),
    "evidence of NaN days": ("domains.0", cyber(max_age_days=float("nan"))),
    "a detection of NaN": ("safety_levels.0", level(min_detection=float("nan"))),
    "a wait of NaN": ("stages.0", stage(after_days=float("nan"))),
    "a step of NaN days": (
        "strategies.0",
        replace(HOUSE, strategies=(replace(HOUSE.strategies[0], steps=(replace(
            HOUSE.strategies[0].steps[0], after_days=float("nan")),)),)),
    ),
    "votes of NaN days": ("stages.0", stage(vote_days=float("nan"))),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_lint_names_the_place(case):
    path, pack = BAD[case]
    assert path in [found.path for found in lint(pack) if found.severity == "error"], lint(pack)


@pytest.mark.parametrize("domain", HOUSE.domains, ids=lambda domain: domain.name)
def test_no_danger_may_be_left_out(domain):
    rest = tuple(other for other in HOUSE.domains if other is not domain)
    names = tuple(other.name for other in rest)
    stages = tuple(replace(rule, domains=names) for rule in HOUSE.stages)
    found = lint(replace(HOUSE, domains=rest, stages=stages, crosswalk=()))
    assert [(one.path, one.message.split()[0]) for one in found] == [("domains", domain.name)]


def test_what_a_sound_pack_may_have():
    row = Crosswalk("R09", "RSP", "1", "says", "domains.cyber")  # a part, not a leaf
    assert not lint(replace(HOUSE, crosswalk=(*HOUSE.crosswalk, row)))
    assert (
        not lint(cyber(max_age_days=366.0))
        and not lint(cyber(max_age_days=0.5))
        and not lint(replace(HOUSE, looks=20))
    )


def test_no_clocks_is_a_warning():
    assert [found.severity for found in lint(replace(HOUSE, clocks=(), crosswalk=()))] == ["warning"]


@pytest.mark.parametrize(
    "old, new",
    [
        ("confidence = 0.95", 'confidence = "0.95"'),
        ("confidence = 0.95", "confidence = true"),
        ("confidence = 0.95", "confidence = nan"),
        ("confidence = 0.95", "confidence = 0,95"),
        ("looks = 1", "looks = 1.0"),
        ("looks = 1", "looks = 1\nlook = 2"),
        ("looks = 1", "looks = 1\nlooks = 2"),
        ("looks = 1\n", ""),
        ("alert = 0.3", 'alert = "30%"'),
        ("human_labels = true", "human_labels = 1"),
        ("suites = []", 'suites = "ranges"'),
        ('roles = ["scaling_officer", "executive"]', 'roles = ["king"]'),
        ('stage = "early_access"', 'stage = "someday"'),
    ],
)
def test_the_reader_guesses_nothing(old, new):
    assert old in TEXT
    with pytest.raises(MythosError):
        parse_pack(TEXT.replace(old, new, 1).encode(), "pack")


def test_the_reader_survives_what_is_no_pack():
    for data in (b"\xff", b"a = " + b"[" * 5000, b"x" * (1 << 19), b""):
        with pytest.raises(MythosError):
            parse_pack(data, "pack")
    with pytest.raises(RecordError):
        pack_from_json("{}")
    with pytest.raises(MythosError, match="no policy pack"):
        load_pack("nothing")


SHARE = st.floats(0.0, 1.0).map(lambda x: round(x, 2))
LEAVES = {
    "confidence": lambda v: replace(HOUSE, confidence=v),
    "alert": lambda v: cyber(alert=v),
    "margin": lambda v: cyber(margin=v),
    "min_samples": lambda v: cyber(min_samples=v),
    "looks": lambda v: replace(HOUSE, looks=v),
    "vote_days": lambda v: stage(vote_days=v),
    "level": lambda v: cyber(level=v),
    "precursor_alert": lambda v: cyber(precursor_alert=v),
    "max_age_days": lambda v: cyber(max_age_days=v),
    "quorum": lambda v: stage(quorum=v),
    "after_days": lambda v: stage(after_days=v),
    "release_days": lambda v: stage(release_days=v),
    "min_detection": lambda v: level(min_detection=v),
    "max_over_refusal": lambda v: level(max_over_refusal=v),
    "cap": lambda v: replace(HOUSE, audiences=(replace(HOUSE.audiences[0], cap=v), *HOUSE.audiences[1:])),
}


@pytest.mark.parametrize("leaf", LEAVES)
@given(st.integers(0, 50), st.integers(0, 50))
@settings(max_examples=20)
def test_a_number_that_tightens_one_way_loosens_the_other(leaf, a, b):
    there, back = (diff(LEAVES[leaf](x), LEAVES[leaf](y)) for x, y in ((a, b), (b, a)))
    assert {c.effect for c in (*there, *back)} == (set() if a == b else {"tightens", "loosens"})
    assert len(there) == len(back) == (a != b)


HIGHER_IS_TIGHTER = {"confidence", "margin", "min_samples", "quorum", "after_days", "min_detection"}


@pytest.mark.parametrize("leaf", LEAVES)
def test_which_way_a_number_tightens(leaf):
    up = diff(LEAVES[leaf](3), LEAVES[leaf](4))[0].effect
    if leaf == "cap":  # fewer organisations; none at all is no cap
        assert up == "loosens" and diff(LEAVES[leaf](0), LEAVES[leaf](4))[0].effect == "tightens"
    else:
        assert up == ("tightens" if leaf in HIGHER_IS_TIGHTER else "loosens")


@given(st.sampled_from(packaged_packs()), st.sampled_from(packaged_packs()))
@settings(max_examples=16)
def test_every_changed_leaf_is_listed(one, other):
    old, new = load_pack(one), load_pack(other)
    before, after = leaves(old), leaves(new)
    listed = {change.path: (change.old, change.new) for change in diff(old, new)}
    assert listed == {
        path: (before.get(path), after.get(path))
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path)
    }
    assert bool(listed) is (pack_digest(old) != pack_digest(new))


def effects(new) -> set[str]:
    return {change.effect for change in diff(HOUSE, new)}


def test_what_tightens_and_what_loosens():
    assert effects(stage(purposes=("cyber_defence", "general"))) == {"loosens"}
    assert effects(stage(roles=(*EARLY.roles, Role.BOARD))) == {"tightens"}
    assert effects(cyber(human_labels=False)) == effects(cyber(precursor="mmlu_dev")) == {"loosens"}
    assert effects(cyber(external=True)) == effects(cyber(elicitations=("chat",))) == {"tightens"}
    assert effects(level(human_labels=False)) == effects(level(categories=("cyber",))) == {"loosens"}
    assert effects(level(safeguards=("input_check", "output_check", "exchange_check"))) == {"tightens"}
    assert effects(replace(HOUSE, clocks=HOUSE.clocks[1:])) == {"loosens"}
    one_more = replace(HOUSE.clocks[0], name="another")
    assert effects(replace(HOUSE, clocks=(*HOUSE.clocks, one_more))) == {"tightens"}
    assert "loosens" in effects(replace(HOUSE, domains=HOUSE.domains[1:]))
    assert effects(replace(HOUSE, version="2.0.0", description="another")) == {"neutral"}
    assert "loosens" in effects(
        replace(HOUSE, strategies=(*HOUSE.strategies, replace(HOUSE.strategies[0], name="x")))
    )
    assert effects(stage(1, ruled_in_level="guarded")) == {"loosens"}  # ruled in was: never
    assert effects(stage(safety_level="guarded")) == {"tightens"}  # nothing was asked for
    assert effects(stage(1, safety_level="")) == {"loosens"}
    rule = replace(HOUSE.audiences[0], rule="anybody who asks")
    assert effects(replace(HOUSE, audiences=(rule, *HOUSE.audiences[1:]))) == {"loosens"}  # unknown: looser


@st.composite
def variant(draw):
    """Cyber with some leaves changed, and a pack around it."""
    pool = {
        "alert": st.sampled_from([0.2, 0.3, 0.45]),
        "margin": st.sampled_from([0.0, 0.05]),
        "level": st.sampled_from([0.4, 0.5, 0.6]),
        "precursor_alert": st.sampled_from([0.1, 0.3, 0.5]),
        "suites": st.sampled_from([(), ("ranges",), ("ranges", "exploits")]),
        "precursor": st.sampled_from(["code", ""]),
        "max_age_days": st.sampled_from([50.0, 183.0]),
        "min_samples": st.sampled_from([30, 60]),
        "external": st.booleans(),
    }
    names = draw(st.lists(st.sampled_from(sorted(pool)), unique=True, max_size=3))
    return (
        {name: draw(pool[name]) for name in names},
        draw(st.sampled_from([1, 2])),
        draw(st.sampled_from([0.95, 0.99])),
    )


MEASURED = st.tuples(
    st.sampled_from(["ranges", "exploits", "code"]), st.integers(0, 60), st.sampled_from([0.0, -100 * DAY])
)


@given(variant(), variant(), st.lists(MEASURED, min_size=1, max_size=3))
@settings(max_examples=200)
def test_a_pack_that_only_tightens_allows_nothing_new(first, second, measured):
    base = replace(CYBER, precursor="code", suites=())

    def pack(change):
        domain = replace(base, **change[0])
        return replace(HOUSE, domains=(domain, *HOUSE.domains[1:]), looks=change[1], confidence=change[2])

    old, new = pack(first), pack(second)
    if any(change.effect == "loosens" for change in diff(old, new)):
        return
    runs = [run(samples(k // 3, 60), suite=suite, at=at) for suite, k, at in measured]
    was, is_now = (
        domain_verdict(p.domains[0], p, {}, runs, 1.0, True, frozenset()).verdict for p in (old, new)
    )
    assert was is Verdict.ALLOW or is_now is not Verdict.ALLOW
