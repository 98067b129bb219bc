"""The session file: how the other commands find the server that `mythos up` started, and its key.

The key in it dies with that process. The file is ignored once the process is gone, also when its id has been
given to another process since.
"""

import contextlib
import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from mythos.store.home import Home, HomeError, read_private, write_private


@dataclass(frozen=True, slots=True)
class Session:
    """A running `mythos up` of `family`. `started` tells the process from a later one with the same id."""

    base_url: str
    key: str
    pid: int
    started: str
    family: str


def write_session(home: Home, base_url: str, key: str, family: str = "", pid: int | None = None) -> Session:
    """Announce the server that runs as `pid` (this process). Replaces what an earlier one left."""
    pid = os.getpid() if pid is None else pid
    started = process_started(pid)
    if started is None:
        raise HomeError(f"no process {pid} to announce")
    session = Session(base_url, key, pid, started, family)
    write_private(home.session_file, json.dumps(asdict(session)).encode(), replace=True)
    return session


def read_session(home: Home) -> Session | None:
    """The session whose process still runs; None when there is none, or the file is damaged or open."""
    try:
        fields = json.loads(read_private(home.session_file))
        session = Session(**fields)
    except (FileNotFoundError, HomeError, ValueError, TypeError):
        return None
    texts = (session.base_url, session.key, session.started, session.family)
    if not all(isinstance(text, str) for text in texts) or type(session.pid) is not int or session.pid <= 0:
        return None
    return session if process_started(session.pid) == session.started else None


def remove_session(home: Home, pid: int | None = None) -> None:
    """Remove the file if it announces `pid` (this process); another server's is left alone."""
    session = read_session(home)
    if session is not None and session.pid == (os.getpid() if pid is None else pid):
        with contextlib.suppress(FileNotFoundError):
            home.session_file.unlink()


def process_started(pid: int) -> str | None:
    """A text that differs between any two processes that ever have the id `pid`; None when none runs."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
        return found.stdout.strip() or None
    state, start_ticks = fields[0], fields[19]  # fields 3 and 22 of proc(5)
    if state in "ZX":  # ended, not yet collected by its parent
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{start_ticks}"
