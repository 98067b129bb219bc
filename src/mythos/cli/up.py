"""`mythos up` and `mythos serve`: engine and server in the foreground."""

import os
import resource
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from mythos.cli import client, local
from mythos.cli.build import build_missing
from mythos.cli.client import Server
from mythos.cli.models import row, table
from mythos.cli.naming import chosen_tier, default_tier, family_place
from mythos.cli.output import CommandError, Exit, emit, json_wanted, note, printable, show
from mythos.cli.progress import waiting
from mythos.records.permit import Action
from mythos.spec.family import Family, TierState
from mythos.spec.load import load_family
from mythos.store.session import read_session, remove_session, write_session

if TYPE_CHECKING:
    from mythos.serve.service import Service

QUESTION = "What is the capital of France?"


def run(
    family_name: str, port: int, once: bool, strict: bool, memory: float | None, ranks: int, started: float
) -> int:
    """Build what is missing, then answer until a signal comes, or once. `started`: time.monotonic() then."""
    records = local.open_records()
    family = load_family(family_name)
    build_missing(records, family)
    family = local.standing(records, family).family
    secret, digest = local.new_session_key()
    with local.bind("127.0.0.1", port) as listener:
        service = start(records, family, strict, digest, memory, ranks)
        with local.serving(service, listener):
            server = Server(local.address(listener), secret)
            if once:
                return ask_once(server, family, started)
            other = read_session(records.home)
            if other:
                note(f"note: `mythos up` of process {other.pid} runs too; chat and env now lead here")
            write_session(records.home, server.base_url, secret, family_place(family_name))
            try:
                wait_until_told(service, lambda: announce(server, family, started))
            finally:
                remove_session(records.home)
    return 0


def run_serve(
    family_name: str, host: str, port: int, strict: bool, memory: float | None, ranks: int, started: float
) -> int:
    """Serve what is built; only keys of `mythos key new` are accepted."""
    records = local.open_records()
    family = local.standing(records, load_family(family_name)).family
    with local.bind(host, port) as listener:
        service = start(records, family, strict, None, memory, ranks)
        with local.serving(service, listener):
            wait_until_told(service, lambda: announce(Server(local.address(listener), ""), family, started))
    return 0


def start(
    records: local.Records,
    family: Family,
    strict: bool,
    digest: str | None,
    memory: float | None,
    ranks: int,
) -> "Service":
    """The service with its default tier already loaded, so that the first question does not wait for it."""
    usable = local.usable(records, family)
    name = default_tier([tier.name for tier in family.tiers], usable)
    service = local.start_service(records, family, strict, digest, memory, ranks)
    for other in usable:
        if other != name and (why := local.cannot_split(family.tier(other), ranks)):
            note(f"note: {other} will not load: {why}")
    try:
        with waiting(f"loading {family.name}/{name}"):
            standing, now = local.standing(records, family), records.clock.now()
            service.engine.loaded(local.require(standing, name, Action.LOAD, now))
    except BaseException:
        service.engine.stop()
        raise
    return service


def announce(server: Server, family: Family, started: float) -> None:
    """What a person, or with --json a program, needs to talk to the server. The last two lines are fixed."""
    if json_wanted():
        emit(
            {
                "base_url": server.base_url,
                "api_key": server.key or None,
                "pid": os.getpid(),
                "family": family.name,
                "tiers": [row(tier) for tier in family.tiers],
                "seconds": round(time.monotonic() - started, 3),
            }
        )
        return
    names = [tier.name for tier in family.tiers]
    tier = default_tier(names, [t.name for t in family.tiers if t.state is TierState.BUILT])
    ready = f"ready after {time.monotonic() - started:.1f} s, peak memory {peak_memory() / 1e6:.0f} MB"
    show(f"family {family.name}, {ready}; Ctrl-C stops", table(family))
    if server.key:
        print(f"chat here      {program()} chat")
        print(f'your clients   eval "$({program()} env)"   (Claude Code, both SDKs)')
    print("with curl      " + curl(server, tier))
    print()
    print(f"base_url = {server.base_url}")
    print(
        f"api_key = {server.key}" if server.key else "api_key: any key of `mythos key new NAME`", flush=True
    )


def program() -> str:
    """What to type to run this command from anywhere: its name when the shell finds it, else its path."""
    found = shutil.which("mythos")
    return "mythos" if found else shlex.quote(os.path.abspath(sys.argv[0]))


def curl(server: Server, tier: str) -> str:
    """One line to paste."""
    key = server.key or "$MYTHOS_API_KEY"
    asked = f'"messages":[{{"role":"user","content":"{QUESTION}"}}]'
    body = f'{{"model":"{tier}","max_tokens":64,"temperature":0,{asked}}}'
    return (
        f'curl {server.base_url}/v1/messages -H "x-api-key: {key}" -H "anthropic-version: 2023-06-01" '
        f"-H \"content-type: application/json\" -d '{body}'"
    )


def wait_until_told(service: "Service", announce_ready: Callable[[], None]) -> None:
    """Wait for Ctrl-C, SIGTERM or the terminal's end. A second one cuts short the answers still running."""
    seen: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        if seen:
            service.cancel_running()
        seen.append(number)

    # A signal that comes just before the main thread blocks does not wake it, and its handler would not run.
    # The interpreter's own wake-up byte (signal.set_wakeup_fd) is there to be read whenever it came.
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, tell)
            announce_ready()
            while not seen:
                reader.recv(1)
        finally:
            signal.set_wakeup_fd(before)
    note("stopping: running answers get a moment to finish")


def ask_once(server: Server, family: Family, started: float) -> int:
    """One question over real HTTP, with what it took. An empty answer is a failure."""
    tier = chosen_tier(None, [t.name for t in family.tiers], client.tiers(server))
    answer = client.ask(
        server, tier, [{"role": "user", "content": QUESTION}], temperature=0, max_completion_tokens=64
    )
    if not answer.text.strip():
        raise CommandError(f"{tier} gave an empty answer", "mythos doctor", Exit.FAILED)
    seconds = time.monotonic() - started
    if json_wanted():
        emit(
            {
                "family": family.name,
                "tier": tier,
                "root": family.tier(tier).root,
                "question": QUESTION,
                "answer": answer.text,
                "tokens": answer.tokens,
                "tokens_per_second": round(answer.speed, 2),
                "first_token_seconds": round(answer.first_token, 3),
                "seconds_since_start": round(seconds, 3),
                "peak_memory_bytes": peak_memory(),
                "receipt": answer.receipt,
            }
        )
        return 0
    print(f"{tier}: {QUESTION}")
    print(printable(answer.text).strip())
    print(
        f"{answer.tokens} tokens, {answer.speed:.1f} tok/s, first token after {answer.first_token:.2f} s; "
        f"{seconds:.1f} s since start; peak memory {peak_memory() / 1e6:.0f} MB"
    )
    return 0


def peak_memory() -> int:
    """Bytes; ru_maxrss is in KiB on Linux and in bytes on macOS (getrusage(2) of each)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
