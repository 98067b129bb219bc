"""What runs is decided again whenever anything changes: one watch for all answers of a server.

Ten times a second it looks whether keys, weights, decisions or records have changed. Then, when its permit
runs out, and once soon after its beginning, each running answer goes through `authorize` again; what is
permitted no longer ends. A server that cannot read its records any more answers for one lease, then nobody.

Once a second it looks whether the log is due for a signed tree head.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from mythos.gate.authorize import Standing, authorize, load_standing
from mythos.gate.release import in_force
from mythos.gate.state import State
from mythos.gate.submit import submit
from mythos.records.clock import ClockError
from mythos.records.dsse import key_id
from mythos.records.errors import MythosError
from mythos.records.ids import new_id
from mythos.records.permit import Permit
from mythos.records.principal import LOCAL_ORG, Principal
from mythos.records.release import Acknowledgement
from mythos.records.signed import seal
from mythos.records.trust import Role
from mythos.store.keys import revoked_keys
from mythos.store.own_log import publish_own_if_due
from mythos.store.record_log import records_after

if TYPE_CHECKING:
    from mythos.serve.answer import Answer
    from mythos.serve.service import Service

POLL_SECONDS = 0.1
HEAD_POLL_SECONDS = 1.0
AT_ONCE = float("-inf")
ACKNOWLEDGED = frozenset({"suspension", "halt", "revocation", "incident"})
SERVER = Principal("server", "service", LOCAL_ORG)

log = logging.getLogger("mythos.serve")


class Watch:
    """The running answers of a server, and whether it may answer at all. Belongs to its event loop."""

    def __init__(self, service: "Service", monotonic: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._monotonic = monotonic
        self._until: dict[Answer, float] = {}  # when to decide again, in POSIX seconds
        self._reached = monotonic()  # when the records were read last
        self._standing: Standing | None = None
        self._revoked: frozenset[str] = frozenset()
        # Threads of their own: neither a slow disk nor a waiting write holds up the other, or a request.
        self._reader = ThreadPoolExecutor(1, "watch")
        self._writer = ThreadPoolExecutor(1, "acknowledge")
        self._signing: Future[float] | None = None  # gives how long to wait before the next look
        self._sign_after = monotonic()

    def add(self, answer: "Answer") -> None:
        """Watch an answer. What it was permitted upon may have changed since: it is decided again at once."""
        self._until[answer] = AT_ONCE

    def drop(self, answer: "Answer") -> None:
        self._until.pop(answer, None)

    @property
    def lapsed(self) -> bool:
        """Whether the records could not be read for a whole lease. Unknown means no, to everybody."""
        return self._monotonic() - self._reached > self._service.settings.lease_seconds

    async def run(self) -> None:
        """Look and decide until cancelled."""
        looking: asyncio.Future[tuple[Standing, frozenset[str], float | None]] | None = None
        began = 0.0
        try:
            while True:
                if looking is None:
                    began = self._monotonic()
                    looking = asyncio.get_running_loop().run_in_executor(self._reader, self._look)
                done, _ = await asyncio.wait({looking}, timeout=POLL_SECONDS)
                if not done:
                    self._without_records()
                else:
                    try:
                        self._decide(*looking.result())
                        self._reached = began
                    except Exception as error:
                        log.error("the records cannot be read: %s", type(error).__name__)
                        self._without_records()
                    looking = None
                self._sign_when_due()
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._reader.shutdown(wait=False, cancel_futures=True)
            self._writer.shutdown(wait=True)

    def _look(self) -> tuple[Standing, frozenset[str], float | None]:
        """How things stand, which keys have ended, and the time: None when no clock can be trusted."""
        service, before = self._service, self._standing
        standing = load_standing(service.home, service.store, service.family)
        # The same object while nothing has changed, keys included.
        revoked = self._revoked if standing is before else revoked_keys(service.store)
        try:
            return standing, revoked, service.clock.now()
        except ClockError:
            return standing, revoked, None

    def _decide(self, standing: Standing, revoked: frozenset[str], now: float | None) -> None:
        before, self._standing, self._revoked = self._standing, standing, revoked
        ended = []
        for answer, until in list(self._until.items()):
            if standing is before and now is not None and now < until:
                continue
            permit = None if now is None else self._again(answer.permit, now)
            if permit is None:
                ended.append(answer)
            else:
                self._until[answer] = permit.expires_at
                # When the drafter's permit runs out by itself the engine sees to it.
                if now is not None and answer.drafter and self._again(answer.drafter, now) is None:
                    answer.drafter, answer.generation.drafter_withdrawn = None, True
        self._end(ended)
        if before is not None and standing.state.seq > before.state.seq:
            self._writer.submit(self._acknowledge, standing.state, before.state.seq, len(ended))

    def _without_records(self) -> None:
        """What can be done while they cannot be read: permits run out, and at last the lease does."""
        now = self._service.clock.after(0.0)
        self._end([answer for answer, until in self._until.items() if self.lapsed or AT_ONCE < until <= now])

    def _again(self, permit: Permit, now: float) -> Permit | None:
        """The permit for the same as before, as things stand now; None when there is none."""
        standing = self._standing
        assert standing is not None
        if permit.principal.id in self._revoked:
            return None
        found = authorize(standing, permit.principal, permit.action, permit.tier, permit.purpose, now)
        if not isinstance(found, Permit) or (found.root, found.profile) != (permit.root, permit.profile):
            return None
        release = standing.state.releases.get(permit.decision)
        if release is not None and not in_force(standing.state, release, now):
            return None  # another release may serve the next request, but this answer began under that one
        return found

    def _end(self, answers: "list[Answer]") -> None:
        for answer in answers:
            self.drop(answer)
            answer.withdrawn = True
            answer.generation.cancel()

    def _sign_when_due(self) -> None:
        if self._signing is not None and self._signing.done():
            self._sign_after = self._monotonic() + self._signing.result()
            self._signing = None
        if self._signing is None and self._monotonic() >= self._sign_after:
            self._signing = self._writer.submit(self._sign)

    def _sign(self) -> float:
        """Publish a tree head if it is due; the seconds until the next look."""
        service, every = self._service, self._service.settings.head_seconds
        try:
            publish_own_if_due(service.store, service.clock, every)
            return HEAD_POLL_SECONDS
        except MythosError as error:
            log.error("no tree head could be signed: %s", error.message)
        except Exception as error:  # on a thread nobody waits for: it must not vanish
            log.error("no tree head could be signed: %s", type(error).__name__)
        return every

    def _acknowledge(self, state: State, after: int, ended: int) -> None:
        """Log that this server acts upon what restricts; the first of several records carries the count."""
        service, key = self._service, self._service.receipt_key
        try:
            with service.store.read() as conn:
                rows = [row for row in records_after(conn, after) if row.seq <= state.seq]
            known = state.trust and state.trust.key(key_id(key.public_key()))
            for row in rows:
                if row.kind not in ACKNOWLEDGED:
                    continue
                record, count, ended = json.loads(row.event)["id"], ended, 0
                if known is None or known.role is not Role.SERVER:
                    service.recorder.attempt(
                        SERVER, "acknowledge", "unsigned", record=record, streams_ended=count
                    )
                    continue
                said = Acknowledgement(new_id("ack"), state.deployment, record, known.holder, count)
                submit(service.store, service.clock, SERVER, seal(said, key))
        except MythosError as error:
            log.error("a record could not be acknowledged: %s", error.message)
        except Exception as error:  # on a thread nobody waits for: it must not vanish
            log.error("a record could not be acknowledged: %s", type(error).__name__)
