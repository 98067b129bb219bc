"""The engine: one thread owns every loaded tier and cache; requests come and events go by queues.

One engine serves several tiers, one step at a time in turn. Tiers are loaded at their first request and
leave, least recently used first, when the memory limit would be passed.
"""

import logging
import queue
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch

from mythos.engine.backend import Backend, Eager
from mythos.engine.drafting import DRAFTER, LOOKUP, Drafter, Drafts, give_back
from mythos.engine.generation import Generation
from mythos.engine.guard import Guard, Watch
from mythos.engine.loader import LoadedTier, Loader
from mythos.engine.ranks import RankLost
from mythos.engine.request import Finish, InvalidRequest, Lane, Overloaded, Request, Stopping
from mythos.engine.runner import Runner
from mythos.engine.sampling import generator_for
from mythos.engine.schedule import Rate
from mythos.engine.sequence import Sequence
from mythos.engine.sharded import Sharded
from mythos.engine.speculation import Speculation
from mythos.engine.text import TextStream
from mythos.records.decision import Handling
from mythos.records.errors import MythosError
from mythos.records.permit import Action, Permit
from mythos.records.profile import NO_PROFILE, Profile
from mythos.records.release import Release
from mythos.spec.counting import kv_bytes_per_token
from mythos.spec.family import Tier

MAX_WAITING = 512  # requests in the engine before submit refuses
CACHE_SHARE = 0.6  # of the memory left after a tier's weights, for its key/value cache
MAX_CACHE_TOKENS = 32_768  # of one tier; four full contexts of the pocket family

log = logging.getLogger("mythos.engine")


@dataclass(slots=True)
class _Load:
    root: str
    decision: str
    future: Future[LoadedTier]


