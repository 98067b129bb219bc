"""Small corpora and a small tokenizer for the tests of this directory."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from mythos.data.build import build_corpus, is_held_out
from mythos.data.corpus import Corpus
from mythos.data.documents import Document
from mythos.data.overlap import Items, index_items
from mythos.data.tokenizer import Tokenizer
from mythos.data.train_tokenizer import CHAT_TEMPLATE, train_tokenizer

NOTHING = index_items([])


@cache
def tokenizer_json() -> bytes:
    """300 tokens, learnt from this file."""
    return train_tokenizer([Path(__file__).read_text()] * 3, 300)


def tokenizer() -> Tokenizer:
    return Tokenizer.from_bytes(tokenizer_json())


def group(number: int, held_out: bool = False) -> str:
    """The name of the group `number` on that side of the split."""
    names = (f"g{n}" for n in range(10**6))
    return next(islice((g for g in names if is_held_out(g) == held_out), number, None))


def sentence(number: int, length: int = 30) -> str:
    """Words that no other number gives."""
    return " ".join(f"w{number}x{place}" for place in range(length))


def texts(count: int, length: int = 30) -> list[Document]:
    return [Document("made", f"d{n}", f"d{n}", sentence(n, length)) for n in range(count)]


def build(
    place: Path, documents: Iterable[Document], evaluations: Items = NOTHING, name: str = "made"
) -> dict[str, Corpus]:
    facts = {"made": {"package": "made==1", "licence": "none"}}
    return build_corpus(place / name, name, documents, facts, tokenizer_json(), CHAT_TEMPLATE, evaluations)


def of_lengths(
    lengths: Sequence[int], trained: Sequence[bool] | None = None, name: str = "made", vocab: int = 1 << 30
) -> Corpus:
    """A corpus in memory whose token number n is n, so that a row shows where each token comes from."""
    ends = np.cumsum(np.array(lengths, np.int64))
    tokens = np.arange(int(ends[-1]), dtype=np.uint32)
    learnt = None if trained is None else np.array(trained, np.uint8)
    about = {"sha256": "0" * 64, "vocab_size": vocab, "end_id": vocab - 1}
    manifest = {"domain": name, "tokenizer": about, "digest": "0" * 64}
    return Corpus(Path(name), manifest, tokens, learnt, ends, np.array(lengths, np.int64) * 3)
