"""The database: schema, keys, weights, usage; what is refused, and what several writers do to each other."""

import hashlib
import math
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from mythos.gate.handling import issue_handling
from mythos.records.canonical import RecordError
from mythos.records.clock import ClockError
from mythos.records.principal import OPERATOR, NotAllowed, Principal
from mythos.store import db
from mythos.store.db import Store, StoreError
from mythos.store.keys import (
    create_key,
    list_keys,
    new_secret,
    principal_for_secret,
    revoke_key,
)
from mythos.store.tables import metadata
from mythos.store.usage import UsageRow, record_usage, usage_summary
from mythos.store.weights import decisions_for, register, registered, revoke_decision
from tests.gate.world import ROOT, T0

OUTSIDERS = [
    Principal("key_1", "key", "acme"),
    Principal("operator", "key", "local"),  # an API key of the operator's is for asking, not administering
    Principal("operator", "operator", "acme"),
]


def test_schema_is_the_tables_and_head_is_the_newest_migration(store):
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from mythos.store.migrate import alembic_config

    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [db.HEAD]
    with store.read() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": False})
        assert compare_metadata(context, metadata) == []


def test_settings_of_every_connection(store, home):
    with store.read() as conn:
        found = {
            name: conn.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 15000}
    files = [path for path in home.path.iterdir() if path.name.startswith("mythos.db")]
    assert len(files) == 3  # with the write-ahead log and its index
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


def test_opening_an_existing_store_needs_no_alembic(store, home):
    code = (
        "import sys; from mythos.store.home import Home; from mythos.store.db import Store\n"
        f"Store.open(Home.open({str(home.path)!r})).close(); print('alembic' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_several_processes_make_one_store(home):
    code = (
        "from mythos.store.home import Home; from mythos.store.db import Store\n"
        f"Store.open(Home.open({str(home.path)!r})).close()"
    )
    children = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(4)]
    outcomes = [(child.communicate()[1], child.returncode) for child in children]
    assert outcomes == [(b"", 0)] * 4
    Store.open(home).close()


def test_several_threads_make_several_stores(tmp_path, monkeypatch):
    from mythos.store.home import Home

    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    homes = [Home.open(tmp_path / f"home{n}") for n in range(4)] * 2
    with ThreadPoolExecutor(8) as pool:
        for opened in pool.map(Store.open, homes):
            assert registered(opened) == []
            opened.close()


def test_a_database_that_cannot_be_used_names_its_cure(home):
    home.database.write_bytes(b"not a database, " * 100)
    with pytest.raises(StoreError) as caught:
        Store.open(home)
    assert "backup" in caught.value.cure
    home.database.unlink()
    with Store.open(home).begin() as conn:
        conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="newer") as caught:
        Store.open(home)
    assert "Upgrade" in caught.value.cure


def test_a_truncated_database_names_its_cure(store, home):
    store.close()
    os.truncate(home.database, 6000)
    with pytest.raises(StoreError) as caught:
        Store.open(home)
    assert "backup" in caught.value.cure


