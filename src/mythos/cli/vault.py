"""`mythos vault`: what the operator does with assets at the command line."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mythos.cli.local import Records, open_records
from mythos.cli.output import CommandError, Exit, date, emit, json_wanted, note, printable, show, table
from mythos.records.asset import AssetAction, Kind, Retention
from mythos.records.principal import OPERATOR
from mythos.vault import assets, shares
from mythos.vault.assets import Entry
from mythos.vault.blobs import PART, sweep
from mythos.vault.egress import Egress, set_limit
from mythos.vault.search import search_assets

DAY = 86_400.0


def opened() -> tuple[Records, tuple[Any, Any, Any]]:
    """This machine's records, and (store, clock, principal) as every function of the vault begins."""
    records = open_records()
    sweep(records.store)
    return records, (records.store, records.clock, OPERATOR)


def run_add(
    file: Path, title: str | None, kind: Kind, retention: Retention | None, replace: str | None
) -> int:
    _, place = opened()
    name = "" if str(file) == "-" else file.name
    if replace is not None:
        number = assets.put_version(*place, replace, _content(file), title or "")
        return _said({"id": replace, "version": number}, f"{replace} has version {number}")
    title = title or name
    if not title:
        raise CommandError("what comes from stdin needs a title", "--title TEXT", Exit.USAGE)
    import mimetypes

    media = mimetypes.guess_type(name)[0] or "application/octet-stream"
    made = assets.put_asset(*place, _content(file), title, kind, name, media, retention)
    return _said({"id": made.id, "version": 1, "size": made.size, "retention": made.retention}, made.id)


def run_list(limit: int, after: str, kind: Kind | None) -> int:
    _, place = opened()
    return _entries(assets.list_assets(*place, limit, after, kind), "nothing yet: mythos vault add FILE")


def run_search(query: str, limit: int) -> int:
    _, place = opened()
    return _entries(search_assets(*place, query, limit), "nothing that you may read has these words")


def run_show(asset: str) -> int:
    _, place = opened()
    entry = assets.show_asset(*place, asset)
    readers = shares.readers_of(*place, asset) if entry.mine else []
    holds = assets.holds_of(*place, asset) if entry.mine else []
    if json_wanted():
        emit({**_row(entry), "readers": [asdict(one) for one in readers], "holds": holds})
        return 0
    about = entry.asset
    kept = f", kept until {date(about.keep_until)}" if about.keep_until > about.created else ""
    show(printable(entry.about.title))
    show(f"{about.id}  {about.kind}, {about.size} bytes, version {about.version}{kept}")
    rows = [
        (
            one.share or "owner",
            one.org,
            one.principal or "any key",
            ", ".join(one.actions),
            date(one.since),
            date(one.until) if one.until else "",
            "" if one.live else "ended",
        )
        for one in readers
    ]
    if rows:
        table(("why", "organisation", "who", "may", "since", "until", ""), rows)
    for hold in holds:
        if hold["released"] is None:
            show(f"legal hold {hold['id']}: {printable(str(hold['reason']))}")
    return 0


def run_get(asset: str, out: Path, version: int | None) -> int:
    _, place = opened()
    reading = assets.read_asset(*place, asset, version)
    if str(out) == "-":
        for piece in reading.chunks:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return 0
    draft = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for piece in reading.chunks:
                file.write(piece)
        os.replace(draft, out)
    except OSError as error:
        raise CommandError(f"cannot write {out}: {error.strerror}", "name another file with --out") from None
    finally:
        draft.unlink(missing_ok=True)
    facts = {"id": asset, "version": reading.version, "size": reading.size, "file": str(out)}
    return _said(facts, f"{reading.size} bytes in {out}, readable to you alone")


def run_share(
    asset: str, org: str, days: float, principal: str, actions: tuple[AssetAction, ...], parent: str
) -> int:
    records, place = opened()
    until = records.clock.now() + days * DAY
    made = shares.share_asset(*place, asset, org, until, principal, actions, None, parent)
    return _said(asdict(made), f"{made.id}: {org} may {', '.join(actions)} until {date(until)}")


def run_revoke(share: str) -> int:
    _, place = opened()
    if share.startswith("ast_"):
        count = shares.revoke_all(*place, share)
        return _said({"id": share, "revoked": count}, f"{count} shares of {share} are ended")
    shares.revoke_share(*place, share)
    return _said({"id": share, "revoked": 1}, f"{share} is ended")


def run_hold(asset: str, reason: str, release: bool) -> int:
    _, place = opened()
    if release:
        assets.release_hold(*place, asset)
        return _said({"hold": asset, "released": True}, f"{asset} is released")
    if not reason:
        raise CommandError("a legal hold needs a reason", "--reason TEXT", Exit.USAGE)
    made = assets.hold_asset(*place, asset, reason)
    return _said({"id": asset, "hold": made}, f"{made}: nobody deletes {asset}")


def run_delete(asset: str) -> int:
    _, place = opened()
    assets.delete_asset(*place, asset)
    return _said({"id": asset, "deleted": True}, f"{asset} is gone, with its keys")


def run_limit(principal: str, org: str, reads: int, gigabytes: float) -> int:
    _, place = opened()
    limit = Egress(reads, int(gigabytes * 1e9))
    set_limit(*place, org, principal, limit)
    return _said(
        {"principal": principal, **asdict(limit)}, f"{principal}: {reads} reads, {gigabytes:g} GB a day"
    )


def run_serve(port: int) -> int:
    from mythos.serve.apart import running
    from mythos.serve.listening import bind
    from mythos.serve.vault_app import create_vault_app
    from mythos.serve.vault_front import VaultService
    from mythos.store.listeners import announced

    records, _ = opened()
    app = create_vault_app(VaultService(records.store, records.clock))
    with (
        bind("127.0.0.1", port) as listener,
        running(app, listener) as base_url,
        announced(records.home, "assets", base_url),
    ):
        if json_wanted():
            emit({"base_url": base_url, "pid": os.getpid()})
        else:
            show(f"assets at {base_url}, for the keys of `mythos key new`; Ctrl-C stops")
        # Blocked and waited for, not handled: the server's own thread never sees a signal.
        signal.sigwait({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    return 0


def _content(file: Path) -> Iterator[bytes]:
    try:
        if str(file) == "-":
            yield from iter(lambda: sys.stdin.buffer.read(PART), b"")
            return
        with open(file, "rb") as source:
            yield from iter(lambda: source.read(PART), b"")
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}", "name a file that you can read") from None


def _entries(found: list[Entry], empty: str) -> int:
    if json_wanted():
        emit({"assets": [_row(entry) for entry in found], "after": found[-1].asset.id if found else None})
    elif not found:
        note(empty)
    else:
        rows = [
            (e.asset.id, e.about.title, e.asset.kind, e.asset.size, date(e.changed), e.asset.org)
            for e in found
        ]
        table(("id", "title", "kind", "bytes", "changed", "of"), rows)
    return 0


def _row(entry: Entry) -> dict[str, Any]:
    about = asdict(entry.about)
    about.pop("words")
    asset = asdict(entry.asset)
    return {**asset, **about, "changed": entry.changed, "mine": entry.mine}


def _said(facts: dict[str, Any], text: str) -> int:
    emit(facts) if json_wanted() else show(text)
    return 0
