"""A town with a console that runs for all tests of a file; and the choice to write screenshots."""

from collections.abc import Iterator

import pytest

from mythos.console.sessions import SessionBook
from mythos.serve.limits import Budget
from tests.console.world import ConsoleTown, console


@pytest.fixture(scope="module")
def town(tmp_path_factory) -> Iterator[ConsoleTown]:
    made = ConsoleTown(tmp_path_factory.mktemp("town"))
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def base_url(town) -> Iterator[str]:
    book = SessionBook(tries=Budget(100_000, 100_000, 0.0))  # every test signs in anew
    with console(town, book) as url:
        yield url
