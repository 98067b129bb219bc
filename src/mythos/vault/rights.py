"""Asking `authorize_asset`, and writing down how an attempt ended: the way of every function of the vault."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from mythos.gate.assets import authorize_asset
from mythos.gate.state import State
from mythos.gate.submit import state_in
from mythos.ledger.log import audit, head
from mythos.records.asset import (
    Asset,
    AssetAction,
    AssetPermit,
    AssetReason,
    AssetRefusal,
    Kind,
    Retention,
    Share,
)
from mythos.records.clock import Clock, ClockError
from mythos.records.principal import OPERATOR, Principal, is_operator
from mythos.store.db import Store
from mythos.store.tables import asset_holds, asset_shares, assets
from mythos.vault.errors import NoAsset, NotAllowedHere, Refused

AT_ONCE = 500  # ids of one IN (...)


@dataclass(frozen=True, slots=True)
class Known:
    """An asset with all its shares by id, and its place in lists."""

    asset: Asset
    shares: dict[str, Share]
    placed: int


@contextlib.contextmanager
def attempt(
    store: Store,
    clock: Clock,
    principal: Principal,
    action: str,
    asset: str,
    missing: type[NoAsset] = NoAsset,
) -> Iterator[None]:
    """Turns `Refused` into the caller's error, and leaves exactly one entry in the log that says why."""
    try:
        yield
    except Refused as refused:
        audit(store, clock, principal, action, "refused", asset=asset, reason=refused.reason)
        if refused.error is not None:
            raise refused.error from None
        if refused.may_know:
            raise NotAllowedHere(f"you may not do this ({refused.reason})") from None
        raise missing(asset) from None
    except ClockError:
        audit(store, clock, principal, action, "refused", asset=asset, reason=AssetReason.CLOCK)
        raise


def permitted(
    store: Store,
    conn: sa.Connection,
    principal: Principal,
    asset: str,
    action: AssetAction,
    now: float,
) -> tuple[Known, AssetPermit]:
    """The asset and the leave to do `action` on it, as the transaction of `conn` sees it; or Refused."""
    known = load(conn, [asset]).get(asset)
    answer = decide(state_in(store, conn), known, principal, action, now)
    if isinstance(answer, AssetRefusal):
        raise Refused(answer.reason, answer.may_know)
    assert known is not None
    return known, answer


def decide(
    state: State, known: Known | None, principal: Principal, action: AssetAction, now: float
) -> AssetPermit | AssetRefusal:
    """What the one decision function says. The same work is done for an asset that does not exist."""
    asset, shares = (known.asset, known.shares) if known else (None, {})
    return authorize_asset(state, asset, shares, principal, action, now)


def restricting(
    store: Store, conn: sa.Connection, clock: Clock, principal: Principal, asset: str
) -> tuple[Known, float]:
    """The asset, for an act that only takes something away: the owner, or the operator in person, may.

    A clock that is behind does not prevent it (it is then the last ledger time).
    """
    now = restricted_now(conn, clock)
    known = load(conn, [asset]).get(asset)
    answer = decide(state_in(store, conn), known, principal, AssetAction.MANAGE, now)
    if isinstance(answer, AssetPermit):
        assert known is not None
        return known, now
    in_person = is_operator(principal) and principal.kind == OPERATOR.kind
    if known is None or known.asset.deleted or not in_person:
        raise Refused(answer.reason, answer.may_know)
    return known, now


def restricted_now(conn: sa.Connection, clock: Clock) -> float:
    last = head(conn)[1]
    try:
        return clock.after(last)
    except ClockError:
        return last


def load(conn: sa.Connection, ids: Iterable[str]) -> dict[str, Known]:
    """Assets by id, with their shares. Unknown ids are left out; deleted assets are not."""
    found: dict[str, Known] = {}
    wanted = list(dict.fromkeys(ids))
    for at in range(0, len(wanted), AT_ONCE):
        some = wanted[at : at + AT_ONCE]
        s = asset_shares.c
        shares: dict[str, dict[str, Share]] = {}
        columns = (s.id, s.asset, s.org, s.principal, s.actions, s.starts_at, s.expires_at, s.parent, s.by)
        for row in conn.execute(sa.select(*columns, s.revoked).where(s.asset.in_(some))):
            shares.setdefault(row.asset, {})[row.id] = _share(row)
        h = asset_holds.c
        holds = sa.select(h.asset).where(h.asset.in_(some), h.released.is_(None))
        held = set(conn.execute(holds).scalars())
        for row in conn.execute(sa.select(assets).where(assets.c.id.in_(some))):
            asset = _asset(row, row.id in held)
            found[row.id] = Known(asset, shares.get(row.id, {}), row.logged)
    return found


def owner_of(asset: Asset, principal: Principal) -> bool:
    return (asset.owner, asset.org) == (principal.id, principal.org)


def _asset(row: sa.Row, held: bool) -> Asset:
    return Asset(
        id=row.id,
        owner=row.owner,
        org=row.org,
        kind=Kind(row.kind),
        retention=Retention(row.retention),
        created=row.created,
        version=row.version,
        size=row.size,
        held=held,
        deleted=row.deleted is not None,
    )


def _share(row: sa.Row) -> Share:
    return Share(
        id=row.id,
        asset=row.asset,
        org=row.org,
        principal=row.principal,
        actions=tuple(AssetAction(word) for word in row.actions.split()),
        starts_at=row.starts_at,
        expires_at=row.expires_at,
        parent=row.parent,
        by=row.by,
        revoked=row.revoked is not None,
    )
