"""A serving engine under traffic, event by event: arrivals, queue, chunked prefill, decoding, pre-emption.

One replica with continuous batching. A step decodes one token for every running sequence and fills what is
left of `chunk` tokens with prompts in the order of arrival (chunked prefill, arXiv 2308.16369). A prompt is
let in while there is a slot and room in the cache for it. When the next step's tokens do not fit, the
sequence let in last gives up its cache and goes back to the head of the queue, to be computed again with
what it had written. The token that ends a prompt's last chunk is the first of the answer.

Between two changes of the batch nothing happens but decoding, whose time is a quadratic in the number of
steps; the simulation takes all of them at once. The result is that of going step by step.

Several replicas behind a random router are one replica at its share of a Poisson stream: simulate that one.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mythos.plan.errors import PlanError

Array = NDArray[np.float64]

_MOST_REQUESTS = 10_000_000


@dataclass(frozen=True, slots=True)
class Engine:
    """What a step takes: `base[b]` seconds with b sequences decoding, `per_cached` for every token in the
    cache of those, `per_prompt` for every prompt token. `base[0]` is that of a step with prompts only.

    `tokens_per_step` is above 1 with speculation; an answer then takes fewer steps. PlanError for numbers
    that cannot be.
    """

    base: tuple[float, ...]  # of length slots + 1
    per_cached: float
    per_prompt: float
    cache_tokens: int
    chunk: int = 8192
    tokens_per_step: float = 1.0

    def __post_init__(self) -> None:
        times = (*self.base, self.per_cached, self.per_prompt)
        if len(self.base) < 2 or not all(math.isfinite(t) and t >= 0 for t in times):
            raise PlanError(
                "A step's times are no finite seconds.", "Give base[0] to base[slots], none below 0."
            )
        if min(self.base) + self.per_prompt <= 0:
            raise PlanError("A step that takes no time never ends.", "Give base or per_prompt above 0.")
        if self.cache_tokens < 1 or self.chunk < len(self.base):
            raise PlanError(
                f"The cache holds {self.cache_tokens} tokens and a step takes {self.chunk}.",
                f"A step needs room for {self.slots} sequences and a prompt's token.",
            )
        if not 1 <= self.tokens_per_step < 1e3:
            raise PlanError(f"{self.tokens_per_step} tokens a step.", "At least 1; above 1 with speculation.")

    @property
    def slots(self) -> int:
        return len(self.base) - 1


@dataclass(frozen=True, slots=True)
class Requests:
    """When requests come and how long they are. `computed`: prompt tokens that no cached prefix spares.

    Arrays of one length, arrivals in seconds and rising. PlanError for what cannot be.
    """

    arrivals: Array
    prompts: NDArray[np.int64]
    answers: NDArray[np.int64]
    computed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        count = len(self.arrivals)
        if not len(self.computed):
            object.__setattr__(self, "computed", self.prompts)
        if not 1 <= count <= _MOST_REQUESTS or not (
            len(self.prompts) == len(self.answers) == len(self.computed) == count
        ):
            raise PlanError(
                f"{count} arrivals, {len(self.prompts)} prompts.", "Give each request one of each."
            )
        if not np.isfinite(self.arrivals).all() or (np.diff(self.arrivals) < 0).any() or self.arrivals[0] < 0:
            raise PlanError("Arrivals are no rising times.", "Sort them; the first at 0 or later.")
        if min(self.answers.min(), self.computed.min()) < 1 or (self.computed > self.prompts).any():
            raise PlanError("A request has no tokens.", "Prompt and answer need 1 token or more.")


@dataclass(frozen=True, slots=True)
class Simulated:
    """When each request had its first and its last token (seconds), and what the engine did meanwhile."""

    requests: Requests
    first: Array
    last: Array
    preempted: int
    steps: int
    busy: float  # seconds in steps
    mean_running: float  # sequences decoding, averaged over time from the first arrival to the last token

    @property
    def ttft(self) -> Array:
        return self.first - self.requests.arrivals

    @property
    def tpot(self) -> Array:
        """Seconds between tokens after the first, averaged over each answer; NaN for answers of one token."""
        gaps = self.requests.answers - 1
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(gaps > 0, (self.last - self.first) / gaps, np.nan)

    @property
    def seconds(self) -> float:
        return float(self.last.max() - self.requests.arrivals[0])

    @property
    def output_rate(self) -> float:
        """Tokens of answers per second."""
        return float(self.requests.answers.sum()) / self.seconds


def poisson(
    rate: float,
    count: int,
    prompt: float,
    answer: float,
    *,
    spread: float = 0.0,
    hits: float = 0.0,
    seed: int = 0,
) -> Requests:
    """`count` requests at `rate` a second with exponential gaps; lengths log-normal around the means.

    `spread` is the standard deviation of the logarithm of both lengths (0: all alike), `hits` the share of
    each prompt that a cached prefix spares.
    """
    if not (math.isfinite(rate) and rate > 0) or not 1 <= count <= _MOST_REQUESTS:
        raise PlanError(f"{count} requests at {rate} a second.", "Both must be above 0 and finite.")
    if not (1 <= prompt < 1e9 and 1 <= answer < 1e9):
        raise PlanError(f"Prompts of {prompt} and answers of {answer} tokens.", "Both need 1 or more.")
    if not (0 <= spread <= 3 and 0 <= hits < 1):
        raise PlanError(f"spread {spread}, hits {hits}.", "spread lies in 0 to 3, hits from 0 to below 1.")
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, count))
    prompts = _lengths(random, prompt, spread, count)
    answers = _lengths(random, answer, spread, count)
    computed = np.maximum(np.rint(prompts * (1 - hits)), 1).astype(np.int64)
    return Requests(arrivals, prompts, answers, computed)


def _lengths(random: np.random.Generator, mean: float, spread: float, count: int) -> NDArray[np.int64]:
    scale = np.exp(spread * random.standard_normal(count) - spread**2 / 2) if spread else np.ones(count)
    return np.maximum(np.rint(mean * scale), 1).astype(np.int64)


def simulate(engine: Engine, requests: Requests, concurrency: int | None = None) -> Simulated:
    """Serve all requests. With `concurrency`, that many clients each send their next request when the last
    is answered: `requests.arrivals` then holds from when on a client may start, and the arrivals of the
    result are the times at which requests were sent.

    PlanError for a request longer than the whole cache.
    """
    longest = int((requests.prompts + requests.answers).max())
    if longest > engine.cache_tokens:
        raise PlanError(
            f"A request of {longest} tokens does not fit a cache of {engine.cache_tokens}.",
            "Use more accelerators, a smaller model or shorter requests.",
        )
    if concurrency is not None and concurrency < 1:
        raise PlanError(f"{concurrency} clients.", "At least 1.")
    return _run(engine, requests, concurrency)


def _run(engine: Engine, requests: Requests, concurrency: int | None) -> Simulated:  # noqa: C901
    """The loop: plain numbers and lists only, so that a million requests take seconds.

    A sequence that decodes ends at a known step; a heap of those steps says how far one can jump. `epoch[i]`
    tells a live heap entry from one that pre-emption made stale.
    """
    base, per_cached, per_prompt = engine.base, engine.per_cached, engine.per_prompt
    slots, capacity, chunk, speed = engine.slots, engine.cache_tokens, engine.chunk, engine.tokens_per_step
    arrivals: list[float] = requests.arrivals.tolist()
    prompts, answers = requests.prompts.tolist(), requests.answers.tolist()
    fresh: list[int] = requests.computed.tolist()  # prompt tokens to compute from nothing
    todo = fresh[:]  # of those, still to compute
    total = len(arrivals)
    steps_left = [math.ceil((n - 1) / speed) for n in answers]
    first, last = [-1.0] * total, [0.0] * total
    held = prompts[:]  # tokens a sequence holds when it starts to decode
    began = [0] * total  # step at which it did
    epoch = [0] * total
    queue: deque[int] = deque()
    filling: deque[int] = deque()  # let in, prompt not done; in order
    running: dict[int, None] = {}  # decoding, in order of admission
    ends: list[tuple[int, int, int]] = []  # (step, request, epoch)
    now, step, cached, reserved = 0.0, 0, 0.0, 0
    upcoming = 0 if concurrency is None else min(concurrency, total)
    queue.extend(range(upcoming))
    start = arrivals[0]
    if concurrency is not None:
        for i in queue:
            arrivals[i] = start
        now = start
    closed = concurrency is not None
    preempted, busy, area, done = 0, 0.0, 0.0, 0
    heappush, heappop = heapq.heappush, heapq.heappop

    while done < total:
        if not closed:
            while upcoming < total and arrivals[upcoming] <= now:
                queue.append(upcoming)
                upcoming += 1
        batch = len(running)
        while queue and batch + len(filling) < slots:
            request = queue[0]
            need = held[request]
            if cached + reserved + need + (batch + len(filling) + 1) * speed > capacity and (
                batch or filling
            ):
                break
            filling.append(queue.popleft())
            reserved += need
        if not batch and not filling:
            now = arrivals[upcoming]
            continue
        while batch and cached + reserved + batch * speed > capacity and batch + len(filling) > 1:
            if filling:
                victim = filling.pop()
                reserved -= held[victim]
                preempted += todo[victim] < fresh[victim]
            else:
                preempted += 1
                victim, _ = running.popitem()
                batch -= 1
                written = step - began[victim]
                cached -= held[victim] + written * speed
                steps_left[victim] -= written
                epoch[victim] += 1
                held[victim] = math.ceil(held[victim] + written * speed)
            if first[victim] >= 0:
                fresh[victim] = held[victim]  # nothing of it is in a prefix cache
            todo[victim] = fresh[victim]
            queue.appendleft(victim)
        if filling:
            room = chunk - batch
            taken, finished = 0, []
            jump = 1
            ahead = filling[0]
            if todo[ahead] > room:
                # whole steps on one long prompt, until it is nearly done or a sequence ends
                jump = (todo[ahead] - 1) // room
                while ends and epoch[ends[0][1]] != ends[0][2]:
                    heappop(ends)
                if ends and ends[0][0] - step < jump:
                    jump = ends[0][0] - step
                if batch:
                    fits = int((capacity - cached - reserved) // (batch * speed))
                    jump = max(min(jump, fits), 1)
                taken = room
                todo[ahead] -= room * jump
            else:
                while filling and room:
                    ahead = filling[0]
                    part = min(todo[ahead], room)
                    todo[ahead] -= part
                    taken += part
                    room -= part
                    if todo[ahead]:
                        break
                    finished.append(filling.popleft())
            growth = batch * speed
            spent = jump * (base[batch] + per_cached * cached + per_prompt * taken)
            spent += per_cached * growth * (jump * (jump - 1) / 2)
            step += jump
            cached += growth * jump
            now += spent
            busy += spent
            area += batch * spent
            for request in finished:
                reserved -= held[request]
                if first[request] < 0:
                    first[request] = now
                else:  # computed again, which gives its next token
                    steps_left[request] -= 1
                if steps_left[request] <= 0:
                    last[request] = now
                    done += 1
                    if closed and upcoming < total:
                        arrivals[upcoming] = now
                        queue.append(upcoming)
                        upcoming += 1
                    continue
                cached += held[request]
                running[request] = None
                began[request] = step
                heappush(ends, (step + steps_left[request], request, epoch[request]))
        else:
            while epoch[ends[0][1]] != ends[0][2]:
                heappop(ends)
            jump = ends[0][0] - step
            growth = batch * speed
            fits = int((capacity - cached) // growth)
            if fits < jump:
                jump = max(fits, 1)
            pace, bend = base[batch] + per_cached * cached, per_cached * growth / 2
            if not closed and upcoming < total and batch < slots and not queue:
                gap = arrivals[upcoming] - now
                if jump * (pace + bend * (jump - 1)) > gap:  # someone comes before: stop at the step's end
                    jump = min(jump, _steps_until(gap, pace, bend))
            spent = jump * (pace + bend * (jump - 1))
            step += jump
            cached += growth * jump
            now += spent
            busy += spent
            area += batch * spent
        while ends and ends[0][0] <= step:
            _, request, stamp = heappop(ends)
            if epoch[request] != stamp:
                continue
            del running[request]
            cached -= held[request] + (step - began[request]) * speed
            last[request] = now
            done += 1
            if closed and upcoming < total:
                arrivals[upcoming] = now
                queue.append(upcoming)
                upcoming += 1
    sent = Requests(np.array(arrivals), requests.prompts, requests.answers, requests.computed)
    lasting = max(last) - start
    return Simulated(
        sent, np.array(first), np.array(last), preempted, step, busy, area / lasting if lasting else 0.0
    )


def _steps_until(gap: float, pace: float, bend: float) -> int:
    """The least m of 1 or more with m (pace + bend (m - 1)) >= gap."""
    if bend == 0:
        found = gap / pace
    else:
        half = (pace - bend) / (2 * bend)
        found = math.sqrt(half * half + gap / bend) - half if half >= 0 else gap / pace
    steps = max(math.ceil(found), 1)
    while steps > 1 and (steps - 1) * (pace + bend * (steps - 2)) >= gap:
        steps -= 1
    while steps * (pace + bend * (steps - 1)) < gap:
        steps += 1
    return steps


def quantiles(values: Array, shares: Sequence[float]) -> tuple[float, ...]:
    """Quantiles of the values that are numbers; NaN when there are none."""
    known = values[np.isfinite(values)]
    if not len(known):
        return tuple(math.nan for _ in shares)
    return tuple(float(q) for q in np.quantile(known, list(shares)))
