"""A server whose tier is released to organisations, by a deployment with enrolled persons (a DRILL).

gated = Gated(path); release = gated.release("small"); secret = gated.admit("acme")
"""

import time
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from mythos.gate import acts
from mythos.records.grant import Grant
from mythos.records.principal import OPERATOR
from mythos.records.release import Release, Stage, Suspension
from mythos.store.home import write_private
from mythos.store.keys import create_key
from tests.gate.town import DAY, VOTERS, Town
from tests.tiny import TinyHome, tiny_tiers

PURPOSE = "cyber_defence"


class Gated(Town):
    """Time is the system's, shifted by `ahead` seconds."""

    ahead = 0.0

    def __init__(
        self, path: Path, names: tuple[str, ...] = ("small", "large"), enrolled: bool = True
    ) -> None:
        super().__init__(path)
        if enrolled:
            pem = self.server.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            write_private(self.home.keys_dir / "server.key", pem, replace=False)
        self.tiny = TinyHome(
            self.home,
            self.store,
            self.clock,
            tiny_tiers(self.home, self.store, self.clock, ("small", "large")),
        )

    @property
    def now(self) -> float:  # type: ignore[override]
        return time.time() + self.ahead

    @now.setter
    def now(self, value: float) -> None:
        pass

    def release(self, tier: str, profile: str = "none") -> Release:
        """`tier` at early access for researchers, measured and voted on by everybody."""
        root = next(t.root for t in self.tiny.standing().family.tiers if t.name == tier)
        assert root is not None
        for suite, items, successes in (("humaneval", 164, 0), ("mmlu_dev", 273, 80)):
            self.evidence(self.plan(suite, root, items, family="tiny", tier=tier), successes)
        about = acts.subject(
            self.state, "tiny", tier, root, profile, Stage.EARLY_ACCESS, "researchers", (PURPOSE,)
        )
        return self.released(about)

    def organisation(self, org: str, contractor_of: str = "", **attributes: str) -> str:
        """An organisation of researchers; returns the secret of its key."""
        rso = ("rso-1", self.keys["rso-1"])
        acts.add_organisation(
            self.store, self.clock, OPERATOR, org, "researchers", attributes, contractor_of, *rso
        )
        return create_key(self.store, self.clock, OPERATOR, org, org=org, purpose=PURPOSE)[1]

    def grant(self, org: str, tier: str = "small", seconds: float = DAY, parent: str = "") -> Grant:
        start, end = self.now - 0.5, self.now + seconds
        if parent:
            start, end = self.state.grants[parent].starts_at, min(end, self.state.grants[parent].expires_at)
        return acts.add_grant(
            self.store,
            self.clock,
            OPERATOR,
            org=org,
            family="tiny",
            tier=tier,
            profile="none",
            stage=Stage.EARLY_ACCESS,
            purposes=(PURPOSE,),
            jurisdictions=(),
            starts_at=start,
            expires_at=end,
            parent=parent,
            by="rso-1",
            secret=self.keys["rso-1"],
        )

    def suspend(self, tier: str = "", **where: str) -> Suspension:
        by = ("safety-1", self.keys["safety-1"])
        return acts.suspend(self.store, self.clock, OPERATOR, tier, where, "a test", *by)

    def resume(self, suspension: Suspension, signers: tuple[str, ...] = VOTERS) -> None:
        acts.resume(self.store, self.clock, OPERATOR, suspension.id, [self.keys[who] for who in signers])

    def halt(self, release: Release) -> str:
        by = ("safety-1", self.keys["safety-1"])
        return acts.halt(self.store, self.clock, OPERATOR, release.id, "a test", *by).id

    def revoke(self, what: str) -> str:
        by = ("safety-1", self.keys["safety-1"])
        return acts.revoke(self.store, self.clock, OPERATOR, what, "a test", *by).id
