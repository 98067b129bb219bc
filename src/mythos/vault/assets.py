"""Assets: put, read, list, describe, delete, hold. An asset is its owner's until the owner shares it."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import sqlalchemy as sa

from mythos.gate.assets import org_refused
from mythos.gate.state import State
from mythos.gate.submit import state_in
from mythos.ledger.log import append, append_restriction, audit, now_in
from mythos.ledger.log import head as log_head
from mythos.records.asset import Asset, AssetAction, AssetPermit, AssetReason, Kind, Retention
from mythos.records.clock import Clock
from mythos.records.ids import new_id
from mythos.records.principal import OPERATOR, Principal, is_operator
from mythos.store.db import Store
from mythos.store.tables import asset_blobs, asset_holds, asset_shares, asset_versions, assets
from mythos.vault.about import About, about_of, check_titles, checked_retention, open_about, seal_about
from mythos.vault.blobs import Blob, Staged, discard, drop, enter, read_range, settle, stage, writing
from mythos.vault.egress import charge
from mythos.vault.errors import NotAllowedHere, Refused
from mythos.vault.keys import open_text, seal_text, vault_of
from mythos.vault.rights import Known, attempt, decide, load, owner_of, permitted, restricting

PAGE = 50
MOST = 200  # of one page
CHECK_EVERY = 4  # parts: a reading that goes on is asked for again


@dataclass(frozen=True, slots=True)
class Entry:
    """An asset as one who may read it sees it. `tag` is random, new with each version."""

    asset: Asset
    about: About
    tag: str
    changed: float  # when the newest version came
    mine: bool


@dataclass(frozen=True, slots=True)
class Version:
    """One content of an asset: who put it, when, how large."""

    number: int
    by: str
    time: float
    size: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes [start, end) of a version. `chunks` decrypts as it is read, and stops when leave is withdrawn."""

    entry: Entry
    version: int
    size: int  # of the whole version
    start: int
    end: int
    chunks: Iterator[bytes]


def put_asset(
    store: Store,
    clock: Clock,
    principal: Principal,
    chunks: Iterable[bytes],
    title: str,
    kind: Kind,
    name: str = "",
    media: str = "application/octet-stream",
    retention: Retention | None = None,
) -> Asset:
    """Keep a new asset; `principal` owns it and nobody else can read it. On disk when this returns.

    BadField for a field out of range, VaultError for a full disk, NotAllowedHere for a principal whose
    organisation is not known, has ended or is suspended.
    """
    check_titles(title, name, media)
    kept = checked_retention(kind, retention)
    require_served(store, clock, principal, "asset.add")
    with writing(store):
        staged = stage(store, principal, chunks)
        try:
            settle(store, [staged])
            with store.begin() as conn:
                return enter_asset(store, conn, clock, principal, staged, title, kind, name, media, kept)
        finally:
            discard(store, [staged])


def enter_asset(
    store: Store,
    conn: sa.Connection,
    clock: Clock,
    principal: Principal,
    staged: Staged,
    title: str,
    kind: Kind,
    name: str,
    media: str,
    retention: Retention,
) -> Asset:
    """Rows and leaf of a new asset in the caller's transaction; its content is staged and settled."""
    now, asset = now_in(conn, clock), new_id("ast")
    event = {"kind": "asset.added", "principal": principal.id, "org": principal.org, "asset": asset}
    seq = append(conn, clock, {**event, "size": staged.size})
    row = {"id": asset, "owner": principal.id, "org": principal.org, "kind": str(kind), "size": staged.size}
    new = assets.insert().values(**row, retention=str(retention), created=now, version=1, logged=seq)
    conn.execute(new)
    about = about_of(title, name, media, staged.head)
    _enter_version(store, conn, principal, asset, 1, staged, about, now, seq)
    return Asset(
        asset, principal.id, principal.org, kind, retention, now, 1, staged.size, held=False, deleted=False
    )


def put_version(
    store: Store, clock: Clock, principal: Principal, asset: str, chunks: Iterable[bytes], title: str = ""
) -> int:
    """A new version of an asset, with the old title unless another is given. Its number."""
    with attempt(store, clock, principal, "asset.write", asset), writing(store):
        with store.read() as conn:
            permitted(store, conn, principal, asset, AssetAction.WRITE, now_in(conn, clock))
        staged = stage(store, principal, chunks)
        try:
            settle(store, [staged])
            with store.begin() as conn:
                now = now_in(conn, clock)
                known, _ = permitted(store, conn, principal, asset, AssetAction.WRITE, now)
                old = _entry(store, conn, known, principal).about
                title = title or old.title
                check_titles(title, old.name, old.media)
                number = known.asset.version + 1
                event = {"kind": "asset.version", "principal": principal.id, "org": principal.org}
                seq = append(conn, clock, {**event, "asset": asset, "number": number, "size": staged.size})
                changed = assets.update().where(assets.c.id == asset)
                conn.execute(changed.values(version=number, size=staged.size))
                about = about_of(title, old.name, old.media, staged.head)
                _enter_version(store, conn, principal, asset, number, staged, about, now, seq)
        finally:
            discard(store, [staged])
    return number


