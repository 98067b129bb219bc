"""Times of proofs and of publishing on a ledger of a million events, in a temporary directory.

    python bench/ledger_proofs.py [--leaves 1000000] [--proofs 300]

The events are synthetic and inserted straight into the table, in one transaction, with true salts and leaves;
the append rate is that of `mythos.ledger.log.append` with one transaction for each event, measured apart.
Proofs read tiles from the page cache; each is checked against the signed head within the time it is given.
"""

import argparse
import json
import random
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.ledger import heads
from mythos.ledger.log import append, last_time, leaf_hash, ledger
from mythos.ledger.tiles import Tiles
from mythos.records.clock import Clock
from mythos.records.note import LOG, TreeHead, Verifier, sign_head
from mythos.records.tlog import consistency_holds, consistency_path
from mythos.store.db import Store
from mythos.store.home import Home

ORIGIN = "bench.example/log"


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def shown(name: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    p99 = ordered[int(len(ordered) * 0.99)]
    print(f"{name}: median {median(ordered) * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms (n={len(ordered)})")


def fill(store: Store, start: int, count: int, now: float) -> None:
    with store.begin() as conn:
        for low in range(start, start + count, 10_000):
            rows = []
            for seq in range(low, min(low + 10_000, start + count)):
                event = b'{"kind":"synthetic","seq":%d,"time":%d}' % (seq, now)
                salt = secrets.token_bytes(16)
                rows.append((seq, now, event, salt, leaf_hash(salt, event)))
            names = [column.name for column in ledger.columns]
            conn.execute(ledger.insert(), [dict(zip(names, row, strict=True)) for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--leaves", type=int, default=1_000_000)
    parser.add_argument("--proofs", type=int, default=300)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        home = Home(Path(place) / "home", Path(place) / "keys")
        home.path.mkdir()
        store, tiles, key = Store.open(home), home.path / "tiles", Ed25519PrivateKey.generate()
        log = Verifier(ORIGIN, LOG, key.public_key().public_bytes_raw())
        clock = Clock(lambda: last_time(store))

        def one() -> None:
            with store.begin() as conn:
                append(conn, clock, {"kind": "bench"})

        appended = min(500, asked.leaves // 2)
        seconds = timed(lambda: [one() for _ in range(appended)])
        print(f"append, one transaction each: {appended / seconds:.0f}/s")
        print(f"{asked.leaves} synthetic events are inserted straight into the table", flush=True)
        fill(store, appended, asked.leaves - appended, int(clock.now()) + 1)

        def publish() -> None:
            heads.publish(store, clock, tiles, ORIGIN, key)

        print(f"first publication, all tiles: {timed(publish):.1f} s")
        one()
        print(f"publication of one more event: {timed(publish) * 1e3:.1f} ms", flush=True)
        size = asked.leaves + 1

        def prove() -> None:
            heads.prove(store, tiles, log, random.randrange(size))

        shown("inclusion proof", [timed(prove) for _ in range(asked.proofs)])
        proof, _ = heads.prove(store, tiles, log, size // 3)
        print(f"inclusion proof: {len(proof.path)} hashes, {32 * len(proof.path)} bytes")
        stored = [timed(lambda: heads.consistency(store, tiles, log, size - 1)) for _ in range(20)]
        shown("consistency proof between the two stored heads", stored)
        newest = Tiles(tiles, size)
        new = TreeHead(ORIGIN, size, newest.hash_of(0, size))
        assert sign_head(new, key) == (tiles / "checkpoint").read_bytes()

        def between(old: int) -> None:
            was = TreeHead(ORIGIN, old, Tiles(tiles, size).hash_of(0, old))
            assert consistency_holds(was, new, consistency_path(Tiles(tiles, size).hash_of, old, size))

        drawn = [random.randrange(1, size) for _ in range(asked.proofs)]
        shown(
            "consistency proof from any size, with its root",
            [timed(lambda old=old: between(old)) for old in drawn],
        )
        files = sum(1 for path in tiles.rglob("*") if path.is_file())
        held = sum(path.stat().st_size for path in tiles.rglob("*") if path.is_file())
        print(json.dumps({"leaves": size, "tile_files": files, "tile_bytes": held}))
        store.close()


if __name__ == "__main__":
    main()
