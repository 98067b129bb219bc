"""Rows of a training run out of several corpora, each row known from its number alone.

Letters: R rows, L tokens of a row, D documents, N tokens of a corpus.

The domains of the rows follow a schedule of PERIOD rows: counts by largest remainder of the weights, order
shuffled by the seed. Within a domain the documents stand in an order of their own in each epoch, one after
another, and are cut every L tokens; the end of an epoch that fills no row (fewer than L tokens) is left out.
With `whole` only conversations are taken and none is cut: which of them share a row is the same in each
epoch, the order of the rows is not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mythos.data.corpus import Corpus, CorpusError
from mythos.data.pack import conversations, order, pack

PERIOD = 1000
IGNORED = -1  # a target that is not learnt
KEPT_EPOCHS = 8  # orders of documents that stay in memory, 16 bytes a document each


@dataclass(frozen=True, slots=True)
class Rows:
    """`tokens`, `targets`, `positions` (R, L) int64; `sources` the domain of each row.

    A target is the next token of the document, IGNORED where there is none (its last token) or it is not
    learnt. At the end of a row the next token is the first of another row. `lengths` are those of the
    segments of the flattened R * L tokens: a part of one document each, within which alone a token attends
    and positions count from 0. They add up to R * L. A document that a row's end cuts goes on in another row
    without its beginning, and a row inside a long prompt has no target at all.
    """

    tokens: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    lengths: tuple[int, ...]
    sources: tuple[str, ...]


class Mixture:
    """Random access to the rows; holds no state, so a run resumes with the number of the next row."""

    def __init__(
        self,
        corpora: Mapping[str, Corpus],
        weights: Mapping[str, float],
        length: int,
        seed: int,
        whole: bool = False,
    ) -> None:
        """`weights` need not add up to 1; `length` is L. With `whole` rows hold whole conversations; those
        with more than L + 1 tokens are left out. CorpusError when a domain has no row, or its weight is no
        positive number or too small for one row in PERIOD, or corpora have different tokenizers."""
        if set(corpora) != set(weights) or not corpora:
            raise CorpusError("A mix needs a corpus and a weight for each domain.", "Name the same domains.")
        if length < 1:
            raise CorpusError(f"A row of {length} tokens is none.", "Give a length from 1 up.")
        self._corpora = {name: corpora[name] for name in sorted(corpora)}
        if len({corpus.manifest["tokenizer"]["sha256"] for corpus in corpora.values()}) != 1:
            raise CorpusError("The corpora have different tokenizers.", "Build them with the same one.")
        for name, corpus in self._corpora.items():
            if len(corpus.tokens) < length and not whole:
                raise CorpusError(
                    f"The corpus {name} has {len(corpus.tokens)} tokens, fewer than a row of {length}.",
                    "Give more text, or make rows shorter.",
                )
        self._length, self._seed = length, seed
        self._whole = {name: _whole_rows(of, length) for name, of in self._corpora.items()} if whole else {}
        self._counts = _counts(dict(sorted(weights.items())))
        domains = np.repeat(np.arange(len(self._counts)), list(self._counts.values()))
        self._schedule = domains[order(f"{seed}/schedule", PERIOD)]
        ranks = np.zeros(PERIOD, np.int64)
        for domain in range(len(self._counts)):
            of_domain = self._schedule == domain
            ranks[of_domain] = np.arange(of_domain.sum())
        self._ranks = ranks
        self._epoch = lru_cache(maxsize=KEPT_EPOCHS)(self._make_epoch)

    def rows(self, start: int, count: int) -> Rows:
        """The rows from number `start` (0 is the first), `count` of them: always the same."""
        if start < 0 or count < 1:
            raise ValueError("rows are counted from 0, and at least one is asked for")
        names = list(self._corpora)
        parts, sources = [], []
        for number in range(start, start + count):
            period, place = divmod(number, PERIOD)
            name = names[self._schedule[place]]
            sources.append(name)
            parts.append(self._row(name, period * self._counts[name] + int(self._ranks[place])))
        return _assemble(parts, tuple(sources))

    def rows_per_epoch(self, domain: str) -> int:
        """Rows of `domain` until each of its tokens (but for less than a row), or each of its conversations
        that fits, was given once."""
        if self._whole:
            return len(self._whole[domain])
        return len(self._corpora[domain].tokens) // self._length

    def _row(self, name: str, number: int) -> "_Row":
        """The row `number` of one domain."""
        corpus, length = self._corpora[name], self._length
        epoch, place = divmod(number, self.rows_per_epoch(name))
        documents, ends = self._epoch(name, epoch)
        row = _Row(length)
        if self._whole:
            for document in self._whole[name][documents[place]]:
                ids, learnt = corpus.read(int(corpus.starts[document]), int(corpus.ends[document]))
                row.add(ids, learnt, len(ids) - 1)
            row.fill(corpus.end_id)
            return row
        at = place * length  # in the epoch's order
        index = int(np.searchsorted(ends, at, side="right"))
        while row.filled < length:
            document = int(documents[index])
            first, stop = int(corpus.starts[document]), int(corpus.ends[document])
            here = stop - (int(ends[index]) - at)
            take = min(length - row.filled, stop - here)
            ids, learnt = corpus.read(here, min(here + take + 1, stop))  # one more: the last target
            row.add(ids, learnt, take)
            assert first <= here < stop
            at += take
            index += 1
        return row

    def _make_epoch(self, name: str, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(D,) documents in their order, (D,) offsets behind each of them in it; with `whole` rows instead of
        documents, without offsets."""
        corpus, place = self._corpora[name], f"{self._seed}/{name}/{epoch}"
        if self._whole:
            return order(place, len(self._whole[name])), np.zeros(0, np.int64)
        documents = order(place, len(corpus.ends))
        return documents, np.cumsum(corpus.ends[documents] - corpus.starts[documents])


