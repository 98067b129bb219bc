"""A damaged corpus is refused with the file's name and a cure; a sound one, its twin, opens."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mythos.data.corpus import CorpusError, make_manifest, open_corpus
from mythos.data.documents import Document
from tests.data.small import build, group, texts


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    messages = ({"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Well."})
    place = tmp_path_factory.mktemp("sound")
    return build(place, [*texts(30), Document("made", "chat", group(0), messages=messages)])["train"].path


@pytest.fixture
def corpus(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "train"))


def rewrite(path: Path, **changes: Any) -> None:
    """Change the manifest and sign it again, as a careful attacker would."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["digest"]
    manifest |= changes
    for name, facts in manifest["files"].items():
        data = (path / name).read_bytes()
        facts |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_bytes(make_manifest(manifest))


def flip(path: Path, name: str, at: int = -1) -> None:
    data = bytearray((path / name).read_bytes())
    data[at] ^= 1
    (path / name).write_bytes(data)


def swap_ends(path: Path) -> None:
    ends = np.load(path / "ends.npy")
    ends[[3, 4]] = ends[[4, 3]]
    np.save(path / "ends.npy", ends)
    rewrite(path)


def short_end(path: Path) -> None:
    ends = np.load(path / "ends.npy")
    ends[-1] -= 1
    np.save(path / "ends.npy", ends)
    rewrite(path)


def foreign_token(path: Path) -> None:
    tokens = np.fromfile(path / "tokens.bin", "<u2")
    tokens[5] = 300
    tokens.tofile(path / "tokens.bin")
    rewrite(path)


def cut(path: Path, name: str) -> None:
    (path / name).write_bytes((path / name).read_bytes()[:-2])


def pickled(path: Path) -> None:
    np.save(path / "ends.npy", np.array([{"an": "object"}], object), allow_pickle=True)
    rewrite(path)


ALWAYS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated tokens": (lambda p: cut(p, "tokens.bin"), "tokens.bin"),
    "truncated mask": (lambda p: cut(p, "trained.bin"), "trained.bin"),
    "truncated ends": (lambda p: cut(p, "ends.npy"), "ends.npy"),
    "truncated bytes": (lambda p: cut(p, "bytes.npy"), "bytes.npy"),
    "truncated manifest": (lambda p: cut(p, "manifest.json"), "manifest.json"),
    "missing tokens": (lambda p: (p / "tokens.bin").unlink(), "tokens.bin"),
    "missing manifest": (lambda p: (p / "manifest.json").unlink(), "no corpus"),
    "changed manifest": (lambda p: flip(p, "manifest.json", 200), "manifest.json"),
    "ends that fall": (swap_ends, "ends.npy"),
    "ends that stop early": (short_end, "ends.npy"),
    "ends with objects": (pickled, "cannot be mapped"),
    "another format": (lambda p: rewrite(p, format=2), "format 2"),
    "another dtype": (lambda p: rewrite(p, dtype="<f8"), "manifest.json"),
    "wider tokens": (lambda p: rewrite(p, dtype="<u4"), "cannot be mapped"),
    "a list": (lambda p: (p / "manifest.json").write_text("[]") and None, "manifest.json"),
}
VERIFIED: dict[str, tuple[Callable[[Path], None], str]] = {
    "changed token": (lambda p: flip(p, "tokens.bin", 10), "tokens.bin"),
    "changed mask": (lambda p: flip(p, "trained.bin", 10), "trained.bin"),
    "changed bytes": (lambda p: flip(p, "bytes.npy"), "bytes.npy"),
    "foreign token": (foreign_token, "holds the token 300 of 300"),
}


def test_the_sound_twin_opens(corpus: Path) -> None:
    assert open_corpus(corpus, verify=True).manifest["counts"]["documents"] > 20


@pytest.mark.parametrize("name", ALWAYS)
def test_damage_is_found_when_opened(corpus: Path, name: str) -> None:
    spoil, says = ALWAYS[name]
    spoil(corpus)
    with pytest.raises(CorpusError) as error:
        open_corpus(corpus)
    assert says in error.value.message and error.value.cure


@pytest.mark.parametrize("name", VERIFIED)
def test_changed_bytes_are_found_when_verified(corpus: Path, name: str) -> None:
    spoil, says = VERIFIED[name]
    spoil(corpus)
    open_corpus(corpus)
    with pytest.raises(CorpusError) as error:
        open_corpus(corpus, verify=True)
    assert says in error.value.message and "mythos data build" in error.value.cure


def test_a_foreign_token_is_found_when_it_is_read(corpus: Path) -> None:
    foreign_token(corpus)
    with pytest.raises(CorpusError, match="holds the token 300"):
        open_corpus(corpus).read(0, 10)


def test_it_cannot_be_written_to(corpus: Path) -> None:
    opened = open_corpus(corpus)
    for array in (opened.tokens, opened.trained, opened.ends, opened.bytes):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1  # type: ignore[index]
