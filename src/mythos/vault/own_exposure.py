"""What the exposure audit must know of this deployment: addresses, old ones too, titles, files."""

import os
import stat
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import sqlalchemy as sa

from mythos.gate.publications import is_public
from mythos.gate.submit import load_state
from mythos.records.clock import Clock
from mythos.records.ids import new_id
from mythos.records.principal import Principal, require_operator
from mythos.store.db import Store
from mythos.store.tables import asset_shares, asset_versions, assets
from mythos.vault.about import About, open_about, words_of
from mythos.vault.crawl import BODY
from mythos.vault.exposure import Finding, Target
from mythos.vault.keys import vault_of
from mythos.vault.publications import lay_out, place, public_now

ASSETS, OLD, SHARES = 4, 2, 2  # addresses of each sort that are visited
CLOSELY = 3  # of them, in every form
# What derives from an asset, or reads an address otherwise than the check before it did.
FORMS = (
    "/v1/assets/{}/thumbnail",
    "/v1/assets/{}/snippet",
    "/v1/assets/{}/content",
    "/v1/assets/{}/download",
    "/v1/assets/{}/versions",
    "/v1/assets/{}/shares",
    "/v1/assets/{}/",
    "/v1/assets/{}.json",
    "/v1/assets/{}?key=x",
    "/v1/assets/{}?public=1",
    "/v1/assets/{}%00",
    "/v1/assets/{};a=b",
    "/v1/assets/./{}",
    "/v1/assets/x/../{}",
    "/v1/assets/%2e%2e/assets/{}",
    "/v1//assets/{}",
    "//v1/assets/{}",
    "/V1/Assets/{}",
    "/%76%31/assets/{}",
    "/assets/{}",
    "/files/{}",
    "/drafts/{}",
    "/public/{}",
    "/preview/{}",
    "/thumbnails/{}",
    "/thumbnails/{}.png",
    "/cache/{}",
    "/share/{}",
    "/p/{}",
    "/{}",
)
NOTHING = b'{"assets":[],"after":null}'
EMPTY = {"/v1/assets": NOTHING, "/v1/assets/search?q=draft": NOTHING}
NO_TIERS = {"/v1/models": b'{"object":"list","data":[]}'}
PLACES = ("/", "/drafts/", "/blog/", "/posts/", "/files/", "/uploads/", "/images/", "/v1/assets/", "/p/")
PHRASE = 60  # characters of a preview that no answer may hold


def vault_target(store: Store, base_url: str, stranger: str = "") -> Target:
    """The listener for assets: nothing answers without a key, no address differs from a made-up one.

    Needs the keys of the vault: it also asks for words of titles, and guesses addresses from titles.
    """
    a, v, s = assets.c, asset_versions.c, asset_shares.c
    with store.read() as conn:
        live = sa.select(a.id, a.version).where(a.deleted.is_(None)).order_by(a.logged.desc()).limit(ASSETS)
        newest = {row.id: row.version for row in conn.execute(live)}
        old = sa.select(a.id).where(a.deleted.is_not(None)).order_by(a.logged.desc()).limit(OLD)
        gone = conn.execute(old).scalars().all()
        shares = conn.execute(sa.select(s.id).order_by(s.logged.desc()).limit(SHARES)).scalars().all()
        wanted = sa.select(v.asset, v.number, v.id, v.about).where(v.asset.in_(newest), v.about.is_not(None))
        versions = [row for row in conn.execute(wanted) if newest[row.asset] == row.number]
    abouts = [open_about(vault_of(store), row.id, row.about) for row in versions]
    plain = "/v1/assets/{}"
    known = _twins((plain, plain + "/about", plain + "/preview", plain + "?version=1"), [*newest, *gone])
    known += [(f"/v1/shares/{share}", f"/v1/shares/{new_id('shr')}") for share in shares]
    also = _twins(FORMS, [*list(newest)[:CLOSELY], *gone[:1]])
    words = {word for about in abouts[:CLOSELY] for word in words_of(about.title)[:1]}
    also += [(f"/v1/assets/search?q={quote(w)}", f"/v1/assets/search?q={_like(quote(w))}") for w in words]
    tags = {plain.format(row.asset): f'"{row.id}"' for row in versions}
    guessed = [path for about in abouts[:CLOSELY] for path in guesses(about)]
    seeds = (*(path for path, _ in known), *guessed)
    return Target("assets", base_url, tuple(known), tuple(also), tags, {}, stranger, EMPTY, seeds, ours=True)


