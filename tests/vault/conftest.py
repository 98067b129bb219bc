"""A town with a vault of its own for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from mythos.vault.assets import delete_asset, put_version
from mythos.vault.shares import revoke_share
from tests.vault.world import VaultTown

settings.register_profile("no timing", deadline=None)
settings.load_profile("no timing")


@pytest.fixture
def town(tmp_path: Path) -> Iterator[VaultTown]:
    town = VaultTown(tmp_path)
    yield town
    town.store.close()


@pytest.fixture
def filled(town: VaultTown) -> VaultTown:
    """An asset of two versions, shared until just now; and one that is deleted."""
    delete_asset(*town.place, town.put(title="What was dropped").id)
    asset = town.put(b"a phrase of the draft", "Capybara launch plan", name="plan-of-capybara.txt").id
    put_version(*town.place, asset, [b"a phrase of the draft, mended"])
    revoke_share(*town.place, town.share(asset))
    return town
