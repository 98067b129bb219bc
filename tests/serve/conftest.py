"""One tiny engine and one server for all tests of this directory that do not need their own."""

from collections.abc import Iterator

import pytest

from mythos.engine.engine import Engine
from tests.serve.live import Live, serve
from tests.tiny import TinyHome, tiny_home


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyHome]:
    path = tmp_path_factory.mktemp("serve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYTHOS_KEYS", str(path / "keys"))
        yield tiny_home(path, ("small", "large"))


@pytest.fixture(scope="session")
def engine(tiny: TinyHome) -> Iterator[Engine]:
    with tiny.engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def live(tiny: TinyHome, engine: Engine) -> Iterator[Live]:
    with serve(tiny, engine) as live:
        yield live
