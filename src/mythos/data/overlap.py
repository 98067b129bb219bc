"""Which documents say the same: as one read before (duplicates), or as an item of an evaluation.

Everything is compared on words: text is normalised (NFKC, case folded), and its words are the runs of
letters, digits and underscores, so punctuation and blanks never count. Hashes are of 64 bits; that two
different runs of words meet is less likely than a fault of the disk.
"""

import hashlib
import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

GRAM = 13  # words; as GPT-3's authors compared (arXiv 2005.14165, appendix C)
SHORTEST = 5  # words; a shorter item is not compared: it would be found everywhere
WORDING = 8  # items; what more of them share is how a suite asks, and no item
SHINGLE = 8  # words
BANDS, PER_BAND = 8, 8  # of MinHash: a pair with a Jaccard index of 0.8 is looked at with probability 0.77
MOST = 100  # earlier documents looked at for each band: a phrase that is everywhere costs no more
NEAR = 0.8  # estimated Jaccard index of shingles from which two documents are the same

RULES = {
    "duplicate": "a document whose words are those of an earlier one, in order",
    "near_duplicate": (
        f"a document whose set of {SHINGLE}-word shingles has an estimated Jaccard index of {NEAR} or more "
        f"with an earlier one's (MinHash, {BANDS} bands of {PER_BAND})"
    ),
    "contaminated": (
        f"a document that shares {GRAM} words in a row with an item of an evaluation; an item of {SHORTEST} "
        f"to {GRAM - 1} words counts whole, as does an equal message; runs that more than {WORDING} items of "
        "a suite share, numbers aside, are its wording and do not count; "
        f"items under {SHORTEST} words are not compared"
    ),
}

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_NUMBER = np.uint64(0x5851F42D4C957F2D)  # stands for every word with a digit in it
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of `text`, normalised."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=1 << 15)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")


@lru_cache(maxsize=1 << 15)
def _has_digit(word: str) -> bool:
    return any(character.isdigit() for character in word)


def word_hashes(sequence: Sequence[str]) -> np.ndarray:
    """(N,) uint64, of each word."""
    return np.fromiter(map(_word_hash, sequence), np.uint64, len(sequence))


def grams(hashes: np.ndarray, longest: int) -> Iterator[tuple[int, np.ndarray]]:
    """(n, (N - n + 1,) uint64) for n from 1 to `longest`: the hash of each run of n words."""
    made = hashes
    for n in range(1, min(longest, len(hashes)) + 1):
        if n > 1:
            made = made[:-1] * _MULTIPLIER + hashes[n - 1 :]  # wraps around, as it should
        yield n, made


def _gram(hashes: np.ndarray, n: int) -> np.ndarray:
    return next(made for size, made in grams(hashes, n) if size == n)


