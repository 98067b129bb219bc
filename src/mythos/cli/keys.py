"""`mythos key new|list|revoke`."""

import time
from dataclasses import asdict

from mythos.cli.local import open_records
from mythos.cli.output import emit, json_wanted, note, show
from mythos.records.decision import LOCAL_PURPOSE
from mythos.records.principal import LOCAL_ORG, OPERATOR
from mythos.store.keys import create_key, list_keys, revoke_key


def new(name: str, org: str | None, purpose: str | None) -> int:
    records = open_records()
    row, secret = create_key(records.store, records.clock, OPERATOR, name, org, purpose or LOCAL_PURPOSE)
    if json_wanted():
        emit({**asdict(row), "secret": secret})
    else:
        note(f"key {row.id} ({row.name}) of {row.org}; the secret is shown this once:")
        print(secret)
    if row.org != LOCAL_ORG:
        note(f"note: this key sees no tier until a release decision admits {row.org}")
    return 0


def listing() -> int:
    rows = list_keys(open_records().store)
    if json_wanted():
        emit({"keys": [asdict(row) for row in rows]})
        return 0
    if not rows:
        note("no keys yet: mythos key new NAME")
        return 0
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("id", "name", "organisation", "made", "revoked", box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(row.id, row.name, row.org, date(row.created), date(row.revoked) if row.revoked else "")
    show(table)
    return 0


def revoke(key_id: str) -> int:
    records = open_records()
    revoke_key(records.store, records.clock, OPERATOR, key_id)
    if json_wanted():
        emit({"id": key_id, "revoked": True})
    else:
        note(f"{key_id} is revoked, from the next request on")
    return 0


def date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
