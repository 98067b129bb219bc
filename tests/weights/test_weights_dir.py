"""The weights directory: whole or absent when written, nothing but what its root names when read."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_gguf import LLAMA, TEMPLATE, random_weights

from mythos.model import weights_dir
from mythos.model.errors import WeightsError
from mythos.model.quant import load_served, served_form
from mythos.model.weights_dir import read_weights, remove_leftovers, write_weights
from mythos.records.keyring import Keyring

FILES = sorted(weights_dir.LISTING)
SERVED = {
    k: v for name, weight in random_weights(LLAMA).items() for k, v in served_form(name, weight).items()
}

KEK = AESGCM(bytes(32))


def unwrap(wrapped: bytes, context: str) -> bytes | None:
    try:
        return KEK.decrypt(bytes(12), wrapped, context.encode())
    except InvalidTag:
        return None


KEYRING = Keyring("test", lambda key, context: KEK.encrypt(bytes(12), key, context.encode()), unwrap)


def write(parent: Path) -> Path:
    return parent / write_weights(parent, KEYRING, LLAMA, SERVED, b'{"version":"1.0"}', TEMPLATE)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / sound.name))


def test_what_is_written_is_read(sound: Path) -> None:
    files = read_weights(sound, KEYRING)
    assert files.root == sound.name and files.config == LLAMA
    assert files.files["chat_template.jinja"].decode() == TEMPLATE
    assert files.tensors.keys() == SERVED.keys()
    assert all(torch.equal(files.tensors[name], tensor) for name, tensor in SERVED.items())
    load_served(files.config, files.tensors)
    assert sorted(os.listdir(sound)) == FILES
    assert all((sound / name).stat().st_mode & 0o077 == 0 for name in FILES)


def test_the_same_weights_have_the_same_root_and_others_another(sound: Path, tmp_path: Path) -> None:
    assert write(tmp_path).name == sound.name
    other = dict(reversed(SERVED.items()))
    assert write_weights(tmp_path, KEYRING, LLAMA, other, b'{"version":"1.0"}', TEMPLATE) == sound.name
    assert write_weights(tmp_path, KEYRING, LLAMA, SERVED, b'{"version":"1.0"}', TEMPLATE + " ") != sound.name
    other["norm.weight"] = other["norm.weight"] * 2
    assert write_weights(tmp_path, KEYRING, LLAMA, other, b'{"version":"1.0"}', TEMPLATE) != sound.name


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(FILES), at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_seen_and_its_file_named(copy: Path, file: str, at: float, bit: int) -> None:
    path = copy / file
    before = path.read_bytes()
    data = bytearray(before)
    data[int(at * len(data))] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=file) as error:
        read_weights(copy, KEYRING)
    assert "mythos build" in error.value.cure
    path.write_bytes(before)
    read_weights(copy, KEYRING)


@pytest.mark.parametrize("file", FILES)
def test_missing_linked_and_odd_files_are_refused(copy: Path, tmp_path: Path, file: str) -> None:
    path = copy / file
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match=f"{file} is missing"):
        read_weights(copy, KEYRING)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match=f"{file} is a link"):
        read_weights(copy, KEYRING)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(WeightsError, match=f"{file} is not a regular file"):
        read_weights(copy, KEYRING)
    path.unlink()
    path.mkdir()
    with pytest.raises(WeightsError, match=file):
        read_weights(copy, KEYRING)


def test_truncated_and_longer_files_are_refused(copy: Path) -> None:
    for file in FILES:
        data = (copy / file).read_bytes()
        for wrong in (b"", data[:7], data[: len(data) // 2], data[:-1], data + b"\0"):
            (copy / file).write_bytes(wrong)
            with pytest.raises(WeightsError, match=file):
                read_weights(copy, KEYRING)
        (copy / file).write_bytes(data)
    read_weights(copy, KEYRING)


def test_foreign_files_links_and_roots_are_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match="pytorch_model.bin does not belong"):
        read_weights(copy, KEYRING)
    (copy / "pytorch_model.bin").unlink()
    with pytest.raises(WeightsError, match="another root"):
        read_weights(copy, KEYRING, "0" * 64)
    link = tmp_path / "link"
    link.symlink_to(copy)
    with pytest.raises(WeightsError, match="is a link"):
        read_weights(link, KEYRING, copy.name)
    with pytest.raises(WeightsError, match="no directory of weights"):
        read_weights(tmp_path / "none", KEYRING)
    read_weights(copy, KEYRING)


def test_weights_that_do_not_fit_their_configuration_are_not_written(tmp_path: Path) -> None:
    for name, wrong in [
        ("norm.weight", SERVED["norm.weight"][:-1]),
        ("norm.weight", SERVED["norm.weight"].double()),
        ("embed.weight", SERVED["embed.weight"].float()),
        ("embed.scale", None),
        ("extra.weight", SERVED["norm.weight"]),
    ]:
        tensors = {k: v for k, v in (SERVED | {name: wrong}).items() if v is not None}
        with pytest.raises(WeightsError, match=name):
            write_weights(tmp_path, KEYRING, LLAMA, tensors, b"{}", "")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_stops_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    """The disk fills up at every step in turn."""
    real = os.fsync
    steps = 0

    def fail_at(step: int):
        seen = iter(range(step + 1))

        def fsync(descriptor: int) -> None:
            if next(seen) == step:
                raise OSError(28, "No space left on device")
            real(descriptor)

        return fsync

    while True:
        parent = tmp_path / str(steps)
        monkeypatch.setattr(weights_dir.os, "fsync", fail_at(steps))
        try:
            written = write(parent)
        except (WeightsError, StopIteration) as error:
            if isinstance(error, StopIteration):
                break
            assert "disk space" in error.cure
            left = list(parent.iterdir())
            assert all(
                read_weights(path, KEYRING) for path in left
            )  # only the last step comes after the renaming
            steps += 1
            continue
        assert read_weights(written, KEYRING)
        break
    assert steps >= 6


def test_damaged_weights_are_replaced_and_sound_ones_kept(copy: Path) -> None:
    inode = copy.stat().st_ino
    assert write(copy.parent).stat().st_ino == inode
    (copy / "config.json.enc").write_bytes(b"{}")
    assert write(copy.parent).stat().st_ino != inode
    read_weights(copy, KEYRING)
    (copy.parent / ".writing-x").mkdir()
    remove_leftovers(copy.parent)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
