"""`mythos key new|list|revoke`."""

from dataclasses import asdict

from mythos.cli.local import open_records
from mythos.cli.output import date, emit, json_wanted, note, table
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
    cells = [
        (row.id, row.name, row.org, date(row.created), date(row.revoked) if row.revoked else "")
        for row in rows
    ]
    table(("id", "name", "organisation", "made", "revoked"), cells)
    return 0


def revoke(key_id: str) -> int:
    records = open_records()
    revoke_key(records.store, records.clock, OPERATOR, key_id)
    if json_wanted():
        emit({"id": key_id, "revoked": True})
    else:
        note(f"{key_id} is revoked, from the next request on")
    return 0
