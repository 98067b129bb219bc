"""The pages of the vault: what one may read, and one asset with its readers."""

import math
from typing import Any

from mythos.console.pages import Answer, Visit, lead, page
from mythos.gate.submit import load_state
from mythos.records.asset import AssetAction, Kind
from mythos.records.errors import MythosError
from mythos.records.principal import is_operator
from mythos.serve.errors import ApiError
from mythos.vault.assets import holds_of, leave_of, list_assets, show_asset, versions_of
from mythos.vault.errors import BadField, NotAllowedHere
from mythos.vault.search import search_assets
from mythos.vault.shares import readers_of, revoke_share, share_asset

PAGE = 50
DAY = 86_400.0


def listing(visit: Visit) -> Answer:
    """What the reader may read, newest first; or what of it has all the words looked for."""
    words, after = visit.query.get("q", "").strip(), visit.query.get("after", "")
    kind = _kind(visit.query.get("kind", ""))
    if words:
        found = search_assets(*visit.place, words, PAGE + 1)
    else:
        found = list_assets(*visit.place, PAGE + 1, after, kind)
    values = {"found": found[:PAGE], "more": len(found) > PAGE, "words": words, "after": after}
    return page(visit, "vault.html", {**values, "kind": kind, "kinds": list(Kind)})


def show(visit: Visit) -> Answer:
    return _asset(visit, 200, "", {})


def share(visit: Visit) -> Answer:
    """Give a share, or say on the asset's page why not."""
    asset, form = visit.path["asset"], visit.form
    show_asset(*visit.place, asset)
    actions = (AssetAction.READ, AssetAction.WRITE) if form.get("write") else (AssetAction.READ,)
    who, parent = form.get("principal", "").strip(), form.get("parent", "").strip()
    try:
        until = visit.now + _days(form.get("days", "")) * DAY
        made = share_asset(
            *visit.place, asset, form.get("org", "").strip(), until, who, actions, None, parent
        )
    except (BadField, NotAllowedHere) as error:
        return _asset(visit, 400 if isinstance(error, BadField) else 403, _said(error), form)
    return lead(visit, f"/vault/{asset}", f"{made.org} may {', '.join(made.actions)}, from now on.")


def revoke(visit: Visit) -> Answer:
    asset = visit.path["asset"]
    show_asset(*visit.place, asset)
    try:
        revoke_share(*visit.place, visit.form.get("share", ""))
    except NotAllowedHere as error:
        return _asset(visit, 403, _said(error), {})
    return lead(visit, f"/vault/{asset}", "That share is ended, and what hangs on it.")


def _asset(visit: Visit, status: int, wrong: str, given: dict[str, str]) -> Answer:
    """An asset's page; `wrong` says why a form was not obeyed, `given` are its fields."""
    asset = visit.path["asset"]
    entry = show_asset(*visit.place, asset)
    leave, writes = leave_of(*visit.place, asset)
    values: dict[str, Any] = {"entry": entry, "asset": entry.asset, "about": entry.about, "leave": leave}
    values |= {"versions": versions_of(*visit.place, asset) if writes else [], "endless": math.inf}
    values |= {"readers": readers_of(*visit.place, asset) if entry.mine else []}
    values |= {"holds": holds_of(*visit.place, asset) if entry.mine else []}
    known = load_state(visit.service.store).organisations
    orgs = sorted(known) if entry.mine and is_operator(visit.principal) else []
    values |= {"orgs": orgs, "wrong": wrong, "given": given, "now": visit.now}
    return page(visit, "asset.html", values, status)


def _kind(given: str) -> Kind | None:
    try:
        return Kind(given) if given else None
    except ValueError:
        raise ApiError(400, "There is no such kind of asset.", code="bad_field") from None


def _days(given: str) -> float:
    try:
        days = float(given)
    except ValueError:
        days = math.nan
    if not 0 < days <= 366:
        raise BadField("a share lasts more than 0 and at most 366 days")
    return days


def _said(error: MythosError) -> str:
    return error.message[:1].upper() + error.message[1:] + "."
