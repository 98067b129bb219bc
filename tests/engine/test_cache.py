"""The paged cache: blocks are never lent twice, shared chunks are kept while used and evicted when not."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.engine.cache import BLOCK, BLOCKS_PER_CHUNK, CHUNK, PagedCache


def small(blocks: int) -> PagedCache:
    return PagedCache(1, 1, 2, blocks, torch.bfloat16, b"secret")


def finish(cache: PagedCache, prompt: tuple[int, ...], org: str, extra: int):
    """Reserve and publish as the runner does; None when there is no room."""
    keys = cache.keys_of(org, prompt)
    usable = keys[: (len(prompt) - 1) // CHUNK]
    got = cache.reserve(usable, len(prompt) + extra)
    if got is None:
        return None
    table, shared = got
    held = usable[:shared]
    for index in range(shared, len(keys)):
        blocks = tuple(table[index * BLOCKS_PER_CHUNK : (index + 1) * BLOCKS_PER_CHUNK])
        if index == len(held) and cache.publish(keys[index], blocks):
            held.append(keys[index])
    return table, held, shared


prompts = st.tuples(st.integers(1, 3 * CHUNK), st.integers(0, 1), st.sampled_from("ab"), st.integers(0, 90))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(prompts, st.booleans()), max_size=25))
def test_blocks_are_never_lent_twice_and_all_come_back(steps):
    cache = small(24)
    live = []
    for (length, letter, org, extra), drop in steps:
        if drop and live:
            table, held, _ = live.pop(0)
            cache.release(table, held)
        got = finish(cache, (letter,) * length, org, extra)
        if got is not None:
            assert len(got[0]) == -(-(length + extra) // BLOCK)
            live.append(got)
        # A block is in two tables only as part of a chunk that both hold.
        owners: dict[int, set[bytes | int]] = {}
        for number, (table, held, _) in enumerate(live):
            for place, block in enumerate(table):
                index = place // BLOCKS_PER_CHUNK
                owners.setdefault(block, set()).add(held[index] if index < len(held) else number)
        assert all(len(who) == 1 for who in owners.values())
        assert cache.used == len(owners)
    for table, held, _ in live:
        cache.release(table, held)
    assert cache.available == cache.blocks


def test_a_prefix_is_shared_within_an_organisation_and_never_across():
    cache = small(64)
    prompt = tuple(range(2 * CHUNK + 5))
    table, held, shared = finish(cache, prompt, "a", 1)
    assert shared == 0
    again = finish(cache, prompt, "a", 1)
    assert (
        again is not None
        and again[2] == 2
        and again[0][: 2 * BLOCKS_PER_CHUNK] == table[: 2 * BLOCKS_PER_CHUNK]
    )
    other = finish(cache, prompt, "b", 1)
    assert other is not None and other[2] == 0 and not set(other[0]) & set(table)


def test_a_prompt_that_ends_on_a_border_still_computes_its_last_chunk():
    cache = small(64)
    prompt = tuple(range(2 * CHUNK))
    finish(cache, prompt, "a", 1)
    again = finish(cache, prompt, "a", 1)
    assert again is not None and again[2] == 1


def test_idle_chunks_make_room_for_new_sequences_last_chunks_first():
    cache = small(3 * BLOCKS_PER_CHUNK)
    first = finish(cache, tuple(range(2 * CHUNK + 1)), "a", 0)
    assert first is not None
    cache.release(first[0], first[1])
    assert finish(cache, (7,) * (CHUNK + BLOCK), "a", 0) is not None
    keys = cache.keys_of("a", tuple(range(2 * CHUNK + 1)))
    got = cache.reserve(keys[:1], CHUNK)
    assert got is not None and got[1] == 1  # the earlier chunk survived, the later one was evicted


def test_salt_depends_on_the_servers_secret():
    one, two = small(4), PagedCache(1, 1, 2, 4, torch.bfloat16, b"other")
    assert one.salt("a") != two.salt("a") and one.salt("a") != one.salt("b")
