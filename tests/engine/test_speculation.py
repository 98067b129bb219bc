"""How long drafts are: the lookup finds the longest match, the split is the best one, and off means off."""

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.engine.lookup import CANDIDATES, LONGEST, Lookup
from mythos.engine.speculation import (
    Acceptance,
    Costs,
    Counts,
    Offer,
    allot,
    break_even,
    compared,
    speed_up,
    worth,
)


def searched(text: list[int], count: int) -> list[int]:
    """What the index should find, by looking everywhere."""
    size = len(text)
    places = [at for at in range(size - 1, 1, -1) if text[at - 2 : at] == text[-2:]][:CANDIDATES]

    def same(at: int) -> int:
        return max(n for n in range(2, min(LONGEST, at) + 1) if text[at - n : at] == text[size - n :])

    if not places:
        return []
    best = max(places, key=lambda at: (same(at), at))
    made = list(text)
    for n in range(count):
        made.append(made[best + n])
    return made[size:]


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 8), st.integers(0, 60))
def test_the_lookup_finds_what_a_search_finds(text, count, cut):
    lookup = Lookup()
    lookup.extend(text[:cut])
    lookup.propose(count)
    lookup.extend(text[cut:])
    assert len(lookup) == len(text)
    assert lookup.propose(count) == searched(text, count)


def test_a_repetition_is_taken_to_go_on():
    lookup = Lookup()
    lookup.extend([9, 1, 2, 3, 1, 2, 3, 1, 2])
    assert lookup.propose(8) == [3, 1, 2, 3, 1, 2, 3, 1]


OFFERS = st.lists(st.builds(Offer, st.floats(0, 1), st.integers(0, 4), st.just(0.0)), min_size=1, max_size=3)
TIMES = st.lists(st.floats(0.001, 10), min_size=16, max_size=16)


@settings(max_examples=150)
@given(OFFERS, st.integers(1, 16), TIMES)
def test_no_split_gives_more_tokens_a_second(offers, rows, times):
    def speed(depths) -> float:
        tokens = sum(sum(o.rate**n for n in range(d + 1)) for o, d in zip(offers, depths, strict=True))
        return tokens / times[len(offers) + sum(depths) - 1]

    depths = allot(offers, rows, lambda n: times[n - 1])
    assert all(0 <= d <= o.depth for o, d in zip(offers, depths, strict=True))
    assert sum(depths) <= max(0, rows - len(offers))
    possible = product(*(range(o.depth + 1) for o in offers))
    best = max(speed(p) for p in possible if sum(p) <= max(0, rows - len(offers)))
    assert speed(depths) == pytest.approx(best)


@given(OFFERS, st.integers(1, 16))
def test_it_is_off_where_rows_cost_what_they_give_and_full_where_they_are_free(offers, rows):
    assert not any(allot(offers, rows, lambda n: float(n)))  # twice the rows take twice as long
    free = allot(offers, 16, lambda n: 1.0)
    assert free == [o.depth if o.rate > 0.01 else d for o, d in zip(offers, free, strict=True)]


@given(st.floats(0, 1), st.integers(1, 8), st.floats(0, 1), st.floats(0, 1))
def test_a_draft_is_checked_exactly_where_the_formula_says_so(rate, depth, draft, check):
    """One sequence, one depth: the law and the published formula agree on when it pays."""
    pays = any(speed_up(rate, k, draft, check) > 1 for k in range(1, depth + 1))
    got = allot([Offer(rate, depth, draft)], 16, lambda n: 1.0 if n == 1 else 1.0 + check)
    near = any(abs(speed_up(rate, k, draft, check) - 1) < 1e-9 for k in range(1, depth + 1))
    assert near or pays == (got != [0])
    alone = worth(Offer(rate, depth, draft), lambda n: 1.0 if n == 1 else 1.0 + check)
    assert alone == pytest.approx(max(1.0, *(speed_up(rate, k, draft, check) for k in range(1, depth + 1))))


@given(st.integers(1, 8), st.floats(0, 0.9), st.floats(0, 2))
def test_break_even_is_where_the_speed_is_the_same(depth, draft, check):
    rate = break_even(depth, draft, check)
    if rate == float("inf"):
        assert speed_up(1.0, depth, draft, check) <= 1
    elif depth * draft + check > 1e-6:
        assert speed_up(rate, depth, draft, check) == pytest.approx(1)


def test_published_speed_ups():
    """arXiv 2211.17192's formula at cost 0.1 and 0.2 a token, a tenth for checking."""
    assert speed_up(0.6, 3, 0.1, 0.1) == pytest.approx(1.55, abs=0.01)
    assert speed_up(0.8, 6, 0.1, 0.1) == pytest.approx(2.32, abs=0.01)
    assert speed_up(0.7, 3, 0.2, 0.1) == pytest.approx(1.49, abs=0.01)


def test_costs_between_are_on_the_line_and_beyond_are_hoped_for():
    costs = Costs()
    assert costs.seconds(5) == 1.0
    costs.add(2, 1.0)
    costs.add(6, 3.0)
    assert [costs.seconds(n) for n in (1, 2, 4, 6, 16)] == [1.0, 1.0, 2.0, 3.0, 3.0]


def test_an_old_time_gives_way_at_once_and_a_new_one_slowly():
    costs = Costs()
    costs.add(9, 8.0)
    for _ in range(100):
        costs.add(1, 1.0)
    costs.add(1, 2.0)
    assert costs.seconds(1) == pytest.approx(1.2, abs=0.05)
    costs.add(9, 2.0)
    assert costs.seconds(9) == 2.0


def test_fewer_rows_never_take_longer_than_more() -> None:
    costs = Costs()
    for rows, seconds in ((1, 1.0), (2, 1.9), (3, 1.05), (5, 1.6), (8, 1.2)):
        costs.add(rows, seconds)
    assert [costs.seconds(n) for n in (1, 2, 3, 4, 5, 8)] == [1.0, 1.05, 1.05, 1.2, 1.2, 1.2]


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.9])
def test_acceptance_is_learnt(truth):
    chance, acceptance = random.Random(1), Acceptance()
    for _ in range(400):
        held = 0
        while held < 4 and chance.random() < truth:
            held += 1
        acceptance.add(min(held + 1, 4), held, 0.98)
    assert acceptance.rate(0.5) == pytest.approx(truth, abs=0.1)


@pytest.mark.parametrize(
    ("draft", "chosen", "found"),
    [
        ([1, 2, 3], [1, 2, 9], (3, 2)),
        ([1, 2, 3], [1, 2, 3, 4], (3, 3)),
        ([1, 2, 3], [9], (1, 0)),
        ([1, 2, 3], [1], (1, 1)),  # the answer ended there: nothing is known of the rest
        ([1, 2, 3], [], (0, 0)),
        ([], [5], (0, 0)),
    ],
)
def test_what_an_answer_says_of_a_draft(draft, chosen, found):
    assert compared(draft, chosen) == found
    counts = Counts()
    counts.add(len(draft), found[1])
    assert sum(counts.drafted) == len(draft) and sum(counts.held) == found[1]
