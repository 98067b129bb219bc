"""The prompt set: balanced, distinct, split by topic, without anything that could be an instruction."""

import re
from collections import Counter

from mythos.data.prompts import DOMAINS, HELD_OUT, refusal_set, talks


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
