"""Who is signed in. Sessions live in the memory of this process and end with it.

A session stands for an API key, by its hash: the key is looked up again at every request, so that a revoked
one ends all its sessions. Of the cookie, too, only the hash is kept.
"""

import hashlib
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mythos.serve.errors import ApiError
from mythos.serve.limits import Budget

LONGEST = 12 * 3600.0  # seconds that a session lasts
IDLE = 3600.0  # without a request
OF_ONE_KEY = 20  # sessions; the oldest gives way
TRIES = 30  # to sign in, of everybody together, in a minute
COOKIE_LENGTH = 43  # characters, 256 bits


@dataclass(slots=True)
class Session:
    """`key` is the SHA-256 of the API key, `token` what every form must send back.

    `said` is what the next page says.
    """

    key: bytes
    token: str
    began: float  # seconds, monotonic
    seen: float
    said: str = ""


@dataclass(slots=True)
class SessionBook:
    """Sessions by the SHA-256 of their cookie."""

    clock: Callable[[], float] = time.monotonic
    sessions: dict[bytes, Session] = field(default_factory=dict)
    tries: Budget = field(default_factory=lambda: Budget(TRIES, TRIES, 0.0))

    def take_try(self) -> None:
        """Spend one try to sign in. ApiError 429 when there is none left."""
        self.tries.refill(self.clock())
        if self.tries.left < 1:
            wait = max(1, math.ceil(self.tries.seconds_until(1)))
            message = "Too many tries to sign in. Wait a moment, then try again."
            raise ApiError(429, message, code="rate_limit_exceeded", headers={"retry-after": str(wait)})
        self.tries.left -= 1

    def begin(self, key: bytes) -> str:
        """A new session for the key with this hash; the value of its cookie."""
        now = self.clock()
        self._sweep(now)
        same = [name for name, one in self.sessions.items() if one.key == key]
        for name in same[: max(0, len(same) - OF_ONE_KEY + 1)]:
            del self.sessions[name]
        cookie = secrets.token_urlsafe(32)
        self.sessions[_name(cookie)] = Session(key, secrets.token_urlsafe(32), now, now)
        return cookie

    def find(self, cookie: str) -> Session | None:
        """The session of a cookie; None for none, or one whose time is over."""
        now = self.clock()
        found = self.sessions.get(_name(cookie)) if len(cookie) == COOKIE_LENGTH else None
        if found is None or _over(found, now):
            return None
        found.seen = now
        return found

    def end(self, cookie: str) -> None:
        self.sessions.pop(_name(cookie), None)

    def _sweep(self, now: float) -> None:
        for name in [name for name, one in self.sessions.items() if _over(one, now)]:
            del self.sessions[name]


def _over(session: Session, now: float) -> bool:
    return now - session.began >= LONGEST or now - session.seen >= IDLE


def _name(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "replace")).digest()
