"""`mythos demo leak`: what an outsider takes from a store that is public by default, and from the vault."""

import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from mythos.cli.ordinary_store import PLAIN, WHEEL, Store, fetched, is_fetched, serving
from mythos.cli.output import emit, json_wanted, note, show, table
from mythos.ledger.log import last_time
from mythos.records.asset import Kind
from mythos.records.clock import Clock
from mythos.records.principal import OPERATOR
from mythos.serve.apart import running
from mythos.serve.listening import bind
from mythos.serve.vault_app import create_vault_app
from mythos.serve.vault_front import VaultService
from mythos.store import db
from mythos.store.home import Home, private_directory
from mythos.vault.crawl import Visitor, crawl
from mythos.vault.importing import import_folder
from mythos.vault.own_exposure import addresses

SEED = 20260326
SECONDS = 60.0  # that the crawler has for one store
ABOUT = ("launch post", "pricing", "risk summary", "customer call", "benchmark table", "retreat", "image set")


@dataclass(frozen=True, slots=True)
class Taken:
    """What the crawler came away with: pages that answered, and drafts whose text it holds."""

    store: str
    addresses: int  # that it was given beforehand
    pages: int
    drafts: int
    seconds: float


def run_leak(count: int, fetch: bool = False) -> int:
    """0 when drafts were taken from the ordinary store and nothing from the vault; else 1."""
    ordinary = _chosen(fetch)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mythos-leak-") as place:
        top = Path(place)
        marks = make_drafts(top / "drafts", count)
        with serving(ordinary, top / "drafts") as base_url:
            there = take(ordinary.name, base_url, marks, ())
        note(f"{there.drafts} drafts taken from the ordinary store; now the same drafts go into a vault")
        with _vault(top, top / "drafts") as (base_url, known):
            here = take("mythos vault", base_url, marks, known)
    seconds = time.monotonic() - began
    if json_wanted():
        facts = {"drafts": count, "there": asdict(there), "here": asdict(here), "seconds": round(seconds, 1)}
        emit({**facts, "generated": True})
    else:
        rows = [(t.store, t.addresses, t.pages, f"{t.drafts} of {count}") for t in (there, here)]
        title = f"{count} generated drafts, the same crawler without a key on both, {seconds:.0f} s"
        table(("store", "addresses given", "pages that answered", "drafts taken"), rows, title)
        show(f"there: {ordinary.what}")
        show("here: the crawler was even given every address; each answers as one that does not exist")
    return 0 if here.drafts == here.pages == 0 and there.drafts else 1


def make_drafts(folder: Path, count: int) -> list[bytes]:
    """`count` files in folders of a hundred, each with a text and a mark of its own. The marks."""
    draw = random.Random(SEED)
    marks = []
    for n in range(count):
        mark = f"{draw.getrandbits(64):016x}"
        marks.append(mark.encode())
        about = draw.choice(ABOUT)
        file = folder / f"{n // 100:02d}" / f"{about.replace(' ', '-')}-{n:04d}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        words = " ".join(draw.choice(ABOUT) for _ in range(120))
        file.write_text(f"DRAFT {n}: {about}\nnot for release, {mark}\n\n{words}\n")
    return marks


def take(name: str, base_url: str, marks: list[bytes], known: tuple[str, ...]) -> Taken:
    """Crawl a store, from the guesses and from what is `known`."""
    began = time.monotonic()
    visitor = Visitor(base_url)
    wanted, held, pages = set(marks), set(), 0
    for page in crawl(visitor, known, seconds=SECONDS):
        if page.status < 300:
            pages += 1
            held |= wanted.intersection(page.body.replace(b",", b" ").split())
    visitor.close()
    return Taken(name, len(known), pages, len(held), round(time.monotonic() - began, 1))


def _chosen(fetch: bool) -> Store:
    """copyparty when it was fetched before or may be fetched now; else what Python brings."""
    if fetch or is_fetched():
        return fetched()
    if sys.stdin.isatty() and not json_wanted():
        size = f"{WHEEL.bytes / 1e6:.1f} MB, SHA-256 {WHEEL.sha256[:12]}..."
        if typer.confirm(f"Fetch {WHEEL.requirement} ({size}) as the ordinary store?", err=True):
            return fetched()
    note("the ordinary store is Python's http.server; with --fetch it is copyparty, which teams do run")
    return PLAIN


@contextlib.contextmanager
def _vault(top: Path, folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A vault of its own with every file of `folder`, and its listener: base URL and every address in it."""
    home = Home(top / "home", top / "keys")
    for place in (home.path, home.keys):
        private_directory(place)
    command_hook = os.environ.pop("MYTHOS_KMS", None)  # a demonstration leaves no trace in a real KMS
    store = db.Store.open(home)
    try:
        clock = Clock(lambda: last_time(store))
        import_folder(store, clock, OPERATOR, folder, Kind.DRAFT)
        known = addresses(store, OPERATOR)
        with bind("127.0.0.1", 0) as listener:
            app = create_vault_app(VaultService(store, clock))
            with running(app, listener) as base_url:
                yield base_url, tuple(known)
    finally:
        store.close()
        if command_hook is not None:
            os.environ["MYTHOS_KMS"] = command_hook
