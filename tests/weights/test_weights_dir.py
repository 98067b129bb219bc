"""The weights directory: whole or absent when written, nothing but what its root names when read."""

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_gguf import LLAMA, TEMPLATE, random_weights

from mythos.model import weights_dir
from mythos.model.errors import WeightsError
from mythos.model.quant import load_served, served_form
from mythos.model.weights_dir import CONFIG, MANIFEST, TENSORS, TOKENIZER, read_weights, write_weights

FILES = sorted([CONFIG, MANIFEST, TENSORS, TOKENIZER, "chat_template.jinja"])
SERVED = {
    k: v for name, weight in random_weights(LLAMA).items() for k, v in served_form(name, weight).items()
}


def write(parent: Path) -> Path:
    return parent / write_weights(parent, LLAMA, SERVED, b'{"version":"1.0"}', TEMPLATE)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / sound.name))


def test_what_is_written_is_read(sound: Path) -> None:
    files = read_weights(sound)
    assert files.root == sound.name and files.config == LLAMA
    assert files.files["chat_template.jinja"].decode() == TEMPLATE
    assert files.tensors.keys() == SERVED.keys()
    assert all(torch.equal(files.tensors[name], tensor) for name, tensor in SERVED.items())
    load_served(files.config, files.tensors)
    assert sorted(os.listdir(sound)) == FILES
    assert all((sound / name).stat().st_mode & 0o077 == 0 for name in FILES)


def test_other_tools_read_the_tensors(sound: Path) -> None:
    tensors = safetensors.torch.load_file(sound / TENSORS)
    assert tensors.keys() == SERVED.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in SERVED.items())


def test_the_same_weights_have_the_same_root_and_others_another(sound: Path, tmp_path: Path) -> None:
    assert write(tmp_path).name == sound.name
    other = dict(reversed(SERVED.items()))
    assert write_weights(tmp_path, LLAMA, other, b'{"version":"1.0"}', TEMPLATE) == sound.name
    assert write_weights(tmp_path, LLAMA, SERVED, b'{"version":"1.0"}', TEMPLATE + " ") != sound.name
    other["norm.weight"] = other["norm.weight"] * 2
    assert write_weights(tmp_path, LLAMA, other, b'{"version":"1.0"}', TEMPLATE) != sound.name


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(FILES), at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_seen_and_its_file_named(copy: Path, file: str, at: float, bit: int) -> None:
    path = copy / file
    before = path.read_bytes()
    data = bytearray(before)
    data[int(at * len(data))] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=file) as error:
        read_weights(copy)
    assert "mythos build" in error.value.cure
    path.write_bytes(before)
    read_weights(copy)


@pytest.mark.parametrize("file", FILES)
def test_missing_linked_and_odd_files_are_refused(copy: Path, tmp_path: Path, file: str) -> None:
    path = copy / file
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match=f"{file} is missing"):
        read_weights(copy)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match=f"{file} is a link"):
        read_weights(copy)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(WeightsError, match=f"{file} is not a regular file"):
        read_weights(copy)
    path.unlink()
    path.mkdir()
    with pytest.raises(WeightsError, match=file):
        read_weights(copy)


def test_truncated_and_longer_files_are_refused(copy: Path) -> None:
    for file in FILES:
        data = (copy / file).read_bytes()
        for wrong in (b"", data[:7], data[: len(data) // 2], data[:-1], data + b"\0"):
            (copy / file).write_bytes(wrong)
            with pytest.raises(WeightsError, match=file):
                read_weights(copy)
        (copy / file).write_bytes(data)
    read_weights(copy)


def test_foreign_files_links_and_roots_are_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match="pytorch_model.bin does not belong"):
        read_weights(copy)
    (copy / "pytorch_model.bin").unlink()
    with pytest.raises(WeightsError, match="another root"):
        read_weights(copy, "0" * 64)
    link = tmp_path / "link"
    link.symlink_to(copy)
    with pytest.raises(WeightsError, match="no directory of weights"):
        read_weights(link, copy.name)
    with pytest.raises(WeightsError, match="no directory of weights"):
        read_weights(tmp_path / "none")
    read_weights(copy)


HEADERS = {
    "absurd length": struct.pack("<Q", 2**63) + b"{}",
    "length past the end": struct.pack("<Q", 3) + b"{}",
    "no JSON": struct.pack("<Q", 2) + b"{]",
    "no table": struct.pack("<Q", 2) + b"[]",
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "absurd shape": {"a": {"dtype": "I8", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
    "negative shape": {"a": {"dtype": "I8", "shape": [-8, -1], "data_offsets": [0, 8]}},
    "no extent": {"a": {"dtype": "I8", "shape": [], "data_offsets": [0, 8]}},
    "true shape": {"a": {"dtype": "I8", "shape": [True, 8], "data_offsets": [0, 8]}},
    "unknown dtype": {"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 8]}},
    "other offsets": {"a": {"dtype": "I8", "shape": [8], "data_offsets": [1, 9]}},
    "gap": {"a": {"dtype": "I8", "shape": [7], "data_offsets": [0, 7]}},
    "metadata": {"__metadata__": {"a": "b"}, "a": {"dtype": "I8", "shape": [8], "data_offsets": [0, 8]}},
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_cannot_be_are_refused(copy: Path, case: str) -> None:
    header = HEADERS[case]
    if isinstance(header, dict):
        text = json.dumps(header, separators=(",", ":")).encode()
        header = struct.pack("<Q", len(text)) + text + bytes(8)
    (copy / TENSORS).write_bytes(header)
    with pytest.raises(WeightsError, match=TENSORS):
        read_weights(copy)


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
            write_weights(tmp_path, LLAMA, tensors, b"{}", "")
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
            assert all(read_weights(path) for path in left)  # only the last step comes after the renaming
            steps += 1
            continue
        assert read_weights(written)
        break
    assert steps >= 6


def test_damaged_weights_are_replaced_and_sound_ones_kept(copy: Path) -> None:
    inode = copy.stat().st_ino
    assert write(copy.parent).stat().st_ino == inode
    (copy / CONFIG).write_bytes(b"{}")
    assert write(copy.parent).stat().st_ino != inode
    read_weights(copy)
    (copy.parent / ".writing-x").mkdir()
    weights_dir.remove_leftovers(copy.parent)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
