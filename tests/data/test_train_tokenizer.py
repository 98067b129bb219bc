"""A tokenizer trained here is one that is read here, the same each time, and loses no byte."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.data.documents import DataError
from mythos.data.tokenizer import Tokenizer
from mythos.data.train_tokenizer import CONTROL, SMALLEST, train_tokenizer
from tests.data.small import tokenizer, tokenizer_json


def test_size_and_control_tokens_are_as_asked() -> None:
    made = tokenizer()
    assert made.vocab_size == 300
    assert made.control_tokens == CONTROL and made.eos_ids == {0, 2}
    assert [made.encode(name) for name in CONTROL] == [[0], [1], [2]]
    assert len(made.encode("<|im_end|>", special=False)) > 1


@settings(deadline=None)
@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    made = tokenizer()
    assert made.decode(made.encode(text, special=False)) == text.encode("utf-8", "replace").decode()


def test_digits_stand_alone() -> None:
    made = Tokenizer.from_bytes(train_tokenizer(["ab 1234 ab 1234 12"] * 20, SMALLEST + 1))
    assert len(made.encode("1234", special=False)) == 4


def test_the_same_text_gives_the_same_bytes_in_every_process() -> None:
    code = (
        "import sys; from tests.data.small import tokenizer_json; sys.stdout.buffer.write(tokenizer_json())"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path)) + ":."},
        )
        assert done.stdout == tokenizer_json(), done.stderr


@pytest.mark.parametrize(("texts", "size"), [(["abc"], 200), ([], 400), (["short"], 4096)])
def test_sizes_that_cannot_be_are_refused(texts: list[str], size: int) -> None:
    with pytest.raises(DataError):
        train_tokenizer(texts, size)


def test_it_reads_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(tokenizer_json())
    again = Tokenizer.from_bytes(file.read_bytes())
    assert again.encode("def f(x): return x + 41") == tokenizer().encode("def f(x): return x + 41")
