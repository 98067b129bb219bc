"""A corpus on disk: the tokens of many documents, mapped into memory, and the manifest that describes them.

tokens.bin     uint16 or uint32, little endian: all documents one after another
trained.bin    uint8 for each token, 1 where it is learnt; absent when all are
ends.npy       int64, the offset behind the last token of each document
bytes.npy      int64, UTF-8 bytes of what is learnt of each document
manifest.json  format, tokenizer, sources, counts, decontamination, split, sizes and SHA-256 of the files
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mythos.data.documents import DataError
from mythos.records.canonical import RecordError, canonical, parse

FORMAT = 1
TOKENS, TRAINED, ENDS, BYTES, MANIFEST = "tokens.bin", "trained.bin", "ends.npy", "bytes.npy", "manifest.json"
SPLITS = ("train", "held_out")
LARGEST_MANIFEST = 16 << 20  # bytes
BLOCK = 1 << 22  # items checked at once


class CorpusError(DataError):
    """A corpus is missing, damaged, or cannot be written."""


@dataclass(frozen=True)
class Corpus:
    """One split of one domain, read only.

    `tokens` (N,) uint16 or uint32; `trained` (N,) uint8 or None when all are learnt; `ends` and `bytes`
    (documents,) int64.
    """

    path: Path
    manifest: Mapping[str, Any]
    tokens: np.ndarray
    trained: np.ndarray | None
    ends: np.ndarray
    bytes: np.ndarray

    @property
    def digest(self) -> str:
        """What the corpus is known by: SHA-256 over the manifest, and so over all files."""
        return self.manifest["digest"]

    @property
    def vocab_size(self) -> int:
        return self.manifest["tokenizer"]["vocab_size"]

    @property
    def end_id(self) -> int:
        """The token that ends a text."""
        return self.manifest["tokenizer"]["end_id"]

    @cached_property
    def starts(self) -> np.ndarray:
        """(documents,) int64: the offset of the first token of each document."""
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (int64) and whether each is learnt (bool), from `start` to `stop`. CorpusError for an id
        that is not in the vocabulary."""
        ids = self.tokens[start:stop].astype(np.int64)
        if len(ids) and int(ids.max()) >= self.vocab_size:
            raise damaged(self.path / TOKENS, f"holds the token {int(ids.max())} of {self.vocab_size}")
        learnt = np.ones(len(ids), bool) if self.trained is None else self.trained[start:stop].astype(bool)
        return ids, learnt


def open_corpus(path: Path, verify: bool = False) -> Corpus:
    """The corpus in the directory `path`. CorpusError names the file that is damaged, and the cure.

    Always checked: the manifest against its digest, the sizes of all files, that ends rise to the last token.
    With `verify` every byte is read: the hashes of all files, and each token against the vocabulary.
    """
    manifest = _read_manifest(path)
    files = manifest["files"]
    for name, facts in files.items():
        try:
            size = (path / name).stat().st_size
        except OSError as error:
            raise damaged(path / name, f"cannot be read ({error.strerror})") from None
        if size != facts["bytes"]:
            raise damaged(path / name, f"has {size} bytes instead of {facts['bytes']}")
        if verify and _sha256(path / name) != facts["sha256"]:
            raise damaged(path / name, "holds other bytes than were written")
    dtype = np.dtype(manifest["dtype"])
    counts = manifest["counts"]
    trained = None
    try:
        tokens = np.memmap(path / TOKENS, dtype, "r")
        if TRAINED in files:
            trained = np.memmap(path / TRAINED, np.uint8, "r")
        ends = np.load(path / ENDS, mmap_mode="r", allow_pickle=False)
        sizes = np.load(path / BYTES, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise damaged(path, f"cannot be mapped ({error})") from None
    corpus = Corpus(path, manifest, tokens, trained, ends, sizes)
    for name, array in ((ENDS, ends), (BYTES, sizes)):
        if array.dtype != np.int64 or array.shape != (counts["documents"],):
            raise damaged(path / name, "is of another shape than the manifest says")
    if len(tokens) != counts["tokens"] or (trained is not None and len(trained) != len(tokens)):
        raise damaged(path / (TOKENS if trained is None else TRAINED), "does not fit the manifest")
    _check_ends(corpus)
    if verify:
        for start in range(0, len(tokens), BLOCK):
            corpus.read(start, start + BLOCK)
    return corpus


def damaged(path: Path, what: str) -> CorpusError:
    return CorpusError(f"{path} {what}.", "Build the corpus again: mythos data build.")


def make_manifest(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of manifest.json: canonical JSON with `digest`, the SHA-256 of the rest."""
    digest = hashlib.sha256(canonical(dict(manifest))).hexdigest()
    return json.dumps({**manifest, "digest": digest}, indent=1, ensure_ascii=False).encode()


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        manifest = parse(file.read_bytes(), LARGEST_MANIFEST)
        stated = manifest.pop("digest")
        if manifest["format"] != FORMAT:
            raise CorpusError(
                f"{file} is of format {manifest['format']}; this version reads {FORMAT}.",
                "Build the corpus again: mythos data build.",
            )
        if hashlib.sha256(canonical(manifest)).hexdigest() != stated:
            raise damaged(file, "was changed since it was written")
        if manifest["dtype"] not in ("<u2", "<u4") or not {TOKENS, ENDS, BYTES} <= set(manifest["files"]):
            raise damaged(file, "does not say what this version reads")
        return {**manifest, "digest": stated}
    except FileNotFoundError:
        raise CorpusError(f"There is no corpus at {path}.", "Build it: mythos data build.") from None
    except OSError as error:
        raise CorpusError(f"{file} cannot be read ({error.strerror}).", "Make it readable.") from None
    except (RecordError, KeyError, TypeError, AttributeError):
        raise damaged(file, "is no manifest") from None


def _check_ends(corpus: Corpus) -> None:
    before = 0
    for start in range(0, len(corpus.ends), BLOCK):
        block = np.asarray(corpus.ends[start : start + BLOCK])
        if (np.diff(block, prepend=before) <= 0).any():
            raise damaged(corpus.path / ENDS, "does not rise from document to document")
        before = int(block[-1])
    if before != len(corpus.tokens):
        raise damaged(corpus.path / ENDS, "does not end at the last token")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
