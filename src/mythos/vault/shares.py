"""Shares: leave to read, or to write too, for an organisation or one principal of it, with an end."""

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from mythos.gate.assets import live_until, org_refused, widens, works_for
from mythos.gate.submit import state_in
from mythos.ledger.log import append, append_restriction, now_in
from mythos.records.asset import AssetAction, Share
from mythos.records.canonical import RecordError
from mythos.records.clock import Clock
from mythos.records.ids import new_id
from mythos.records.principal import Principal
from mythos.store.db import Store
from mythos.store.tables import asset_shares
from mythos.vault.errors import BadField, NoAsset, NotAllowedHere, Refused
from mythos.vault.rights import attempt, permitted, restricting

LONGEST = 366 * 86_400.0  # seconds


class NoShare(NoAsset):
    """There is no such share, or it is none of the caller's: the two are one error."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.message = f"no share {name[:80]!r}"
        self.cure = "`mythos vault show ID` names those of your assets."


@dataclass(frozen=True, slots=True)
class Reader:
    """Who can read an asset, why, since when and until when; `share` "" for its owner.

    `parent` is the share that a contractor's hangs on, "" for none.
    """

    org: str
    principal: str
    actions: tuple[str, ...]
    share: str
    by: str
    since: float
    until: float | None
    live: bool
    parent: str = ""


def share_asset(
    store: Store,
    clock: Clock,
    principal: Principal,
    asset: str,
    org: str,
    expires_at: float,
    who: str = "",
    actions: tuple[AssetAction, ...] = (AssetAction.READ,),
    starts_at: float | None = None,
    parent: str = "",
) -> Share:
    """Let `org`, or the principal `who` of it, use an asset in [starts_at, expires_at), a year at most.

    Only the owner may. For a contractor `parent` names the share of the organisation it works for, which
    the new one may only narrow. NotAllowedHere when it would widen it, or `org` is not known.
    """
    with attempt(store, clock, principal, "asset.share", asset), store.begin() as conn:
        now = now_in(conn, clock)
        known, _ = permitted(store, conn, principal, asset, AssetAction.MANAGE, now)
        start = now if starts_at is None else starts_at
        try:
            share = Share(
                id=new_id("shr"),
                asset=asset,
                org=org,
                principal=who,
                actions=tuple(dict.fromkeys(actions)),
                starts_at=start,
                expires_at=expires_at,
                parent=parent,
                by=principal.id,
                revoked=False,
            )
        except RecordError as error:
            raise Refused("SHARE_MALFORMED", error=BadField(error.message)) from None
        if expires_at <= now or expires_at - start > LONGEST:
            raise Refused("SHARE_MALFORMED", error=BadField("a share ends, after now and within a year"))
        state = state_in(store, conn)
        if reason := org_refused(state, org):
            cure = "mythos org add NAME --audience CLASS --as PERSON"
            raise Refused(reason, error=NotAllowedHere(f"{org} is not served here ({reason})", cure))
        wanted = works_for(state, org, known.asset.org)
        above = known.shares.get(parent)
        if (
            bool(wanted) is not bool(parent)
            or parent
            and (above is None or above.org != wanted or widens(share, above) or above.revoked)
        ):
            message = "a contractor's share names one of the organisation it works for, and only narrows it"
            raise Refused("SHARE_WIDENS", error=NotAllowedHere(message, "--parent SHARE"))
        event = {"kind": "asset.shared", "principal": principal.id, "asset": asset, "share": share.id}
        words = " ".join(share.actions)
        span = {"starts_at": start, "expires_at": expires_at}
        seq = append(
            conn, clock, {**event, "org": org, "who": who, "actions": words, **span, "parent": parent}
        )
        row = asdict(share) | {"actions": words, "placed": known.placed, "revoked": None, "logged": seq}
        conn.execute(asset_shares.insert().values(**row))
    return share


def revoke_share(store: Store, clock: Clock, principal: Principal, share: str) -> None:
    """End a share, with what hangs on it, from the next read on and within four parts of a running one.

    The owner may, and the operator in person. Revoking it again changes nothing. NoShare.
    """
    with attempt(store, clock, principal, "asset.revoke", share, NoShare), store.begin() as conn:
        c = asset_shares.c
        row = conn.execute(sa.select(c.asset, c.revoked).where(c.id == share)).first()
        if row is None:
            raise Refused("UNKNOWN_SHARE", may_know=False)
        restricting(store, conn, clock, principal, row.asset)
        if row.revoked is None:
            event = {"kind": "asset.share_revoked", "principal": principal.id, "asset": row.asset}
            now = append_restriction(conn, clock, {**event, "share": share})
            conn.execute(asset_shares.update().where(c.id == share).values(revoked=now))


def readers_of(store: Store, clock: Clock, principal: Principal, asset: str) -> list[Reader]:
    """Who can read one's own asset, why and since when; shares that ended stay in the list."""
    with attempt(store, clock, principal, "asset.readers", asset), store.read() as conn:
        now = now_in(conn, clock)
        known, _ = permitted(store, conn, principal, asset, AssetAction.MANAGE, now)
        state = state_in(store, conn)
    about = known.asset
    owner = Reader(about.org, about.owner, ("read", "write", "manage"), "", "", about.created, None, True)
    rest = [
        Reader(
            share.org,
            share.principal,
            tuple(map(str, share.actions)),
            share.id,
            share.by,
            share.starts_at,
            share.expires_at,
            live_until(state, known.shares, share, about.org, now) is not None,
            share.parent,
        )
        for share in sorted(known.shares.values(), key=lambda one: one.starts_at)
    ]
    return [owner, *rest]


def revoke_all(store: Store, clock: Clock, principal: Principal, asset: str) -> int:
    """End every share of an asset at once; how many."""
    with attempt(store, clock, principal, "asset.revoke_all", asset), store.begin() as conn:
        known, _ = restricting(store, conn, clock, principal, asset)
        live = [share.id for share in known.shares.values() if not share.revoked]
        for share in live:
            event = {"kind": "asset.share_revoked", "principal": principal.id, "asset": asset, "share": share}
            now = append_restriction(conn, clock, event)
            conn.execute(asset_shares.update().where(asset_shares.c.id == share).values(revoked=now))
    return len(live)
