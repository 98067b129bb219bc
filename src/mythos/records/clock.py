"""The one clock. Time never runs backward past what the ledger has already written down."""

import math
import time
from collections.abc import Callable

from mythos.records.errors import MythosError

TOLERANCE = 60.0  # seconds the system clock may lie behind the ledger (clock steps, NTP corrections)


class ClockError(MythosError):
    """The system clock cannot be trusted: it lies behind the ledger by more than `TOLERANCE`."""


class Clock:
    """POSIX seconds. `last` returns the time of the newest ledger event; `system` the machine's time.

    Whoever sets the system clock back to revive something that has expired finds that nothing answers.
    """

    def __init__(
        self, last: Callable[[], float] = lambda: 0.0, system: Callable[[], float] = time.time
    ) -> None:
        self._last = last
        self._system = system

    def now(self) -> float:
        """max(system time, last ledger time); ClockError when the system is more than 60 s behind."""
        return self.after(self._last())

    def after(self, last: float) -> float:
        """The same rule for a ledger time the caller has already read (inside a transaction)."""
        system = self._system()
        if not math.isfinite(system) or system < last - TOLERANCE:
            raise ClockError(
                f"the system clock ({stamp(system)}) is behind the last ledger event ({stamp(last)})",
                "Set the system clock right. If it once ran ahead, wait until it has passed the later time.",
            )
        return max(system, last)


def stamp(seconds: float) -> str:
    """`seconds` as ISO 8601 in UTC, for messages."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)
