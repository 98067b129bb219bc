"""Writing down attempts, usage and receipts: one thread, off the event loop, one event for each attempt.

What has queued up while the disk was busy is written in one transaction, that is with one fsync; nobody waits
for a batch to fill. A future is done when its batch is on disk: what is acknowledged is as durable as if it
had been written alone, and in the order in which it was handed over.

A flood must not fill the disk: beyond a number per minute, the attempts of one principal (and of all unknown
callers together) are counted, and the count is written as one event when the minute is over.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from mythos.ledger.log import audit_in
from mythos.records.clock import Clock
from mythos.records.principal import Principal
from mythos.serve.errors import ApiError
from mythos.store.db import Store
from mythos.store.usage import UsageRow, record_usage_in

MAX_QUEUED = 4_096
MAX_BATCH = 256  # jobs of one transaction: others can write in between
EACH_MINUTE = 6_000  # attempts of one principal written one by one
UNKNOWN_EACH_MINUTE = 60
WINDOW = 60.0  # seconds

Job = Callable[[sa.Connection], object]  # writes in the transaction it is given


@dataclass(slots=True)
class _Window:
    principal: Principal | None
    began: float
    written: int = 0
    counted: dict[tuple[str, str], int] = field(default_factory=dict)


class Recorder:
    """`attempt` and `answered` return at once; the future they give is done when the rows are on disk."""

    def __init__(self, store: Store, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._jobs: queue.Queue[tuple[Job, Future[None]] | None] = queue.Queue()
        self._windows: dict[tuple[str, str] | None, _Window] = {}
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def attempt(
        self,
        principal: Principal | None,
        action: str,
        outcome: str,
        noted: Callable[[int], None] = lambda seq: None,
        /,
        **facts: Any,
    ) -> Future[None] | None:
        """Record one attempt; None when it is only counted. ApiError 529 when the disk cannot keep up.

        `noted` hears its place in the ledger before any job runs that is handed over later.
        """
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
        return self._put(lambda conn: noted(audit_in(conn, self._clock, principal, action, outcome, facts)))

    def answered(self, principal: Principal, row: UsageRow, receipt: Job) -> Future[None]:
        """Store what an answer used and its receipt: both or neither."""

        def write(conn: sa.Connection) -> None:
            record_usage_in(conn, self._clock, principal, row)
            receipt(conn)

        return self._put(write)

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
            row = (window.principal, action, outcome, {"attempts": count})
            self._put(lambda conn, row=row: audit_in(conn, self._clock, *row))
        window.counted = {}

    def _put(self, job: Job) -> Future[None]:
        done: Future[None] = Future()
        self._jobs.put((job, done))
        return done

    def _run(self) -> None:
        while True:
            batch = [self._jobs.get()]
            with contextlib.suppress(queue.Empty):
                while batch[-1] is not None and len(batch) < MAX_BATCH:
                    batch.append(self._jobs.get_nowait())
            self._write([item for item in batch if item is not None])
            if batch[-1] is None:
                return

    def _write(self, batch: list[tuple[Job, "Future[None]"]]) -> None:
        try:
            with self._store.begin() as conn:
                for job, _ in batch:
                    job(conn)
        except Exception as error:  # handed to whoever waits for the row
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:  # nothing of it is written: each alone, so that one that fails takes no other with it
                for item in batch:
                    self._write([item])
        else:
            for _, done in batch:
                done.set_result(None)