def guesses(about: About) -> list[str]:
    """Where outsiders look for a thing of which they have heard: addresses made from its title and name."""
    slug = "-".join(words_of(about.title))
    last = [slug, f"{slug}.html", f"{slug}.txt", f"{slug}.json", slug.replace("-", "_"), quote(about.name)]
    found = [place + name for place in PLACES for name in last if name]
    return list(dict.fromkeys([*found, "/" + quote(about.title)]))


def public_target(store: Store, clock: Clock, base_url: str) -> Target:
    """The public area: what is public now may answer; what is not yet, or no longer, is as what never was."""
    state, now = load_state(store), clock.now()
    allowed: dict[str, tuple[bytes, ...]] = {}
    known = []
    for one in state.publications.values():
        found = public_now(store, clock, one.id)
        for end, file in (("", "content"), ("/record", "record.json")):
            if found is not None and is_public(state, one, now):
                with open(found / file, "rb") as source:
                    allowed[f"/p/{one.id}{end}"] = (source.read(BODY), b"")
            else:
                known.append((f"/p/{one.id}{end}", f"/p/{new_id('pub')}{end}"))
    known = known[-2 * OLD :]
    also = [(f"/p/{r.id}", f"/p/{new_id('pubreq')}") for r in list(state.requests.values())[-OLD:]]
    with store.read() as conn:
        newest = sa.select(assets.c.id).order_by(assets.c.logged.desc()).limit(CLOSELY)
        also += _twins(("/p/{}", "/v1/assets/{}", "/{}"), conn.execute(newest).scalars().all())
    seeds = (*allowed, *(path for path, _ in known))
    return Target("public", base_url, tuple(known), tuple(also), {}, allowed, "", {}, seeds, ours=True)


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
    seeds = tuple(allowed)
    return Target("console", base_url, tuple(known), allowed=allowed, seeds=seeds, ours=True)


def model_target(base_url: str, tiers: Sequence[str], stranger: str = "") -> Target:
    """The server of tiers: without a key only its health may be asked, and no tier shows that it exists."""
    allowed = {"/healthz": (b'{"status":"ok"}', b""), "/": (b"",), "/api/hello": (b"",)}
    known = [(f"/v1/models/{tier}", f"/v1/models/{_like(tier)}") for tier in tiers]
    return Target("tiers", base_url, tuple(known), (), {}, allowed, stranger, NO_TIERS, ours=True)


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


def close(store: Store, clock: Clock, principal: Principal, findings: Sequence[Finding]) -> int:
    """Close files that `open_files` found, and clear the public area of strays; how many there were."""
    done = 0
    for finding in findings:
        if finding.what == "file":
            for top in (store.home.path, store.home.keys):
                path = top.parent / finding.path
                if path.is_relative_to(top) and path.exists() and not path.is_symlink():
                    path.chmod(0o700 if path.is_dir() else 0o600)
            done += 1
    if any(finding.what == "stray" for finding in findings):
        lay_out(store, clock, principal)
        done += sum(finding.what == "stray" for finding in findings)
    return done


def _twins(forms: Sequence[str], ids: Sequence[str]) -> list[tuple[str, str]]:
    """Each address in each form, with that of an asset that does not exist."""
    pairs = [(one, new_id("ast")) for one in ids]
    return [(form.format(one), form.format(twin)) for one, twin in pairs for form in forms]


def _like(name: str) -> str:
    """A made-up name of the same length."""
    turned = name[::-1]
    return turned if turned != name else "x" * len(name)
