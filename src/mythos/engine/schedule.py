"""Who is next: pure decisions about sequences that wait, are read or are answered. No torch, no clock.

Work is counted by cost: PROMPT_COST for a prompt token that is computed, ANSWER_COST for a token that is
generated; what comes from the prefix cache costs nothing. Inside a lane the organisation that was served
least is next (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996), inside an organisation whoever came
first. The interactive lane goes before the batch lane, which is served now and then all the same.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from mythos.engine.request import Lane

PROMPT_COST = 1
ANSWER_COST = 4  # a pass for one token reads as many weights as one for a chunk
CREDIT = 4096  # cost that an organisation with work may fall behind another; beyond, it is forgiven
AGING = 16  # times its own cost that the batch lane lets pass before it is served first
LONGEST = 4096  # cost of a prompt beyond which the batch lane waits no longer to be admitted
SLOWDOWN = 3.0  # mean time per token while prompts are read, in times of what it is without
MAX_PASSES = 64  # between two chunks of prompts, whatever was measured
WEIGHT = 0.2  # of a new measurement in a running mean
FADE = 0.02  # of what was measured, with each further step
MAX_WAIT = 60.0  # seconds that a caller is told to wait at most: a longer queue is asked about again


class Job(Protocol):
    """What the scheduler has to know of a sequence. `arrived` numbers them in the order they came."""

    @property
    def org(self) -> str: ...
    @property
    def lane(self) -> Lane: ...
    @property
    def arrived(self) -> int: ...
    @property
    def prompt_cost(self) -> int: ...


J = TypeVar("J", bound=Job)


@dataclass(slots=True)
class Shares:
    """What the organisations of one lane were served, by cost, in virtual time.

    `clock` is how far those with work have all come. Who comes back from idleness begins there, and keeps
    what it was served beyond it.
    """

    clock: int = 0
    served: dict[str, int] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)

    def enter(self, orgs: set[str]) -> None:
        """`orgs` are those that have work now."""
        most = max((self.served[org] for org in orgs & self.present), default=0)
        for org in orgs:
            start = 0 if org in self.present else self.clock
            self.served[org] = max(self.served.get(org, 0), start, most - CREDIT)
        # With nobody left all begin alike again.
        reached = min((self.served[o] for o in orgs), default=max(self.served.values(), default=0))
        self.clock = max(self.clock, reached)
        self.served = {o: cost for o, cost in self.served.items() if o in orgs or cost > self.clock}
        self.present = orgs

    def first(self, jobs: Iterable[J]) -> J | None:
        return min(jobs, key=lambda job: (self.served[job.org], job.arrived), default=None)


@dataclass(slots=True)
class Schedule:
    """The account of one loaded tier. Call `present` before each round of decisions.

    `passed` is the cost that interactive work was served past a batch lane with work, `total` all there was.
    """

    shares: dict[Lane, Shares] = field(default_factory=lambda: {lane: Shares() for lane in Lane})
    passed: int = 0
    total: int = 0

    def present(self, jobs: Iterable[Job]) -> None:
        """`jobs` are all that are waiting, being read or being answered now."""
        orgs: dict[Lane, set[str]] = {lane: set() for lane in Lane}
        for job in jobs:
            orgs[job.lane].add(job.org)
        for lane, share in self.shares.items():
            share.enter(orgs[lane])

    def charge(self, job: Job, cost: int) -> None:
        """Book `cost` of work done for a job."""
        self.total += cost
        self.shares[job.lane].served[job.org] += cost
        if job.lane is Lane.BATCH:
            self.passed = max(0, self.passed - AGING * cost)
        else:
            waits = bool(self.shares[Lane.BATCH].present)
            self.passed = min(self.passed + cost, AGING * LONGEST) if waits else 0

    def due(self, cost: int) -> bool:
        """Whether the batch lane has let enough pass to be served `cost` before the other."""
        return self.passed >= AGING * min(cost, LONGEST)

    def admitted(self, waiting: Sequence[J], aging: bool = True) -> J | None:
        """Who is let in next. `aging` False: the batch lane only when nobody else waits."""
        fast, slow = _lanes(waiting)
        aged = self.shares[Lane.BATCH].first(slow) if fast else None
        if aging and aged is not None and self.due(aged.prompt_cost):
            return aged
        return self._first(fast, slow)

    def prompt(self, reading: Sequence[J], cost: int) -> J | None:
        """Whose chunk of a prompt is computed next; `cost` is that of a whole chunk."""
        fast, slow = _lanes(reading)
        return self._first(slow, fast) if slow and self.due(cost) else self._first(fast, slow)

    def rows(self, answering: Sequence[J], most: int, urgent: bool = False) -> list[J]:
        """Who gets a row of the next pass of at most `most`, and is charged for it.

        `answering` stands in the order of an organisation's turns. `urgent`: an interactive prompt is being
        read, which a pass for the batch lane alone would delay.
        """
        fast, slow = _lanes(answering)
        rows = self._turns(slow, 1) if self.due(ANSWER_COST) else []
        rows += self._turns(fast, most - len(rows))
        if rows or not urgent:
            rows += self._turns([job for job in slow if job not in rows], most - len(rows))
        return rows

    def _first(self, one: Sequence[J], other: Sequence[J]) -> J | None:
        jobs = one or other
        return self.shares[jobs[0].lane].first(jobs) if jobs else None

    def _turns(self, jobs: Sequence[J], most: int) -> list[J]:
        queues: dict[str, deque[J]] = {}
        for job in jobs:
            queues.setdefault(job.org, deque()).append(job)
        rows: list[J] = []
        while queues and len(rows) < most:
            org = min(queues, key=lambda org: (self.shares[jobs[0].lane].served[org], queues[org][0].arrived))
            rows.append(queues[org].popleft())
            self.charge(rows[-1], ANSWER_COST)
            if not queues[org]:
                del queues[org]
        return rows


def _lanes(jobs: Sequence[J]) -> tuple[list[J], list[J]]:
    """Interactive and batch."""
    fast = [job for job in jobs if job.lane is Lane.INTERACTIVE]
    return fast, [job for job in jobs if job.lane is Lane.BATCH] if len(fast) < len(jobs) else []


@dataclass(slots=True)
class Pace:
    """How many passes of decoding lie between two chunks of prompts, by what both were measured to take.

    With one chunk of C seconds in N passes of D seconds each, a token takes D + C / N on average: N is the
    least with which that is no more than SLOWDOWN times D.
    """

    chunk_seconds: float = 0.0
    pass_seconds: float = 0.0
    passes: int = 0  # since the last chunk

    def decoded(self, seconds: float) -> None:
        self.passes += 1
        self.pass_seconds = _mean(self.pass_seconds, seconds)

    def read(self, seconds: float) -> None:
        self.passes = 0
        self.chunk_seconds = _mean(self.chunk_seconds, seconds)

    @property
    def between(self) -> int:
        """N; 1 while nothing was measured."""
        if not self.pass_seconds:
            return 1
        return max(1, min(MAX_PASSES, math.ceil(self.chunk_seconds / (self.pass_seconds * (SLOWDOWN - 1)))))

    @property
    def ready(self) -> bool:
        """Whether the next chunk may be computed beside decoding."""
        return self.passes >= self.between


@dataclass(slots=True)
class Rate:
    """Cost served per second, recent work counting most."""

    cost: float = 0.0
    seconds: float = 0.0

    def add(self, cost: int, seconds: float) -> None:
        self.cost += cost - self.cost * FADE
        self.seconds += seconds - self.seconds * FADE

    def wait(self, cost: int) -> float:
        """Seconds to serve `cost`, between 1 and MAX_WAIT; 1 while nothing was measured."""
        rate = self.cost / self.seconds if self.seconds > 0 else 0.0
        return min(MAX_WAIT, max(1.0, cost / rate)) if rate > 0 else 1.0


def _mean(old: float, new: float) -> float:
    return new if not old else old + WEIGHT * (new - old)
