"""Whether a server of this data directory answers just now: what trains beside it waits as long as one does.

A lock on a file, shared by the servers that answer; the system frees it however a process ends.
"""

import fcntl
import os
import time

from mythos.store.home import Home

POLL = 0.02  # seconds


class Answering:
    """A server's side: `begin` with each answer, `end` behind it, on one thread."""

    def __init__(self, home: Home) -> None:
        self._descriptor = _open(home)
        self._running = 0

    def begin(self) -> None:
        if not self._running:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)  # waits at most for the instant of a look
        self._running += 1

    def end(self) -> None:
        self._running -= 1
        if not self._running and self._descriptor >= 0:  # answers may end after `close`
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


class Idle:
    """The other side: calling it waits until no server answers, and tells how many seconds that took."""

    def __init__(self, home: Home) -> None:
        self._descriptor = _open(home)

    def __call__(self) -> float:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(POLL)
                continue
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            return time.monotonic() - began

    def close(self) -> None:
        os.close(self._descriptor)


def _open(home: Home) -> int:
    return os.open(home.path / "answering.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
