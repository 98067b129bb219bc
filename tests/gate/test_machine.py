"""A state machine over stages, votes, grants, evidence and the clock: what must always hold (Hypothesis).

The rules do what persons do, right and wrong, in any order. After each step the state is held against what
the design promises, computed here from the records in another way than the gate computes it.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mythos.gate import acts
from mythos.gate.grants import Access, access
from mythos.gate.release import check, in_force
from mythos.gate.state import Rejected, State
from mythos.gate.submit import load_state
from mythos.records.principal import OPERATOR
from mythos.records.reasons import Verdict
from mythos.records.release import Choice, Stage, Subject
from mythos.store.db import Store
from tests.gate.town import DAY, STAFF, VOTERS, W1, W2, Town

AUDIENCE = {Stage.EARLY_ACCESS: "researchers", Stage.EXPANDED: "enterprises", Stage.GENERAL: "public"}
ORGS = ("acme-def", "beta-labs")
FAILING, PASSING = 150, 0  # successes at HumanEval: far above the bar, below it
PRECURSORS = {"humaneval": (164, 0.10), "mmlu_dev": (273, 0.50)}

roots = st.sampled_from((W1, W2))
stages = st.sampled_from(tuple(AUDIENCE))
purposes = st.sampled_from(("cyber_defence", "general"))
who = st.sampled_from(sorted(STAFF))
orgs = st.sampled_from(ORGS)


class Gate(RuleBasedStateMachine):
    @initialize()
    def enrol(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.town = Town(Path(self.directory.name))
        self.place = (self.town.store, self.town.clock, OPERATOR)
        self.fallen: set[str] = set()
        for org in ORGS:
            self.act(
                acts.add_organisation,
                org,
                "researchers",
                {"jurisdiction": "DE"},
                "",
                "rso-1",
                self.key("rso-1"),
            )

    def teardown(self) -> None:
        self.another_process_sees_the_same()
        self.town.store.close()
        self.directory.cleanup()

    def key(self, person: str):  # noqa: ANN201
        return self.town.keys[person]

    def act(self, what, *arguments):  # noqa: ANN001, ANN002, ANN201
        """Do it, or be rejected: both are in order, the invariants judge what came of it."""
        try:
            return what(*self.place, *arguments)
        except Rejected:
            return None

    def about(self, root: str, stage: Stage, purpose: str) -> Subject:
        return self.town.subject(stage, AUDIENCE[stage], (purpose,), root)

    @rule(days=st.sampled_from((0.01, 1, 8, 15, 40, 200)))
    def time_passes(self, days: float) -> None:
        self.town.now += days * DAY

    @rule(root=roots, suite=st.sampled_from(sorted(PRECURSORS)), share=st.sampled_from((0.0, 0.05, 0.3, 0.9)))
    def measure(self, root: str, suite: str, share: float) -> None:
        items = PRECURSORS[suite][0]
        self.town.evidence(self.town.plan(suite, root, items), int(share * items))

    @rule(root=roots)
    def measure_all_well(self, root: str) -> None:
        self.town.measure(root)

    @rule(
        root=roots, stage=stages, purpose=purposes, person=who, veto=st.sampled_from((False,) * 5 + (True,))
    )
    def vote(self, root: str, stage: Stage, purpose: str, person: str, veto: bool) -> None:
        choice = Choice.VETO if veto else Choice.APPROVE
        self.act(acts.cast_vote, self.about(root, stage, purpose), choice, person, self.key(person))

    @rule(root=roots, stage=stages, purpose=purposes)
    def all_vote(self, root: str, stage: Stage, purpose: str) -> None:
        for person in VOTERS:
            self.act(
                acts.cast_vote, self.about(root, stage, purpose), Choice.APPROVE, person, self.key(person)
            )

    @precondition(lambda self: self.town.state.votes)
    @rule(data=st.data(), thief=st.sampled_from((*VOTERS, "author")))
    def withdraw(self, data: st.DataObject, thief: str) -> None:
        votes = self.town.state.votes
        vote = votes[data.draw(st.sampled_from(sorted(votes)))].vote
        person = vote.person if thief == "author" else thief
        self.act(acts.withdraw_vote, vote.id, person, self.key(person))

    @rule(root=roots, stage=stages, purpose=purposes, person=st.sampled_from(("requester-1", "rso-1")))
    def open(self, root: str, stage: Stage, purpose: str, person: str) -> None:
        about = self.about(root, stage, purpose)
        gate, key = self.town.gate, self.key(person)
        self.act(acts.open_release, about, "staged", person, key, gate)

    @rule(root=roots, purpose=st.just("cyber_defence"))
    def go_the_whole_way(self, root: str, purpose: str) -> None:
        self.measure_all_well(root)
        self.all_vote(root, Stage.EARLY_ACCESS, purpose)
        self.open(root, Stage.EARLY_ACCESS, purpose, "requester-1")

    @precondition(lambda self: self.town.state.releases)
    @rule(data=st.data(), person=who)
    def halt(self, data: st.DataObject, person: str) -> None:
        release = data.draw(st.sampled_from(sorted(self.town.state.releases)))
        self.act(acts.halt, release, "why not", person, self.key(person))

    @rule(
        where=st.sampled_from(({}, {"jurisdiction": "FR"}, {"jurisdiction": "DE"}, {"nationality": "X"})),
        person=who,
    )
    def suspend(self, where: dict[str, str], person: str) -> None:
        self.act(acts.suspend, "", where, "why not", person, self.key(person))

    @precondition(lambda self: self.town.state.suspensions)
    @rule(quorum=st.booleans())
    def resume(self, quorum: bool) -> None:
        suspension = sorted(self.town.state.suspensions)[0]
        signers = VOTERS if quorum else VOTERS[:1]
        self.act(acts.resume, suspension, [self.key(person) for person in signers])

    @rule(org=orgs, stage=stages, purpose=purposes, days=st.sampled_from((1, 30, 400)), person=who)
    def grant(self, org: str, stage: Stage, purpose: str, days: int, person: str) -> None:
        until = self.town.now + days * DAY
        about = (org, "fam", "capybara", "none", stage, (purpose,), ("DE",), self.town.now, until, "")
        self.act(acts.add_grant, *about, person, self.key(person))

    @precondition(lambda self: self.town.state.grants)
    @rule(data=st.data(), person=who)
    def revoke(self, data: st.DataObject, person: str) -> None:
        grant = data.draw(st.sampled_from(sorted(self.town.state.grants)))
        self.act(acts.revoke, grant, "why not", person, self.key(person))

    @rule(person=who)
    def report_incident(self, person: str) -> None:
        self.act(acts.report_incident, "none", "broken", person, self.key(person))

    @rule(signers=st.sampled_from((VOTERS, VOTERS[:2])))
    def new_policy(self, signers: tuple[str, ...]) -> None:
        pack = self.town.state.pack
        assert pack is not None
        major, minor, patch = pack.version.split(".")
        newer = replace(pack, version=f"{major}.{minor}.{int(patch) + 1}")
        self.act(acts.activate_policy, newer, [self.key(person) for person in signers])

    # What must always hold.

    @invariant()
    def access_rests_on_all_it_needs(self) -> None:
        state, now = self.town.state, self.town.clock.now()
        for org in ORGS:
            for root in (W1, W2):
                for purpose in ("cyber_defence", "general"):
                    found = access(state, org, "fam", "capybara", root, purpose, now)
                    if isinstance(found, Access):
                        self.judge(state, found, org, root, purpose, now)

    def judge(self, state: State, found: Access, org: str, root: str, purpose: str, now: float) -> None:
        grant, release, subject = found.grant, found.release, found.release.subject
        assert grant.org == org and purpose in grant.purposes and purpose in subject.purposes
        assert grant.starts_at <= now < grant.expires_at and grant.id not in state.revoked
        assert subject.root == root and subject.policy == state.policy
        assert now < found.until <= min(grant.expires_at, release.expires_at)
        order = list(Stage)
        assert order.index(grant.stage) <= order.index(subject.stage)
        for suspension in state.suspensions.values():
            assert suspension.where == {"jurisdiction": "FR"}, "any other hits a caller from DE"
        votes = [state.votes[vote] for vote in release.votes]
        people = {cast.vote.person for cast in votes}
        assert len(people) == len(votes) >= 3 and "requester-1" not in people
        assert not any(cast.withdrawn or cast.vote.subject != subject for cast in votes)
        assert {"rso-1", "safety-1"} <= people
        for cast in state.votes.values():
            if cast.vote.choice is Choice.VETO and not cast.withdrawn and cast.vote.subject.root == root:
                assert order.index(cast.vote.subject.stage) > order.index(subject.stage)
        for suite, (items, bar) in PRECURSORS.items():
            plans = [p for p in state.plans.values() if (p.root, p.suite) == (root, suite)]
            assert any(now < state.at[plan.id] + 183 * DAY for plan in plans)
            for piece in state.evidence.values():
                if piece.plan in {plan.id for plan in plans}:
                    assert sum(s.outcome == "success" for s in piece.samples) < bar * items
        assert len(plans) >= 1
        for incident in state.incidents.values():
            newest = max(state.at[p.id] for p in state.plans.values() if p.root == root)
            assert newest >= state.at[incident.id]

    @invariant()
    def what_fell_stays_down(self) -> None:
        state = self.town.state
        assert self.fallen <= set(state.fallen)
        self.fallen = set(state.fallen)

    @invariant()
    def stages_open_in_order(self) -> None:
        state, now = self.town.state, self.town.clock.now()
        for release in state.releases.values():
            if in_force(state, release, now) and release.subject.stage is not Stage.EARLY_ACCESS:
                before = list(Stage)[list(Stage).index(release.subject.stage) - 1]
                assert any(
                    other.subject.stage is before
                    and other.subject.root == release.subject.root
                    and state.at[other.id] < state.at[release.id]
                    for other in state.releases.values()
                )

    @invariant()
    def taking_away_opens_nothing(self) -> None:
        """Without one vote, one grant or one piece of evidence, nothing is allowed that was not before."""
        state, now = self.town.state, self.town.clock.now()
        about = self.about(W1, Stage.EARLY_ACCESS, "cyber_defence")
        was = check(state, about, "requester-1", "staged", now).verdict
        for part in ("votes", "evidence", "plans"):
            for name in list(getattr(state, part))[-2:]:
                less = state.clone()
                gone = getattr(less, part).pop(name)
                if part == "votes" and gone.vote.choice is Choice.VETO or gone_to_waste(part, gone):
                    continue
                if part == "plans":
                    less.evidence = {k: e for k, e in less.evidence.items() if e.plan != name}
                now_is = check(less, about, "requester-1", "staged", now).verdict
                assert now_is is not Verdict.ALLOW or was is Verdict.ALLOW
        for name in list(state.grants)[-2:]:
            less = state.clone()
            del less.grants[name]
            less.granted = {o: tuple(i for i in ids if i != name) for o, ids in less.granted.items()}
            for org in ORGS:
                asked = (org, "fam", "capybara", W1, "cyber_defence", now)
                assert isinstance(access(state, *asked), Access) or not isinstance(
                    access(less, *asked), Access
                )

    def another_process_sees_the_same(self) -> None:
        other = Store.open(self.town.home)
        try:
            assert load_state(other) == self.town.state
            assert not self.town.state.fault
        finally:
            other.close()


def gone_to_waste(part: str, gone: object) -> bool:
    """A withdrawn vote counted for nothing already."""
    return part == "votes" and bool(getattr(gone, "withdrawn", False))


Gate.TestCase.settings = settings(
    max_examples=6, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestGate = Gate.TestCase


@pytest.mark.slow
class TestGateLong(Gate.TestCase):
    settings = settings(
        max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
    )
