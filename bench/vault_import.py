"""A folder of 10,000 files goes into a vault, killed (SIGKILL) on the way again and again: is anything lost?

    PYTHONPATH=src python bench/vault_import.py [--files 10000] [--seconds 4]

`mythos vault import` runs in a data directory of its own and is killed after --seconds until it ends by
itself. Then every file must be there once, with its bytes. Prints one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mythos-bench-") as place:
        os.environ |= {"MYTHOS_HOME": f"{place}/home", "MYTHOS_KEYS": f"{place}/keys"}
        folder, wanted = Path(place) / "drafts", Counter()
        for n in range(args.files):
            file = folder / str(n % 100) / f"{n}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"draft {n}\n" * (1 + n % 50))
            wanted[file.read_bytes()] += 1
        command, kills, began = [sys.executable, "-m", "mythos.cli", "vault", "import", str(folder)], 0, 0.0
        seconds = []
        while True:
            began = time.monotonic()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                code = process.wait(args.seconds)
                seconds.append(time.monotonic() - began)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                seconds.append(time.monotonic() - began)
        if code:
            sys.exit(f"the last import ended with {code}")
        found = contents()
    print(
        json.dumps(
            {
                "files": args.files,
                "kills": kills,
                "seconds": round(sum(seconds), 1),
                "assets": sum(found.values()),
                "lost": sum((wanted - found).values()),
                "twice": sum((found - wanted).values()),
            }
        )
    )


def contents() -> Counter[bytes]:
    """The content of every asset there is."""
    import sqlalchemy as sa

    from mythos.records.clock import Clock
    from mythos.records.principal import OPERATOR
    from mythos.store.db import Store
    from mythos.store.home import Home
    from mythos.store.tables import assets
    from mythos.vault.assets import read_asset

    store, found = Store.open(Home.open()), Counter()
    with store.read() as conn:
        ids = conn.execute(sa.select(assets.c.id).where(assets.c.deleted.is_(None))).scalars().all()
    for one in ids:
        found[b"".join(read_asset(store, Clock(), OPERATOR, one).chunks)] += 1
    return found


if __name__ == "__main__":
    main()
