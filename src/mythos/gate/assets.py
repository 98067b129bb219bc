"""The one place that says yes to a request for an asset, beside `authorize` for tiers. Default deny. Pure.

Nobody reads for being an operator: an asset has its owner, and those to whom the owner gave a share that
lives. A refusal with `may_know` False must look exactly like the one for an asset that does not exist.
"""

import math
from collections.abc import Mapping

from mythos.gate.grants import ended
from mythos.gate.state import State, known_attributes, suspended
from mythos.records.asset import Asset, AssetAction, AssetPermit, AssetReason, AssetRefusal, Share
from mythos.records.principal import LOCAL_ORG, Principal


def authorize_asset(
    state: State,
    asset: Asset | None,
    shares: Mapping[str, Share],
    principal: Principal,
    action: AssetAction,
    now: float,
) -> AssetPermit | AssetRefusal:
    """May `principal` do `action` on `asset` at `now` (POSIX seconds, from the Clock)?

    `shares` are all of this asset's, by id, ended ones too. Of several that allow it, the one that lasts
    longest counts. Intervals are half-open: a share that ends at `now` has ended.
    """
    if asset is None:
        return AssetRefusal(AssetReason.UNKNOWN_ASSET, False)
    if asset.deleted:
        return AssetRefusal(AssetReason.DELETED, False)
    if not math.isfinite(now):
        return AssetRefusal(AssetReason.CLOCK, False)
    if reason := org_refused(state, principal.org):
        return AssetRefusal(reason, False)
    if (principal.id, principal.org) == (asset.owner, asset.org):
        return AssetPermit(asset.id, action, "", math.inf)
    if org_refused(state, asset.org):  # what an organisation that ended has shared ends with it
        return AssetRefusal(AssetReason.ORGANISATION_UNKNOWN, False)
    mine = [s for s in shares.values() if s.asset == asset.id and _for(s, principal)]
    live = [(until, s) for s in mine if (until := live_until(state, shares, s, asset.org, now)) is not None]
    if not live:
        return AssetRefusal(AssetReason.SHARE_ENDED if mine else AssetReason.NOT_SHARED, False)
    fit = [(until, s) for until, s in live if action in s.actions]
    if not fit:  # they read it, or else they may not even know it
        reads = any(AssetAction.READ in s.actions for _, s in live)
        return AssetRefusal(AssetReason.NOT_OWNER, reads)
    until, found = max(fit, key=lambda one: one[0])
    return AssetPermit(asset.id, action, found.id, until)


def org_refused(state: State, org: str) -> AssetReason | None:
    """Why nobody of `org` is served here at all: unknown, ended, suspended. None for those who may be."""
    if org == LOCAL_ORG:
        return None
    if state.fault:
        return AssetReason.STATE_DAMAGED
    if org not in state.organisations or ended(state, org):
        return AssetReason.ORGANISATION_UNKNOWN
    one = org
    while one:  # an organisation, the one it works for, and so on
        if suspended(state, "", known_attributes(state, one)) is not None:
            return AssetReason.SUSPENDED
        one = state.organisations[one].contractor_of
    return None


def live_until(
    state: State, shares: Mapping[str, Share], share: Share, home: str, now: float
) -> float | None:
    """When a share ends, with all it hangs on; None when it does not live at `now`, or hangs on nothing.

    A contractor's share hangs on a live one of the organisation it works for, and of nobody else; of
    what is their own organisation's (`home`) they need none.
    """
    until = share.expires_at
    for _ in range(len(shares) + 1):
        if share.revoked or not share.starts_at <= now < share.expires_at or org_refused(state, share.org):
            return None
        until = min(until, share.expires_at)
        principal = works_for(state, share.org, home)
        if not share.parent:
            return None if principal else until
        parent = shares.get(share.parent)
        if parent is None or parent.org != principal or widens(share, parent):
            return None
        share = parent
    return None  # a ring


def works_for(state: State, org: str, home: str) -> str:
    """The organisation whose share one for `org` must hang on; "" for none. `home` is the asset's."""
    known = state.organisations.get(org)
    return known.contractor_of if known and org not in (LOCAL_ORG, home) else ""


def widens(share: Share, parent: Share) -> bool:
    """Whether `share` allows anything that `parent` does not."""
    return (
        share.asset != parent.asset
        or bool(parent.principal)
        or not set(share.actions) <= set(parent.actions)
        or share.starts_at < parent.starts_at
        or share.expires_at > parent.expires_at
    )


def _for(share: Share, principal: Principal) -> bool:
    return share.org == principal.org and share.principal in ("", principal.id)
