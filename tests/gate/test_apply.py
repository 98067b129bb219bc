"""What each record may do, and who may sign it: refused ones change nothing, beside ones that are taken."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate.apply import apply
from mythos.gate.policy import pack_digest, pack_json
from mythos.gate.release import audience_id, check, evidence_root, runs_for
from mythos.gate.state import Rejected, State
from mythos.records.evidence import Evidence, Outcome, Plan, Sample
from mythos.records.grant import Grant, Organisation, Revocation
from mythos.records.reasons import Code
from mythos.records.release import (
    Acknowledgement,
    Choice,
    Halt,
    Incident,
    PolicyActivation,
    Release,
    Resumption,
    Stage,
    Subject,
    Suspension,
    Vote,
    Withdrawal,
)
from mythos.records.signed import digest, seal
from mythos.records.trust import Key, Person, Role, TrustRoot
from tests.gate.plain import HOUSE, KEYS, SECRETS
from tests.gate.town import DAY, STAFF, T0, VOTERS, W1, W2, hexdigest

SERVICE = {
    role: Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)
    for n, role in ((90, Role.GATE), (91, Role.SERVER))
}
SIGN = {**SECRETS, **{str(role): key for role, key in SERVICE.items()}}


def public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


PERSONS = tuple(Person(who, "town") for who in STAFF)
ALL_KEYS = (*KEYS, *(Key(public(key), str(role), role) for role, key in SERVICE.items()))
ROOT = TrustRoot(1, "town", True, 3, PERSONS, ALL_KEYS, "")


class Gate:
    """A state and the records it was given; `do` signs as the named holders."""

    def __init__(self) -> None:
        self.state, self.now, self.n = State(), T0, 0
        self.do(ROOT, *VOTERS[:3])
        self.do(PolicyActivation("pol", self.where, pack_json(HOUSE).decode()), *VOTERS)

    @property
    def where(self) -> str:
        return self.state.deployment

    def do(self, record, *who: str):
        self.n += 1
        taken = apply(self.state, self.n, self.now, seal(record, *(SIGN[one] for one in who)))
        assert taken == record and self.state.seq == self.n
        return taken

    def refused(self, code: Code, record, *who: str) -> None:
        before = self.state.clone()
        with pytest.raises(Rejected) as found:
            self.do(record, *who)
        assert found.value.code is code, found.value
        assert self.state == before, "a refusal changes nothing"

    def plan(self, name: str, suite: str = "humaneval", items: int = 164, **other) -> Plan:
        plain = Plan(
            name, self.where, "fam", "capybara", W1, "none", suite, hexdigest(suite), hexdigest("h"), items,
            ("chat",), 1, self.state.policy, "", "evaluator-1",
        )  # fmt: skip
        return replace(plain, **other)

    def evidence(self, name: str, plan: Plan, successes: int = 0, **other) -> Evidence:
        samples = tuple(
            Sample(f"s{i}", f"s{i}", Outcome.SUCCESS if i < successes else Outcome.FAILURE, "chat")
            for i in range(plan.items)
        )
        plain = Evidence(
            name, self.where, plan.id, plan.root, plan.profile, plan.suite_digest, plan.harness, 1, samples,
            None, hexdigest("t"), "none", plan.evaluator, self.now, self.now,
        )  # fmt: skip
        return replace(plain, **other)

    def measure(self) -> None:
        for name, suite, items, good in (("a", "humaneval", 164, 0), ("b", "mmlu_dev", 273, 80)):
            plan = self.do(self.plan(f"plan-{name}", suite, items), "evaluator-1")
            self.do(self.evidence(f"ev-{name}", plan, good), "evaluator-1")

    def subject(self) -> Subject:
        about = Subject(
            "fam", "capybara", W1, "none", Stage.EARLY_ACCESS, audience_id(HOUSE.audiences[0]),
            ("cyber_defence",), evidence_root(()), self.state.policy,
        )  # fmt: skip
        pieces = [piece for run in runs_for(self.state, about) for piece in run.evidence]
        return replace(about, evidence=evidence_root(pieces))

    def vote(self, name: str, who: str, choice: Choice = Choice.APPROVE) -> Vote:
        return Vote(name, self.where, who, choice, self.subject(), "")

    def ready(self) -> Release:
        """A release that would be taken, not submitted yet."""
        self.measure()
        for who in VOTERS:
            self.do(self.vote(f"vote-{who}", who), who)
        about = self.subject()
        answer = check(self.state, about, "requester-1", "staged", self.now)
        verdicts = {found.domain: str(found.code) for found in answer.domains}
        return Release(
            "rel", self.where, about, "staged", answer.votes, answer.evidence, verdicts, "requester-1", False,
            answer.expires_at,
        )  # fmt: skip

    def org(self, name: str, of: str = "", audience: str = "researchers") -> Organisation:
        return self.do(Organisation(name, self.where, audience, {}, of, "rso-1"), "rso-1")

    def grant(self, name: str, org: str, **other) -> Grant:
        plain = Grant(
            name, self.where, org, "fam", "capybara", "none", Stage.EARLY_ACCESS, ("cyber_defence",), (), T0,
            T0 + DAY, "", "rso-1",
        )  # fmt: skip
        return replace(plain, **other)


@pytest.fixture
def gate() -> Gate:
    return Gate()


def second(gate: Gate, **other) -> TrustRoot:
    return replace(ROOT, **{"version": 2, "previous": gate.state.trust_digest, **other})


def test_what_is_no_record(gate):
    for data, code in ((b"", Code.RECORD_MALFORMED), (b"{}", Code.RECORD_MALFORMED)):
        with pytest.raises(Rejected) as found:
            apply(gate.state, 9, T0, data)
        assert found.value.code is code
    with pytest.raises(Rejected) as found:
        apply(State(), 0, T0, seal(gate.vote("v", "rso-1"), SIGN["rso-1"]))
    assert found.value.code is Code.NO_TRUST_ROOT


def test_deployment_signature_and_id(gate):
    vote = gate.vote("v", "rso-1")
    gate.refused(Code.WRONG_DEPLOYMENT, replace(vote, deployment="e" * 64), "rso-1")
    before = gate.state.clone()
    with pytest.raises(Rejected) as found:
        apply(gate.state, 9, T0, seal(vote, Ed25519PrivateKey.generate()))
    assert found.value.code is Code.SIGNATURE_INVALID and gate.state == before
    gate.do(vote, "rso-1")
    assert gate.state.at["v"] == T0
    gate.refused(Code.ID_TAKEN, replace(vote, note="again"), "rso-1")
    gate.refused(Code.ID_TAKEN, Organisation("rso-1", gate.where, "public", {}, "", "rso-1"), "rso-1")


def test_a_trust_root_follows_the_one_in_force(gate):
    old = gate.state.trust_digest
    gate.refused(Code.TRUST_ROLLBACK, ROOT, *VOTERS)
    gate.refused(Code.TRUST_ROLLBACK, second(gate, version=3), *VOTERS)
    gate.refused(Code.TRUST_ROLLBACK, second(gate, previous="a" * 64), *VOTERS)
    gate.refused(Code.WRONG_DEPLOYMENT, second(gate, name="city"), *VOTERS)
    gate.refused(Code.WRONG_DEPLOYMENT, second(gate, drill=False), *VOTERS)
    gate.refused(Code.QUORUM_NOT_MET, second(gate), *VOTERS[:2])
    gate.refused(Code.QUORUM_NOT_MET, second(gate, threshold=4), *VOTERS[:3])
    gate.refused(Code.QUORUM_NOT_MET, second(gate), *VOTERS[:2], "gate")
    new = gate.do(second(gate, threshold=4), *VOTERS[:4])
    assert gate.state.deployment == old and gate.state.trust_digest == digest(new) and gate.state.trust == new
    third = second(gate, version=3, threshold=1)
    gate.refused(Code.QUORUM_NOT_MET, third, *VOTERS[:3])
    gate.do(third, *VOTERS[:4])


def test_the_first_trust_root_needs_its_own_threshold():
    for who, taken in ((VOTERS[:2], False), (VOTERS[:3], True)):
        state = State()
        if taken:
            apply(state, 0, T0, seal(ROOT, *(SIGN[one] for one in who)))
            assert state.deployment == digest(ROOT) == state.trust_digest and len(state.keys) == len(ALL_KEYS)
        else:
            with pytest.raises(Rejected) as found:
                apply(state, 0, T0, seal(ROOT, *(SIGN[one] for one in who)))
            assert found.value.code is Code.QUORUM_NOT_MET and state == State()


def test_keys_and_persons_keep_what_they_are(gate):
    keys = tuple(replace(key, role=Role.BOARD) if key.holder == "rso-1" else key for key in ALL_KEYS)
    gate.refused(Code.SIGNER_NOT_AUTHORISED, second(gate, keys=keys), *VOTERS)
    swapped = {"board-1": "board-2", "board-2": "board-1"}
    keys = tuple(replace(key, holder=swapped.get(key.holder, key.holder)) for key in ALL_KEYS)
    gate.refused(Code.SIGNER_NOT_AUTHORISED, second(gate, keys=keys), *VOTERS)
    persons = tuple(Person(p.id, "elsewhere" if p.id == "rso-1" else p.org) for p in PERSONS)
    gate.refused(Code.ID_TAKEN, second(gate, persons=persons), *VOTERS)
    persons = tuple(p for p in PERSONS if p.id != "board-2")
    keys = tuple(key for key in ALL_KEYS if key.holder != "board-2")
    gate.do(second(gate, persons=persons, keys=keys), *VOTERS)
    assert gate.state.orgs_of["board-2"] == "town" and len(gate.state.keys) == len(ALL_KEYS) - 1
    with pytest.raises(Rejected) as found:
        gate.do(gate.vote("v", "board-2"), "board-2")
    assert found.value.code is Code.SIGNATURE_INVALID


def activation(gate: Gate, record: str, **other) -> PolicyActivation:
    return PolicyActivation(record, gate.where, pack_json(replace(HOUSE, **other)).decode())


def test_a_pack_rises_and_both_quorums_sign(gate):
    gate.refused(Code.POLICY_ROLLBACK, activation(gate, "p"), *VOTERS)
    gate.refused(Code.POLICY_ROLLBACK, activation(gate, "p", description="other"), *VOTERS)
    gate.refused(Code.POLICY_ROLLBACK, activation(gate, "p", version="0.9.9"), *VOTERS)
    gate.refused(Code.QUORUM_NOT_MET, activation(gate, "p", version="1.0.2"), *VOTERS[:2])
    gate.refused(Code.ROLE_MISSING, activation(gate, "p", version="1.0.2"), *VOTERS[1:])
    gate.refused(Code.POLICY_INCOMPLETE, activation(gate, "p", version="1.0.2", looks=0), *VOTERS)
    gate.refused(Code.POLICY_INCOMPLETE, PolicyActivation("p", gate.where, "{}"), *VOTERS)
    gate.refused(Code.QUORUM_NOT_MET, activation(gate, "p", version="1.0.2", quorum=4), *VOTERS[:3])
    gate.do(activation(gate, "p2", version="1.0.10", quorum=4), *VOTERS[:4])
    assert gate.state.pack == replace(HOUSE, version="1.0.10", quorum=4) and len(gate.state.packs) == 2
    gate.refused(Code.QUORUM_NOT_MET, activation(gate, "p3", version="1.1.0", quorum=2), *VOTERS[:3])
    gate.refused(Code.POLICY_ROLLBACK, activation(gate, "p3", version="1.0.9"), *VOTERS)
    gate.do(activation(gate, "p4", name="other", version="0.1.0"), *VOTERS)
    assert gate.state.policy == pack_digest(replace(HOUSE, name="other", version="0.1.0"))
    gate.refused(Code.POLICY_ROLLBACK, activation(gate, "p5", version="1.0.10"), *VOTERS)


def test_plans(gate):
    gate.refused(Code.SIGNER_NOT_AUTHORISED, gate.plan("p"), "rso-1")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, gate.plan("p", evaluator="rso-1"), "rso-1")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, gate.plan("p", evaluator="rso-1"), "evaluator-1")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, gate.plan("p"), "evaluator-1", "rso-1")
    gate.refused(Code.POLICY_CHANGED, gate.plan("p", policy="f" * 64), "evaluator-1")
    gate.do(gate.plan("p"), "evaluator-1")
    assert gate.state.roots == {W1: ("fam", "capybara")} and gate.state.signed_as == {"p": Role.EVALUATOR}
    gate.refused(Code.ROOT_ALREADY_REGISTERED, gate.plan("q", tier="opus"), "evaluator-1")
    gate.refused(Code.ROOT_ALREADY_REGISTERED, gate.plan("q", family="x"), "evaluator-1")
    gate.do(gate.plan("q", tier="opus", root=W2), "evaluator-1")


def test_evidence_answers_a_plan_look_by_look(gate):
    plan = gate.do(gate.plan("p", looks=2), "evaluator-1")
    gate.refused(Code.NOT_PREREGISTERED, gate.evidence("e", replace(plan, id="other")), "evaluator-1")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, gate.evidence("e", plan), "rso-1")
    gate.refused(Code.LOOKS_EXCEEDED, gate.evidence("e", plan, look=2), "evaluator-1")
    gate.do(gate.evidence("e", plan), "evaluator-1")
    assert gate.state.signed_as["e"] is Role.EVALUATOR and set(gate.state.evidence) == {"e"}
    gate.refused(Code.LOOKS_EXCEEDED, gate.evidence("e2", plan), "evaluator-1")
    gate.do(gate.evidence("e2", plan, look=2), "evaluator-1")
    gate.refused(Code.LOOKS_EXCEEDED, gate.evidence("e3", plan, look=3), "evaluator-1")


def test_another_evaluator_cannot_answer_the_plan(gate):
    other = Ed25519PrivateKey.from_private_bytes(bytes([77]) * 32)
    SIGN["evaluator-2"] = other
    keys = (*ALL_KEYS, Key(public(other), "evaluator-2", Role.EXTERNAL))
    gate.do(second(gate, persons=(*PERSONS, Person("evaluator-2", "lab")), keys=keys), *VOTERS)
    plan = gate.do(gate.plan("p"), "evaluator-1")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, gate.evidence("e", plan, evaluator="evaluator-2"), "evaluator-2")
    own = gate.do(gate.plan("q", evaluator="evaluator-2"), "evaluator-2")
    gate.do(gate.evidence("e", own), "evaluator-2")
    assert gate.state.signed_as["e"] is Role.EXTERNAL


def test_votes_and_withdrawals(gate):
    for who in ("requester-1", "auditor-1", "evaluator-1"):
        gate.refused(Code.SIGNER_NOT_AUTHORISED, gate.vote("v", who), who)
    gate.refused(Code.SIGNER_NOT_AUTHORISED, gate.vote("v", "rso-1"), "safety-1")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, gate.vote("v", "rso-1"), "rso-1", "safety-1")
    gate.do(gate.vote("v", "rso-1"), "rso-1")
    cast = gate.state.votes["v"]
    assert (cast.role, cast.at, cast.withdrawn) == (Role.SCALING, T0, False)
    gate.now += DAY
    gate.refused(Code.UNKNOWN_SUBJECT, Withdrawal("w", gate.where, "rso-1", "none"), "rso-1")
    gate.refused(Code.NOT_AUTHOR, Withdrawal("w", gate.where, "safety-1", "v"), "safety-1")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, Withdrawal("w", gate.where, "rso-1", "v"), "safety-1")
    gate.do(Withdrawal("w", gate.where, "rso-1", "v"), "rso-1")
    assert gate.state.votes["v"] == replace(cast, withdrawn=True) and gate.state.at["w"] == T0 + DAY


def test_a_release_is_decided_again(gate):
    release = gate.ready()
    for who in (("gate",), ("requester-1",), ("gate", "rso-1"), ("gate", "requester-1", "rso-1"), ("rso-1",)):
        gate.refused(Code.SIGNER_NOT_AUTHORISED, release, *who)
    signers = ("gate", "requester-1")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, replace(release, requester="board-1"), *signers)
    for other in ({"votes": release.votes[1:]}, {"evidence": release.evidence[1:]}, {"verdicts": {}}):
        gate.refused(Code.RECORD_MALFORMED, replace(release, **other), *signers)
    for until in (release.expires_at + 1, gate.now, gate.now - 1):
        gate.refused(Code.EXPIRED, replace(release, expires_at=until), *signers)
    gate.refused(Code.STRATEGY_NOT_ALLOWED, replace(release, strategy="none"), *signers)
    gate.do(release, *signers)
    assert gate.state.releases == {"rel": release} and gate.state.fallen == {}
    gate.do(replace(release, id="rel2", expires_at=gate.now + 1), *signers)


def test_the_worst_reason_refuses_a_release(gate):
    release = gate.ready()
    gate.do(Suspension("s", gate.where, "", {}, "", "rso-1"), "rso-1")
    gate.refused(Code.SUSPENDED, release, "gate", "requester-1")
    gate.do(gate.vote("veto", "safety-1", Choice.VETO), "safety-1")
    gate.refused(Code.VETOED, release, "gate", "requester-1")


@pytest.mark.parametrize("end", ["halt", "veto", "withdrawal", "removal", "incident", "evidence", "policy"])
def test_what_ends_a_release_for_good(gate, end):
    gate.do(gate.ready(), "gate", "requester-1")
    gate.do(replace(gate.state.releases["rel"], id="short", expires_at=T0 + 1), "gate", "requester-1")
    gate.now += DAY
    where, code = gate.where, Code.HALTED
    if end == "halt":
        gate.refused(Code.UNKNOWN_SUBJECT, Halt("h", where, "none", "", "rso-1"), "rso-1")
        gate.refused(Code.SIGNER_NOT_AUTHORISED, Halt("h", where, "rel", "", "auditor-1"), "auditor-1")
        gate.do(Halt("h", where, "rel", "", "requester-1"), "requester-1")
        gate.now += DAY
        gate.do(Halt("h2", where, "rel", "", "gate"), "gate")
        gate.now -= DAY  # the first counts
    elif end == "veto":
        gate.do(gate.vote("veto", "board-1", Choice.VETO), "board-1")
        gate.do(Withdrawal("w", where, "board-1", "veto"), "board-1")
        code = Code.VETOED
    elif end == "withdrawal":
        gate.do(Withdrawal("w", where, "board-1", "vote-board-1"), "board-1")
        code = Code.QUORUM_NOT_MET
    elif end == "removal":
        stay = [person for person in ROOT.persons if person.id != "board-1"]
        keys = [key for key in ROOT.keys if key.holder != "board-1"]
        gate.do(second(gate, persons=tuple(stay), keys=tuple(keys)), *VOTERS[:3])
        code = Code.QUORUM_NOT_MET
    elif end == "incident":
        gate.refused(Code.SIGNER_NOT_AUTHORISED, Incident("i", where, "none", "", "auditor-1"), "auditor-1")
        gate.do(Incident("i", where, "none", "", "evaluator-1"), "evaluator-1")
        code = Code.EVIDENCE_VOID
    elif end == "evidence":
        plan = gate.do(gate.plan("bad"), "evaluator-1")
        assert gate.state.fallen == {}, "a plan alone takes nothing away"
        gate.do(gate.evidence("bad-e", plan, 150), "evaluator-1")
        code = Code.PRECURSOR_ABOVE_ALERT
    else:
        gate.do(activation(gate, "p2", version="1.0.2"), *VOTERS)
        assert gate.state.policy != gate.state.releases["rel"].subject.policy
        return
    assert gate.state.fallen == {"rel": (T0 + DAY, code)}, "not the one whose time was over"


def test_a_halt_ends_its_twin_and_spends_the_votes(gate):
    release = gate.do(gate.ready(), "gate", "requester-1")
    twin = gate.do(replace(release, id="twin"), "gate", "requester-1")
    for n, other in enumerate(({"stage": Stage.EXPANDED}, {"profile": "strict"}, {"root": W2})):
        vote = gate.vote(f"other-{n}", "rso-1")
        gate.do(replace(vote, subject=replace(vote.subject, **other)), "rso-1")
    voted = {vote for vote, cast in gate.state.votes.items() if not vote.startswith("other")}
    gate.do(Halt("h", gate.where, "rel", "", "safety-1"), "safety-1")
    assert gate.state.fallen == dict.fromkeys(("rel", twin.id), (gate.now, Code.HALTED))
    assert gate.state.spent == dict.fromkeys(voted, gate.now)
    gate.refused(Code.QUORUM_NOT_MET, replace(release, id="again"), "gate", "requester-1")
    names = tuple(f"new-{who}" for who in VOTERS)
    for name, who in zip(names, VOTERS, strict=True):
        gate.do(gate.vote(name, who), who)
    gate.do(replace(release, id="again", votes=tuple(sorted(names))), "gate", "requester-1")


def test_newer_approvals_and_better_evidence_end_nothing(gate):
    gate.do(gate.ready(), "gate", "requester-1")
    plan = gate.do(gate.plan("more"), "evaluator-1")
    gate.do(gate.evidence("more-e", plan), "evaluator-1")
    gate.do(gate.vote("again", "rso-1"), "rso-1")
    gate.do(Incident("i", gate.where, "strict", "", "rso-1"), "rso-1")
    assert gate.state.fallen == {}


def test_suspension_is_easy_and_resumption_takes_the_quorum(gate):
    suspension = Suspension("s", gate.where, "", {}, "", "evaluator-1")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, replace(suspension, by="auditor-1"), "auditor-1")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, replace(suspension, by="server"), "server")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, suspension, "rso-1")
    gate.do(suspension, "evaluator-1")
    gate.do(replace(suspension, id="s2", by="gate"), "gate")
    gate.refused(Code.UNKNOWN_SUBJECT, Resumption("r", gate.where, "none"), *VOTERS)
    gate.refused(Code.QUORUM_NOT_MET, Resumption("r", gate.where, "s"), *VOTERS[:2])
    gate.refused(Code.ROLE_MISSING, Resumption("r", gate.where, "s"), *VOTERS[1:])
    gate.do(Resumption("r", gate.where, "s"), *VOTERS[:3])
    assert set(gate.state.suspensions) == {"s2"}
    gate.refused(Code.UNKNOWN_SUBJECT, Resumption("r2", gate.where, "s"), *VOTERS)
    gate.state.policy = ""
    gate.refused(Code.NO_POLICY, Resumption("r3", gate.where, "s2"), *VOTERS)


def test_servers_acknowledge(gate):
    gate.do(Suspension("s", gate.where, "", {}, "", "rso-1"), "rso-1")
    said = Acknowledgement("a", gate.where, "s", "server", 2)
    gate.refused(Code.UNKNOWN_SUBJECT, replace(said, record="none"), "server")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, replace(said, server="gate"), "gate")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, said, "rso-1")
    gate.do(said, "server")
    gate.do(replace(said, id="a2"), "server")
    assert gate.state.acknowledged == {"s": ("server", "server")}


def test_organisations_and_grants(gate):
    lone = Organisation("acme", gate.where, "researchers", {}, "", "requester-1")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, lone, "requester-1")
    gate.refused(Code.UNKNOWN_SUBJECT, replace(lone, contractor_of="none", by="rso-1"), "rso-1")
    gate.refused(Code.UNKNOWN_SUBJECT, gate.grant("g", "acme"), "rso-1")
    gate.org("acme")
    gate.org("sub", "acme")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, gate.grant("g", "acme", by="evaluator-1"), "evaluator-1")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, gate.grant("g", "acme"), "safety-1")
    gate.do(gate.grant("g", "acme"), "rso-1")
    gate.do(gate.grant("g2", "acme"), "rso-1")
    assert gate.state.granted == {"acme": ("g", "g2")} and set(gate.state.grants) == {"g", "g2"}
    gate.refused(Code.GRANT_WIDENS, gate.grant("h", "acme", parent="g"), "rso-1")
    gate.refused(Code.GRANT_WIDENS, gate.grant("h", "sub"), "rso-1")
    gate.refused(Code.UNKNOWN_SUBJECT, gate.grant("h", "sub", parent="none"), "rso-1")
    gate.refused(Code.GRANT_WIDENS, gate.grant("h", "sub", parent="g", expires_at=T0 + 2 * DAY), "rso-1")
    gate.org("other")
    gate.do(gate.grant("o", "other"), "rso-1")
    gate.refused(Code.GRANT_WIDENS, gate.grant("h", "sub", parent="o"), "rso-1")
    gate.do(gate.grant("h", "sub", parent="g"), "rso-1")


def test_revocations(gate):
    gate.org("acme")
    gate.do(gate.grant("g", "acme"), "rso-1")
    over = Revocation("r", gate.where, "g", "", "requester-1")
    gate.refused(Code.UNKNOWN_SUBJECT, replace(over, revoked="none"), "requester-1")
    gate.refused(Code.SIGNER_NOT_AUTHORISED, replace(over, by="auditor-1"), "auditor-1")
    gate.do(over, "requester-1")
    gate.now += DAY
    gate.do(replace(over, id="r2"), "requester-1")
    gate.do(replace(over, id="r3", revoked="acme"), "requester-1")
    assert gate.state.revoked == {"g": T0, "acme": T0 + DAY}, "the first counts"
    gate.refused(Code.ORGANISATION_UNKNOWN, gate.grant("g2", "acme"), "rso-1")


def test_a_class_admits_as_many_as_its_cap(gate):
    cap = HOUSE.audiences[0].cap
    for n in range(cap + 1):
        gate.org(f"org-{n}")
    gate.org("shop", audience="enterprises")
    gate.org("odd", audience="unheard-of")
    for n in range(cap - 1):
        gate.do(gate.grant(f"g-{n}", f"org-{n}"), "rso-1")
    gate.do(gate.grant("s", "shop"), "rso-1")
    gate.do(gate.grant("t", f"org-{cap}", tier="opus"), "rso-1")
    gate.do(gate.grant("last", f"org-{cap - 1}"), "rso-1")
    more = gate.grant("more", f"org-{cap}")
    gate.refused(Code.CAP_REACHED, more, "rso-1")
    gate.do(gate.grant("again", "org-0"), "rso-1")  # who is in may have another
    gate.refused(Code.AUDIENCE_NOT_ALLOWED, gate.grant("x", "odd"), "rso-1")
    gate.do(Revocation("r", gate.where, "g-1", "", "rso-1"), "rso-1")
    gate.do(more, "rso-1")
    gate.org("late")
    gate.refused(Code.CAP_REACHED, gate.grant("l", "late"), "rso-1")
    gate.do(Revocation("r2", gate.where, "org-2", "", "rso-1"), "rso-1")
    gate.do(gate.grant("l", "late"), "rso-1")
