"""Which listeners of this data directory run: each says so in a file, ignored once the process is gone."""

import contextlib
import json
import os
from collections.abc import Iterator

from mythos.store.home import Home, HomeError, private_directory, read_private, write_private
from mythos.store.session import process_started


@contextlib.contextmanager
def announced(home: Home, name: str, base_url: str) -> Iterator[None]:
    """Say, until the block ends, that this process answers as `name` at `base_url`."""
    place = home.path / "listeners"
    private_directory(place)
    file = place / f"{name}.{os.getpid()}.json"
    said = {"name": name, "base_url": base_url, "pid": os.getpid(), "started": process_started(os.getpid())}
    write_private(file, json.dumps(said).encode(), replace=True)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def listeners(home: Home) -> list[tuple[str, str]]:
    """Name and base URL of each that runs."""
    place, found = home.path / "listeners", []
    for file in sorted(place.iterdir()) if place.is_dir() else ():
        try:
            said = json.loads(read_private(file))
            name, base_url, pid, started = (said[x] for x in ("name", "base_url", "pid", "started"))
        except (HomeError, FileNotFoundError, ValueError, KeyError, TypeError):
            continue
        if isinstance(pid, int) and process_started(pid) == started:
            found.append((str(name), str(base_url)))
    return found