def test_a_full_disk_is_an_error_and_writes_nothing(store, clock):
    with store.begin() as conn:
        pages = conn.exec_driver_sql("PRAGMA page_count").scalar()
    store.close()
    event.listen(store.engine, "connect", lambda raw, _: raw.execute(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(StoreError) as caught:
        for _ in range(1000):
            create_key(store, clock, OPERATOR, "x" * 100)
    assert "space" in caught.value.cure
    keys = len(list_keys(store))
    with store.read() as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM ledger").scalar() == keys


def test_a_transaction_is_undone_by_an_error(store, clock):
    with pytest.raises(ZeroDivisionError), store.begin() as conn:
        conn.exec_driver_sql("UPDATE generation SET value = 77")
        _ = 1 / 0
    assert store.glance()[0] == 0


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM api_keys",
        "DELETE FROM decisions",
        "UPDATE api_keys SET org = 'local'",
        "UPDATE api_keys SET secret_hash = x'00'",
        "UPDATE api_keys SET revoked = NULL WHERE revoked IS NOT NULL",
        "UPDATE decisions SET revoked = NULL WHERE revoked IS NOT NULL",
        "UPDATE decisions SET envelope = x'00'",
        "INSERT OR REPLACE INTO api_keys"
        " SELECT id, name, 'local', secret_hash, created, NULL, purpose FROM api_keys",
        "INSERT OR REPLACE INTO decisions SELECT id, weights, envelope, logged, NULL FROM decisions",
        "DELETE FROM weights",
        "INSERT INTO decisions VALUES ('dec_x', 99, x'00', 0, NULL)",
    ],
)
def test_what_the_database_itself_refuses(store, clock, built, home, statement):
    key, _ = create_key(store, clock, OPERATOR, "one", "acme")
    revoke_key(store, clock, OPERATOR, key.id)
    with store.read() as conn:
        decision = conn.exec_driver_sql("SELECT id FROM decisions").scalar_one()
    revoke_decision(store, clock, OPERATOR, decision, "test")
    with pytest.raises(IntegrityError), store.begin() as conn:
        conn.exec_driver_sql(statement)


def test_keys(store, clock, time):
    own, own_secret = create_key(store, clock, OPERATOR, "laptop")
    time.now += 1
    theirs, their_secret = create_key(store, clock, OPERATOR, "partner", "acme")
    assert own_secret.startswith("sk-mythos-") and len(own_secret) == len("sk-mythos-") + 43
    assert principal_for_secret(store, own_secret) == Principal("operator", "key", "local")
    assert principal_for_secret(store, their_secret) == Principal(
        theirs.id, "key", "acme", {"purpose": "local_tryout"}
    )
    assert list_keys(store) == [own, theirs]
    assert (own.org, own.created, theirs.created) == ("local", T0, T0 + 1)
    revoke_key(store, clock, OPERATOR, theirs.id)
    assert principal_for_secret(store, their_secret) is None
    assert principal_for_secret(store, own_secret) is not None  # control
    revoke_key(store, clock, OPERATOR, theirs.id)
    assert [key.revoked for key in list_keys(store)] == [None, T0 + 1]


def test_no_secret_is_stored(store, clock, home):
    _, secret = create_key(store, clock, OPERATOR, "laptop")
    assert principal_for_secret(store, secret)
    for path in home.path.iterdir():
        if path.is_file():
            assert secret.encode() not in path.read_bytes()
            assert secret.removeprefix("sk-mythos-").encode() not in path.read_bytes()


def test_nothing_but_the_secret_opens(store, clock):
    row, secret = create_key(store, clock, OPERATOR, "laptop")
    digest = hashlib.sha256(secret.encode()).hexdigest()
    wrong = [
        "",
        row.id,
        row.name,
        digest,
        secret[:-1],
        secret + "a",
        secret.upper(),
        " " + secret,
        secret + "\0",
    ]
    for text in [*wrong, new_secret(), "\ud800", "x" * 10**6, "' OR 1=1 --", "%"]:
        assert principal_for_secret(store, text) is None
    assert principal_for_secret(store, secret) is not None  # control


