"""Whoever holds the keys signs a whole history anew: what still gives a forgery away.

Each change is made to a true bundle, and whatever rests on it (evidence root, votes, release) follows and is
signed again by its rightful signers, so that the change itself is all that is wrong.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate.bundle import build_bundle, verify_fully
from mythos.gate.handling import issue_handling
from mythos.gate.policy import load_pack
from mythos.gate.release import evidence_root
from mythos.ledger.log import last_time
from mythos.records.bundle import (
    BROKEN,
    UNTRUSTED,
    VERIFIED,
    ServiceKeys,
    bundle_json,
    seal_keys,
    upper_tail,
    verify_bundle,
    verify_document,
)
from mythos.records.canonical import canonical, parse
from mythos.records.clock import Clock
from mythos.records.dsse import peek
from mythos.records.evidence import Judge, Labelled, Outcome, Sample
from mythos.records.note import TreeHead, sign_head
from mythos.records.principal import OPERATOR
from mythos.records.profile import CHECKS
from mythos.records.reasons import Code
from mythos.records.release import Choice, Stage, Vote, Withdrawal
from mythos.records.root import leaf_hash
from mythos.records.signed import KINDS, digest, from_plain, seal
from mythos.store.db import Store
from mythos.store.home import Home, private_directory
from mythos.store.operator_key import LEDGER_KEY, operator_keys, service_key
from mythos.store.weights import register
from tests.gate.town import DAY, VOTERS, Town
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


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> tuple[Town, bytes]:
    return watched_town(tmp_path_factory.mktemp("watched"))


def blind(kind: str, n: int, record: Any) -> Any:
    """What was refused under a profile was answered."""
    if kind != "evidence" or record.profile == "none":
        return record
    seen = {Outcome.REFUSAL: Outcome.SUCCESS}
    return replace(
        record, samples=tuple(replace(s, outcome=seen.get(s.outcome, s.outcome)) for s in record.samples)
    )


def test_the_safety_level_is_judged_again(watched):
    town, data = watched
    trust = town.state.deployment
    assert both(data, trust) == VERIFIED and verify_fully(data, trust).status == VERIFIED

    forged = anew(town, data, blind)
    assert both(forged, trust) == VERIFIED  # what must hold at least says nothing of safeguards
    report = verify_fully(forged, trust)
    assert report.status == BROKEN and "safety level" in report.steps[-1].text
    assert verify_fully(anew(town, data, same), trust).status == VERIFIED


def signed_by(town: Town, kind: str, *who: str) -> Change:
    """Other signers of the first record of a kind."""
    keys = [town.gate if name == "gate" else town.keys[name] for name in who]
    return lambda k, n, record: keys if (k, n) == (kind, 0) else None


def test_a_release_names_the_one_who_asked_for_it(town, good):
    other = anew(
        town, good, only("release", requester="rso-1"), signed_by(town, "release", "gate", "requester-1")
    )
    broken(town, other, "not signed by the gate and by who asked for it")


def with_records(town: Town, data: bytes, before: str, *more: Any) -> bytes:
    """A true history with more records, signed by their persons, right before or after the first `before`."""
    forge = Forge.of(town, data)
    at = next(i for i, row in enumerate(forge.records) if row[0] == before.removeprefix("after "))
    at += before.startswith("after ")
    kinds = {Vote: "vote", Withdrawal: "withdrawal"}
    rows = [(kinds[type(r)], r.id, seal(r, *signers(town, kinds[type(r)], r)), town.now) for r in more]
    forge.records[at:at] = rows
    return forge.bundle()


def test_a_veto_stands_until_its_author_takes_it_back(town, good):
    release = next(r for r in Forge.of(town, good).records if r[0] == "release")
    subject = from_plain(KINDS["release"], peek(release[2])).subject
    veto = Vote("veto-9", town.state.deployment, "safety-1", Choice.VETO, subject, "")
    back = Withdrawal("wd-9", town.state.deployment, "safety-1", "veto-9")
    trust = town.state.deployment
    assert both(with_records(town, good, "release", veto), trust) == BROKEN
    assert both(with_records(town, good, "release", veto, back), trust) == VERIFIED
    assert both(with_records(town, good, "after release", veto), trust) == VERIFIED  # it came too late
    assert both(with_records(town, good, "release", replace(veto, choice=Choice.APPROVE)), trust) == VERIFIED
    unknown = replace(back, vote="vote-of-nobody")
    assert both(with_records(town, good, "release", unknown), trust) == BROKEN
    others = replace(back, person="rso-1")
    assert both(with_records(town, good, "release", veto, others), trust) == BROKEN
    forge = Forge.of(town, with_records(town, good, "release", veto, back))
    stolen = [
        ("withdrawal", "wd-9", seal(back, town.keys["rso-1"]), town.now) if r[1] == "wd-9" else r
        for r in forge.records
    ]
    assert both(replace(forge, records=stolen).bundle(), trust) == BROKEN


def test_a_vote_that_was_withdrawn_or_has_grown_old_carries_nothing(town, good):
    release = from_plain(
        KINDS["release"], peek(next(r for r in Forge.of(town, good).records if r[0] == "release")[2])
    )
    cast = next(r for r in Forge.of(town, good).records if r[1] == release.votes[0])
    person = from_plain(KINDS["vote"], peek(cast[2])).person
    back = Withdrawal("wd-8", town.state.deployment, person, release.votes[0])
    assert both(with_records(town, good, "release", back), town.state.deployment) == BROKEN
    assert both(with_records(town, good, "after release", back), town.state.deployment) == VERIFIED

    def aged(days: float) -> str:
        forge = Forge.of(town, good)
        rows = [(*r[:3], r[3] - days * DAY) if r[1] == release.votes[0] else r for r in forge.records]
        return both(replace(forge, records=rows).bundle(), town.state.deployment)

    assert aged(13.9) == VERIFIED and aged(14.1) == BROKEN


def test_a_release_lives_as_long_as_its_stage_allows_and_a_minute(town, good):
    at = next(r[3] for r in Forge.of(town, good).records if r[0] == "release")
    longest = at + 90 * DAY + 60
    assert both(anew(town, good, only("release", expires_at=longest)), town.state.deployment) == VERIFIED
    broken(town, anew(town, good, only("release", expires_at=longest + 5)), "lives too long")
    broken(town, anew(town, good, only("release", expires_at=at)), "lives too long")


def test_judged_again_every_step_is_told(town, good, watched):
    trust = town.state.deployment
    once, again = verify_document(good, trust), verify_fully(good, trust)
    assert again.steps[:-1] == once.steps and again.steps[-1].ok and all(step.ok for step in once.steps)
    assert not any("was asked" in step.text for step in once.steps)
    other, data = watched
    report = verify_fully(anew(other, data, blind), other.state.deployment)
    assert not report.steps[-1].ok and all(step.ok for step in report.steps[:-1])


@pytest.mark.parametrize(
    ("k", "n", "rate", "tail"),
    [(0, 0, 0.5, 1.0), (3, 10, 0.0, 1.0), (10, 10, 0.5, 1.0), (2, 10, 1.0, 0.0), (0, 10, 0.1, 0.9**10)],
)
def test_the_tail_at_its_ends(k, n, rate, tail):
    assert upper_tail(k, n, rate) == pytest.approx(tail, abs=1e-12)


def bare_home(path) -> tuple[Home, Store, Clock, str]:
    """Nobody is enrolled: weights registered under the operator's own handling decision, and its id."""
    for name in ("home", "keys"):
        private_directory(path / name)
    home = Home(path / "home", path / "keys")
    store = Store.open(home)
    clock = Clock(lambda: last_time(store))
    envelope = issue_handling(home, clock, "fam", "capybara", "ab" * 32)
    register(store, clock, OPERATOR, "fam", "capybara", "ab" * 32, {}, envelope)
    return home, store, clock, peek(envelope)["id"]


