"""Search: an index in memory of the titles and words that this vault keeps sealed. It is never written.

Each owner has a shelf of their own, and what is shared is looked at by itself: how long a search takes
depends on what the caller may read, not on what they may not.
"""

import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import sqlalchemy as sa

from mythos.ledger.log import audit, now_in
from mythos.records.clock import Clock
from mythos.records.principal import Principal
from mythos.store.db import Store
from mythos.store.tables import asset_shares, asset_versions, assets
from mythos.vault.about import open_about, words_of
from mythos.vault.assets import MOST, PAGE, Entry, entries_of
from mythos.vault.keys import vault_of

QUERY = 200  # characters


@dataclass(slots=True)
class _Shelf:
    """What one principal owns. `titles` and `texts`: for a word, the numbers of documents, rising."""

    ids: list[str] = field(default_factory=list)
    titles: dict[str, array] = field(default_factory=dict)
    texts: dict[str, array] = field(default_factory=dict)


@dataclass(slots=True)
class _Index:
    seen: int = -1  # seq of the last version that is in it
    shelves: dict[tuple[str, str], _Shelf] = field(default_factory=dict)
    newest: dict[str, tuple[int, str, str]] = field(default_factory=dict)  # asset: number there, title, text


_indexes: "weakref.WeakKeyDictionary[Store, _Index]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def search_assets(
    store: Store, clock: Clock, principal: Principal, query: str, limit: int = PAGE
) -> list[Entry]:
    """What `principal` may read with all words of `query`, in its title first, newest first.

    Each is authorised again before anything of it is shown. Nothing is said of the rest, not even a count.
    """
    words = list(dict.fromkeys(words_of(query[:QUERY])))
    limit = max(1, min(limit, MOST))
    found: list[Entry] = []
    if words:
        with _lock, store.read() as conn:
            now = now_in(conn, clock)
            index = _refreshed(store, conn)
            ids = _hits(conn, index, principal, words, now)
            while len(found) < limit:
                some = [one for _, one in zip(range(limit), ids, strict=False)]
                if not some:
                    break
                found += entries_of(store, conn, some, principal, now)[: limit - len(found)]
    audit(store, clock, principal, "asset.search", "answered", found=len(found))
    return found


def _hits(
    conn: sa.Connection, index: _Index, principal: Principal, words: list[str], now: float
) -> Iterator[str]:
    """Ids, best first, each once: of the caller's shelf and of what has a share for them that is not over."""
    shelf = index.shelves.get((principal.org, principal.id), _Shelf())
    s = asset_shares.c
    wanted = sa.select(s.asset, s.placed).where(s.org == principal.org, s.principal.in_(("", principal.id)))
    wanted = wanted.where(s.revoked.is_(None), s.expires_at > now).order_by(s.placed.desc())
    shared = list(dict.fromkeys(conn.execute(wanted).scalars()))
    seen: set[str] = set()
    for titles in (True, False):
        table = shelf.titles if titles else shelf.texts
        mine = (shelf.ids[n] for n in _all_of(table, words) if index.newest[shelf.ids[n]][0] == n)
        theirs = (one for one in shared if one in index.newest and _within(index.newest[one], words, titles))
        for one in chain(mine, theirs):  # no more of them is looked at than a page takes
            if one not in seen:
                seen.add(one)
                yield one


def _all_of(table: dict[str, array], words: list[str]) -> Iterable[int]:
    """Numbers of the documents with all of these words, the last first."""
    lists = sorted((table.get(word) for word in words), key=lambda one: len(one) if one else 0)
    if any(not one for one in lists):
        return []
    first, *rest = (one for one in lists if one)
    if not rest:
        return reversed(first)
    common = set(first)
    for one in rest:
        common.intersection_update(one)
    return sorted(common, reverse=True)


def _within(newest: tuple[int, str, str], words: list[str], titles: bool) -> bool:
    text = newest[1] if titles else newest[2]
    return all(f" {word} " in text for word in words)


def _refreshed(store: Store, conn: sa.Connection) -> _Index:
    """The index with every version that the transaction of `conn` sees."""
    index, vault = _indexes.setdefault(store, _Index()), vault_of(store)
    v, a = asset_versions.c, assets.c
    wanted = sa.select(v.asset, v.id, v.about, v.logged, a.owner, a.org).join(assets, a.id == v.asset)
    wanted = wanted.where(v.logged > index.seen, v.about.is_not(None)).order_by(v.logged)
    for row in conn.execute(wanted).yield_per(1000):
        about = open_about(vault, row.id, row.about)
        title = dict.fromkeys(words_of(f"{about.title} {about.name}"))
        text = dict.fromkeys([*title, *about.words.split()])
        shelf = index.shelves.setdefault((row.org, row.owner), _Shelf())
        number = len(shelf.ids)
        shelf.ids.append(row.asset)
        for table, words in ((shelf.titles, title), (shelf.texts, text)):
            for word in words:
                table.setdefault(word, array("I")).append(number)
        index.newest[row.asset] = (number, f" {' '.join(title)} ", f" {' '.join(text)} ")
        index.seen = row.logged
    return index