def show_asset(store: Store, clock: Clock, principal: Principal, asset: str) -> Entry:
    """What `principal` may know of an asset. NoAsset."""
    found, _, _ = look_at(store, clock, principal, asset, "asset.show")
    audit(store, clock, principal, "asset.show", "answered", asset=asset)
    return found


def look_at(
    store: Store, clock: Clock, principal: Principal, asset: str, action: str, version: int | None = None
) -> tuple[Entry, int, int]:
    """An asset, with the number and size of a version (default: the newest), before more is done with it.

    Only a refusal is written to the log, as `action`.
    """
    with attempt(store, clock, principal, action, asset), store.read() as conn:
        known, _, number = _readable(store, conn, clock, principal, asset, version)
        return _entry(store, conn, known, principal), number, _version(conn, asset, number).size


def versions_of(store: Store, clock: Clock, principal: Principal, asset: str) -> list[Version]:
    """Every version, the newest first; for those who may write. NoAsset, NotAllowedHere."""
    with attempt(store, clock, principal, "asset.versions", asset), store.read() as conn:
        permitted(store, conn, principal, asset, AssetAction.WRITE, now_in(conn, clock))
        v, b = asset_versions.c, asset_blobs.c
        wanted = sa.select(v.number, v.by, v.time, b.size).join(asset_blobs, b.id == v.blob)
        rows = conn.execute(wanted.where(v.asset == asset).order_by(v.number.desc())).all()
    return [Version(*row) for row in rows]


def leave_of(store: Store, clock: Clock, principal: Principal, asset: str) -> tuple[AssetPermit, bool]:
    """By what `principal` may read an asset, and whether they may put new versions too. NoAsset."""
    with attempt(store, clock, principal, "asset.show", asset), store.read() as conn:
        now = now_in(conn, clock)
        known, permit = permitted(store, conn, principal, asset, AssetAction.READ, now)
        return permit, _may(state_in(store, conn), known, principal, now, AssetAction.WRITE)


def read_asset(
    store: Store,
    clock: Clock,
    principal: Principal,
    asset: str,
    version: int | None = None,
    start: int = 0,
    end: int | None = None,
    head: bool = False,
) -> Reading:
    """A version's bytes [start, end), clipped to its size; `head`: about to send none of them.

    Older versions than the newest are for those who may write. NoAsset, OverLimit.
    """
    with attempt(store, clock, principal, "asset.read", asset), store.begin() as conn:
        now = now_in(conn, clock)
        known, permit, number = _readable(store, conn, clock, principal, asset, version)
        row = _version(conn, asset, number)
        start = min(max(0, start), row.size)
        stop = row.size if end is None else min(max(start, end), row.size)
        own = owner_of(known.asset, principal)
        charge(conn, clock, principal, own, asset, number, 0 if head else stop - start, now)
        entry = _entry(store, conn, known, principal)
    pieces = (
        read_range(store, Blob(row.blob, row.size, row.sealed_key), start, stop) if not head else iter(())
    )
    chunks = _while_permitted(store, clock, principal, permit, pieces)
    return Reading(entry, number, row.size, start, stop, chunks)


def list_assets(
    store: Store,
    clock: Clock,
    principal: Principal,
    limit: int = PAGE,
    after: str = "",
    kind: Kind | None = None,
) -> list[Entry]:
    """What `principal` may read, newest first, from behind the asset `after`. Never a count of the rest.

    An `after` that they may not read gives an empty page, as one that does not exist.
    """
    found: list[Entry] = []
    with store.read() as conn:
        now, before = now_in(conn, clock), 1 << 62
        if after:
            start = load(conn, [after]).get(after)
            before = start.placed if start and _may(state_in(store, conn), start, principal, now) else 0
        ids = _candidates(conn, principal, before, kind)
        limit = max(1, min(limit, MOST))
        while len(found) < limit and (some := list(islice(ids, limit))):
            found += entries_of(store, conn, some, principal, now)[: limit - len(found)]
    audit(store, clock, principal, "asset.list", "answered", found=len(found))
    return found


