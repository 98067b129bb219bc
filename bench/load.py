"""A server under load: many clients of two organisations, one greedy and one modest, some of whom leave.

    python bench/load.py [--clients 200] [--minutes 10] [--tier opus] [--modest 0.1] [--json]

The server is a process of its own on loopback with its real HTTP surface; without --tier it has random
weights (run from the repository: it uses the test helpers), with it the built tier of that name. Each client
asks, reads, and asks again: prompts of 10 to 600 words, answers of up to 16 to 128 tokens, 30% left in the
middle. Who is answered 529 waits as long as retry-after says and asks the same again. The gate sees the local
operator; the engine is told two organisations.

Printed for each organisation: first token in seconds from the first asking (waiting after a 529 included) and
mean time per token of each whole answer, p50, p95 and p99; what became of the requests; the server's resident
memory one minute after the start (a fifth of the run, if that is less) and at the end; what is then left in
the engine. The run fails when a request was lost, or when anything is left.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

ORGS = ("greedy", "modest")
WORDS = ["river", "seven", "how", "paper", "moon", "code", "why", "stone", "winter", "list", "story", "of"]
PROMPTS, ANSWERS, LEAVE = (10, 50, 200, 600), (16, 32, 64, 128), 0.3
MOST_CLIENTS, MOST_MINUTES, DRAIN = 1000, 60.0, 900.0  # the last in seconds

SERVER = """
import hashlib, sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from mythos.records.principal import LOCAL_ORG, OPERATOR, Principal
from mythos.serve.limits import LimitBook
from mythos.serve.server import run_server
from mythos.serve.service import Service
from mythos.serve.settings import Limits

place, tier, memory = sys.argv[1], sys.argv[2], float(sys.argv[3])
limits = Limits(requests=10**9, input_tokens=10**12, output_tokens=10**12, concurrent=10**6)
with ExitStack() as stack:
    if tier:
        from mythos.cli import local
        from mythos.spec.load import load_family
        service = local.start_service(local.open_records(), load_family("pocket"), memory=memory or None)
    else:
        from tests.tiny import tiny_home
        tiny = tiny_home(Path(place))
        engine = stack.enter_context(tiny.engine(int(memory * 1e9) or 2 << 30))
        service = Service(tiny.home, tiny.store, tiny.clock, tiny.family, engine)
    stack.callback(service.engine.stop)
    service.limits = LimitBook(limits)
    service.session_keys |= {
        hashlib.sha256(org.encode()).hexdigest(): Principal(OPERATOR.id, "key", LOCAL_ORG, {"engine": org})
        for org in ("greedy", "modest")
    }
    submit = service.engine.submit

    def relabelled(permit):
        caller = permit.principal
        return replace(permit, principal=replace(caller, org=caller.attributes["engine"]))

    service.engine.submit = lambda permit, request, drafter: submit(
        relabelled(permit), request, drafter and relabelled(drafter)
    )
    run_server(service, on_ready=lambda url: print(url, flush=True))
