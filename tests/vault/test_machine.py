"""Nobody reads who may not: shares, revocations and the clock in any order, against a model of ten lines."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mythos.gate import acts
from mythos.vault.assets import delete_asset, list_assets, read_asset
from mythos.vault.errors import NoAsset, NotAllowedHere
from mythos.vault.shares import revoke_share
from tests.gate.town import DAY
from tests.vault.world import ACME, CONTRACTOR, ORGS, OTHER, OUTSIDER, READER, STRANGER, VENDOR, VaultTown

CALLERS = (READER, CONTRACTOR, OUTSIDER, STRANGER)


class Machine(RuleBasedStateMachine):
    @initialize()
    def found(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.town = VaultTown(Path(self.place.name))
        self.assets = [self.town.put(b"one").id, self.town.put(b"two").id]
        self.gone: set[str] = set()  # assets
        self.ended: set[str] = set()  # organisations
        # id: asset, organisation, from, until, what it hangs on
        self.shares: dict[str, tuple[str, str, float, float, str]] = {}
        self.revoked: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "town"):
            self.town.store.close()
            self.place.cleanup()

    @rule(n=st.integers(0, 1), org=st.sampled_from([ACME, VENDOR, OTHER]), late=st.sampled_from([0.0, 0.5]),
          days=st.sampled_from([0.75, 1.0, 3.0]), pick=st.integers(0, 20))  # fmt: skip
    def share(self, n: int, org: str, late: float, days: float, pick: int) -> None:
        asset, now = self.assets[n], self.town.now
        above = sorted(self.shares)
        parent = above[pick % len(above)] if above and org == VENDOR else ""
        try:
            made = self.town.share(asset, org, late + days, starts_at=now + late * DAY, parent=parent)
        except (NotAllowedHere, NoAsset):
            return
        if org == VENDOR:
            assert self.shares[parent][1] == ACME and self.shares[parent][0] == asset
        self.shares[made] = (asset, org, now + late * DAY, now + (late + days) * DAY, parent)

    @rule(pick=st.integers(0, 20))
    def revoke(self, pick: int) -> None:
        if self.shares:
            one = sorted(self.shares)[pick % len(self.shares)]
            if self.shares[one][0] not in self.gone:
                revoke_share(*self.town.place, one)
                self.revoked.add(one)

    @rule(days=st.sampled_from([0.25, 0.5, 1.0]))
    def wait(self, days: float) -> None:
        self.town.now += days * DAY

    @rule(n=st.integers(0, 1))
    def delete(self, n: int) -> None:
        if self.assets[n] not in self.gone:
            delete_asset(*self.town.place, self.assets[n])
            self.gone.add(self.assets[n])

    @rule(org=st.sampled_from([ACME, OTHER]), really=st.integers(0, 5))
    def end(self, org: str, really: int) -> None:
        if not really and org not in self.ended:
            acts.revoke(*self.town.place, org, "why not", "rso-1", self.town.keys["rso-1"])
            self.ended.add(org)

    def may(self, org: str, asset: str) -> bool:
        if org not in ORGS or asset in self.gone or {org, ORGS[org]} & self.ended:
            return False
        return any(s[:2] == (asset, org) and self.lives(one) for one, s in self.shares.items())

    def lives(self, one: str) -> bool:
        _, _, start, until, parent = self.shares[one]
        here = one not in self.revoked and start <= self.town.now < until
        return here and (not parent or self.lives(parent))

    @invariant()
    def nobody_reads_who_may_not(self) -> None:
        for who in CALLERS if hasattr(self, "town") else ():
            may = {asset for asset in self.assets if self.may(who.org, asset)}
            assert {entry.asset.id for entry in list_assets(*self.town.as_(who))} == may
            for asset in self.assets:
                try:
                    got = b"".join(read_asset(*self.town.as_(who), asset).chunks)
                except NoAsset:
                    got = b""
                assert bool(got) is (asset in may)


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=6, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
