"""Whole archives by pip, from an index in a directory: hashes hold, nothing is built, nothing half there."""

from dataclasses import replace
from pathlib import Path

import pytest

from mythos.data.fetch import Archive, FetchError, archive_place, fetch_archive
from tests.data.archives import sdist, wheel

# An sdist whose build leaves a trace: none may ever be seen.
TRAP = {
    "setup.py": "import pathlib\npathlib.Path({trace!r}).touch()\nraise SystemExit('built!')\n",
    "pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'trap'\nbackend-path = ['.']\n",
    "trap.py": "import pathlib\npathlib.Path({trace!r}).touch()\nraise SystemExit('built!')\n",
    "PKG-INFO": "Metadata-Version: 2.1\nName: made\nVersion: 1\n",
    "docs/page.txt": "text",
}


def quiet(phase: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index in the user's pip configuration: a directory of files, and no other."""
    place = tmp_path / "index"
    place.mkdir()
    (tmp_path / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {place}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return place


@pytest.fixture
def made(index: Path, tmp_path: Path) -> Archive:
    files = {name: text.format(trace=str(tmp_path / "trace")) for name, text in TRAP.items()}
    return sdist(index, "made", files)


def test_an_sdist_is_fetched_and_never_built(made: Archive, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = fetch_archive(made, cache, quiet)
    assert path == archive_place(made, cache) and path.read_bytes()[:2] == b"\x1f\x8b"
    assert not (tmp_path / "trace").exists()
    assert [p.name for p in cache.iterdir()] == [path.name]


def test_a_wheel_is_fetched(index: Path, tmp_path: Path) -> None:
    made = wheel(index, "made", {"made/data.xml": "<a/>"})
    assert fetch_archive(made, tmp_path / "cache", quiet).is_file()


def test_what_lies_in_the_cache_is_not_fetched_again(made: Archive, index: Path, tmp_path: Path) -> None:
    path = fetch_archive(made, tmp_path / "cache", quiet)
    (index / made.file).unlink()
    assert fetch_archive(made, tmp_path / "cache", quiet) == path


def test_damage_in_the_cache_is_made_good(made: Archive, tmp_path: Path) -> None:
    path = fetch_archive(made, tmp_path / "cache", quiet)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\0")
    assert fetch_archive(made, tmp_path / "cache", quiet).read_bytes() == whole


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_another_file_under_the_name_is_refused(index: Path, tmp_path: Path, kind: str) -> None:
    made = sdist(index, "made", {"a.txt": "a"}) if kind == "sdist" else wheel(index, "made", {"made/a": "a"})
    with pytest.raises(FetchError) as error:
        fetch_archive(replace(made, sha256="0" * 64), tmp_path / "cache", quiet)
    assert "do not use it" in error.value.cure
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_the_index_does_not_have_is_an_error(made: Archive, index: Path, tmp_path: Path) -> None:
    (index / made.file).unlink()
    with pytest.raises(FetchError, match="offers no file made-1.tar.gz") as error:
        fetch_archive(made, tmp_path / "cache", quiet)
    assert made.sha256 in error.value.cure
