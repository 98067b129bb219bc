"""The registry of copies: every place where weights are known to lie, and what lies there unregistered."""

import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from mythos.ledger.log import append, append_restriction
from mythos.records.clock import Clock
from mythos.records.ids import new_id
from mythos.records.principal import Principal
from mythos.store.db import Store, StoreError
from mythos.store.home import Home
from mythos.store.tables import copies

FORMS = ("encrypted", "plain", "compiled")


@dataclass(frozen=True, slots=True)
class Copy:
    """`place` is a path, relative to the data directory when inside it; `removed` POSIX seconds or None."""

    id: str
    root: str
    place: str
    form: str
    removed: float | None


def add_copy(
    conn: sa.Connection, clock: Clock, principal: Principal, root: str, place: str, form: str
) -> str:
    """Enter a copy, with its ledger leaf, in the transaction of `conn`; its id.

    One that is entered already keeps its row. The same place with another root or in another form is a new
    copy, which ends the old one.
    """
    if form not in FORMS:
        raise StoreError(f"a copy is {', '.join(FORMS)}, not {form[:80]!r}")
    for found in _live(conn, place):
        if (found.root, found.form) == (root, form):
            return found.id
        remove_copy(conn, clock, principal, found.id)
    new = {"id": new_id("cpy"), "root": root, "place": place, "form": form}
    seq = append(conn, clock, {"kind": "copy.added", "principal": principal.id, **new})
    conn.execute(copies.insert().values(**new, logged=seq))
    return new["id"]


def remove_copy(conn: sa.Connection, clock: Clock, principal: Principal, copy: str) -> None:
    """Enter that a copy is gone, with its ledger leaf; once removed it stays so. StoreError when unknown."""
    found = conn.execute(sa.select(copies.c.removed).where(copies.c.id == copy)).first()
    if found is None:
        raise StoreError(f"no copy {copy[:80]!r}")
    if found.removed is None:
        event = {"kind": "copy.removed", "principal": principal.id, "copy": copy}
        now = append_restriction(conn, clock, event)
        conn.execute(copies.update().where(copies.c.id == copy).values(removed=now))


def list_copies(store: Store) -> list[Copy]:
    """Every copy ever entered, oldest first."""
    c = copies.c
    wanted = sa.select(c.id, c.root, c.place, c.form, c.removed).order_by(c.logged)
    with store.read() as conn:
        return [Copy(*row) for row in conn.execute(wanted)]


def reconcile(home: Home, store: Store) -> tuple[list[Path], list[Copy]]:
    """What lies among the weights of the data directory but is not entered, and entered copies not there."""
    live = [copy for copy in list_copies(store) if copy.removed is None]
    entered = {home.path / copy.place for copy in live}
    there = [path for path in sorted((home.path / "weights").iterdir()) if path not in entered]
    return there, [copy for copy in live if not os.path.lexists(home.path / copy.place)]


def weights_place(root: str) -> str:
    """Where the store keeps the weights of `root`."""
    return f"weights/{root}"


def _live(conn: sa.Connection, place: str) -> list[Copy]:
    c = copies.c
    wanted = sa.select(c.id, c.root, c.place, c.form, c.removed).where(c.place == place, c.removed.is_(None))
    return [Copy(*row) for row in conn.execute(wanted)]
