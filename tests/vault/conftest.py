"""A town with a vault of its own for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from mythos.cli import output
from tests.vault.world import VaultTown

settings.register_profile("no timing", deadline=None)
settings.load_profile("no timing")


@pytest.fixture
def town(tmp_path: Path) -> Iterator[VaultTown]:
    town = VaultTown(tmp_path)
    yield town
    town.store.close()


@pytest.fixture(autouse=True)
def no_mode():
    yield
    output._Mode.json = False
