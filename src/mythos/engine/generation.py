"""The handle of one running answer: events come out, a cancel goes in. Thread safe, no torch."""

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from mythos.engine.request import Done, Event

WRITES = 250  # a second: how often all readers of batches on one loop are woken, together


class _Waker:
    """Sets what readers on one loop wait for. Waking a loop from another thread is a system call: one does
    for all that is put until the loop gets to it. `WRITES` is the most readers that are woken in a second,
    those of an urgent event aside.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # what knows it by its loop must not keep it
        self._some: deque[asyncio.Event] = deque()
        self._woken = False
        self._next = 0.0  # when readers may be woken again, by the loop's clock

    def wake(self, some: asyncio.Event, urgent: bool) -> None:
        """Raises RuntimeError when the loop has closed."""
        self._some.append(some)
        if urgent or not self._woken:
            self._woken = True
            if (loop := self._loop()) is None:
                raise RuntimeError("the loop is gone")
            loop.call_soon_threadsafe(self._set if urgent else self._soon, loop)

    def _soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop.time() < self._next:
            loop.call_at(self._next, self._set, loop)
        else:
            self._set(loop)

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self._woken = False  # first: what is put from now on wakes again
        readers = 0
        while self._some:
            some = self._some.popleft()
            readers += not some.is_set()
            some.set()
        self._next = loop.time() + readers / WRITES


_wakers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Waker] = weakref.WeakKeyDictionary()


class Generation:
    """Events of one request: any number of `Delta`, then exactly one `Done`.

    Iterate it once, either with `for` (blocks) or, on the running loop, over its `batches`.
    """

    def __init__(self, on_cancel: Callable[["Generation"], None]) -> None:
        self._events: deque[Event] = deque()
        self._ready = threading.Condition()
        self._on_cancel = on_cancel
        self._wake: Callable[[bool], None] | None = None
        self._begun = False
        self.cancelled = False
        self.drafter_withdrawn = False  # set when the caller may no longer use the tier that drafts

    @property
    def unread(self) -> int:
        """Events put and not yet taken: the engine pauses a request whose reader falls behind."""
        return len(self._events)

    def cancel(self) -> None:
        """Ask the engine to stop. A `Done` with Finish.CANCELLED follows unless one is already there."""
        self.cancelled = True
        self._on_cancel(self)

    def put(self, event: Event) -> None:
        """Called by the engine's thread only."""
        with self._ready:
            self._events.append(event)
            wake = self._wake
            self._ready.notify()
        # Where more than this one lies unread, its reader is on the way; the first and the last come at once.
        urgent = not self._begun or isinstance(event, Done)
        self._begun = True
        if wake is not None and (urgent or len(self._events) == 1):
            wake(urgent)

    async def first(self) -> Event:
        """The next event, which stays to be read. Before iterating, on the running loop."""
        some = self._awoken()
        while not self._events:
            await some.wait()
        return self._events[0]

    def __iter__(self) -> Iterator[Event]:
        while True:
            with self._ready:
                while not self._events:
                    self._ready.wait()
                event = self._events.popleft()
            yield event
            if isinstance(event, Done):
                return

    async def batches(self) -> AsyncIterator[list[Event]]:
        """All that has come, each time there is something. The first event and the last come at once; between
        them readers wait for more where so many read on this loop that writing each token by itself would
        take the engine's time (`WRITES`).
        """
        some = self._awoken()
        while True:
            some.clear()
            taken: list[Event] = []
            while self._events:
                taken.append(self._events.popleft())
            if taken:
                yield taken
                if isinstance(taken[-1], Done):
                    return
            await some.wait()

    def _awoken(self) -> asyncio.Event:
        """Is set whenever something has come, from now on."""
        loop = asyncio.get_running_loop()
        some = asyncio.Event()
        waker = _wakers.setdefault(loop, _Waker(loop))

        def wake(urgent: bool) -> None:
            try:
                waker.wake(some, urgent)
            except RuntimeError:  # the loop has closed: nobody is reading any more
                self.cancelled = True

        with self._ready:
            self._wake = wake
        return some
