"""An ordinary store that is public unless told otherwise, run as anybody starts it, for `mythos demo leak`.

copyparty is a file server in which anybody may read, write and delete until it is told otherwise. It is
fetched with a pinned hash when the user says so, run in a process of its own, and never imported. Without it
Python's own http.server stands in.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mythos.cli.output import CommandError
from mythos.cli.progress import progress
from mythos.data.fetch import Archive, archive_place, fetch_archive
from mythos.serve.listening import bind
from mythos.store.home import Home
from mythos.vault.crawl import Visitor

WHEEL = Archive(
    "copyparty==1.20.26",
    "copyparty-1.20.26-py3-none-any.whl",
    1_256_328,
    "7e51a2576699c089fe6ad74dfd59db02575eb4211af8870372b10a63caf611cb",
)
START = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Store:
    """`what` it is, for people; `wheel` None: http.server."""

    name: str
    what: str
    wheel: Path | None


PLAIN = Store("http.server", "Python's own http.server, which lists and serves what lies in its folder", None)


def is_fetched() -> bool:
    return archive_place(WHEEL, Home.open().cache).is_file()


def fetched() -> Store:
    """copyparty from the cache, or from the package index the first time. FetchError."""
    with progress("copyparty") as report:
        wheel = fetch_archive(WHEEL, Home.open().cache, report)
    what = "copyparty 1.20.26 as it starts without a setting: what lies in its folder is everybody's"
    return Store("copyparty", what, wheel)


@contextlib.contextmanager
def serving(store: Store, folder: Path) -> Iterator[str]:
    """The store over `folder`, in a process of its own, on loopback only: its base URL."""
    with tempfile.TemporaryDirectory(prefix="mythos-store-") as place, bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
        command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
        environment = dict(os.environ)
        if store.wheel is not None:
            _unpack(store.wheel, Path(place) / "code")
            command = [sys.executable, "-m", "copyparty", "-i", "127.0.0.1", "-p", str(port)]
            own = str(Path(place) / "settings")  # nothing of it is left in the user's directories
            environment |= {"PYTHONPATH": str(Path(place) / "code"), "HOME": own, "XDG_CONFIG_HOME": own}
            Path(own).mkdir(mode=0o700)
        free.close()
        with _process(command, folder, environment, port) as base_url:
            yield base_url


@contextlib.contextmanager
def _process(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], port: int
) -> Iterator[str]:
    quiet = subprocess.DEVNULL
    started = subprocess.Popen(command, cwd=folder, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        visitor = Visitor(f"http://127.0.0.1:{port}")
        until = time.monotonic() + START
        while visitor.ask("GET", "/") is None:
            if started.poll() is not None or time.monotonic() > until:
                raise CommandError(f"{command[2]} did not start", "try it by hand")
            time.sleep(0.05)
        visitor.close()
        yield visitor.base
    finally:
        started.terminate()
        try:
            started.wait(5)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _unpack(wheel: Path, to: Path) -> None:
    """The wheel's files: its hash is the pinned one, so its names are known to stay inside."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(to)
