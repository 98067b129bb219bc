"""Rows of whole documents: what is learnt of a conversation always has all of it before it."""

import hashlib
from collections.abc import Sequence

import numpy as np

from mythos.data.corpus import Corpus


def order(name: str, count: int) -> np.ndarray:
    """A permutation of `count` things that depends on `name` alone.

    It comes from the raw bits of Philox, which NumPy keeps the same in all its versions.
    """
    key = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], "<u8").astype(np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Rows of `room` tokens: for each, which of the things of these lengths stand in it.

    Best fit, the longest first (Ding et al. 2024, arXiv 2404.10830). What is longer than `room`, or has no
    length, is left out.
    """
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # rows by the tokens that are free in them
    mask = 0  # a bit for each key of `with_room` that has a row
    for item in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[item]
        if not 0 < length <= room:
            continue
        if fitting := mask >> length:
            free = length + (fitting & -fitting).bit_length() - 1
            row = with_room[free].pop()
            if not with_room[free]:
                mask ^= 1 << free
        else:
            free, row = room, len(rows)
            rows.append([])
        rows[row].append(item)
        if left := free - length:
            with_room.setdefault(left, []).append(row)
            mask |= 1 << left
    return rows


def conversations(corpus: Corpus) -> np.ndarray:
    """The documents, counted from 0, that do not begin with a learnt token: text does, a prompt does not."""
    if corpus.trained is None:
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.asarray(corpus.trained[corpus.starts]) == 0)
