"""What the vault costs with many assets: a page of the list, a decision, a search, a stream.

    PYTHONPATH=src python bench/vault.py [--assets 100000] [--calls 200] [--stream-mb 512]

A DRILL deployment is made in a temporary directory. Its assets are rows with titles, words and entries in the
log as the vault writes them, but in one transaction, and all with one content. Times include the entry that
each attempt leaves in the log, with its fsync. Prints one JSON object; seconds are wall time, `cpu_` those of
this process (what remains on a busy machine).
"""

import argparse
import json
import random
import resource
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.gate.town import DAY
from tests.vault.world import ACME, READER, VaultTown

from mythos.ledger.log import leaf_hash, ledger
from mythos.records.asset import Kind
from mythos.records.canonical import canonical
from mythos.records.ids import new_id
from mythos.records.principal import OPERATOR
from mythos.store.tables import asset_shares, asset_versions, assets
from mythos.vault.about import about_of, seal_about
from mythos.vault.assets import list_assets, look_at, put_asset, read_asset
from mythos.vault.keys import vault_of
from mythos.vault.search import search_assets

WORDS = [f"word{n}" for n in range(5000)]
SHARED = 1_000
AT_ONCE = 5_000


def fill(town: VaultTown, count: int) -> list[str]:
    """`count` assets of the operator's; every hundredth title says `capybara`, each text has 60 words."""
    draw, vault = random.Random(7), vault_of(town.store)
    first = put_asset(*town.place, [b"the one content"], "first", Kind.DRAFT)
    with town.store.begin() as conn:
        named = asset_versions.select().where(asset_versions.c.asset == first.id)
        blob = conn.execute(named).one().blob
        seq = conn.exec_driver_sql("SELECT max(seq) + 1 FROM ledger").scalar_one()
        ids = []
        for at in range(0, count, AT_ONCE):
            rows: dict[str, list[dict]] = {"ledger": [], "assets": [], "versions": [], "shares": []}
            for n in range(at, min(at + AT_ONCE, count)):
                asset, version = new_id("ast"), new_id("ver")
                text = " ".join(draw.choices(WORDS, k=60)).encode()
                title = f"Draft {n} {'capybara' if n % 100 == 0 else ''}".strip()
                event = canonical({"kind": "asset.added", "asset": asset, "seq": seq, "time": town.now})
                salt = secrets.token_bytes(16)
                leaf = leaf_hash(salt, event)
                rows["ledger"].append(
                    {"seq": seq, "time": town.now, "event": event, "salt": salt, "leaf": leaf}
                )
                own = {"id": asset, "owner": OPERATOR.id, "org": OPERATOR.org, "kind": "draft", "size": 15}
                kept = {"retention": "working", "created": town.now, "version": 1, "logged": seq}
                rows["assets"].append({**own, **kept})
                about = seal_about(vault, version, about_of(title, "", "text/plain", text))
                made = {"asset": asset, "number": 1, "id": version, "blob": blob, "by": OPERATOR.id}
                rows["versions"].append({**made, "time": town.now, "about": about, "logged": seq})
                if n < SHARED:
                    share = {"id": new_id("shr"), "asset": asset, "org": ACME, "principal": "", "placed": seq}
                    span = {"starts_at": town.now, "expires_at": town.now + DAY, "actions": "read"}
                    rows["shares"].append({**share, **span, "parent": "", "by": OPERATOR.id, "logged": seq})
                ids.append(asset)
                seq += 1
            conn.execute(ledger.insert(), rows["ledger"])
            conn.execute(assets.insert(), rows["assets"])
            conn.execute(asset_versions.insert(), rows["versions"])
            if rows["shares"]:
                conn.execute(asset_shares.insert(), rows["shares"])
    return [first.id, *ids]


def measured(calls: int, work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of `calls` calls: median and 95th percentile by the clock, and by this process's CPU."""
    wall, cpu = [], []
    for _ in range(calls):
        began, spent = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
    return {
        "p50_ms": round(statistics.median(wall) * 1e3, 2),
        "p95_ms": round(statistics.quantiles(wall, n=20)[18] * 1e3, 2),
        "cpu_p95_ms": round(statistics.quantiles(cpu, n=20)[18] * 1e3, 2),
    }


def streamed(town: VaultTown, size: int) -> dict[str, float]:
    """MB/s in and out, and by how many MB the peak of this process's memory rises."""
    piece = secrets.token_bytes(1 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, spent = time.perf_counter(), time.process_time()
    asset = put_asset(*town.place, (piece for _ in range(size)), "large", Kind.WEIGHTS)
    within, cpu = time.perf_counter() - began, time.process_time() - spent
    began = time.perf_counter()
    total = sum(len(chunk) for chunk in read_asset(*town.place, asset.id).chunks)
    assert total == size << 20
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    out = time.perf_counter() - began
    return {
        "mb": size,
        "in_mb_s": round(size / within, 1),
        "in_cpu_mb_s": round(size / cpu, 1),
        "out_mb_s": round(size / out, 1),
        "peak_grown_mb": round(grown, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--assets", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--stream-mb", type=int, default=512)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mythos-bench-") as place:
        town = VaultTown(Path(place))
        found: dict[str, object] = {"assets": args.assets, "calls": args.calls, "shared": SHARED}
        found["stream"] = streamed(town, args.stream_mb)
        ids = fill(town, args.assets)
        began, spent = time.perf_counter(), time.process_time()
        search_assets(*town.place, "capybara")
        found["index_s"] = round(time.perf_counter() - began, 2)
        found["index_cpu_s"] = round(time.process_time() - spent, 2)
        draw = random.Random(1)
        mine, theirs = town.place, town.as_(READER)
        common = " ".join(WORDS[:2])
        tries: dict[str, Callable[[], object]] = {
            "list_own": lambda: list_assets(*mine),
            "list_own_deep": lambda: list_assets(*mine, after=draw.choice(ids)),
            "list_shared": lambda: list_assets(*theirs),
            "authorise_own": lambda: look_at(*mine, draw.choice(ids), "asset.show"),
            "search_rare": lambda: search_assets(*mine, f"draft {draw.randrange(args.assets)}"),
            "search_common": lambda: search_assets(*mine, "draft"),
            "search_two_words": lambda: search_assets(*mine, common),
            "search_shared": lambda: search_assets(*theirs, "capybara"),
        }
        for name, work in tries.items():
            found[name] = measured(args.calls, work)
        town.store.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
