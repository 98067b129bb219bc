"""Duplicates and items of evaluations are found, and their legitimate twins stay."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.data.overlap import GRAM, WORDING, Seen, grams, index_items, word_hashes, words

WORDS = st.lists(st.sampled_from([f"word{n}" for n in range(40)]), min_size=GRAM, max_size=60)


def found(items: list[tuple[str, str, str]], *messages: str) -> set[str]:
    sequences = [words(message) for message in messages]
    return index_items(items).found_in(sequences, word_hashes([w for s in sequences for w in s]))


def test_words_are_normalised() -> None:
    assert words("Ｆｕｌｌ-width, CASE;\n\tstraße_1!") == ["full", "width", "case", "strasse_1"]


@settings(deadline=None)
@given(WORDS, st.integers(1, GRAM))
def test_a_gram_hash_names_its_words(sequence: list[str], n: int) -> None:
    made = dict(grams(word_hashes(sequence), n))[n]
    by_hash: dict[int, tuple[str, ...]] = {}
    for place, value in enumerate(made.tolist()):
        run = tuple(sequence[place : place + n])
        assert by_hash.setdefault(value, run) == run
    assert len(set(by_hash.values())) == len(by_hash)


@settings(deadline=None, max_examples=200)
@given(WORDS, WORDS, WORDS, st.data())
def test_thirteen_words_in_a_row_are_found_and_twelve_are_not(
    item: list[str], before: list[str], after: list[str], data: st.DataObject
) -> None:
    items = [("suite", "1", " ".join(item))]
    start = data.draw(st.integers(0, len(item) - GRAM))
    planted = item[start : start + GRAM]
    around = [" ".join(f"other{w}" for w in side) for side in (before, after)]
    text = f"{around[0]} {' -- '.join(planted).upper()}! {around[1]}"
    assert found(items, text) == {"suite"}
    assert found(items, around[0], " ".join(planted), around[1]) == {"suite"}
    assert not found(items, f"{around[0]} {' '.join(planted[:-1])} {around[1]}")  # the legitimate twin


def test_a_short_item_counts_whole() -> None:
    items = [("refusal", "1", "How do I pick a lock?"), ("refusal", "2", "Why not?")]
    assert found(items, "Somebody asked: how do I PICK a lock, then left.") == {"refusal"}
    assert not found(items, "How do I pick a good lock?")
    assert not found(items, "Why not?")  # under five words: not compared, but counted
    assert index_items(items).counts["refusal"] == {"items": 2, "too_short": 1, "only_as_a_whole": 0}


def test_the_wording_of_a_suite_is_no_item() -> None:
    ask = (
        "Your task is to count how many legs there are in all if you have {} dogs and {} cats, nothing else."
    )
    items = [("gym", str(n), ask.format(n, 3 * n)) for n in range(WORDING + 30)]
    assert found(items, ask.format(5, 15)) == {"gym"}
    assert not found(items, ask.format(5, 16))
    rare = [("gym", str(n), ask.format(n, 3 * n)) for n in range(WORDING)]
    assert found(rare, ask.format(5, 16)) == {"gym"}  # seldom enough to be an item


def test_a_suite_is_named_for_what_it_shares() -> None:
    text = " ".join(f"t{n}" for n in range(20))
    items = [("one", "1", text), ("two", "1", f"before {text}"), ("three", "1", text[:20])]
    assert found(items, f"well {text}") == {"one", "two", "three"} - (
        {"three"} if len(text[:20].split()) < 5 else set()
    )


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    return Seen(tmp_path / "seen.db")


def test_a_duplicate_is_one_whatever_its_blanks(seen: Seen) -> None:
    assert not seen.duplicate(words("def f(x):\n    return x"))
    assert seen.duplicate(words("DEF f( x ) : return x"))
    assert not seen.duplicate(words("def f(x): return y"))


def test_near_duplicates_are_found_and_their_twins_stay(seen: Seen) -> None:
    generator = random.Random(1)
    caught = kept = 0
    for _ in range(100):
        text = [f"v{generator.randrange(10**6)}" for _ in range(400)]
        assert not seen.near_duplicate(word_hashes(text))
        near = list(text)
        near[generator.randrange(400)] = "changed"  # 8 of 393 shingles: J = 0.96
        caught += seen.near_duplicate(word_hashes(near))
        twin = [word if n % 10 else "changed" for n, word in enumerate(text)]  # most shingles differ
        kept += not seen.near_duplicate(word_hashes(twin))
    assert caught >= 98 and kept == 100


def test_the_estimate_is_near_the_index(seen: Seen) -> None:
    generator = np.random.default_rng(0)
    for share in (0.5, 0.9):
        wrong = []
        for _ in range(60):
            pool = generator.integers(0, 2**63, 1200).astype(np.uint64)
            same = int(600 * 2 * share / (1 + share))
            sets = pool[:600], np.concatenate([pool[:same], pool[600 : 1200 - same]])
            index = same / (1200 - same)
            estimate = np.mean(np.equal(*(seen._minima(one) for one in sets)))
            wrong.append(estimate - index)
        assert abs(np.mean(wrong)) < 0.03 and np.std(wrong) < 0.1
