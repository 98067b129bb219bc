"""`mythos doctor` on the vault: its key, what lies sealed, who listens where, and the last exposure audit."""

import json
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import sqlalchemy as sa

from mythos.cli import local
from mythos.cli.findings import FAIL, OK, WARN, Finding
from mythos.ledger.log import ledger
from mythos.records.clock import Clock
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.listeners import listeners
from mythos.store.tables import asset_blobs, asset_versions, assets
from mythos.vault.about import open_about
from mythos.vault.blobs import Blob, blob_path, part_sizes, read_range
from mythos.vault.crawl import LOOPBACK
from mythos.vault.keys import vault_of, vault_place
from mythos.vault.own_exposure import open_files, strays

OPENED = 5  # newest versions that are decrypted
FRESH = 7.0  # days that an audit is believed
DAY = 86_400.0


def vault() -> Iterator[Finding]:
    """Nothing is made or changed here: without a vault there is one finding."""
    records = local.open_records()
    store = records.store
    if not (vault_place(store.home) / "key").exists():
        yield Finding("vault", OK, "none yet: mythos vault add FILE")
        return
    yield sealed(store)
    yield private(store, records.clock)
    yield listening(store.home)
    yield last_audit(store, records.clock)


def sealed(store: Store) -> Finding:
    """Every content has its file, and the newest versions open with the keys that are there. VaultError."""
    keys, b, v = vault_of(store), asset_blobs.c, asset_versions.c
    with store.read() as conn:
        count = conn.execute(sa.select(sa.func.count()).where(assets.c.deleted.is_(None))).scalar_one()
        blobs = conn.execute(sa.select(b.id, b.size).where(b.sealed_key.is_not(None))).all()
        newest = sa.select(v.id, v.about, b.id.label("blob"), b.size, b.sealed_key).join(
            asset_blobs, b.id == v.blob
        )
        newest = newest.where(v.about.is_not(None), b.sealed_key.is_not(None)).order_by(v.logged.desc())
        versions = conn.execute(newest.limit(OPENED)).all()
    missing = [row.id for row in blobs if not blob_path(keys, row.id).is_file()]
    if missing:
        detail = f"{len(missing)} of {len(blobs)} contents are gone, {missing[0]} among them"
        return Finding("vault", FAIL, detail, "restore the data directory from a backup")
    for row in versions:
        open_about(keys, row.id, row.about)
        end = min(row.size, part_sizes(row.size)[0])
        for _ in read_range(store, Blob(row.blob, row.size, row.sealed_key), 0, end):
            pass
    where = "the command in MYTHOS_KMS" if os.environ.get("MYTHOS_KMS") else f"the key in {store.home.keys}"
    detail = f"{count} assets, {len(blobs)} contents sealed under {where}; the {len(versions)} newest open"
    return Finding("vault", OK, detail)


def private(store: Store, clock: Clock) -> Finding:
    """No file of ours is open to other users, and nothing lies in the public area that is not public."""
    found = [*open_files(store), *strays(store, clock)]
    if found:
        detail = f"{len(found)} open to others or out of place: {found[0].path} ({found[0].detail})"
        return Finding("vault files", FAIL, detail, "mythos vault audit, which closes them")
    return Finding("vault files", OK, "all private, and nothing stray in the public area")


def listening(home: Home) -> Finding:
    """Which listeners run, and where they are bound."""
    found = listeners(home)
    shown = ", ".join(f"{name} at {url}" for name, url in found)
    away = [url for _, url in found if urlsplit(url).hostname not in LOOPBACK]
    if away:
        return Finding("vault listeners", FAIL, f"not on loopback: {', '.join(away)}", "stop it")
    return Finding("vault listeners", OK, f"{shown}, on loopback" if shown else "none runs")


def last_audit(store: Store, clock: Clock) -> Finding:
    """How old the last exposure audit is, and what came of it, by the log."""
    c = ledger.c
    wanted = sa.select(c.time, c.event).order_by(c.seq.desc()).limit(1)
    wanted = wanted.where(sa.func.instr(c.event, b'"action":"vault.audit"') > 0)
    with store.read() as conn:
        row = conn.execute(wanted).first()
    if row is None:
        return Finding("vault audit", WARN, "never run", "mythos vault audit")
    event, days = json.loads(row.event), (clock.now() - row.time) / DAY
    facts, outcome = event["facts"], event["outcome"]
    canary = ", ".join(facts.get("canary", ())) or "not"
    told = f"{days:.1f} days ago, {outcome}; its canary was found: {canary}"
    if outcome != "clean":
        return Finding("vault audit", FAIL, told, "mythos vault audit, and mend what it names")
    if days > FRESH:
        return Finding("vault audit", WARN, told, "mythos vault audit")
    return Finding("vault audit", OK, told)