@pytest.mark.parametrize("org", ["", "Local", "LOCAL", "a b", "é", "-a", "a" * 64, "local\n", "../x"])
def test_bad_organisations(store, clock, org):
    with pytest.raises(StoreError):
        create_key(store, clock, OPERATOR, "x", org)
    assert list_keys(store) == []


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x1b[31m", "x" * 101])
def test_bad_key_names(store, clock, name):
    with pytest.raises(StoreError):
        create_key(store, clock, OPERATOR, name)


def test_unknown_ids_are_errors(store, clock):
    with pytest.raises(StoreError, match="no key"):
        revoke_key(store, clock, OPERATOR, "key_x")
    with pytest.raises(StoreError, match="no decision"):
        revoke_decision(store, clock, OPERATOR, "dec_x", "")


@pytest.mark.parametrize("who", OUTSIDERS)
def test_only_the_operator_in_person_administers(store, clock, home, built, who):
    key, secret = create_key(store, clock, OPERATOR, "one")
    envelope = issue_handling(home, clock, "pocket", "haiku", ROOT)
    with store.read() as conn:
        decision = conn.exec_driver_sql("SELECT id FROM decisions").scalar_one()
    before = store.glance()[0]
    for attempt in (
        lambda: create_key(store, clock, who, "two"),
        lambda: revoke_key(store, clock, who, key.id),
        lambda: register(store, clock, who, "pocket", "haiku", ROOT, {}, envelope),
        lambda: revoke_decision(store, clock, who, decision, ""),
    ):
        with pytest.raises(NotAllowed):
            attempt()
    assert store.glance()[0] == before
    register(store, clock, OPERATOR, "pocket", "haiku", ROOT, {}, envelope)  # control
    assert store.glance()[0] > before


def test_register(store, clock, home, built, time):
    (row,) = registered(store)
    assert (row.family, row.tier, row.root, row.created) == ("pocket", "opus", ROOT, T0)
    assert row.lineage == {"source": "test"}
    assert len(decisions_for(store, "pocket", "opus")) == 1
    assert decisions_for(store, "pocket", "haiku") == decisions_for(store, "other", "opus") == []
    time.now += 10
    other = "cd" * 32
    register(
        store,
        clock,
        OPERATOR,
        "pocket",
        "opus",
        other,
        {},
        issue_handling(home, clock, "pocket", "opus", other),
    )
    assert [row.root for row in registered(store)] == [ROOT, other]
    again = issue_handling(home, clock, "pocket", "opus", ROOT)
    register(store, clock, OPERATOR, "pocket", "opus", ROOT, {"source": "again"}, again)
    assert [row.root for row in registered(store)] == [other, ROOT]
    assert registered(store)[-1].lineage == {"source": "again"}
    assert decisions_for(store, "pocket", "opus")[-1] == again


def test_register_refuses_a_decision_about_something_else(store, clock, home, tmp_path, monkeypatch):
    envelope = issue_handling(home, clock, "pocket", "opus", ROOT)
    for wrong in (("pocket", "haiku", ROOT), ("other", "opus", ROOT), ("pocket", "opus", "cd" * 32)):
        with pytest.raises(StoreError, match="other weights"):
            register(store, clock, OPERATOR, *wrong, {}, envelope)
    with pytest.raises(RecordError):
        register(store, clock, OPERATOR, "pocket", "opus", ROOT, {}, b"{}")
    (home.keys / "operator.key").rename(tmp_path / "old.key")
    foreign = issue_handling(home, clock, "pocket", "opus", ROOT)  # by a new key
    (tmp_path / "old.key").rename(home.keys / "operator.key")
    with pytest.raises(RecordError, match="not trusted"):
        register(store, clock, OPERATOR, "pocket", "opus", ROOT, {}, foreign)
    assert registered(store) == []
    register(store, clock, OPERATOR, "pocket", "opus", ROOT, {}, envelope)  # control
    with pytest.raises(IntegrityError):  # the same decision twice
        register(store, clock, OPERATOR, "pocket", "opus", ROOT, {}, envelope)


def test_a_clock_behind_stops_what_gives_but_not_what_takes(store, clock, time, home, built):
    key, _ = create_key(store, clock, OPERATOR, "one")
    envelope = issue_handling(home, clock, "pocket", "haiku", ROOT)
    time.now -= 61
    with pytest.raises(ClockError):
        create_key(store, clock, OPERATOR, "two")
    with pytest.raises(ClockError):
        register(store, clock, OPERATOR, "pocket", "haiku", ROOT, {}, envelope)
    with pytest.raises(ClockError):
        issue_handling(home, clock, "pocket", "haiku", ROOT)
    revoke_key(store, clock, OPERATOR, key.id)
    assert list_keys(store)[0].revoked == T0


def usage_of(request: str, org: str = "local", **changes) -> UsageRow:
    fields = {
        "tier": "opus",
        "input_tokens": 10,
        "cached_tokens": 4,
        "output_tokens": 3,
        "cost": 0.5,
        "finish": "end",
        "seconds": 0.25,
    }
    return UsageRow(request, org, **{**fields, **changes})


def test_usage_by_organisation_tier_and_day(store, clock, time):
    acme = Principal("key_1", "key", "acme")
    record_usage(store, clock, OPERATOR, usage_of("req_1"))
    record_usage(store, clock, OPERATOR, usage_of("req_2", tier="haiku"))
    record_usage(store, clock, acme, usage_of("req_3", "acme"))
    time.now += 12 * 3600 - 0.5  # the last half second of the day
    record_usage(store, clock, OPERATOR, usage_of("req_4", cached_tokens=0))
    time.now += 0.5
    record_usage(store, clock, OPERATOR, usage_of("req_5"))
    rows = usage_summary(store)
    assert [(r.org, r.tier, r.day, r.requests) for r in rows] == [
        ("acme", "opus", "2026-05-01", 1),
        ("local", "haiku", "2026-05-01", 1),
        ("local", "opus", "2026-05-01", 2),
        ("local", "opus", "2026-05-02", 1),
    ]
    two = rows[2]
    assert (two.input_tokens, two.cached_tokens, two.output_tokens, two.cost, two.seconds) == (
        20,
        4,
        6,
        1.0,
        0.5,
    )
    assert usage_summary(store, "acme") == rows[:1]
    assert usage_summary(store, "nobody") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"input_tokens": -1},
        {"cached_tokens": 11},
        {"output_tokens": -1},
        {"cost": -0.1},
        {"cost": math.nan},
        {"seconds": -1.0},
        {"request_id": "req_1"},
        {"org": "acme"},
    ],
)
def test_bad_usage_is_refused(store, clock, changes):
    record_usage(store, clock, OPERATOR, usage_of("req_1"))
    row = usage_of(changes.pop("request_id", "req_2"), changes.pop("org", "local"), **changes)
    with pytest.raises(StoreError):
        record_usage(store, clock, OPERATOR, row)
    assert sum(total.requests for total in usage_summary(store)) == 1


