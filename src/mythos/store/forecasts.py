"""Forecasts of training runs, committed before their outcome: MYTHOS_HOME/forecasts and the log.

Two kinds of event show the order: `forecast.committed` names a signed forecast by its digest,
`training.begun` says that a tier is being trained, before its first step.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from mythos.ledger.log import append, ledger
from mythos.records.canonical import canonical
from mythos.records.clock import Clock
from mythos.records.errors import MythosError
from mythos.records.forecast import Forecast, Outcome, open_forecast
from mythos.records.principal import Principal, require_operator
from mythos.store.db import Store
from mythos.store.home import Home, private_directory, read_private, write_private
from mythos.store.operator_key import trusted_keys
from mythos.store.weights import registered_in

COMMITTED, BEGUN = "forecast.committed", "training.begun"


class ForecastError(MythosError):
    """A forecast comes too late, or is not what the log says."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A forecast and where the log has it. `begun`: the first event of its outcome's training, if any."""

    forecast: Forecast
    seq: int
    begun: int | None

    @property
    def late(self) -> bool:
        """Whether the training had begun before: then it foresaw nothing."""
        return self.begun is not None and self.begun < self.seq


def outcome_of(family: str, tier: str, run: Mapping[str, Any]) -> Outcome | None:
    """The outcome that a run of these facts (as they stand in a lineage) has; None with a budget of seconds,
    since nobody knows of how many tokens that will be.
    """
    tokens = run["budget"]["tokens"]
    if tokens is None:
        return None
    return Outcome(family, tier, _sha256(run["config"]), _sha256(run["data"]), tokens)


def begin_training(store: Store, clock: Clock, principal: Principal, outcome: Outcome, run: str) -> None:
    """Log that the run `run` (the name of its directory) of `outcome` begins; once for each run."""
    require_operator(principal)
    with store.begin() as conn:
        if not any(event["run"] == run for event in _events(conn, BEGUN)):
            event = {"kind": BEGUN, "principal": principal.id, "run": run, **asdict(outcome)}
            append(conn, clock, event)


def commit_forecast(
    home: Home, store: Store, clock: Clock, principal: Principal, envelope: bytes
) -> Committed:
    """Keep a signed forecast and log it. ForecastError when its outcome's training has begun already.

    The file is on disk before the event is. RecordError as `open_forecast`; NotAllowed for anyone but the
    operator. The same forecast again changes nothing.
    """
    require_operator(principal)
    forecast, digest = open_forecast(envelope, trusted_keys(home)), hashlib.sha256(envelope).hexdigest()
    private_directory(home.path / "forecasts")
    write_private(home.path / "forecasts" / f"{digest}.json", envelope, replace=True)
    with store.begin() as conn:
        for event in _events(conn, COMMITTED):
            if event["digest"] == digest:
                return Committed(forecast, event["seq"], _begun(conn, forecast.about))
        about = forecast.about
        if _begun(conn, about) is not None or _trained(conn, about):
            raise ForecastError(
                f"{about.tier} was trained on {about.tokens:,} tokens already: a forecast comes too late.",
                "Forecast another budget.",
            )
        event = {"kind": COMMITTED, "principal": principal.id, "digest": digest, **asdict(forecast.about)}
        return Committed(forecast, append(conn, clock, event), None)


def committed_forecasts(home: Home, store: Store, outcome: Outcome) -> list[Committed]:
    """The forecasts of exactly this outcome, in the order of the log.

    ForecastError when the file of one is missing or not what was logged; RecordError when it is malformed or
    not signed by this operator.
    """
    with store.read() as conn:
        events = [event for event in _events(conn, COMMITTED) if _is_about(event, outcome)]
        begun = _begun(conn, outcome)
    found = []
    for event in events:
        path = home.path / "forecasts" / f"{event['digest']}.json"
        try:
            envelope = read_private(path)
        except FileNotFoundError:
            envelope = b""
        if hashlib.sha256(envelope).hexdigest() != event["digest"]:
            raise ForecastError(
                f"The forecast at {event['seq']} is missing or not the one that was logged.",
                f"Restore {path} from a backup.",
            )
        found.append(Committed(open_forecast(envelope, trusted_keys(home)), event["seq"], begun))
    return found


def _begun(conn: sa.Connection, outcome: Outcome) -> int | None:
    """Where the log first says that this outcome is being trained."""
    return next((event["seq"] for event in _events(conn, BEGUN) if _is_about(event, outcome)), None)


def _trained(conn: sa.Connection, outcome: Outcome) -> bool:
    """Whether weights of this outcome are registered: also from before the log said when training begins."""
    rows = [row for row in registered_in(conn, outcome.family) if row.tier == outcome.tier]
    return any(
        outcome_of(row.family, row.tier, row.lineage["run"]) == outcome
        for row in rows
        if "run" in row.lineage
    )


def _is_about(event: dict[str, Any], outcome: Outcome) -> bool:
    return all(event[key] == value for key, value in asdict(outcome).items())


def _events(conn: sa.Connection, kind: str) -> Iterator[dict[str, Any]]:
    """Events of one kind, in order."""
    named = sa.func.instr(ledger.c.event, f'"kind":"{kind}"'.encode()) > 0
    for (data,) in conn.execute(sa.select(ledger.c.event).where(named).order_by(ledger.c.seq)):
        event = json.loads(data)
        if event["kind"] == kind:  # and not a text that somebody put into another event
            yield event


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()