def whole(sequence: Sequence[str]) -> bytes:
    """A digest of all the words, in order."""
    return hashlib.blake2b(" ".join(sequence).encode("utf-8", "replace"), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Items:
    """What of evaluations is looked for. `counts`: per suite, items in all and those not (wholly) compared.

    `runs`: {n: {hash of n words: suites}}; `equal`: {digest of a whole item: suites}.
    """

    counts: dict[str, dict[str, int]]
    runs: dict[int, dict[int, frozenset[str]]]
    sorted_runs: dict[int, np.ndarray]
    equal: dict[bytes, frozenset[str]]

    def found_in(self, messages: Sequence[Sequence[str]], hashes: np.ndarray) -> set[str]:
        """The suites of which an item is in a document: words of each message, hashes of all of them."""
        suites: set[str] = set()
        for message in messages:
            suites |= self.equal.get(whole(message), frozenset())
        for n, made in grams(hashes, GRAM):
            table = self.sorted_runs.get(n)
            if table is None:
                continue
            place = np.searchsorted(table, made).clip(max=len(table) - 1)
            for hit in np.unique(made[table[place] == made]):
                suites |= self.runs[n][int(hit)]
        return suites


def index_items(items: Iterable[tuple[str, str, str]]) -> Items:
    """From (suite, item id, text). Holds about 100 bytes for each different run of words."""
    by_suite: dict[str, list[list[str]]] = {}
    for suite, _, text in items:
        by_suite.setdefault(suite, []).append(words(text))
    runs: dict[int, dict[int, set[str]]] = {}
    equal: dict[bytes, set[str]] = {}
    counts = {}
    for suite, texts in by_suite.items():
        wording = _wording(texts)
        short = only_wording = 0
        for sequence in texts:
            if len(sequence) < SHORTEST:
                short += 1
                continue
            equal.setdefault(whole(sequence), set()).add(suite)
            n = min(GRAM, len(sequence))
            plain, masked = _gram(word_hashes(sequence), n), _gram(_masked(sequence), n)
            kept = plain[~np.isin(masked, wording)] if n == GRAM else plain
            only_wording += not len(kept)
            for value in kept.tolist():
                runs.setdefault(n, {}).setdefault(value, set()).add(suite)
        counts[suite] = {"items": len(texts), "too_short": short, "only_as_a_whole": only_wording}
    return Items(
        counts,
        {n: {value: frozenset(suites) for value, suites in table.items()} for n, table in runs.items()},
        {n: np.array(sorted(table), np.uint64) for n, table in runs.items()},
        {digest: frozenset(suites) for digest, suites in equal.items()},
    )


def _masked(sequence: Sequence[str]) -> np.ndarray:
    hashes = word_hashes(sequence)
    hashes[[_has_digit(word) for word in sequence]] = _NUMBER
    return hashes


def _wording(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Hashes of the runs, numbers masked, that more than WORDING different items share."""
    seen: Counter[int] = Counter()
    for sequence in {tuple(sequence) for sequence in texts}:
        if len(sequence) >= GRAM:
            seen.update(set(_gram(_masked(sequence), GRAM).tolist()))
    return np.array([value for value, count in seen.items() if count > WORDING], np.uint64)


class Seen:
    """The documents read so far, in a database on disk: memory does not grow with their number."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None)
        for line in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-4096"):
            self._db.execute(f"PRAGMA {line}")
        self._db.execute("CREATE TABLE whole (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._db.execute(
            "CREATE TABLE bands (band INTEGER, value INTEGER, document INTEGER, "
            "PRIMARY KEY (band, value, document)) WITHOUT ROWID"
        )
        self._db.execute("CREATE TABLE signatures (document INTEGER PRIMARY KEY, signature BLOB)")
        self._db.execute("BEGIN")
        generator = np.random.Philox(key=SHINGLE)
        self._factors = (generator.random_raw(BANDS * PER_BAND) | 1).astype(np.uint64)[:, None]
        self._count = 0

    def close(self) -> None:
        self._db.close()

    def duplicate(self, sequence: Sequence[str]) -> bool:
        """Whether a document with these words was shown before; remembers them."""
        cursor = self._db.execute("INSERT OR IGNORE INTO whole VALUES (?)", (whole(sequence),))
        return not cursor.rowcount

    def near_duplicate(self, hashes: np.ndarray) -> bool:
        """Whether a document nearly like this one was shown before; one that was not is remembered."""
        signature = self._signature(hashes)
        bands = [
            int.from_bytes(hashlib.blake2b(part.tobytes(), digest_size=8).digest(), "little", signed=True)
            for part in signature.reshape(BANDS, PER_BAND)
        ]
        looked_at: set[int] = set()
        for band, value in enumerate(bands):
            rows = self._db.execute(
                "SELECT document FROM bands WHERE band=? AND value=? LIMIT ?", (band, value, MOST)
            )
            for (document,) in rows.fetchall():
                if document in looked_at:
                    continue
                looked_at.add(document)
                (other,) = self._db.execute(
                    "SELECT signature FROM signatures WHERE document=?", (document,)
                ).fetchone()
                if np.mean(np.frombuffer(other, np.uint32) == signature) >= NEAR:
                    return True
        self._count += 1
        self._db.execute("INSERT INTO signatures VALUES (?, ?)", (self._count, signature.tobytes()))
        self._db.executemany(
            "INSERT INTO bands VALUES (?, ?, ?)",
            [(band, value, self._count) for band, value in enumerate(bands)],
        )
        return False

    def _signature(self, hashes: np.ndarray) -> np.ndarray:
        """(BANDS * PER_BAND,) uint32: the smallest of each permutation of the shingles, in blocks."""
        return self._minima(np.unique(_gram(hashes, min(SHINGLE, len(hashes)))))

    def _minima(self, shingles: np.ndarray) -> np.ndarray:
        smallest = np.full(BANDS * PER_BAND, np.iinfo(np.uint64).max, np.uint64)
        for start in range(0, len(shingles), 4096):
            block = shingles[None, start : start + 4096] * self._factors
            smallest = np.minimum(smallest, block.min(axis=1))
        return (smallest >> np.uint64(32)).astype(np.uint32)
