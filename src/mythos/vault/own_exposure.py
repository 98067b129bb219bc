"""What the exposure audit must know of this deployment: addresses, old ones too, titles, files."""

import os
import stat
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from mythos.gate.publications import is_public
from mythos.gate.submit import load_state
from mythos.records.clock import Clock
from mythos.records.ids import new_id
from mythos.records.principal import Principal, require_operator
from mythos.store.db import Store
from mythos.store.tables import asset_shares, asset_versions, assets
from mythos.vault.about import open_about
from mythos.vault.crawl import BODY
from mythos.vault.exposure import Finding, Target
from mythos.vault.keys import vault_of
from mythos.vault.publications import place, public_now

ASSETS, OLD, SHARES = 8, 4, 4  # addresses of each sort that are visited
PHRASE = 60  # characters of a preview that no answer may hold


def vault_target(store: Store, base_url: str, stranger: str = "") -> Target:
    """The listener for assets: nothing answers without a key, no address differs from a made-up one."""
    a, s = assets.c, asset_shares.c
    with store.read() as conn:
        live = sa.select(a.id).where(a.deleted.is_(None)).order_by(a.logged.desc()).limit(ASSETS)
        old = sa.select(a.id).where(a.deleted.is_not(None)).order_by(a.logged.desc()).limit(OLD)
        ids = [*conn.execute(live).scalars(), *conn.execute(old).scalars()]
        shares = conn.execute(sa.select(s.id).order_by(s.logged.desc()).limit(SHARES)).scalars().all()
    known = []
    for asset in ids:
        twin = new_id("ast")
        for form in (
            "/v1/assets/{}",
            "/v1/assets/{}/about",
            "/v1/assets/{}/preview",
            "/v1/assets/{}?version=1",
        ):
            known.append((form.format(asset), form.format(twin)))
    known += [(f"/v1/shares/{share}", f"/v1/shares/{new_id('shr')}") for share in shares]
    seeds = tuple(path for path, _ in known)
    return Target("assets", base_url, tuple(known), {}, stranger, seeds)


def public_target(store: Store, clock: Clock, base_url: str) -> Target:
    """The public area: what is public now may answer; what is not yet, or no longer, is as what never was."""
    state, now = load_state(store), clock.now()
    allowed: dict[str, tuple[bytes, ...]] = {}
    known = []
    for one in state.publications.values():
        found = public_now(store, clock, one.id)
        for end, file in (("", "content"), ("/record", "record.json")):
            if found is not None and is_public(state, one, now):
                allowed[f"/p/{one.id}{end}"] = ((found / file).read_bytes()[:BODY], b"")
            else:
                known.append((f"/p/{one.id}{end}", f"/p/{new_id('pub')}{end}"))
    return Target("public", base_url, tuple(known[-2 * OLD :]), allowed, "", tuple(allowed))


def strays(store: Store, clock: Clock) -> list[Finding]:
    """What lies in the public area and is not public."""
    area = place(store)
    return [
        Finding("public", "stray", "", found.name, "no publication in force puts it there")
        for found in (sorted(area.iterdir()) if area.is_dir() else ())
        if public_now(store, clock, found.name) is None
    ]


def console_target(store: Store, base_url: str, files: Mapping[str, bytes]) -> Target:
    """The web console: without a session every address is the sign-in page; `files` are what it needs."""
    a = assets.c
    with store.read() as conn:
        ids = conn.execute(sa.select(a.id).order_by(a.logged.desc()).limit(ASSETS)).scalars().all()
    known = []
    for asset in ids:
        twin = new_id("ast")
        for form in ("/vault/{}", "/vault/{}/content", "/vault/{}/publish", "/vault?after={}"):
            known.append((form.format(asset), form.format(twin)))
    for request in list(load_state(store).requests)[-OLD:]:
        twin = new_id("pubreq")
        known += [(f"/publications/{request}{end}", f"/publications/{twin}{end}") for end in ("", "/copy")]
    allowed = {path: (body, b"") for path, body in files.items()}
    return Target(
        name="console", base_url=base_url, known=tuple(known), allowed=allowed, seeds=tuple(allowed)
    )


def model_target(base_url: str, tiers: Sequence[str], stranger: str = "") -> Target:
    """The server of tiers: without a key only its health may be asked, and no tier shows that it exists."""
    allowed = {"/healthz": (b'{"status":"ok"}', b""), "/": (b"",), "/api/hello": (b"",)}
    known = [(f"/v1/models/{tier}", f"/v1/models/{_like(tier)}") for tier in tiers]
    return Target("tiers", base_url, tuple(known), allowed, stranger)


def names_within(store: Store, principal: Principal) -> list[str]:
    """Titles, file names, beginnings of texts and addresses: what no answer may hold. In memory only.

    NotAllowed for anyone but the operator in person: the audit knows what it looks for.
    """
    require_operator(principal)
    vault, v, a = vault_of(store), asset_versions.c, assets.c
    names: set[str] = set()
    with store.read() as conn:
        wanted = sa.select(v.asset, v.id, v.about).join(assets, a.id == v.asset).where(v.about.is_not(None))
        for row in conn.execute(wanted).yield_per(1000):
            about = open_about(vault, row.id, row.about)
            names |= {row.asset, about.title, about.name, about.preview[:PHRASE]}
        names |= set(conn.execute(sa.select(asset_shares.c.id)).scalars())
    return sorted(name for name in names if name)


def addresses(store: Store, principal: Principal) -> list[str]:
    """The path of every asset there is. NotAllowed for anyone but the operator in person."""
    require_operator(principal)
    with store.read() as conn:
        return [f"/v1/assets/{one}" for one in conn.execute(sa.select(assets.c.id)).scalars()]


def open_files(store: Store) -> list[Finding]:
    """Files and directories of ours that other users of this machine can read or enter."""
    found = []
    for top in (store.home.path, store.home.keys):
        for folder, _, files in os.walk(top):
            for path in (folder, *(os.path.join(folder, name) for name in files)):
                try:
                    mode = os.lstat(path).st_mode
                except FileNotFoundError:
                    continue
                if not stat.S_ISLNK(mode) and mode & 0o077:
                    shown = os.path.relpath(path, top.parent)
                    found.append(Finding("files", "file", "", shown, f"mode {stat.S_IMODE(mode):04o}"))
    return found


def _like(name: str) -> str:
    """A made-up name of the same length."""
    turned = name[::-1]
    return turned if turned != name else "x" * len(name)
