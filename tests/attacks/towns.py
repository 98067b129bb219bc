"""Towns of their own for each case, without founding each."""

import copy
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mythos.records.clock import Clock
from mythos.store.db import Store
from mythos.store.home import Home
from tests.gate.town import Town

_founded: dict[str, tuple[Town, Any]] = {}


def copied_town(path: Path, prepare: Callable[[Town], None] | None = None, **setting: Any) -> Town:
    """A town of its own at `path`: one for each setting is founded, the others are copies of its files."""
    about = json.dumps([prepare and prepare.__name__, setting], sort_keys=True)
    if about not in _founded:
        place = tempfile.TemporaryDirectory(prefix="town-")
        founded = Town(Path(place.name), **setting)
        if prepare:
            prepare(founded)
        founded.store.close()
        _founded[about] = founded, place
    town = copy.copy(_founded[about][0])
    home, town.home = town.home, Home(path / "home", path / "keys")
    shutil.copytree(home.path, town.home.path)
    shutil.copytree(home.keys, town.home.keys)
    town.store, town.keys = Store.open(town.home), dict(town.keys)
    town.clock = Clock(system=lambda: town.now)
    return town
