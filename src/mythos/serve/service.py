"""What every request needs: the home, the store, the family, the engine, and who may do what."""

import asyncio
import hashlib
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mythos.data.tokenizer import Tokenizer
from mythos.gate.authorize import authorize, known_tiers, load_standing
from mythos.records.clock import Clock
from mythos.records.decision import LOCAL_PURPOSE
from mythos.records.permit import Action, Permit, Refusal
from mythos.records.principal import Principal
from mythos.serve.limits import LimitBook
from mythos.serve.metrics import Metrics
from mythos.serve.recorder import Recorder
from mythos.serve.settings import Settings
from mythos.serve.watch import Watch
from mythos.spec.family import Family, Tier
from mythos.store.answering import Answering
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.keys import principal_for_secret
from mythos.store.operator_key import SERVER_KEY, service_key
from mythos.store.weights import Registered, registered

if TYPE_CHECKING:
    from mythos.engine.engine import Engine
    from mythos.engine.generation import Generation
    from mythos.serve.receipts import Draft

MAX_CREDENTIAL = 512  # characters


def purpose_of(principal: Principal) -> str:
    """What a caller's requests are for: it stands in their credential, no request can name another."""
    return principal.attributes.get("purpose", LOCAL_PURPOSE)


@dataclass(eq=False)
class Service:
    """One server's parts. `session_keys` maps the SHA-256 (hex) of keys that die with the process."""

    home: Home
    store: Store
    clock: Clock
    family: Family
    engine: "Engine"
    settings: Settings = field(default_factory=Settings)
    session_keys: dict[str, Principal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.limits = LimitBook(self.settings.limits)
        self.metrics = Metrics()
        self.recorder = Recorder(self.store, self.clock)
        self.running: set[Generation] = set()
        self.answering = Answering(self.home)
        self.watch = Watch(self)
        self.drafts: dict[str, Draft] = {}  # receipts that are pending
        self.receipt_key = service_key(self.home, SERVER_KEY)
        self.reading_out: set[asyncio.Task[None]] = set()  # cancelled, on their way to the last event
        self.deployment = ""  # the digest of the first trust root, as of the last decision; "" without one
        self.draining = False
        self.aliases: Mapping[str, str] = {}
        # Of their own, so that loading weights never keeps the look-up of a key waiting.
        self.workers = ThreadPoolExecutor(4, "prepare")
        self._texts: dict[str, tuple[Tokenizer, str]] = {}
        self._texts_lock = threading.Lock()

    async def principal_for(self, secret: str) -> Principal | None:
        """Who holds this credential; None for nobody."""
        if not secret or len(secret) > MAX_CREDENTIAL:
            return None
        session = self.session_keys.get(hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest())
        if session is not None:
            return session
        return await asyncio.to_thread(principal_for_secret, self.store, secret)

    def decide(self, principal: Principal, action: Action, tier: str) -> Permit | Refusal:
        """Ask the gate, as things stand now. Blocks (reads the database)."""
        standing = load_standing(self.home, self.store, self.family)
        self.deployment = standing.state.deployment
        return authorize(standing, principal, action, tier, purpose_of(principal), self.clock.now())

    def tiers_for(self, principal: Principal) -> tuple[list[Tier], dict[str, Registered]]:
        """The tiers this caller knows, in the family's order, and their registry rows by root. Blocks."""
        standing = load_standing(self.home, self.store, self.family)
        tiers = known_tiers(standing, principal, self.clock.now(), purpose_of(principal))
        return tiers, {row.root: row for row in registered(self.store)}

    def texts(self, permit: Permit) -> tuple[Tokenizer, str]:
        """Tokenizer and chat template of the permitted weights; loads them the first time (blocks)."""
        with self._texts_lock:
            found = self._texts.get(permit.root)
        if found is None:
            loaded = self.engine.loaded(permit)
            found = (loaded.tokenizer, loaded.chat_template)
            with self._texts_lock:
                self._texts[permit.root] = found
        return found

    def tier(self, permit: Permit) -> Tier:
        """The family's entry of a permitted tier."""
        return self.family.tier(permit.tier)

    def cancel_running(self) -> None:
        """End every running answer; its client gets an error event."""
        for generation in list(self.running):
            generation.cancel()

    def close(self) -> None:
        """Write down what is still queued. The engine and the store belong to whoever made them."""
        self.workers.shutdown(wait=False, cancel_futures=True)
        self.answering.close()
        self.recorder.close()