def delete_asset(store: Store, clock: Clock, principal: Principal, asset: str) -> None:
    """Destroy the keys of an asset's contents, then their files. The row stays, without a title.

    Only its owner may, when it was kept as long as its class asks and no legal hold is on it: NotAllowedHere.
    """
    with attempt(store, clock, principal, "asset.delete", asset):
        with store.begin() as conn:
            now = now_in(conn, clock)
            known, _ = permitted(store, conn, principal, asset, AssetAction.MANAGE, now)
            if known.asset.held:
                raise Refused("LEGAL_HOLD", error=NotAllowedHere("a legal hold is on this asset"))
            if now < known.asset.keep_until:
                message = f"it is kept as {known.asset.retention} and its time is not over"
                raise Refused("RETENTION", error=NotAllowedHere(message))
            v = asset_versions.c
            names = set(conn.execute(sa.select(v.blob).where(v.asset == asset)).scalars())
            event = {"kind": "asset.deleted", "principal": principal.id, "org": principal.org, "asset": asset}
            append(conn, clock, event)
            conn.execute(assets.update().where(assets.c.id == asset).values(deleted=now))
            conn.execute(asset_versions.update().where(v.asset == asset).values(about=None))
            gone = [blob for blob in names if not _named(conn, blob)]
            destroyed = asset_blobs.update().where(asset_blobs.c.id.in_(gone))
            conn.execute(destroyed.values(sealed_key=None))
        for blob in gone:
            drop(store, blob)


def hold_asset(store: Store, clock: Clock, principal: Principal, asset: str, reason: str) -> str:
    """Put a legal hold on an asset: nobody deletes it until the hold is released. The hold's id."""
    vault, hold = vault_of(store), new_id("hold")
    with attempt(store, clock, principal, "asset.hold", asset), store.begin() as conn:
        _, now = restricting(store, conn, clock, principal, asset)
        event = {"kind": "asset.held", "principal": principal.id, "asset": asset, "hold": hold}
        append_restriction(conn, clock, event)
        row = {"id": hold, "asset": asset, "by": principal.id, "time": now}
        sealed = seal_text(vault, f"hold {hold}", reason[:1000])
        conn.execute(asset_holds.insert().values(**row, reason=sealed, logged=log_head(conn)[0] - 1))
    return hold


def release_hold(store: Store, clock: Clock, principal: Principal, hold: str) -> None:
    """End a legal hold. NotAllowedHere for anyone but the operator in person; the owner cannot."""
    with attempt(store, clock, principal, "asset.release_hold", hold), store.begin() as conn:
        if not is_operator(principal) or principal.kind != OPERATOR.kind:
            raise Refused("NOT_OPERATOR", error=NotAllowedHere("only the operator in person ends a hold"))
        c = asset_holds.c
        row = conn.execute(sa.select(c.asset, c.released).where(c.id == hold)).first()
        if row is None or row.released is not None:
            raise Refused("UNKNOWN_HOLD", error=NotAllowedHere(f"no hold {hold[:80]!r} in force"))
        event = {"kind": "asset.hold_released", "principal": principal.id, "asset": row.asset, "hold": hold}
        append(conn, clock, event)
        conn.execute(asset_holds.update().where(c.id == hold).values(released=now_in(conn, clock)))


def holds_of(store: Store, clock: Clock, principal: Principal, asset: str) -> list[dict[str, object]]:
    """The holds of one's own asset, with their reasons."""
    vault = vault_of(store)
    with attempt(store, clock, principal, "asset.show", asset), store.read() as conn:
        permitted(store, conn, principal, asset, AssetAction.MANAGE, now_in(conn, clock))
        rows = conn.execute(sa.select(asset_holds).where(asset_holds.c.asset == asset)).all()
    return [
        {
            "id": row.id,
            "by": row.by,
            "since": row.time,
            "released": row.released,
            "reason": open_text(vault, f"hold {row.id}", row.reason),
        }
        for row in rows
    ]


def require_served(store: Store, clock: Clock, principal: Principal, action: str) -> None:
    """NotAllowedHere, and the attempt logged, when nobody of the caller's organisation is served."""
    with attempt(store, clock, principal, action, ""), store.read() as conn:
        if reason := org_refused(state_in(store, conn), principal.org):
            message = "your organisation is not served here"
            raise Refused(
                reason, error=NotAllowedHere(message, "mythos org add NAME --audience CLASS --as PERSON")
            )


def entries_of(
    store: Store, conn: sa.Connection, ids: list[str], principal: Principal, now: float
) -> list[Entry]:
    """Of these assets those that `principal` may read, in the same order."""
    known, state = load(conn, ids), state_in(store, conn)
    fit = [known[one] for one in ids if one in known]
    return _entries(store, conn, [one for one in fit if _may(state, one, principal, now)], principal)


