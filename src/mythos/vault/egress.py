"""How much one principal may read in 24 hours. Counted before the first byte goes out.

The rows are the access log as well: who read which version of which asset, when, and how much of it.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from mythos.ledger.log import append
from mythos.records.clock import Clock
from mythos.records.principal import Principal, require_operator
from mythos.store.db import Store
from mythos.store.tables import asset_reads, egress_limits
from mythos.vault.errors import OverLimit, Refused

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Egress:
    """In any 24 hours: at most so many reads and bytes."""

    reads: int
    bytes: int


OWN = Egress(200_000, 1 << 40)  # of what one owns
SHARED = Egress(2_000, 10 << 30)  # of what others have shared


def charge(
    conn: sa.Connection,
    clock: Clock,
    principal: Principal,
    own: bool,
    asset: str,
    version: int,
    size: int,
    now: float,
) -> int:
    """Enter a read of `size` bytes, with its entry in the log; Refused when it is too much. Its seq."""
    limit = limit_in(conn, principal, own)
    c = asset_reads.c
    mine = (c.org == principal.org, c.principal == principal.id, c.time > now - DAY)
    wanted = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(c.bytes), 0)).where(*mine)
    reads, used = conn.execute(wanted).one()
    if reads + 1 > limit.reads or used + size > limit.bytes:
        message = f"{limit.reads} reads and {limit.bytes} bytes in 24 hours are allowed to you"
        raise Refused("EGRESS_LIMIT", error=OverLimit(message, "Wait, or ask the operator for more."))
    facts = {"asset": asset, "version": version, "bytes": size}
    event = {"kind": "attempt", "principal": principal.id, "org": principal.org, "action": "asset.read"}
    seq = append(conn, clock, {**event, "outcome": "answered", "facts": facts})
    row = {"seq": seq, "asset": asset, "version": version, "time": now, "bytes": size}
    conn.execute(asset_reads.insert().values(**row, principal=principal.id, org=principal.org))
    return seq


def set_limit(store: Store, clock: Clock, principal: Principal, org: str, who: str, limit: Egress) -> None:
    """Give one principal a limit of their own. NotAllowed for anyone but the operator in person."""
    require_operator(principal)
    with store.begin() as conn:
        event = {"kind": "egress.limit", "principal": principal.id, "of": who, "org": org}
        append(conn, clock, {**event, "reads": limit.reads, "bytes": limit.bytes})
        c = egress_limits.c
        conn.execute(egress_limits.delete().where(c.org == org, c.principal == who))
        new = {"org": org, "principal": who, "reads": limit.reads, "bytes": limit.bytes}
        conn.execute(egress_limits.insert().values(**new))


def limit_in(conn: sa.Connection, principal: Principal, own: bool) -> Egress:
    c = egress_limits.c
    wanted = sa.select(c.reads, c.bytes).where(c.org == principal.org, c.principal == principal.id)
    row = conn.execute(wanted).first()
    return Egress(*row) if row else OWN if own else SHARED
