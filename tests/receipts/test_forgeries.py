"""Whoever holds the keys signs a whole history anew: what still gives a forgery away.

Each change is made to a true bundle, and whatever rests on it (evidence root, votes, release) follows and is
signed again by its rightful signers, so that the change itself is all that is wrong.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate.bundle import verify_fully
from mythos.gate.policy import load_pack
from mythos.gate.release import evidence_root
from mythos.records.bundle import BROKEN, VERIFIED, verify_document
from mythos.records.dsse import peek
from mythos.records.evidence import Judge, Labelled, Outcome, Sample
from mythos.records.profile import CHECKS
from mythos.records.reasons import Code
from mythos.records.release import Choice, Stage
from mythos.records.signed import KINDS, digest, from_plain, seal
from tests.gate.town import VOTERS, Town
from tests.receipts.world import Forge, answered, both, document, new_town

Change = Callable[[str, int, Any], Any]  # kind, how many of it came before, record -> record, or None


@pytest.fixture(scope="module")
def town(tmp_path_factory) -> Town:
    return new_town(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def good(town) -> bytes:
    return document(town, answered(town, town.released()))


def signers(town: Town, kind: str, record: Any) -> list[Ed25519PrivateKey]:
    match kind:
        case "policy":
            return [town.keys[who] for who in VOTERS]
        case "plan" | "evidence":
            return [town.keys[record.evaluator]]
        case "vote" | "withdrawal":
            return [town.keys[record.person]]
        case "release":
            return [town.gate, town.keys[record.requester]]
    return [town.server]


def anew(town: Town, data: bytes, change: Change, by: Change = lambda kind, n, record: None) -> bytes:
    """A history in which `change` was made; `by` may name other signers of a record."""
    forge, seen, pieces, rows = Forge.of(town, data), {}, [], []
    for kind, name, envelope, time in forge.records:
        if kind == "trust-root":
            rows.append((kind, name, envelope, time))
            continue
        record, n = from_plain(KINDS[kind], peek(envelope)), seen.get(kind, 0)
        seen[kind] = n + 1
        if kind in ("vote", "release"):
            record = replace(record, subject=replace(record.subject, evidence=evidence_root(pieces)))
        record = change(kind, n, record)
        if record is None:
            continue
        pieces += [record] if kind == "evidence" else []
        keys = by(kind, n, record) or signers(town, kind, record)
        rows.append((kind, record.id, seal(record, *keys), time))
    return replace(forge, records=rows).bundle()


def only(kind: str, at: int = 0, **values: Any) -> Change:
    """One record with other values."""
    return lambda k, n, record: replace(record, **values) if (k, n) == (kind, at) else record


def about(kind: str, at: int = 0, **values: Any) -> Change:
    """One record about something else."""

    def change(k: str, n: int, record: Any) -> Any:
        here = (k, n) == (kind, at)
        return replace(record, subject=replace(record.subject, **values)) if here else record

    return change


def broken(town: Town, data: bytes, why: str) -> None:
    assert both(data, town.state.deployment) == BROKEN
    assert why in verify_document(data).steps[-1].text


def same(kind: str, n: int, record: Any) -> Any:
    return record


def test_a_history_signed_anew_without_a_change_verifies(town, good):
    assert both(anew(town, good, same), town.state.deployment) == VERIFIED
    assert verify_fully(anew(town, good, same), town.state.deployment).status == VERIFIED


@pytest.mark.parametrize(
    ("kind", "who", "why"),
    [
        ("evidence", "requester-1", "not signed by evaluator-1"),
        ("evidence", "rso-1", "not signed by evaluator-1"),
        ("plan", "requester-1", "not signed by evaluator-1"),
        ("vote", "evaluator-1", "not signed by"),
        ("vote", "requester-1", "not signed by"),
    ],
)
def test_signed_by_somebody_enrolled_whose_it_is_not(town, good, kind, who, why):
    other = anew(town, good, same, lambda k, n, _: [town.keys[who]] if (k, n) == (kind, 0) else None)
    broken(town, other, why)

    def one_more(kind_: str, n: int, record: Any) -> Any:
        return [*signers(town, kind, record), town.keys[who]] if (kind_, n) == (kind, 0) else None

    broken(town, anew(town, good, same, one_more), "not signed by")  # one signer, not one of several


@pytest.mark.parametrize("who", ["gate alone", "requester alone", "server too", "another asks"])
def test_a_release_needs_both_its_signers_and_no_other(town, good, who):
    keys = {
        "gate alone": [town.gate],
        "requester alone": [town.keys["requester-1"]],
        "server too": [town.gate, town.keys["requester-1"], town.server],
        "another asks": [town.gate, town.keys["rso-1"]],
    }[who]
    broken(town, anew(town, good, same, lambda k, n, _: keys if k == "release" else None), "not signed by")


@pytest.mark.parametrize("who", [["rso-1"], ["board-1", "safety-1", "board-2"]], ids=["one", "no officer"])
def test_a_pack_activated_by_too_few(town, good, who):
    keys = [town.keys[name] for name in who]
    data = anew(town, good, same, lambda k, n, _: keys if k == "policy" else None)
    assert both(data, town.state.deployment) == BROKEN


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (only("vote", choice=Choice.VETO), "not for this release"),
        (about("vote", root="ee" * 32), "not for this release"),
        (about("vote", stage=Stage.EXPANDED), "not for this release"),
        (about("vote", audience="public@0123456789abcdef"), "not for this release"),
        (about("vote", profile="soft"), "not for this release"),
        (about("vote", policy="ee" * 32), "not for this release"),
        (about("vote", evidence="ee" * 32), "not for this release"),
        (about("release", root="ee" * 32), "about other weights"),
        (about("release", stage=Stage.EXPANDED), "not for this release"),
        (about("release", policy="ee" * 32), "its policy is not here"),
        (only("release", evidence=()), "evidence is missing"),
        (only("release", verdicts={}), "has no verdict"),
        (only("release", expires_at=9e9), "lives too long"),
        (only("plan", root="ee" * 32), "not what its plan promised"),
        (only("plan", items=163), "samples of"),
        (only("plan", elicitations=("chat", "tools")), "samples of"),
        (lambda k, n, r: None if (k, n) == ("plan", 0) else r, "no plan of its own before"),
        (lambda k, n, r: None if k == "evidence" else r, "evidence is missing"),
        (lambda k, n, r: None if (k, n) == ("vote", 0) else r, "is not here"),
    ],
)  # fmt: skip
def test_one_thing_changed_and_all_else_signed_anew(town, good, change, why):
    broken(town, anew(town, good, change), why)


@pytest.mark.parametrize("profile", ["none", "soft"])
def test_evidence_about_another_profile(town, good, profile):
    """What was measured under none counts for every profile; what was measured under another does not."""

    def change(kind: str, n: int, record: Any) -> Any:
        if kind in ("plan", "evidence"):
            return replace(record, profile=profile)
        if kind in ("vote", "release"):
            return replace(record, subject=replace(record.subject, profile="guarded"))
        return replace(record, profile="guarded") if kind == "receipt" else record

    data = anew(town, good, change)
    if profile == "none":
        assert both(data, town.state.deployment) == VERIFIED
    else:
        broken(town, data, "another profile")


@pytest.mark.parametrize("code", [Code.RULED_IN, Code.ABOVE_ALERT, Code.EVIDENCE_MISSING, "NONSENSE"])
def test_a_domain_that_is_not_ruled_out(town, good, code):
    def change(kind: str, n: int, record: Any) -> Any:
        return replace(record, verdicts={**record.verdicts, "cyber": code}) if kind == "release" else record

    broken(town, anew(town, good, change), f"cyber is {code}")


def test_a_domain_ruled_out_by_suites_that_it_does_not_have(town, good):
    def change(kind: str, n: int, record: Any) -> Any:
        if kind != "release":
            return record
        return replace(record, verdicts={**record.verdicts, "cyber": str(Code.RULED_OUT)})

    assert both(anew(town, good, change), town.state.deployment) == BROKEN


def watched_town(path) -> tuple[Town, bytes]:
    """A release of a guarded profile, where already the first stage asks for a safety level."""
    house = load_pack("house")
    level = replace(house.safety_levels[0], min_detection=0.5, max_over_refusal=0.5)
    stages = (replace(house.stages[0], safety_level=level.name), *house.stages[1:])
    pack = replace(house, version="9.0.0", safety_levels=(level, *house.safety_levels[1:]), stages=stages)
    town = new_town(path, pack=pack)
    labels = [Labelled(f"l{n}", n < 100, n < 100, "human", "somebody") for n in range(200)]
    by = Judge("judge", tuple(labels))
    profile = "guarded@0123456789abcdef"
    plan = town.plan("refusal_held_out", items=80, profile=profile, judge=digest(by))
    samples = tuple(
        Sample(f"{side}:{n}", f"{side}{n}", outcome, "chat")
        for side, outcome in (("refuse", Outcome.REFUSAL), ("answer", Outcome.SUCCESS))
        for n in range(40)
    )
    has = {"checks": CHECKS, "categories": level.categories, "judge": by}
    town.measure()
    town.evidence(plan, samples=samples, **has)
    return town, document(town, answered(town, town.released(town.subject(profile=profile))))


def test_the_safety_level_is_judged_again(tmp_path):
    town, data = watched_town(tmp_path)
    trust = town.state.deployment
    assert both(data, trust) == VERIFIED and verify_fully(data, trust).status == VERIFIED

    def blind(kind: str, n: int, record: Any) -> Any:
        if kind != "evidence" or record.profile == "none":
            return record
        seen = {Outcome.REFUSAL: Outcome.SUCCESS}
        return replace(
            record, samples=tuple(replace(s, outcome=seen.get(s.outcome, s.outcome)) for s in record.samples)
        )

    forged = anew(town, data, blind)
    assert both(forged, trust) == VERIFIED  # what must hold at least says nothing of safeguards
    report = verify_fully(forged, trust)
    assert report.status == BROKEN and "safety level" in report.steps[-1].text
    assert verify_fully(anew(town, data, same), trust).status == VERIFIED
