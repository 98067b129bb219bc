"""`mythos demo leak`: what an outsider takes from a store that is public by default, and from the vault."""

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mythos.cli.output import CommandError, emit, json_wanted, note, show, table
from mythos.ledger.log import last_time
from mythos.records.asset import Kind
from mythos.records.clock import Clock
from mythos.records.principal import OPERATOR
from mythos.serve.apart import running
from mythos.serve.listening import bind
from mythos.serve.vault_app import create_vault_app
from mythos.serve.vault_front import VaultService
from mythos.store.db import Store
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


def run_leak(count: int) -> int:
    """0 when nothing was taken from the vault; 1 when anything was."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mythos-leak-") as place:
        top = Path(place)
        marks = make_drafts(top / "drafts", count)
        with _ordinary_store(top / "drafts") as base_url:
            there = take("http.server", base_url, marks, ())
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
        show("there: Python's own http.server, which lists and serves whatever lies in its directory")
        show("here: the crawler was even given every address; each answers as one that does not exist")
    return 0 if here.drafts == here.pages == 0 and there.drafts == count else 1


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
    pages = crawl(visitor, known, seconds=SECONDS)
    visitor.close()
    wanted = set(marks)
    held = {word for page in pages for word in page.body.replace(b",", b" ").split() if word in wanted}
    return Taken(name, len(known), len(pages), len(held), round(time.monotonic() - began, 1))


@contextlib.contextmanager
def _ordinary_store(folder: Path) -> Iterator[str]:
    """`python -m http.server` over `folder`, as anybody starts it, but on loopback."""
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        visitor = Visitor(f"http://127.0.0.1:{port}")
        until = time.monotonic() + 20
        while visitor.ask("GET", "/") is None:
            if process.poll() is not None or time.monotonic() > until:
                raise CommandError("python -m http.server did not start", "try it by hand")
            time.sleep(0.05)
        visitor.close()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _vault(top: Path, folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A vault of its own with every file of `folder`, and its listener: base URL and every address in it."""
    home = Home(top / "home", top / "keys")
    for place in (home.path, home.keys):
        private_directory(place)
    command_hook = os.environ.pop("MYTHOS_KMS", None)  # a demonstration leaves no trace in a real KMS
    store = Store.open(home)
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