def _candidates(conn: sa.Connection, principal: Principal, before: int, kind: Kind | None) -> Iterator[str]:
    """Ids of what the caller owns or has ever had a share of, newest first. Not yet authorised."""
    a, s = assets.c, asset_shares.c
    own = sa.select(a.logged, a.id).where(a.org == principal.org, a.owner == principal.id)
    own = own.where(a.logged < before, a.deleted.is_(None)).order_by(a.logged.desc())
    shared = sa.select(a.logged, a.id).join(asset_shares, s.asset == a.id)
    shared = shared.where(s.org == principal.org, s.principal.in_(("", principal.id)), s.revoked.is_(None))
    shared = shared.where(s.placed < before, a.deleted.is_(None)).order_by(s.placed.desc())
    if kind is not None:
        own, shared = own.where(a.kind == str(kind)), shared.where(a.kind == str(kind))
    seen = ""
    both = heapq.merge(
        conn.execute(own).yield_per(500), conn.execute(shared).yield_per(500), key=lambda row: -row[0]
    )
    for _, asset in both:
        if asset != seen:  # several shares of one asset follow each other
            yield asset
        seen = asset


def _entry(store: Store, conn: sa.Connection, known: Known, principal: Principal) -> Entry:
    return _entries(store, conn, [known], principal)[0]


def _entries(store: Store, conn: sa.Connection, known: list[Known], principal: Principal) -> list[Entry]:
    vault, v = vault_of(store), asset_versions.c
    wanted = sa.select(v.asset, v.id, v.time, v.about).join(
        assets, sa.and_(assets.c.id == v.asset, assets.c.version == v.number)
    )
    rows = conn.execute(wanted.where(v.asset.in_([k.asset.id for k in known]))).all()
    newest = {row.asset: row for row in rows}
    found = []
    for one in known:
        row = newest[one.asset.id]
        about = open_about(vault, row.id, row.about)
        found.append(Entry(one.asset, about, row.id, row.time, owner_of(one.asset, principal)))
    return found


def _readable(
    store: Store, conn: sa.Connection, clock: Clock, principal: Principal, asset: str, version: int | None
) -> tuple[Known, AssetPermit, int]:
    """The asset, the leave to read it, and the number of the version. Refused."""
    now = now_in(conn, clock)
    known, permit = permitted(store, conn, principal, asset, AssetAction.READ, now)
    number = known.asset.version if version is None else version
    newest = number == known.asset.version
    if not newest and not _may(state_in(store, conn), known, principal, now, AssetAction.WRITE):
        raise Refused(AssetReason.NOT_OWNER, may_know=False)
    return known, permit, number


def _version(conn: sa.Connection, asset: str, number: int) -> sa.Row:
    v, b = asset_versions.c, asset_blobs.c
    wanted = sa.select(v.blob, b.size, b.sealed_key).join(asset_blobs, b.id == v.blob)
    row = conn.execute(wanted.where(v.asset == asset, v.number == number)).first()
    if row is None:
        raise Refused("UNKNOWN_VERSION", may_know=False)
    return row


def _may(
    state: State, known: Known, principal: Principal, now: float, action: AssetAction = AssetAction.READ
) -> bool:
    return isinstance(decide(state, known, principal, action, now), AssetPermit)


def _enter_version(
    store: Store, conn: sa.Connection, principal: Principal, asset: str, number: int, staged: Staged,
    about: About, now: float, seq: int,
) -> None:  # fmt: skip
    version = new_id("ver")
    row = {"asset": asset, "number": number, "id": version, "blob": enter(conn, principal, staged)}
    sealed = seal_about(vault_of(store), version, about)
    conn.execute(asset_versions.insert().values(**row, by=principal.id, time=now, about=sealed, logged=seq))


def _while_permitted(
    store: Store, clock: Clock, principal: Principal, permit: AssetPermit, pieces: Iterator[bytes]
) -> Iterator[bytes]:
    """The pieces, until leave is withdrawn or runs out: then NoAsset, as for the next request."""
    for n, piece in enumerate(pieces):
        if n and n % CHECK_EVERY == 0:
            with attempt(store, clock, principal, "asset.read", permit.asset), store.read() as conn:
                permitted(store, conn, principal, permit.asset, AssetAction.READ, now_in(conn, clock))
        yield piece


def _named(conn: sa.Connection, blob: str) -> bool:
    """Whether a version of an asset that lives still has this content."""
    v = asset_versions.c
    wanted = sa.select(v.asset).join(assets, assets.c.id == v.asset)
    return conn.execute(wanted.where(v.blob == blob, assets.c.deleted.is_(None)).limit(1)).first() is not None
