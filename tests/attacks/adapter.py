"""The gate under attack, as operations by name: everything else here knows only these.

Operations on records of one kind stand in a file of `operations`, those on assets in vaulted.py. Each returns
a word: OK, ALLOW | HOLD | BLOCK with reason codes, GRANT | DENY, or the code of a refusal.
"""

import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate.state import Rejected
from mythos.gate.submit import submit
from mythos.records import dsse
from mythos.records.principal import OPERATOR
from mythos.records.signed import payload_type
from mythos.store.db import Store
from tests.attacks.operations import operation
from tests.attacks.said import Said
from tests.attacks.towns import copied_town
from tests.gate.town import DAY, W1, W2

ASKS = {
    "delete", "gate", "request", "load", "copies", "check_log", "check_proof", "witness", "head",
    "stream_end", "asset_list", "asset_search", "public_get", "exposure_audit",
    "incident_clocks", "report_verify", "report_guess", "report_mark",
}  # fmt: skip


def entries(operation: str, step: dict[str, Any], said: Said) -> int:
    """How many entries of the log a refusal of this step must leave.

    A question leaves none; nor does a list that is answered and does not name what was looked for.
    """
    listed = step.get("method") == "GET" and "200" in said.codes
    return 0 if operation in ASKS or listed else 2 if step.get("twin") else 1


@dataclass
class Adapter:
    """One deployment for one case. Names that steps give (`name = "v1"`) are kept in `kept`."""

    path: Path
    setting: dict[str, Any]
    kept: dict[str, Any] = field(default_factory=dict)
    faults: ExitStack = field(default_factory=ExitStack)
    _assets: Any = None

    def __post_init__(self) -> None:
        setting = dict(self.setting)
        served = setting.pop("served", False)  # with weights on disk, and a server when one is asked
        self.family, self.roots = "fam", {"W1": W1, "W2": W2}
        self.serving: Any = None
        if served:
            from tests.attacks.serving import Serving, with_weights

            self.town = copied_town(self.path, with_weights, **setting)
            self.serving = Serving(self.town)
            self.family, self.roots = "tiny", self.serving.roots()
        else:
            self.town = copied_town(self.path, **setting)
        self.place = (self.town.store, self.town.clock, OPERATOR)

    def do(self, name: str, arguments: dict[str, Any]) -> Said:
        try:
            work, own = operation(name), f"op_{name}"
            if work is not None:
                got = work(self, **arguments)
            else:
                got = getattr(self if hasattr(self, own) else self.assets, own)(**arguments)
        except Rejected as refused:
            return Said(str(refused.code), frozenset({str(refused.code)}))
        return got if isinstance(got, Said) else Said("OK")

    @property
    def assets(self) -> Any:
        """The half for assets and publication: in vaulted.py."""
        if self._assets is None:
            from tests.attacks.vaulted import Vaulted

            self._assets = Vaulted(self)
        return self._assets

    def restart(self) -> None:
        if self._assets:
            self._assets.stop()
        if self.serving:
            self.serving.stop()
        self.town.store.close()
        self.town.store = Store.open(self.town.home)
        self.place = (self.town.store, self.town.clock, OPERATOR)

    def attempts(self) -> list[dict[str, Any]]:
        """The refused attempts that the audit log holds."""
        wanted = 'SELECT event FROM ledger WHERE instr(event, \'"outcome":"refused"\') > 0 ORDER BY seq'
        with self.town.store.read() as conn:
            return [json.loads(event) for event in conn.exec_driver_sql(wanted).scalars()]

    def standing(self) -> Any:
        """All state but the audit log and what servers acknowledge, comparable."""
        state = self.town.state.clone()
        if self.serving:
            state.seq, state.at, state.acknowledged = 0, {}, {}
        return state, self._assets.rows() if self._assets else []

    def close(self) -> None:
        self.faults.close()
        if self._assets:
            self._assets.stop()
        if self.serving:
            self.serving.stop()
        self.town.store.close()

    def op_clock_advance(self, days: float = 0.0, seconds: float = 0.0) -> None:
        self.town.now += days * DAY + seconds

    def secret(self, name: str) -> Ed25519PrivateKey:
        """The key of a person, or of the `gate`, the `server` or the `ledger`."""
        return self.town.keys.get(name) or getattr(self.town, name)

    def send(self, kind: str, payload: bytes, secret: Ed25519PrivateKey) -> None:
        """Hand in a record of these very bytes."""
        submit(*self.place, dsse.sign(payload_type(kind), payload, secret))