class Engine:
    """`tiers` maps a root and a decision's id to the tier and that decision, if it holds (else it raises).

    `memory_limit` is in bytes and counts weights and caches of all loaded tiers. `profiles` finds the
    safeguard profile that a permit names; what it does not find is refused. `backend` makes what
    computes a loaded tier (engine/choose.py). `clock` measures passes, in seconds.
    """

    def __init__(
        self,
        loader: Loader,
        tiers: Callable[[str, str], tuple[Tier, Handling | Release]],
        memory_limit: int,
        now: Callable[[], float] = time.time,
        profiles: Callable[[str], Profile | None] = lambda _: None,
        backend: Callable[[LoadedTier, int, bytes], Backend] = Eager,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loader = loader
        self._tiers = tiers
        self._memory_limit = memory_limit
        self._now = now
        self._profiles = profiles
        self._backend = backend
        self._clock = clock
        self._guards: dict[tuple[str, str], Guard] = {}  # by root and profile: content never changes
        self._secret = secrets.token_bytes(32)
        self._inbox: queue.SimpleQueue[Sequence | _Load | None] = queue.SimpleQueue()
        self._runners: dict[str, Runner] = {}
        self._no_room: set[str] = set()  # roots that could not be loaded to draft
        self._speculation: dict[str, Speculation] = {}  # by root; outlives a runner that leaves
        self._count_lock = threading.Lock()
        self._inside: Counter[tuple[str, Lane]] = Counter()
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._totals = {"requests": 0, "prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0}
        self._rate = Rate()
        self._threads = torch.get_num_threads()

    def start(self) -> None:
        self._thread.start()

    def loaded(self, permit: Permit) -> LoadedTier:
        """The permitted tier, loading it first when needed (blocks). Raises what the loader raises."""
        future: Future[LoadedTier] = Future()
        if self._stopping.is_set():
            raise Stopping("the engine is stopping")
        self._inbox.put(_Load(permit.root, permit.decision, future))
        return future.result()

    def permitted(self, permit: Permit) -> Tier:
        """The tier that `permit` lets its holder have answers from; PermissionError when it does not."""
        if not isinstance(permit, Permit) or permit.action is not Action.ANSWER:
            raise PermissionError("a permit to answer is needed")
        if not permit.issued_at - 60 <= self._now() < permit.expires_at:
            raise PermissionError("the permit has expired")
        tier, decision = self._tiers(permit.root, permit.decision)
        if decision.id != permit.decision or tier.name != permit.tier:
            raise PermissionError("the permit is for other weights")
        return tier

    def guard(self, permit: Permit) -> Guard | None:
        """The safeguards of a permit; None for the profile "none". PermissionError when it is unknown."""
        if permit.profile == NO_PROFILE:
            return None
        key = (permit.root, permit.profile)
        if key not in self._guards:
            try:
                profile = self._profiles(permit.profile)
            except MythosError as error:
                raise PermissionError(f"the safeguard profile cannot be used: {error}") from None
            if profile is None or profile.identity != permit.profile:
                raise PermissionError("the safeguard profile is not known here")
            self._guards[key] = Guard.of(
                profile, permit.root, self._tiers(permit.root, permit.decision)[0].config
            )
        return self._guards[key]

    def submit(self, permit: Permit, request: Request, drafter: Permit | None = None) -> Generation:
        """Queue a request; returns at once.

        `drafter` is the same caller's permit to have answers from a smaller tier, which may then draft. When
        it does not hold, or that tier cannot draft (another tokenizer, no memory left), the answer is the
        same and made without. Raises PermissionError without a valid `permit`, InvalidRequest, Overloaded,
        Stopping.
        """
        tier = self.permitted(permit)
        if self._stopping.is_set():
            raise Stopping("the engine is stopping")
        guard = self.guard(permit)
        if not 0 <= request.prefill < max(1, len(request.prompt)):
            raise InvalidRequest("the prefill is not a part of the prompt")
        if not request.prompt:
            raise InvalidRequest("the prompt is empty")
        if any(not 0 <= t < tier.config.vocab for t in request.prompt):
            raise InvalidRequest("the prompt holds a token outside the vocabulary")
        room = tier.context - len(request.prompt)
        if room < 0 or (room == 0 and request.max_tokens > 0):
            raise InvalidRequest(
                f"prompt is too long: {len(request.prompt)} tokens > {tier.context - 1} maximum"
            )
        self._take_place((permit.principal.org, request.lane))
        generation = Generation(lambda _: self._inbox.put(None))
        self._inbox.put(
            Sequence(
                request=request,
                generation=generation,
                org=permit.principal.org,
                root=permit.root,
                decision=permit.decision,
                text=TextStream(request.stop),
                generator=generator_for(request.sampling),
                limit=min(request.max_tokens, room),
                on_end=self._ended,
                watch=None if guard is None else Watch(guard),
                drafts=self._drafts(permit, drafter) if request.speculate else None,
            )
        )
        return generation

    def _drafts(self, permit: Permit, drafter: Permit | None) -> Drafts:
        if drafter is None or drafter.principal != permit.principal:
            return Drafts()
        try:
            self.permitted(drafter)
        except (PermissionError, KeyError):
            return Drafts()
        return Drafts(drafter, time.monotonic() + drafter.expires_at - self._now())

    def speculation(self, permit: Permit) -> Speculation | None:
        """What was learnt of drafts for the permitted tier since the start; None before its first request."""
        self.permitted(permit)
        return self._speculation.get(permit.root)

    def _take_place(self, whose: tuple[str, Lane]) -> None:
        """Count a request in. An organisation's lane may hold as many places as it leaves free: half of all
        when it is alone, a third each when there are two, and a newcomer finds room.
        """
        with self._count_lock:
            if self._inside[whose] >= MAX_WAITING - self._inside.total():
                waiting = [seq for runner in list(self._runners.values()) for seq in list(runner.waiting)]
                raise Overloaded(self._rate.wait(sum(seq.remaining_cost for seq in waiting)))
            self._inside[whose] += 1

    def stop(self, drain_seconds: float = 0.0) -> None:
        """Take no more requests; give running ones `drain_seconds` to finish, then cancel them. Blocks."""
        self._deadline = time.monotonic() + drain_seconds
        self._stopping.set()
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def stats(self) -> dict[str, float]:
        """Figures for metrics: totals since the start and what is going on now."""
        runners = list(self._runners.values())
        return {
            **self._totals,
            "running": sum(len(r.running) for r in runners),
            "prefilling": sum(len(r.prefill) for r in runners),
            "waiting": sum(len(r.waiting) for r in runners),
            "waiting_batch": sum(s.lane is Lane.BATCH for r in runners for s in list(r.waiting)),
            "preemptions": sum(r.preemptions for r in runners),
            "saved_bytes": sum(r.saved_bytes for r in runners),
            "cache_blocks": sum(r.cache.blocks for r in runners),
            "cache_blocks_used": sum(r.cache.used for r in runners),
            "weight_bytes": sum(r.loaded.bytes for r in runners),
            "loaded_tiers": len(runners),
            **self._drafted(),
        }

    def _drafted(self) -> dict[str, float]:
        """Drafts of all tiers by kind: passes that checked one, its tokens, and those that held."""
        figures = {
            f"{kind}_{what}": 0.0 for kind in (LOOKUP, DRAFTER) for what in ("passes", "drafted", "held")
        }
        for speculation in list(self._speculation.values()):
            for kind, counts in list(speculation.counts.items()):
                figures[f"{kind}_passes"] += counts.passes
                figures[f"{kind}_drafted"] += sum(counts.drafted)
                figures[f"{kind}_held"] += sum(counts.held)
        return figures

    def _ended(self, seq: Sequence) -> None:
        with self._count_lock:
            self._inside[seq.org, seq.lane] -= 1
            self._inside += Counter()  # forgets who has nothing inside
        self._totals["requests"] += 1
        self._totals["prompt_tokens"] += len(seq.request.prompt)
        self._totals["cached_tokens"] += seq.cached
        self._totals["completion_tokens"] += len(seq.tokens)

    # The rest runs on the engine's thread.

    def _run(self) -> None:
        worked = True
        while True:
            busy = any(r.busy for r in self._runners.values())
            if self._stopping.is_set() and (not busy or time.monotonic() > self._deadline):
                break
            self._receive(wait=not busy, pause=busy and not worked)
            worked = False
            for runner in list(self._runners.values()):
                if runner.busy:
                    began, before = time.monotonic(), runner.schedule.total
                    runner.spare = self._memory_limit - self._held() + runner.saved_bytes
                    worked |= self._step(runner)
                    runner.last_used = time.monotonic()
                    self._rate.add(runner.schedule.total - before, runner.last_used - began)
        self._shut()

    def _receive(self, wait: bool, pause: bool) -> None:
        """Take in what has come: block when there is nothing to do, wait a little when all readers lag."""
        try:
            item = self._inbox.get(block=wait or pause, timeout=0.01 if pause and not wait else None)
            while True:
                if isinstance(item, Sequence):
                    self._place(item)
                elif isinstance(item, _Load):
                    try:
                        item.future.set_result(self._runner(item.root, item.decision).loaded)
                    except Exception as error:  # handed to the thread that waits for it
                        item.future.set_exception(error)
                item = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _step(self, runner: Runner) -> bool:
        for seq in runner.running:
            drafts = seq.drafts
            if drafts and (seq.generation.drafter_withdrawn or time.monotonic() > drafts.until):
                give_back(seq)
        # For this thread only. Sampling alone is too little work to wake other threads for.
        ranks = runner.loaded.ranks
        threads = max(1, self._threads // (1 if ranks is None else ranks.count))
        torch.set_num_threads(threads if runner.backend.torch_threads else 1)
        try:
            return runner.step()
        except Exception as error:
            # A failed step leaves no sequence of this tier in a known state: end them all, keep serving.
            said = str(error) if isinstance(error, RankLost) else f"internal: {type(error).__name__}"
            # A rank may be gone, of this tier or of one that drafts for it: the next request loads it again.
            gone = [other for other in self._runners.values() if not _whole(other)]
            for other in {id(one): one for one in [runner, *gone]}.values():
                for seq in other.sequences():
                    other.end(seq, Finish.FAILED, said)
            for other in gone:
                log.error("%s: %s", other.loaded.tier.name, said)
                self._let_go(other)
            return True

    def _place(self, seq: Sequence) -> None:
        try:
            runner = self._runner(seq.root, seq.decision)
            if not runner.fits(len(seq.request.prompt) + seq.limit):
                raise MythosError("the request needs more cache than the memory limit leaves.")
        except MythosError as error:
            seq.finish(Finish.FAILED, str(error))
        except Exception as error:
            seq.finish(Finish.FAILED, f"internal: {type(error).__name__}")
        else:
            self._lend(seq, runner)
            runner.add(seq)

    def _lend(self, seq: Sequence, runner: Runner) -> None:
        """Give a sequence the tier that its caller's second permit names for drafting, if that can draft."""
        permit = seq.drafts.permit if seq.drafts is not None else None
        if seq.drafts is None or permit is None:
            return
        if permit.root in self._no_room and permit.root not in self._runners:
            return
        try:
            found = self._runner(permit.root, permit.decision, evict=False)
        except Exception:  # whatever keeps it from being loaded, the answer needs no draft
            self._no_room.add(permit.root)
            return
        one, other = found.loaded, runner.loaded
        same = one.tokenizer.digest == other.tokenizer.digest
        if found is not runner and same and one.tier.config.vocab == other.tier.config.vocab:
            seq.drafts.drafter = Drafter(found)

    def _runner(self, root: str, decision_id: str, evict: bool = True) -> Runner:
        runner = self._runners.get(root)
        if runner is not None and not runner.busy and not _whole(runner):
            log.error("%s: a rank has ended; all are started again", runner.loaded.tier.name)
            self._let_go(runner)
            runner = None
        if runner is None:
            tier, decision = self._tiers(root, decision_id)
            loaded = self._loader.load(tier, decision)
            try:
                runner = self._ready(loaded, evict)
            except BaseException:
                if loaded.ranks is not None:
                    loaded.ranks.close()
                raise
            self._runners[root] = runner
        runner.last_used = time.monotonic()
        return runner

    def _ready(self, loaded: LoadedTier, evict: bool) -> Runner:
        """A runner with as large a cache as there is room for, which has computed something."""
        tier, ranks = loaded.tier, loaded.ranks
        per_block = 64 * kv_bytes_per_token(tier.config, 2)  # native pages take a little over half
        if ranks is not None and tier.config.mla is not None:
            per_block *= ranks.count  # every rank keeps the latents
        self._make_room(loaded.bytes + per_block * (-(-tier.context // 64)), evict)
        free = self._memory_limit - self._held() - loaded.bytes
        tokens = min(int(free * CACHE_SHARE) // per_block * 64, MAX_CACHE_TOKENS)
        blocks = max(tokens, tier.context + 64) // 64
        make = self._backend if ranks is None else Sharded
        backend = make(loaded, blocks, self._secret)
        speculation = self._speculation.setdefault(loaded.root, Speculation())
        runner = Runner(replace(loaded, backend=backend.name), backend, speculation, self._clock)
        runner.warm_up()
        return runner

    def _let_go(self, runner: Runner) -> None:
        del self._runners[runner.loaded.root]
        for seq in [seq for other in self._runners.values() for seq in other.sequences()]:
            if seq.drafts and seq.drafts.drafter and seq.drafts.drafter.runner is runner:
                give_back(seq)
        self._no_room.clear()
        if runner.loaded.ranks is not None:
            runner.loaded.ranks.close()

    def _held(self) -> int:
        """Bytes of weights and caches of all tiers, on all their ranks, and of sequences put aside."""
        return sum(
            r.loaded.bytes
            + r.cache.bytes() * (1 if r.loaded.ranks is None else r.loaded.ranks.count)
            + r.saved_bytes
            for r in self._runners.values()
        )

    def _make_room(self, needed: int, evict: bool) -> None:
        """Let idle tiers go, least recently used first, until `needed` bytes fit; drafting is no use."""
        while self._held() + needed > self._memory_limit:
            unused = {root: r.last_used for root, r in self._runners.items() if not r.busy}
            if not unused or not evict:
                raise MythosError(
                    f"loading this tier needs {needed / 2**20:.0f} MiB beyond the memory limit of "
                    f"{self._memory_limit / 2**20:.0f} MiB.",
                    "Raise --memory-limit, or wait until another tier is idle.",
                )
            self._let_go(self._runners[min(unused, key=unused.__getitem__)])

    def _shut(self) -> None:
        for runner in self._runners.values():
            for seq in runner.sequences():
                runner.end(seq, Finish.CANCELLED)
            if runner.loaded.ranks is not None:
                runner.loaded.ranks.close()
        while True:
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, Sequence):
                item.finish(Finish.CANCELLED)
            elif isinstance(item, _Load):
                item.future.set_exception(Stopping("the engine is stopping"))


def _whole(runner: Runner) -> bool:
    return runner.loaded.ranks is None or runner.loaded.ranks.alive
