"""The handle of one running answer: events come out, a cancel goes in. Thread safe, no torch."""

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from mythos.engine.request import Done, Event


class _Waker:
    """Sets what readers on one loop wait for. Waking a loop from another thread is a system call: one does
    for all that is put until the loop gets to it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # what knows it by its loop must not keep it
        self._some: deque[asyncio.Event] = deque()
        self._woken = False

    def wake(self, some: asyncio.Event) -> None:
        """Raises RuntimeError when the loop has closed."""
        self._some.append(some)
        if not self._woken:
            self._woken = True
            if (loop := self._loop()) is not None:
                loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        self._woken = False  # first: what is put from now on wakes again
        while self._some:
            self._some.popleft().set()


_wakers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Waker] = weakref.WeakKeyDictionary()


class Generation:
    """Events of one request: any number of `Delta`, then exactly one `Done`.

    Iterate it once, either with `for` (blocks) or with `async for` (on the running loop).
    """

    def __init__(self, on_cancel: Callable[["Generation"], None]) -> None:
        self._events: deque[Event] = deque()
        self._ready = threading.Condition()
        self._on_cancel = on_cancel
        self._wake: Callable[[], None] | None = None
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
        if wake is not None:
            wake()

    async def first(self) -> Event:
        """The next event, which stays to be read. Before iterating, on the running loop."""
        async for event in self._events_from_now(take=False):
            return event
        raise AssertionError("a generation ends with Done")

    def __iter__(self) -> Iterator[Event]:
        while True:
            with self._ready:
                while not self._events:
                    self._ready.wait()
                event = self._events.popleft()
            yield event
            if isinstance(event, Done):
                return

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events_from_now(take=True)

    async def _events_from_now(self, take: bool) -> AsyncIterator[Event]:
        loop = asyncio.get_running_loop()
        some = asyncio.Event()
        waker = _wakers.setdefault(loop, _Waker(loop))

        def wake() -> None:
            try:
                waker.wake(some)
            except RuntimeError:  # the loop has closed: nobody is reading any more
                self.cancelled = True

        with self._ready:
            self._wake = wake
        while True:
            some.clear()
            while self._events:
                event = self._events.popleft() if take else self._events[0]
                yield event
                if isinstance(event, Done):
                    return
            if not self._events:
                await some.wait()
