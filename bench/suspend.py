"""How long running streams outlive a suspension: several servers on one deployment, many streams each.

    python bench/suspend.py [--servers 3] [--streams 200]

Each server is a process of its own with random weights (run from the repository: it uses the test helpers).
Printed: seconds from the return of `suspend` to the last byte of every stream. A stream that came to an end
of its own makes the run fail.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

SERVER = """
import sys
from pathlib import Path
from mythos.engine.engine import Engine
from mythos.ledger.log import last_time
from mythos.records.clock import Clock
from mythos.serve.server import run_server
from mythos.serve.service import Service
from mythos.serve.settings import Limits, Settings
from mythos.store.db import Store
from mythos.store.home import Home
from tests.tiny import TinyHome, tiny_tier
from mythos.spec.family import Family

home = Home(Path(sys.argv[1]) / "home", Path(sys.argv[1]) / "keys")
store = Store.open(home)
family = Family("tiny", "for tests", "none", (tiny_tier("small"), tiny_tier("large")))
tiny = TinyHome(home, store, Clock(lambda: last_time(store)), family)
with tiny.engine() as engine:
    settings = Settings(limits=Limits(concurrent=10_000))
    service = Service(home, store, tiny.clock, family, engine, settings)
    run_server(service, on_ready=lambda url: print(url, flush=True))
"""


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--servers", type=int, default=3)
    asked.add_argument("--streams", type=int, default=200)
    told = asked.parse_args()

    import httpx
    from tests.serve.gated import Gated
    from tests.serve.live import ENDLESS, ask

    with tempfile.TemporaryDirectory() as place:
        gated = Gated(Path(place))
        gated.release("small")
        key = gated.organisation("acme")
        gated.grant("acme")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", SERVER, place]
        servers = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(told.servers)
        ]
        try:
            urls = [server.stdout.readline().strip() for server in servers if server.stdout]
            ends: list[float] = []
            complete: list[str] = []
            begun = threading.Barrier(told.streams + 1)

            def stream(url: str) -> None:
                headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
                body = ask(stream=True, **ENDLESS)
                http = httpx.Client(base_url=url, headers=headers, timeout=300)
                with http, http.stream("POST", "/v1/messages", json=body) as got:
                    pieces = got.iter_text()
                    text = next(pieces)
                    begun.wait(300)
                    text += "".join(pieces)
                    ends.append(time.monotonic())
                    if "withdrawn" not in text:
                        complete.append(text[-200:])

            threads = [
                threading.Thread(target=stream, args=(urls[n % len(urls)],)) for n in range(told.streams)
            ]
            for thread in threads:
                thread.start()
            begun.wait(300)
            gated.suspend()
            began = time.monotonic()
            for thread in threads:
                thread.join()
            seconds = sorted(end - began for end in ends)
            figures = {
                "servers": told.servers,
                "streams": len(seconds),
                "median_seconds": round(seconds[len(seconds) // 2], 3),
                "max_seconds": round(seconds[-1], 3),
                "not_withdrawn": len(complete),
            }
            print(json.dumps(figures))
            sys.exit(1 if complete else 0)
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait()


if __name__ == "__main__":
    main()
