"""What a family is trained on: its tokenizer and the corpora of all domains, made once."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mythos.data.build import build_corpus, is_held_out
from mythos.data.corpus import SPLITS, Corpus, open_corpus
from mythos.data.overlap import Items, index_items
from mythos.data.sources import DOMAINS, SAFETY, sources_of
from mythos.data.tokenizer import Tokenizer
from mythos.data.train_tokenizer import train_tokenizer
from mythos.store.home import Home, private_directory, write_private

Progress = Callable[[str, int, int], None]
Evaluations = Callable[[Path, Progress], Iterable[tuple[str, str, str]]]
"""(cache, progress) -> (suite, item, text) of all that is asked in evaluations."""

TOKENIZER = "tokenizer.json"
TOKENIZER_TEXT = 6_000_000  # characters of each domain that the vocabulary is learnt from


@dataclass(frozen=True, slots=True)
class Material:
    """`train` and `held_out` by domain. To train on there is also `SAFETY`, which a suite measures."""

    tokenizer: bytes
    template: str
    train: Mapping[str, Corpus]
    held_out: Mapping[str, Corpus]


def own_tokenizer(home: Home, family: str, vocab: int, progress: Progress) -> bytes:
    """The tokenizer.json of a family from scratch, learnt once from the text of all domains."""
    place = _place(home, family) / TOKENIZER
    if not place.exists() or Tokenizer.from_bytes(place.read_bytes()).vocab_size != vocab:
        progress("tokenizer", 0, 0)
        write_private(place, train_tokenizer(_texts(home.cache, progress), vocab), replace=True)
    return place.read_bytes()


def material(
    home: Home, family: str, tokenizer: bytes, template: str, evaluations: Evaluations, progress: Progress
) -> Material:
    """The family's material, from MYTHOS_HOME/data/<family>. Made is what is missing, has another tokenizer,
    or was held against other evaluations.

    No document is in it that asks what an evaluation asks (`mythos.data.overlap`). DataError or FetchError
    name the cure.
    """
    place, digest = _place(home, family), hashlib.sha256(tokenizer).hexdigest()
    progress("evaluations", 0, 0)
    asked = index_items(evaluations(home.cache, progress))
    for name in (*DOMAINS, SAFETY):
        if not _made_with(place / name, digest, asked):
            opened = {source.name: source.open(home.cache, progress) for source in sources_of(name)}
            facts = {source: dict(one.facts) for source, one in opened.items()}
            documents = (document for one in opened.values() for document in one.documents)
            build_corpus(place / name, name, documents, facts, tokenizer, template, asked, progress)
    train, held_out = ({name: open_corpus(place / name / split) for name in DOMAINS} for split in SPLITS)
    return Material(tokenizer, template, train | {SAFETY: open_corpus(place / SAFETY / SPLITS[0])}, held_out)


def _place(home: Home, family: str) -> Path:
    private_directory(home.path / "data")
    private_directory(home.path / "data" / family)
    return home.path / "data" / family


def _made_with(corpus: Path, tokenizer_sha256: str, asked: Items) -> bool:
    """Whether the corpus is there, with this tokenizer, held against evaluations of the same counts.

    A damaged one is an error when it is opened.
    """
    if not all((corpus / split).is_dir() for split in SPLITS):
        return False
    manifest = open_corpus(corpus / SPLITS[0]).manifest
    suites = manifest["decontamination"]["suites"]
    counts = {
        suite: {key: facts[key] for key in asked.counts.get(suite, {})} for suite, facts in suites.items()
    }
    return manifest["tokenizer"]["sha256"] == tokenizer_sha256 and counts == asked.counts


def _texts(cache: Path, progress: Progress) -> Iterator[str]:
    """Text of each domain, none of it held out."""
    for domain in DOMAINS:
        taken = 0
        for source in sources_of(domain):
            for document in source.open(cache, progress).documents:
                if taken < TOKENIZER_TEXT and not is_held_out(document.group):
                    yield from document.parts()
                    taken += document.size()
