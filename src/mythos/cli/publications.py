"""`mythos publication`: ask, vote, open, withdraw, list, serve."""

import os
import signal
import threading
import time
from pathlib import Path

from mythos.cli.desk import open_desk, said, table
from mythos.cli.output import CommandError, Exit, date, emit, json_wanted, note, printable, show
from mythos.gate.publications import against, is_public, votes_for
from mythos.gate.state import Rejected
from mythos.records.errors import MythosError
from mythos.records.principal import OPERATOR
from mythos.records.reasons import Code
from mythos.records.release import Choice
from mythos.records.trust import SERVICES, VOTERS, Role
from mythos.store.operator_key import operator_keys
from mythos.vault import publications

ASKERS = frozenset(Role) - SERVICES - {Role.AUDITOR}
LEAP = 60.0  # seconds that the clock may run ahead of the time that has passed, before nothing new opens


def run_request(asset: str, starts: str, ends: str, why: str, who: str) -> int:
    desk = open_desk()
    person, secret = desk.key(who, ASKERS)
    times = (time_of(starts, desk.records.clock.now()), time_of(ends, 0.0))
    made = publications.request_publication(*desk.acting, asset, *times, why, person, secret)
    return said(desk, f"{made.id}\ntwo others vote on it: mythos publication vote REQUEST --as PERSON", made)


def run_vote(request: str, choice: Choice, who: str) -> int:
    desk = open_desk()
    person, secret = desk.key(who, VOTERS)
    made = publications.vote_publication(*desk.acting, request, choice, person, secret)
    return said(desk, f"{person} says {choice} to {request}", made)


def run_open(request: str) -> int:
    desk = open_desk()
    gate = operator_keys(desk.records.home)
    try:
        made = publications.publish(*desk.acting, request, gate)
    except Rejected as refused:
        if refused.code is Code.QUORUM_NOT_MET:
            raise CommandError(
                refused.message, f"mythos publication vote {request} --as PERSON", Exit.REFUSED
            ) from None
        raise
    return said(desk, f"{made.id} is public from {date(made.starts_at)} on", made)


def run_withdraw(request: str, reason: str, who: str) -> int:
    desk = open_desk()
    person, secret = desk.key(who, ASKERS)
    text = publications.withdraw(*desk.acting, request, reason, person, secret)
    return said(desk, f"{request} is withdrawn. {text}", None, request=request, elsewhere=text)


def run_list() -> int:
    desk = open_desk()
    state, now = desk.state, desk.records.clock.now()
    made = {p.request: p for p in state.publications.values()}
    rows = []
    for one in state.requests.values():
        found, reason = made.get(one.id), against(state, one, now)
        word = "public" if found and is_public(state, found, now) else "opens by itself" if found else "asked"
        rows.append(
            {
                "id": one.id,
                "public_as": found.id if found else "",
                "state": str(reason[0]) if reason else word,
                "votes": len(votes_for(state, one)),
                "by": one.by,
                "from": date(one.starts_at),
                "until": date(one.ends_at) if one.ends_at else "",
                "title": printable(publications.copy_of(desk.records.store, one.id).title),
            }
        )
    if json_wanted():
        emit({"publications": rows})
    elif rows:
        table(rows, "publications")
    else:
        note("none yet: mythos publication request ID --why TEXT --as PERSON")
    return 0


def run_read(request: str, out: Path) -> int:
    """What is voted on, for those who vote."""
    desk = open_desk()
    copy = publications.copy_of(desk.records.store, request)
    with open(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for piece in publications.read_copy(desk.records.store, request):
            file.write(piece)
    return said(desk, f"{printable(copy.title)}: {copy.size} bytes in {out}; why: {printable(copy.why)}")


def run_serve(port: int) -> int:
    from mythos.serve.apart import running
    from mythos.serve.listening import bind
    from mythos.serve.public_app import create_public_app
    from mythos.store.listeners import announced

    desk = open_desk()
    records, stop = desk.records, threading.Event()
    told = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(
        signal.SIG_BLOCK, told
    )  # in every thread to come: they are waited for, not handled
    ticking = threading.Thread(target=_tick, args=(desk.acting, stop), daemon=True)
    with (
        bind("127.0.0.1", port) as listener,
        running(create_public_app(records.store, records.clock), listener) as base_url,
        announced(records.home, "public", base_url),
    ):
        ticking.start()
        if json_wanted():
            emit({"base_url": base_url, "pid": os.getpid()})
        else:
            show(f"the public area at {base_url}/p/ID; Ctrl-C stops")
        signal.sigwait(told)
        stop.set()
        ticking.join()
    return 0


def _tick(acting: tuple, stop: threading.Event) -> None:
    """Lay out every second what is due. After a leap of the clock nothing new opens: that may be an error."""
    store, clock, _ = acting
    offset = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    while not stop.wait(1.0):
        ahead = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - offset
        if abs(ahead) > LEAP:
            note("the clock has leapt: nothing new opens until this is started again")
        try:
            publications.lay_out(store, clock, OPERATOR, open_new=abs(ahead) <= LEAP)
        except MythosError as error:
            note(f"the public area could not be laid out: {error.message}")


def time_of(given: str, default: float) -> float:
    """POSIX seconds of an ISO 8601 time; without an offset it is local time."""
    from datetime import datetime

    if not given:
        return default
    try:
        return datetime.fromisoformat(given).timestamp()
    except ValueError:
        raise CommandError(
            f"{given!r} is not a time", "for example 2026-12-01T09:00+00:00", Exit.USAGE
        ) from None
