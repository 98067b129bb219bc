"""A deployment with enrolled persons, for tests of the gate: real keys, a real database, a clock that obeys.

town = Town(tmp_path); town.vote("rso"); answer = town.check()
"""

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate import acts
from mythos.gate.policy import load_pack
from mythos.gate.release import GateAnswer, check
from mythos.gate.state import State
from mythos.gate.submit import load_state, submit
from mythos.records.clock import Clock
from mythos.records.evidence import Evidence, Outcome, Plan, Sample
from mythos.records.ids import new_id
from mythos.records.principal import OPERATOR
from mythos.records.profile import NO_PROFILE
from mythos.records.release import Choice, Release, Stage, Subject, Vote
from mythos.records.signed import seal
from mythos.records.trust import Person, Role
from mythos.store.db import Store
from mythos.store.home import Home

T0 = 1_777_636_800.0  # 2026-05-01T12:00:00Z
DAY = 86_400.0
STAFF = {
    "evaluator-1": Role.EVALUATOR,
    "rso-1": Role.SCALING,
    "executive-1": Role.EXECUTIVE,
    "board-1": Role.BOARD,
    "board-2": Role.BOARD,
    "safety-1": Role.SAFETY,
    "requester-1": Role.RELEASE,
    "auditor-1": Role.AUDITOR,
}
VOTERS = ("rso-1", "safety-1", "executive-1", "board-1", "board-2")


def hexdigest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


W1, W2 = hexdigest("capybara, step 110k"), hexdigest("capybara, step 120k")


class Town:
    """`pack`: a PolicyPack or the name of a packaged one, put in force by all voters."""

    def __init__(self, path: Path, pack: object = "house", drill: bool = True, name: str = "town") -> None:
        self.now = T0
        self.home = Home(path / "home", path / "keys")
        for place in (self.home.path, self.home.keys):
            place.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.store = Store.open(self.home)
        self.clock = Clock(system=lambda: self.now)
        self.keys = {who: Ed25519PrivateKey.generate() for who in STAFF}
        self.gate, self.server, self.ledger = (Ed25519PrivateKey.generate() for _ in range(3))
        persons = [Person(who, "town") for who in STAFF]
        keys = [acts.public_key(self.keys[who], who, role) for who, role in STAFF.items()]
        for key, role in ((self.gate, Role.GATE), (self.server, Role.SERVER), (self.ledger, Role.LEDGER)):
            keys.append(acts.public_key(key, str(role), role))
        root = acts.first_root(name, drill, 3, persons, keys)
        acts.enrol(self.store, self.clock, OPERATOR, root, [self.keys[who] for who in VOTERS[:3]])
        if pack is not None:
            self.activate(load_pack(pack) if isinstance(pack, str) else pack)

    @property
    def state(self) -> State:
        return load_state(self.store)

    def activate(self, pack: object, signers: tuple[str, ...] = VOTERS) -> None:
        keys = [self.keys[who] for who in signers]
        acts.activate_policy(self.store, self.clock, OPERATOR, pack, keys)  # type: ignore[arg-type]

    def plan(
        self,
        suite: str,
        root: str = W1,
        items: int = 100,
        profile: str = NO_PROFILE,
        signer: str = "evaluator-1",
        **other: object,
    ) -> Plan:
        values: dict[str, object] = {
            "id": new_id("plan"),
            "deployment": self.state.deployment,
            "family": "fam",
            "tier": "capybara",
            "root": root,
            "profile": profile,
            "suite": suite,
            "suite_digest": hexdigest(suite),
            "harness": hexdigest("harness"),
            "items": items,
            "elicitations": ("chat",),
            "looks": 1,
            "policy": self.state.policy,
            "judge": "",
            "evaluator": "evaluator-1",
        }
        plan = Plan(**{**values, **other})  # type: ignore[arg-type]
        submit(self.store, self.clock, OPERATOR, seal(plan, self.keys[signer]))
        return plan

    def evidence(
        self,
        plan: Plan,
        /,
        successes: int = 0,
        signer: str = "evaluator-1",
        samples: tuple[Sample, ...] | None = None,
        **other: object,
    ) -> Evidence:
        if samples is None:
            samples = tuple(
                Sample(f"s{i}", f"s{i}", Outcome.SUCCESS if i < successes else Outcome.FAILURE, elicitation)
                for elicitation in plan.elicitations
                for i in range(plan.items)
            )
        values: dict[str, object] = {
            "id": new_id("ev"),
            "deployment": plan.deployment,
            "plan": plan.id,
            "root": plan.root,
            "profile": plan.profile,
            "suite_digest": plan.suite_digest,
            "harness": plan.harness,
            "look": 1,
            "samples": samples,
            "judge": None,
            "transcripts": hexdigest("transcripts"),
            "isolation": "none",
            "evaluator": plan.evaluator,
            "started": self.now,
            "ended": self.now,
        }
        piece = Evidence(**{**values, **other})  # type: ignore[arg-type]
        submit(self.store, self.clock, OPERATOR, seal(piece, self.keys[signer]))
        return piece

    def measure(self, root: str = W1, tier: str = "capybara", humaneval: int = 0, mmlu: int = 80) -> None:
        """Evidence that rules every domain of `house` out by its precursors, unless told otherwise."""
        self.evidence(self.plan("humaneval", root, 164, tier=tier), humaneval)
        self.evidence(self.plan("mmlu_dev", root, 273, tier=tier), mmlu)

    def subject(
        self,
        stage: Stage = Stage.EARLY_ACCESS,
        audience: str = "researchers",
        purposes: tuple[str, ...] = ("cyber_defence",),
        root: str = W1,
        profile: str = NO_PROFILE,
        tier: str = "capybara",
    ) -> Subject:
        return acts.subject(self.state, "fam", tier, root, profile, stage, audience, purposes)

    def vote(self, who: str, about: Subject, choice: Choice = Choice.APPROVE) -> Vote:
        return acts.cast_vote(self.store, self.clock, OPERATOR, about, choice, who, self.keys[who])

    def check(self, about: Subject, strategy: str = "staged", requester: str = "requester-1") -> GateAnswer:
        return check(self.state, about, requester, strategy, self.clock.now())

    def open(
        self, about: Subject, strategy: str = "staged", requester: str = "requester-1", rollback: bool = False
    ) -> tuple[Release | None, GateAnswer]:
        return acts.open_release(
            self.store,
            self.clock,
            OPERATOR,
            about,
            strategy,
            requester,
            self.keys[requester],
            self.gate,
            rollback,
        )

    def released(self, about: Subject | None = None) -> Release:
        """A release of `about` with everybody's vote; by default W1, measured, at early access."""
        if about is None:
            self.measure()
            about = self.subject()
        for who in VOTERS:
            self.vote(who, about)
        release, answer = self.open(about)
        assert release is not None, answer.reasons
        return release