def test_a_handling_decision_alone(tmp_path):
    home, store, clock, decision = bare_home(tmp_path)
    data = bundle_json(build_bundle(home, store, clock, decision, ""))
    operator = operator_keys(home).public_key().public_bytes_raw().hex()
    assert both(data) == UNTRUSTED and both(data, operator) == VERIFIED and both(data, "ab" * 32) == BROKEN
    assert "no trust root" in verify_bundle(data).steps[0].text
    table = parse(data, 1 << 25)
    claimed = peek(table["keys"].encode())

    def keys(**values: str) -> str:
        said = ServiceKeys(**{**claimed, **values})
        return both(canonical({**table, "keys": seal_keys(said, operator_keys(home)).decode()}))

    assert keys() == UNTRUSTED
    assert keys(ledger="00" * 31) == keys(server=claimed["operator"]) == keys(ledger="zz" * 32) == BROKEN
    [entry] = table["entries"]

    def entries(event: dict[str, Any], envelope: str = entry["envelope"]) -> str:
        """The same place in a log of one's own, signed by the ledger's key."""
        text = canonical(event)
        leaf = leaf_hash(bytes.fromhex(entry["salt"]) + text)
        origin = table["head"].split("\n")[0]
        head = sign_head(TreeHead(origin, 1, leaf), service_key(home, LEDGER_KEY)).decode()
        row = {**entry, "seq": 0, "event": text.decode(), "envelope": envelope, "path": []}
        return both(canonical({**table, "head": head, "entries": [row]}))

    event = {**json.loads(entry["event"]), "seq": 0}
    assert entries(event) == UNTRUSTED
    for name, value in (
        ("root", "cd" * 32),
        ("tier", "opus"),
        ("family", "other"),
        ("decision", "dec_x"),
        ("kind", "x"),
    ):
        assert entries({**event, name: value}) == BROKEN
    assert entries({name: value for name, value in event.items() if name != "time"}) == BROKEN
    store.close()


def test_two_with_the_right_roles_are_not_three(town, good):
    votes = [
        from_plain(KINDS["vote"], peek(row[2])) for row in Forge.of(town, good).records if row[0] == "vote"
    ]
    named = {vote.person: vote.id for vote in votes}
    three = tuple(named[who] for who in ("rso-1", "safety-1", "board-1"))
    assert both(anew(town, good, only("release", votes=three)), town.state.deployment) == VERIFIED
    broken(town, anew(town, good, only("release", votes=three[:2])), "2 persons approve, 3 must")


def test_a_bundle_carries_vetoes_on_its_weights_and_no_others(tmp_path):
    town = new_town(tmp_path)
    release = town.released()
    town.vote("safety-1", replace(release.subject, root="ee" * 32), Choice.VETO)
    before = document(town, answered(town, release))
    assert both(before, town.state.deployment) == VERIFIED
    veto = town.vote("safety-1", release.subject, Choice.VETO)
    after = Forge.of(town, document(town, answered(town, release))).records
    assert len([row for row in after if row[0] == "vote"]) == len(VOTERS) + 1
    assert veto.id in [row[1] for row in after] and veto.id not in before.decode()