def test_generation_counts_every_change_of_the_registry(store, clock, home, built):
    seen = [store.glance()[0]]
    record_usage(store, clock, OPERATOR, usage_of("req_1"))
    assert store.glance()[0] == seen[-1]  # not the traffic
    key, _ = create_key(store, clock, OPERATOR, "one")
    seen.append(store.glance()[0])
    revoke_key(store, clock, OPERATOR, key.id)
    seen.append(store.glance()[0])
    register(
        store,
        clock,
        OPERATOR,
        "pocket",
        "opus",
        ROOT,
        {},
        issue_handling(home, clock, "pocket", "opus", ROOT),
    )
    seen.append(store.glance()[0])
    with store.read() as conn:
        decision = conn.exec_driver_sql("SELECT id FROM decisions").scalars().first()
    revoke_decision(store, clock, OPERATOR, decision, "a critical finding")
    seen.append(store.glance()[0])
    assert seen == sorted(set(seen))
    assert len(decisions_for(store, "pocket", "opus")) == 1


def test_many_threads(store, clock):
    def work(n: int) -> str:
        key, secret = create_key(store, clock, OPERATOR, f"key {n}", "acme")
        assert principal_for_secret(store, secret) == Principal(
            key.id, "key", "acme", {"purpose": "local_tryout"}
        )
        if n % 2:
            revoke_key(store, clock, OPERATOR, key.id)
            assert principal_for_secret(store, secret) is None
        return key.id

    with ThreadPoolExecutor(24) as pool:  # more than the pool of connections
        made = set(pool.map(work, range(48)))
    rows = list_keys(store)
    assert {row.id for row in rows} == made
    assert sum(row.revoked is not None for row in rows) == 24


def test_a_glance_names_the_cure_of_a_broken_file(store):
    assert store.glance() == (0, 0.0)
    store.close()
    for name in ("", "-wal", "-shm"):
        store.home.database.with_name(store.home.database.name + name).unlink(missing_ok=True)
    store.home.database.write_bytes(b"no database at all" * 500)
    with pytest.raises(StoreError) as caught:
        store.glance()
    assert "backup" in caught.value.cure
