"""What a page of the console costs with many assets, over HTTP, by one who is signed in.

    PYTHONPATH=src python bench/console.py [--assets 100000] [--calls 200]

The assets are made as in bench/vault.py. Times are those of a client in the same process, on one connection,
with the entry that each attempt leaves in the log and its fsync. Prints one JSON object.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.vault import fill, measured
from tests.console.world import ConsoleTown, browser, console


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--assets", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mythos-bench-") as place:
        town = ConsoleTown(Path(place))
        ids, draw = fill(town, args.assets), random.Random(1)
        with console(town) as url, browser(url, town.api["local"]) as one:

            def got(path: str) -> None:
                answer = one.http.get(path)
                assert answer.status_code == 200, answer.status_code

            got("/vault?q=capybara")  # makes the index
            tries: dict[str, Callable[[], object]] = {
                "list": lambda: got("/vault"),
                "list_deep": lambda: got(f"/vault?after={draw.choice(ids[: len(ids) // 2])}"),
                "search_rare": lambda: got(f"/vault?q=draft+{draw.randrange(args.assets)}"),
                "search_common": lambda: got("/vault?q=draft"),
                "asset": lambda: got(f"/vault/{draw.choice(ids)}"),
                "not_found": lambda: one.http.get("/vault/ast_" + "x" * 22),
            }
            found: dict[str, object] = {"assets": args.assets, "calls": args.calls}
            for name, work in tries.items():
                found[name] = measured(args.calls, work)
        town.store.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
