"""What was used, for bills and limits: one row for each answered request."""

import time
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy import exc

from mythos.ledger.log import now_in
from mythos.records.clock import Clock
from mythos.records.principal import Principal
from mythos.store.db import Store, StoreError
from mythos.store.tables import usage

_INSERT = usage.insert()


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One request. `cost` is in the currency of the tier's price; `input_tokens` include `cached_tokens`."""

    request_id: str
    org: str
    tier: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost: float
    finish: str
    seconds: float


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """The sum over the requests of one organisation on one tier on one day (UTC, YYYY-MM-DD)."""

    org: str
    tier: str
    day: str
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost: float
    seconds: float


def record_usage(store: Store, clock: Clock, principal: Principal, row: UsageRow) -> None:
    """Store `row`. StoreError when it is there already, a number is negative or the org not the caller's."""
    with store.begin() as conn:
        record_usage_in(conn, clock, principal, row)


def record_usage_in(conn: sa.Connection, clock: Clock, principal: Principal, row: UsageRow) -> None:
    """As `record_usage`, in the transaction of `conn`."""
    if row.org != principal.org:
        raise StoreError(f"usage of {row.org!r} recorded for a caller of {principal.org!r}")
    now = now_in(conn, clock)
    day = time.strftime("%Y-%m-%d", time.gmtime(now))
    try:
        conn.execute(_INSERT, {"time": now, "day": day, "principal": principal.id, **asdict(row)})
    except exc.IntegrityError as error:
        raise StoreError(f"usage of {row.request_id}: {error.orig}") from error


def usage_summary(store: Store, org: str | None = None) -> list[UsageTotal]:
    """Totals by organisation, tier and day, in that order; of one organisation if given."""
    c = usage.c
    summed = (c.input_tokens, c.cached_tokens, c.output_tokens, c.cost, c.seconds)
    sums = [sa.func.sum(column) for column in summed]
    wanted = sa.select(c.org, c.tier, c.day, sa.func.count(), *sums)
    wanted = wanted.group_by(c.org, c.tier, c.day).order_by(c.org, c.tier, c.day)
    if org is not None:
        wanted = wanted.where(c.org == org)
    with store.read() as conn:
        return [UsageTotal(*row) for row in conn.execute(wanted)]