"""


@dataclass(slots=True)
class Told:
    """What the clients of one organisation saw. Seconds."""

    first: list[float] = field(default_factory=list)
    each: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--clients", type=int, default=200)
    asked.add_argument("--minutes", type=float, default=10.0)
    asked.add_argument("--tier", default="")
    asked.add_argument("--modest", type=float, default=0.1, help="share of the clients")
    asked.add_argument("--memory", type=float, default=0.0, help="GB for the engine")
    asked.add_argument("--json", action="store_true")
    told = asked.parse_args()
    if not (2 <= told.clients <= MOST_CLIENTS and 0 < told.minutes <= MOST_MINUTES):
        asked.error(f"2 to {MOST_CLIENTS} clients, at most {MOST_MINUTES:.0f} minutes")
    modest = min(told.clients - 1, max(1, round(told.clients * told.modest)))

    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        if not told.tier:
            environment["MYTHOS_KEYS"] = str(Path(place) / "keys")
        command = [sys.executable, "-c", SERVER, place, told.tier, str(told.memory)]
        server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            if not url:
                sys.exit("the server did not start")
            report = asyncio.run(
                load(url, server.pid, told.tier or "small", told.clients, modest, told.minutes)
            )
        finally:
            server.terminate()
            server.wait(60)
    if told.json:
        print(json.dumps(report))
    else:
        show(report)
    sys.exit(1 if report["lost"] or report["left_in_engine"] else 0)


async def load(url: str, pid: int, tier: str, clients: int, modest: int, minutes: float) -> dict:
    """Let all clients ask for so long, wait for what is under way, and say what was seen."""
    import httpx

    seen = {org: Told() for org in ORGS}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    # Nobody waits longer for a single byte than the whole run may take: the server pings while it is silent.
    timeout = httpx.Timeout(60.0, pool=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=timeout) as http:
        await one(http, "modest", tier, random.Random(0), Told(), time.monotonic())  # loads the weights
        began = time.monotonic()
        end = began + 60 * minutes
        memory = asyncio.create_task(resident_later(pid, min(60.0, 12 * minutes)))
        tasks = [
            asyncio.create_task(client(http, n, "modest" if n < modest else "greedy", tier, seen, end))
            for n in range(clients)
        ]
        _, late = await asyncio.wait(tasks, timeout=60 * minutes + DRAIN)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        seconds = time.monotonic() - began
        left = await at_rest(http)
        page = await metrics(http)
    counts = Counter[str]()
    for told in seen.values():
        counts += told.counts
    return {
        "clients": {"greedy": clients - modest, "modest": modest},
        "minutes": minutes,
        "seconds": round(seconds, 1),
        "organisations": {org: figures(told) for org, told in seen.items()},
        "answered": counts["answered"],
        "cancelled": counts["cancelled"],
        "told_to_wait": counts["529"],
        "lost": counts["lost"] + len(late),
        "lost_why": {name: n for name, n in counts.items() if name.startswith("lost: ")},
        "resident_bytes_early": await memory,
        "resident_bytes_end": resident(pid),
        "preemptions": page["preemptions"],
        "left_in_engine": left,
    }


async def client(http, number: int, org: str, tier: str, seen: dict[str, Told], end: float) -> None:
    """Ask again and again until the time is over."""
    rng = random.Random(number)
    while time.monotonic() < end:
        try:
            await one(http, org, tier, rng, seen[org], end)
        except Exception as error:  # whatever kept an answer from its client
            seen[org].counts["lost"] += 1
            seen[org].counts[f"lost: {type(error).__name__}: {str(error)[:80]}"] += 1
            await asyncio.sleep(1)


async def one(http, org: str, tier: str, rng: random.Random, told: Told, end: float) -> None:
    """One request, to its end or to where its client leaves."""
    text = " ".join(rng.choices(WORDS, k=rng.choice(PROMPTS)))
    tokens, leave = rng.choice(ANSWERS), rng.random() < LEAVE
    leave_after = rng.randrange(1, 3 * tokens) if leave else None  # characters: a delta may hold many tokens
    body = {"model": tier, "max_tokens": tokens, "stream": True}
    body["messages"] = [{"role": "user", "content": text}]
    headers = {"x-api-key": org, "anthropic-version": "2023-06-01"}
    began = time.monotonic()
    while True:
        async with http.stream("POST", "/v1/messages", json=body, headers=headers) as got:
            if got.status_code != 529:
                assert got.status_code == 200, f"status {got.status_code}"
                times, usage, read = [], 0, 0
                async for line in got.aiter_lines():
                    if line.startswith("data: "):
                        event = json.loads(line[6:])
                        if event["type"] == "content_block_delta":
                            times.append(time.monotonic())
                            read += len(event["delta"]["text"])
                            if leave_after is not None and read >= leave_after:
                                told.first.append(times[0] - began)
                                told.counts["cancelled"] += 1
                                return
                        elif event["type"] == "message_delta":
                            usage = event["usage"]["output_tokens"]
                        elif event["type"] == "message_stop":
                            told.counts["answered"] += 1
                            if times:
                                told.first.append(times[0] - began)
                            if usage > 1 and len(times) > 1:
                                told.each.append((times[-1] - times[0]) / (usage - 1))
                            return
                        assert event["type"] != "error", event["error"]["type"]
                raise AssertionError("a stream without an end")
            wait = int(got.headers["retry-after"])
        told.counts["529"] += 1
        if time.monotonic() + wait > end:
            return  # told to come back when the run is over
        await asyncio.sleep(wait)


def figures(told: Told) -> dict:
    return {
        "first_token_seconds": percentiles(told.first),
        "token_seconds": percentiles(told.each),
        **{name: told.counts[name] for name in ("answered", "cancelled", "529", "lost")},
    }


def percentiles(values: list[float]) -> dict[str, float | None]:
    """p50, p95, p99 by nearest rank."""
    rows = sorted(values)
    return {
        f"p{p}": round(rows[min(len(rows) - 1, -(-p * len(rows) // 100) - 1)], 4) if rows else None
        for p in (50, 95, 99)
    }


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def resident_later(pid: int, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return resident(pid)


async def metrics(http) -> dict[str, float]:
    headers = {"x-api-key": "greedy", "anthropic-version": "2023-06-01"}
    page = (await http.get("/metrics", headers=headers)).text
    return {name: float(value) for name, value in re.findall(r"^mythos_engine_(\w+) (\S+)$", page, re.M)}


async def at_rest(http) -> dict[str, float]:
    """What the engine still holds when nobody asks any more; empty when nothing."""
    for _ in range(100):  # those who left are noticed soon
        page = await metrics(http)
        names = ("cache_blocks_used", "running", "prefilling", "waiting", "saved_bytes")
        left = {name: page[name] for name in names if page[name]}
        if not left:
            break
        await asyncio.sleep(0.1)
    return left


def show(report: dict) -> None:
    for org, row in report["organisations"].items():
        print(f"{org}, {report['clients'][org]} clients")
        for name, title, factor, unit in (
            ("first_token_seconds", "first token", 1, "s"),
            ("token_seconds", "time per token", 1000, "ms"),
        ):
            shown = ", ".join(
                f"{p} {'-' if v is None else f'{v * factor:.2f}'}" for p, v in row[name].items()
            )
            print(f"  {title}: {shown} {unit}")
        counts = f"answered {row['answered']}, left {row['cancelled']}, told to wait {row['529']}"
        print(f"  {counts}, lost {row['lost']}")
    early, late = report["resident_bytes_early"] / 1e6, report["resident_bytes_end"] / 1e6
    print(f"resident: {early:.0f} MB early, {late:.0f} MB at the end; {report['preemptions']:.0f} put aside")
    print(f"lost: {report['lost']} {report['lost_why'] or ''}")
    print(f"left in the engine: {report['left_in_engine'] or 'nothing'}")


if __name__ == "__main__":
    main()
