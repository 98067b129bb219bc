"""What a command needs of this machine, made in one place: records, engine, service, a server on loopback.

Every question, also one asked at this terminal, goes over HTTP with a key: one route, one enforcement.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mythos.cli.client import Server
from mythos.cli.naming import DEFAULT_FAMILY, family_place, no_tier
from mythos.cli.output import CommandError, Exit, note
from mythos.cli.progress import waiting
from mythos.gate.authorize import Standing, authorize, decision_on, known_tiers, load_standing
from mythos.records.clock import Clock
from mythos.records.decision import Handling
from mythos.records.permit import Action, Permit, Reason, Refusal
from mythos.records.principal import LOCAL_ORG, OPERATOR, Principal
from mythos.records.release import Release
from mythos.spec.family import Family, Tier, TierState
from mythos.spec.load import load_family
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.profiles import find_profile
from mythos.store.session import read_session

if TYPE_CHECKING:
    from mythos.serve.service import Service

PORT = 8420
PURPOSE = "local_tryout"
SESSION = Principal(OPERATOR.id, "key", LOCAL_ORG)  # whoever holds the key of a session is the operator


@dataclass(frozen=True, slots=True)
class Records:
    """The state of this machine that needs no torch: paths, database, clock."""

    home: Home
    store: Store
    clock: Clock


def open_records() -> Records:
    from mythos.ledger.log import last_time

    home = Home.open()
    store = Store.open(home)
    return Records(home, store, Clock(lambda: last_time(store)))


def standing(records: Records, family: Family) -> Standing:
    return load_standing(records.home, records.store, family)


def built(state: Standing) -> list[str]:
    """Names of the tiers with registered weights, in the family's order."""
    return [tier.name for tier in state.family.tiers if tier.state is TierState.BUILT]


def usable(records: Records, family: Family) -> list[str]:
    """Names of the tiers that can be loaded, in the family's order; raises why when there is none."""
    state, now = standing(records, family), records.clock.now()
    names = built(state)
    if not names:
        raise no_tier(())
    known = [tier.name for tier in known_tiers(state, OPERATOR, now, PURPOSE)]
    if not known:
        require(state, names[0], Action.LOAD, now)
    return known


def new_session_key() -> tuple[str, str]:
    """A secret like those of `mythos key new`, and its hash. Stored nowhere: it dies with the process."""
    from mythos.store.keys import new_secret, secret_hash

    secret = new_secret()
    return secret, secret_hash(secret).hex()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on loopback. Port 0 means 8420, or a free one when that is taken."""
    from mythos.serve import server

    try:
        return server.bind(host, port or PORT)
    except server.BindError:
        if port:
            raise
        return server.bind(host, 0)


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def start_service(
    records: Records,
    family: Family,
    strict: bool = False,
    session_key: str | None = None,
    memory: float | None = None,
    ranks: int = 1,
) -> "Service":
    """Loader, engine and service for the built tiers. `session_key`: hash of a key that lives in memory.

    `memory` is in GB (10^9 bytes); None for half of the memory this process may use. `ranks` are the
    processes that each tier is split over, this one included.
    """
    from mythos.engine.choose import maker
    from mythos.engine.engine import Engine
    from mythos.engine.loader import Loader
    from mythos.serve.service import Service, Settings

    def decided(root: str, decision: str) -> tuple[Tier, Handling | Release]:
        state = standing(records, family)
        tier = next((tier for tier in state.family.tiers if tier.root == root), None)
        found = decision_on(state, root, decision, records.clock.now())
        if tier is None or found is None:
            raise PermissionError("the decision does not hold")
        return tier, found

    limit = int(memory * 1e9) if memory else memory_limit()
    engine = Engine(
        Loader(records.home, ranks),
        decided,
        limit,
        records.clock.now,
        partial(find_profile, records.home),
        maker(records.home, note),
    )
    session_keys = {session_key: SESSION} if session_key else {}
    service = Service(
        records.home, records.store, records.clock, family, engine, Settings(strict=strict), session_keys
    )
    engine.start()
    return service


def cannot_split(tier: Tier, ranks: int) -> str | None:
    """Why a tier cannot be split over so many ranks; None when it can."""
    from mythos.model.parts import CannotSplit, check_ranks

    try:
        check_ranks(tier.config, ranks)
    except CannotSplit as error:
        return str(error)
    return None


def require(state: Standing, tier: str, action: Action, now: float) -> Permit:
    """The operator's permit to do `action` on `tier`; raises what `authorize` says when there is none."""
    answer = authorize(state, OPERATOR, action, tier, PURPOSE, now)
    if isinstance(answer, Refusal):
        code = Exit.NOT_BUILT if answer.reason in (Reason.NOT_BUILT, Reason.UNKNOWN_TIER) else Exit.REFUSED
        raise CommandError(answer.message, f"mythos build {tier} --family {state.family.name}", code)
    return answer


@contextmanager
def serving(service: "Service", listener: socket.socket) -> Iterator[None]:
    """Answer on `listener` from a thread of its own until the block ends, then drain and stop the engine."""
    from mythos.serve.server import make_server

    ready = threading.Event()
    server = make_server(service, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True)
    thread.start()
    try:
        while not ready.wait(0.1):
            if not thread.is_alive():
                raise CommandError("the server did not start", "`mythos doctor` checks the installation")
        yield
    finally:
        server.should_exit = True
        thread.join()
        service.engine.stop()


@contextmanager
def connect(family_name: str | None) -> Iterator[tuple[Server, Family]]:
    """A server to ask: the running `mythos up`, or else an engine started here for as long as the block runs.

    A family named other than the running one's gets an engine of its own.
    """
    records = open_records()
    live = read_session(records.home)
    if live and (family_name is None or family_place(family_name) == live.family):
        yield Server(live.base_url, live.key), load_family(live.family)
        return
    family = load_family(family_name or DEFAULT_FAMILY)
    usable(records, family)
    secret, digest = new_session_key()
    with contextlib.ExitStack() as stack:
        with waiting("starting the engine"):
            listener = stack.enter_context(bind("127.0.0.1", 0))
            service = start_service(records, family, session_key=digest)
            stack.enter_context(serving(service, listener))
        yield Server(address(listener), secret), family


def memory_limit() -> int:
    """Bytes the engine may fill: half of the memory this process may use."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        physical = min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return physical // 2