def held_out(corpus: Corpus, length: int, count: int, every: int = 1) -> Iterator[tuple[Rows, np.ndarray]]:
    """A corpus in order, or each `every`-th document of it, `count` rows of `length` at a time, and the
    document of each token: for bits per byte of `corpus.bytes`. Documents (R, L) int64 are counted from 0,
    IGNORED where a row is filled up.

    Every learnt token is a target exactly once, the first of a plain text too: an end token stands before it.
    A document with more than `length` targets is cut into windows; each later one begins length // 2 tokens
    back, so that what it scores has at least that much before it. Windows are put side by side in a row as
    long as they fit; what is left is filled with end tokens without targets.
    """
    if length < 2 or count < 1:
        raise CorpusError(
            f"Rows of {length} tokens, {count} at a time, score nothing.", "Use 2 and 1 at least."
        )
    rows: list[_Row] = []
    for document in range(0, len(corpus.ends), every):
        for ids, targets in _windows(corpus, document, length):
            if not rows or length - rows[-1].filled < len(ids):
                if len(rows) == count:
                    yield _padded(rows, corpus)
                    rows = []
                rows.append(_Row(length))
            rows[-1].put(ids, targets, document)
    if rows:
        yield _padded(rows, corpus)


def _windows(corpus: Corpus, document: int, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids, targets) of each window."""
    ids, learnt = corpus.read(int(corpus.starts[document]), int(corpus.ends[document]))
    if learnt[0]:
        ids, learnt = np.concatenate([[corpus.end_id], ids]), np.concatenate([[False], learnt])
    inputs, targets = ids[:-1], np.where(learnt, ids, IGNORED)[1:]
    if not len(inputs):  # one token that is not learnt
        inputs, targets = ids, np.full(1, IGNORED)
    scored = 0
    while scored < len(inputs):
        start = max(0, scored - length // 2) if scored else 0
        stop = min(start + length, len(inputs))
        fresh = np.where(np.arange(start, stop) >= scored, targets[start:stop], IGNORED)
        yield inputs[start:stop], fresh
        scored = stop


class _Row:
    """One row while it is filled with segments."""

    def __init__(self, length: int) -> None:
        self.tokens = np.zeros(length, np.int64)
        self.targets = np.full(length, IGNORED, np.int64)
        self.positions = np.zeros(length, np.int64)
        self.documents = np.full(length, IGNORED, np.int64)
        self.lengths: list[int] = []
        self.filled = 0

    def add(self, ids: np.ndarray, learnt: np.ndarray, take: int) -> None:
        """A segment of `take` tokens of a document; `ids` holds the one after them too, if there is one."""
        targets = np.full(take, IGNORED, np.int64)
        following = np.where(learnt, ids, IGNORED)[1:]
        targets[: len(following)] = following
        self.put(ids[:take], targets)

    def put(self, ids: np.ndarray, targets: np.ndarray, document: int = IGNORED) -> None:
        here = slice(self.filled, self.filled + len(ids))
        self.tokens[here], self.targets[here] = ids, targets
        self.positions[here] = np.arange(len(ids))
        self.documents[here] = document
        self.lengths.append(len(ids))
        self.filled += len(ids)

    def fill(self, end_id: int) -> None:
        if rest := len(self.tokens) - self.filled:
            self.put(np.full(rest, end_id), np.full(rest, IGNORED))


def _padded(rows: list[_Row], corpus: Corpus) -> tuple[Rows, np.ndarray]:
    for row in rows:
        row.fill(corpus.end_id)
    whole = _assemble(rows, (corpus.manifest["domain"],) * len(rows))
    return whole, np.stack([row.documents for row in rows])


def _assemble(rows: list[_Row], sources: tuple[str, ...]) -> Rows:
    return Rows(
        np.stack([row.tokens for row in rows]),
        np.stack([row.targets for row in rows]),
        np.stack([row.positions for row in rows]),
        tuple(length for row in rows for length in row.lengths),
        sources,
    )


def _whole_rows(corpus: Corpus, length: int) -> list[list[int]]:
    """The conversations of each row. The last token of one is only a target, so it takes no room."""
    chats = conversations(corpus)
    sizes = (corpus.ends[chats] - corpus.starts[chats] - 1).tolist()
    rows = [[int(chats[item]) for item in row] for row in pack(sizes, length)]
    if not rows:
        raise CorpusError(
            f"The corpus {corpus.manifest['domain']} has no conversation of {length + 1} tokens or fewer.",
            "Give shorter conversations, or make rows longer.",
        )
    return rows


def _counts(weights: Mapping[str, float]) -> dict[str, int]:
    """Rows of each domain in a period: the whole parts, then one more to the largest remainders."""
    total = sum(weights.values())
    if not all(0 < weight < float("inf") for weight in weights.values()):
        raise CorpusError("A weight is no positive number.", "Leave out what shall not be in the mix.")
    exact = {name: PERIOD * weight / total for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: PERIOD - sum(counts.values())]:
        counts[name] += 1
    if small := [name for name, count in counts.items() if not count]:
        raise CorpusError(f"The weight of {small[0]} gives no row in {PERIOD}.", "Raise it, or leave it out.")
    return counts
