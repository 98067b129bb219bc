"""The prompt set: balanced, distinct, split by topic, without anything that could be an instruction."""

import re
from collections import Counter

from mythos.data.overlap import index_items, word_hashes, words
from mythos.data.prompts import DOMAINS, HELD_OUT, constitution, refusal_set, safety, talks
from mythos.data.safety import exchanges, safety_chats
from tests.data.small import build


def test_the_set_is_balanced() -> None:
    prompts = refusal_set()
    assert len(prompts) == 400 and len({p.id for p in prompts}) == 400 == len({p.text for p in prompts})
    topics = {p.topic: p.domain for p in prompts}
    assert Counter(topics.values()) == dict.fromkeys(DOMAINS, 5)
    assert set(Counter((p.topic, p.kind) for p in prompts).values()) == {10}
    assert Counter(topics[t] for t in HELD_OUT) == dict.fromkeys(DOMAINS, 2)


def test_prompts_only_ask() -> None:
    """Short, one line, no code, links, formulas or quantities that could be operational."""
    for prompt in refusal_set():
        assert 20 < len(prompt.text) < 140 and "\n" not in prompt.text
        assert not re.search(r"https?:|[`{}<>\\=;]|\b\d+ ?(g|mg|kg|ml|l|°C)\b", prompt.text), prompt.id


def test_conversations_are_of_one_length() -> None:
    assert Counter((t.kind, len(t.turns)) for t in talks()) == {("split", 6): 20, ("harmless", 6): 20}
    assert len({turn for t in talks() for turn in t.turns}) == 240


def test_exchanges_are_apart_from_what_is_measured_with() -> None:
    """No prompt of an evaluation, by the rule that decontaminates corpora, and no held-out topic."""
    found = safety()
    assert len(found) == len({one.id for one in found}) == len({one.text for one in found}) == 144
    assert set(Counter((one.topic, one.kind) for one in found).values()) == {6}
    topics = {p.topic: p.domain for p in refusal_set() if p.topic not in HELD_OUT}
    assert {one.topic: one.domain for one in found} == topics
    asked = [("refusal", p.id, p.text) for p in refusal_set()]
    asked += [("refusal", f"{t.id}/{n}", text) for t in talks() for n, text in enumerate(t.turns)]
    items = index_items(asked)
    for one in found:
        parts = [words(one.text), words(one.answer)]
        assert not items.found_in(parts, word_hashes([word for part in parts for word in part])), one.id
        assert 20 < len(one.text) < 140 and len(one.answer) < 320 and "\n" not in one.text + one.answer


def test_a_corpus_of_exchanges_keeps_nearly_all_of_them(tmp_path) -> None:
    made = build(tmp_path, safety_chats().documents)
    assert sum(corpus.manifest["counts"]["documents"] for corpus in made.values()) == 144
    assert made["train"].manifest["counts"]["documents"] == len(exchanges()) >= 130


def test_the_constitution_is_short() -> None:
    principles = constitution()
    assert len({one.id for one in principles}) == len(principles) == 10
    assert all(one.text.endswith(".") and len(one.text) < 140 for one in principles)
