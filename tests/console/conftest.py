"""A town with a console that runs for all tests of a file; and the choice to write screenshots."""

from collections.abc import Iterator

import pytest

from tests.console.world import ConsoleTown, console


@pytest.fixture(scope="module")
def town(tmp_path_factory) -> Iterator[ConsoleTown]:
    made = ConsoleTown(tmp_path_factory.mktemp("town"))
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def base_url(town) -> Iterator[str]:
    with console(town) as url:
        yield url
