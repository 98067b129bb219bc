"""Writing down attempts and usage: one thread, off the event loop, one event for each attempt.

A flood must not fill the disk: beyond a number per minute, the attempts of one principal (and of all unknown
callers together) are counted, and the count is written as one event when the minute is over.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mythos.ledger.log import audit
from mythos.records.clock import Clock
from mythos.records.principal import Principal
from mythos.serve.errors import ApiError
from mythos.store.db import Store
from mythos.store.usage import UsageRow, record_usage

MAX_QUEUED = 4_096
EACH_MINUTE = 6_000  # attempts of one principal written one by one
UNKNOWN_EACH_MINUTE = 60
WINDOW = 60.0  # seconds


@dataclass(slots=True)
class _Window:
    principal: Principal | None
    began: float
    written: int = 0
    counted: dict[tuple[str, str], int] = field(default_factory=dict)


class Recorder:
    """`attempt` and `usage` return at once; the future they give is done when the row is on disk."""

    def __init__(self, store: Store, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._jobs: queue.Queue[tuple[Callable[[], object], Future[None]] | None] = queue.Queue()
        self._windows: dict[tuple[str, str] | None, _Window] = {}
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def attempt(
        self, principal: Principal | None, action: str, outcome: str, **facts: Any
    ) -> Future[None] | None:
        """Record one attempt; None when it is only counted. ApiError 529 when the disk cannot keep up."""
        if principal is not None and self._jobs.qsize() >= MAX_QUEUED:
            raise ApiError(529, "the server cannot record requests fast enough", headers={"retry-after": "1"})
        who = None if principal is None else (principal.org, principal.id)
        window = self._windows.get(who)
        now = self._monotonic()
        if window is None or now - window.began >= WINDOW:
            self._close_window(window)
            window = self._windows[who] = _Window(principal, now)
        if window.written >= (UNKNOWN_EACH_MINUTE if principal is None else EACH_MINUTE):
            window.counted[(action, outcome)] = window.counted.get((action, outcome), 0) + 1
            return None
        window.written += 1
        return self._put(partial(audit, self._store, self._clock, principal, action, outcome, **facts))

    def usage(self, principal: Principal, row: UsageRow) -> Future[None]:
        """Store what an answer used."""
        return self._put(partial(record_usage, self._store, self._clock, principal, row))

    def close(self) -> None:
        """Write what is queued and counted, then stop. Blocks."""
        for window in self._windows.values():
            self._close_window(window)
        self._jobs.put(None)
        self._thread.join()

    def _close_window(self, window: _Window | None) -> None:
        if window is None:
            return
        for (action, outcome), count in window.counted.items():
            job = partial(audit, self._store, self._clock, window.principal, action, outcome, attempts=count)
            self._put(job)
        window.counted = {}

    def _put(self, job: Callable[[], object]) -> Future[None]:
        done: Future[None] = Future()
        self._jobs.put((job, done))
        return done

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            try:
                job()
            except Exception as error:  # handed to whoever waits for the row
                done.set_exception(error)
            else:
                done.set_result(None)
