"""From documents to a corpus: drop what is there twice or is asked in an evaluation, split, tokenise, write.

Documents pass one at a time, so memory does not grow with their number. All is written into a directory
beside the target and renamed when it lies whole on disk: whoever looks sees the old corpus or the new one.
A build that was stopped is started again; the next one removes what it left.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mythos.data.corpus import (
    BYTES,
    ENDS,
    FORMAT,
    MANIFEST,
    SPLITS,
    TOKENS,
    TRAINED,
    Corpus,
    CorpusError,
    make_manifest,
    open_corpus,
)
from mythos.data.documents import Document
from mythos.data.encode import encode_document, text_end
from mythos.data.overlap import RULES, Items, Seen, word_hashes, words
from mythos.data.template import ChatError
from mythos.data.tokenizer import Tokenizer

Progress = Callable[[str, int, int], None]
"""(phase, done, total); total 0 when it is not known."""

HELD_OUT = 50  # of a thousand groups
NAMED = 20  # contaminated documents that a manifest names
FILTERS = ("empty", "duplicate", "near_duplicate", "contaminated")
BUFFER = 1 << 20  # bytes of each file


def build_corpus(
    target: Path,
    domain: str,
    documents: Iterable[Document],
    sources: Mapping[str, Mapping[str, Any]],
    tokenizer_json: bytes,
    chat_template: str,
    evaluations: Items,
    progress: Progress = lambda phase, done, total: None,
) -> dict[str, Corpus]:
    """Makes the directories `target`/train and `target`/held_out, in place of what was there; opens them.

    `sources`: what is known of each `Document.source` (package, version, SHA-256, licence). About 5% of the
    groups, by a hash of their names, are held out; with few groups there may be no `held_out`. Equal input
    gives equal files. CorpusError when nothing is left to learn, a document cannot be rendered, or the disk
    is full; the errors of `documents` pass.
    """
    tokenizer = Tokenizer.from_bytes(tokenizer_json)
    with _storing(target), _alone(target):
        remove_leftovers(target)
        folder = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        try:
            about = {
                "format": FORMAT,
                "domain": domain,
                "dtype": "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4",
                "tokenizer": {
                    "sha256": hashlib.sha256(tokenizer_json).hexdigest(),
                    "vocab_size": tokenizer.vocab_size,
                    "end_id": text_end(tokenizer),
                    "chat_template_sha256": hashlib.sha256(chat_template.encode()).hexdigest(),
                },
                "rules": {
                    **RULES,
                    "held_out": f"{HELD_OUT / 1000:.0%} of the groups, by SHA-256 of the name",
                },
            }
            whole = folder / "corpus"
            whole.mkdir(mode=0o700)
            with contextlib.closing(Seen(folder / "seen.db")) as seen:
                _write(
                    whole, documents, sources, tokenizer, chat_template, evaluations, seen, about, progress
                )
            _put_in_place(whole, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return {name: open_corpus(target / name) for name in SPLITS if (target / name).is_dir()}


def is_held_out(group: str) -> bool:
    """Whether documents of this group are held out."""
    digest = hashlib.sha256(f"held out\0{group}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") % 1000 < HELD_OUT


def remove_leftovers(target: Path) -> None:
    """What builds of `target` that were killed have left. An old corpus that was moved away and has no
    successor yet is put back."""
    for folder in sorted(target.parent.glob(f"{_prefix(target)}*")):
        old = folder / "old"
        if old.is_dir() and not target.exists():
            os.rename(old, target)
        shutil.rmtree(folder, ignore_errors=True)


def _prefix(target: Path) -> str:
    return f".{target.name}.building-"


def _write(
    folder: Path,
    documents: Iterable[Document],
    sources: Mapping[str, Mapping[str, Any]],
    tokenizer: Tokenizer,
    template: str,
    evaluations: Items,
    seen: Seen,
    about: Mapping[str, Any],
    progress: Progress,
) -> None:
    """The directory of each split that got a document, complete with manifest and on disk."""
    counts: dict[str, dict[str, Counter[str]]] = {}  # source, step, documents or bytes
    dropped: dict[str, Counter[str]] = {suite: Counter() for suite in evaluations.counts}
    named: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        splits = {name: stack.enter_context(_Split(folder / name, about["dtype"])) for name in SPLITS}
        done = 0
        for document in documents:
            size = document.size()
            step, suites = _step(document, seen, evaluations)
            if not step:
                step = SPLITS[is_held_out(document.group)]
                try:
                    encoded = encode_document(tokenizer, template, document)
                except ChatError as error:
                    raise CorpusError(f"{document.id}: {error.message}", error.cure) from None
                splits[step].add(encoded.ids, encoded.trained, encoded.bytes)
            for suite in suites:
                dropped[suite][document.source] += 1
            if suites and len(named) < NAMED:
                named.append({"document": document.id, "suites": sorted(suites)})
            of_source = counts.setdefault(document.source, {})
            for name in ("read", step):
                of_source.setdefault(name, Counter()).update({"documents": 1, "bytes": size})
            done += size
            progress("read and tokenise", done, 0)
        for split in splits.values():
            split.finish()
        if not splits["train"].documents:
            read = sum(steps["read"]["documents"] for steps in counts.values())
            raise CorpusError(
                f"No document is left to train on (read: {read}).", "Give more text, or other text."
            )
        for name, split in splits.items():
            if not split.documents:
                shutil.rmtree(split.folder)
                continue
            manifest = {
                **about,
                "split": name,
                "counts": split.counts(),
                "sources": {
                    source: {**sources.get(source, {}), "steps": _plain(steps)}
                    for source, steps in sorted(counts.items())
                },
                "decontamination": {
                    "suites": {
                        suite: {**facts, "documents_dropped": dict(sorted(dropped[suite].items()))}
                        for suite, facts in sorted(evaluations.counts.items())
                    },
                    "first_dropped": named,
                },
                "files": split.files(),
            }
            with _create(split.folder / MANIFEST) as file:
                file.write(make_manifest(manifest))
                _sync_file(file)
            _sync_folder(split.folder)
    _sync_folder(folder)


def _step(document: Document, seen: Seen, evaluations: Items) -> tuple[str, set[str]]:
    """Which of FILTERS takes the document out ("" for none), and for which suites."""
    messages = [words(part) for part in document.parts()]
    sequence = [word for message in messages for word in message]
    if not sequence:
        return "empty", set()
    if seen.duplicate(sequence):
        return "duplicate", set()
    hashes = word_hashes(sequence)
    if seen.near_duplicate(hashes):
        return "near_duplicate", set()
    suites = evaluations.found_in(messages, hashes)
    return ("contaminated" if suites else ""), suites


def _plain(steps: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    """{step: {documents, bytes}} in the order of the work; a step that took nothing is there too."""
    order = ("read", *FILTERS, *SPLITS)
    return {
        step: {unit: steps.get(step, Counter())[unit] for unit in ("documents", "bytes")} for step in order
    }


class _Split:
    """The files of one split while they are written."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self.folder, self._dtype = folder, np.dtype(dtype)
        self.documents = self.tokens = self.trained = self.bytes = 0

    def __enter__(self) -> "_Split":
        self.folder.mkdir(mode=0o700)
        self._open = contextlib.ExitStack()
        names = (TOKENS, TRAINED, ENDS, BYTES)
        self._files = {name: self._open.enter_context(_create(self.folder / name)) for name in names}
        for name in (ENDS, BYTES):
            _npy_header(self._files[name], 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, ids: list[int], trained: list[bool], size: int) -> None:
        self.documents += 1
        self.tokens += len(ids)
        self.trained += sum(trained)
        self.bytes += size
        self._files[TOKENS].write(np.array(ids, self._dtype).tobytes())
        self._files[TRAINED].write(bytes(trained))
        self._files[ENDS].write(self.tokens.to_bytes(8, "little"))
        self._files[BYTES].write(size.to_bytes(8, "little"))

    def finish(self) -> None:
        """All of it on disk, but for the manifest."""
        for name in (ENDS, BYTES):
            file = self._files[name]
            length = file.tell() - 8 * self.documents
            file.seek(0)
            _npy_header(file, self.documents)
            if file.tell() != length:
                raise AssertionError("a header of another length")
        for file in self._files.values():
            _sync_file(file)
        self._open.close()
        if self.trained == self.tokens:
            os.unlink(self.folder / TRAINED)

    def counts(self) -> dict[str, int]:
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "trained_tokens": self.trained,
            "bytes": self.bytes,
        }

    def files(self) -> dict[str, dict[str, Any]]:
        facts = {}
        for path in sorted(self.folder.iterdir()):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            facts[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
        return facts


def _npy_header(file: BinaryIO, count: int) -> None:
    """NumPy pads the header so that a longer count leaves its length as it is."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (count,)})


def _create(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "wb", buffering=BUFFER)


def _sync_file(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(whole: Path, target: Path) -> None:
    """Killed between its two renames it leaves the old corpus aside, where `remove_leftovers` finds it."""
    old = whole.parent / "old"
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(whole, target)
    except OSError:
        if old.is_dir():
            os.rename(old, target)
        raise
    _sync_folder(target.parent)


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One build of a target at a time. The system frees the lock when the process ends, however it ends."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(target.parent / f".{target.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CorpusError(f"{target} is being built by another process.", "Wait for it.") from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _storing(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise CorpusError(
            f"The corpus {target} cannot be written ({getattr(error, 'strerror', '') or error}).",
            f"Make space under {target.parent}, and see that it is writable; then build again.",
        ) from None
