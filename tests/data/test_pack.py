"""Rows of whole conversations: none cut, each once an epoch, learnt exactly where the assistant speaks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.data.chat import ROLES, encode_chat
from mythos.data.corpus import CorpusError
from mythos.data.documents import Document
from mythos.data.mix import IGNORED, Mixture
from mythos.data.pack import pack
from mythos.data.train_tokenizer import CHAT_TEMPLATE
from tests.data.small import build, of_lengths, tokenizer
from tests.data.test_mix import segments


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 25), max_size=60), st.integers(1, 20))
def test_packing_keeps_all_that_fits_and_fills_rows(lengths: list[int], room: int) -> None:
    rows = pack(lengths, room)
    placed = [item for row in rows for item in row]
    assert sorted(placed) == [i for i, length in enumerate(lengths) if 0 < length <= room]
    totals = [sum(lengths[item] for item in row) for row in rows]
    assert all(0 < total <= room for total in totals)
    # Whatever stands first in a later row found no room in an earlier one: at most one row is half empty.
    assert sum(2 * total <= room for total in totals) <= 1


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=30), st.integers(2, 24), st.integers(0, 3))
def test_an_epoch_gives_every_conversation_whole_and_once(lengths: list[int], length: int, seed: int) -> None:
    """Documents of even number are conversations: of each the second half is learnt. Others are text."""
    learnt = [n % 2 == 1 or place >= of // 2 for n, of in enumerate(lengths) for place in range(of)]
    corpus = of_lengths(lengths, learnt)
    fitting = [n for n, of in enumerate(lengths) if n % 2 == 0 and of - 1 <= length]
    if not fitting:
        with pytest.raises(CorpusError, match="has no conversation of"):
            Mixture({"made": corpus}, {"made": 1}, length, seed, whole=True)
        return
    mixture = Mixture({"made": corpus}, {"made": 1}, length, seed, whole=True)
    count = mixture.rows_per_epoch("made")
    for epoch in range(2):
        found = Counter()
        for tokens, targets, positions in segments(mixture.rows(epoch * count, count)):
            assert (positions == np.arange(len(tokens))).all()
            if tokens[0] == corpus.end_id:  # what fills a row up
                assert (targets == IGNORED).all()
                continue
            document = int(np.searchsorted(corpus.ends, tokens[0], side="right"))
            first, end = int(corpus.starts[document]), int(corpus.ends[document])
            assert tokens.tolist() == list(range(first, end - 1))
            assert targets.tolist() == [t if learnt[t] else IGNORED for t in range(first + 1, end)]
            found[document] += 1
        assert found == Counter(fitting)


def test_a_row_holds_the_tokens_of_the_template(tmp_path) -> None:
    chats = []
    for n in range(40):
        asked, said = (f"What is {n} and <|im_end|>?", "Sure?"), (f"It is {n}.", "Yes.")
        turns = [text for pair in zip(asked, said, strict=True) for text in pair]
        chats.append(tuple({"role": ROLES[1 + i % 2], "content": text} for i, text in enumerate(turns)))
    documents = [Document("made", f"d{n}", f"d{n}", messages=chat) for n, chat in enumerate(chats)]
    plain = [Document("made", f"t{n}", f"t{n}", f"text {n} of no talk") for n in range(20)]
    corpus = build(tmp_path, [*documents, *plain])["train"]
    mixture = Mixture({"made": corpus}, {"made": 1}, 256, 0, whole=True)
    rows = mixture.rows(0, mixture.rows_per_epoch("made"))
    reader = tokenizer()
    wanted = {
        tuple(encode_chat(reader, CHAT_TEMPLATE, chat, add_generation_prompt=False)[:-1]) for chat in chats
    }
    got = [tuple(tokens.tolist()) for tokens, targets, _ in segments(rows) if (targets != IGNORED).any()]
    assert len(got) == len(set(got)) > 30 and set(got) <= wanted
    said = {
        reader.decode([t for t in targets.tolist() if t != IGNORED])
        for _, targets, _ in segments(rows)
        if (targets != IGNORED).any()
    }
    assert all(text.startswith("It is ") and text.count("Yes.") == 1 for text in said)
