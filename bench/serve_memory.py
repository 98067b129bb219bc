"""Resident memory of a real `mythos up` that serves opus alone, and its start, warm.

    python bench/serve_memory.py [--positions 8192] [--json]

Starts the server with a memory limit that leaves a cache of about so many positions, waits until it is
ready, asks one question, then fills the cache with prompts that share nothing. Printed: seconds from the
start of the process to "ready" and to the end of the first answer of one token; resident and peak memory when
ready, and when every page of the cache has been written. The native library is built beforehand; that takes
memory of its own in the compiler, not in the server.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request

from mythos.cli import local
from mythos.cli.output import CommandError
from mythos.engine.engine import CACHE_SHARE
from mythos.engine.loader import Loader
from mythos.engine.native.build import library
from mythos.spec.counting import kv_bytes_per_token
from mythos.spec.load import load_family
from mythos.store.weights_key import weights_keyring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=8192)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    records, family = local.open_records(), load_family("pocket")
    state = local.standing(records, family)
    tier = state.family.tier("opus")
    if tier.root is None:
        raise CommandError("opus is not built", "mythos build opus")
    library(records.home, weights_keyring(records.home))
    weights = Loader(records.home).load(tier, state.decisions["opus"]).bytes
    cache = asked.positions * kv_bytes_per_token(tier.config, 2)
    limit = (weights + cache / CACHE_SHARE) / 1e9
    began = time.monotonic()
    options = ["--json", "--port", "0", "--memory-limit", f"{limit:.3f}"]
    command = [sys.executable, "-m", "mythos.cli", "up", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        seconds = {"ready": time.monotonic() - began}
        ask(ready, "What is the capital of France?", 1)
        seconds["first answer"] = time.monotonic() - began
        memory = {"ready": resident(server.pid)}
        for number in range(2 * asked.positions // 1500):
            ask(ready, " ".join(f"{number}{word}" for word in range(400)), 1)
        memory["cache full"] = resident(server.pid)
    finally:
        server.terminate()
        server.wait(30)
    if asked.json:
        print(json.dumps({"seconds": seconds, "megabytes": memory, "limit": limit}))
        return
    print(f"ready after {seconds['ready']:.2f} s, first answer after {seconds['first answer']:.2f} s")
    for when, (now, peak) in memory.items():
        print(f"{when}: {now:.0f} MB resident, {peak:.0f} MB at most")


def ask(ready: dict, text: str, tokens: int) -> None:
    body = {"model": "opus", "max_tokens": tokens, "messages": [{"role": "user", "content": text}]}
    headers = {
        "x-api-key": ready["api_key"],
        "anthropic-version": "2023-06-01",
        "content-type": "application/json",
    }
    request = urllib.request.Request(ready["base_url"] + "/v1/messages", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()


def resident(pid: int) -> tuple[float, float]:
    """(now, at most) in MB."""
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return tuple(int(fields[name].split()[0]) / 1e3 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "120")
    main()
