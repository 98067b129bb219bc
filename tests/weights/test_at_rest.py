"""Weights at rest: each attack on sealed weights is refused, and its harmless twin is read."""

import multiprocessing
import os
import random
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
from test_weights_dir import KEYRING, LLAMA, SERVED, write
from tiny_gguf import TEMPLATE

from mythos.model import sealed, weights_dir
from mythos.model.errors import LinkNotAllowed, NameCollision, PlainWeights, WeightsError
from mythos.model.sealed import HEADER, TAG
from mythos.model.weights_dir import read_weights, remove_leftovers, seal_in_place, write_weights
from mythos.records.keyring import Keyring, KeyringError
from mythos.records.root import manifest_json
from mythos.store.home import Home
from mythos.store.weights_key import weights_keyring

TENSORS, TOKENIZER = "model.safetensors.enc", "tokenizer.json.enc"
PART = 1000  # so that small files have many parts


@pytest.fixture
def many(tmp_path: Path, monkeypatch) -> Path:
    """Weights whose side files have several parts each."""
    monkeypatch.setattr(weights_dir, "CHUNK", PART)
    monkeypatch.setattr("mythos.records.root.CHUNK", PART)
    return tmp_path / write_weights(
        tmp_path, KEYRING, LLAMA, SERVED, random.Random(1).randbytes(3500), TEMPLATE
    )


def parts(path: Path) -> tuple[bytes, list[bytes]]:
    data = path.read_bytes()
    return data[:HEADER], [data[at : at + PART + TAG] for at in range(HEADER, len(data), PART + TAG)]


REARRANGED = {
    "reordered": lambda p: [p[1], p[0], *p[2:]],
    "last left out": lambda p: p[:-1],
    "first left out": lambda p: p[1:],
    "one twice": lambda p: [p[0], p[0], *p[1:]],
    "last twice": lambda p: [*p, p[-1]],
    "byte appended": lambda p: [*p, b"\0"],
    "empty part appended": lambda p: [*p, bytes(TAG)],
    "nothing left": lambda p: [],
}


@pytest.mark.parametrize("how", REARRANGED)
def test_parts_keep_their_number_and_order(many: Path, how: str) -> None:
    path = many / TOKENIZER
    before, (head, body) = path.read_bytes(), parts(path)
    assert len(body) == 4
    path.write_bytes(head + b"".join(REARRANGED[how](body)))
    with pytest.raises(WeightsError, match=TOKENIZER):
        read_weights(many, KEYRING)
    path.write_bytes(before)
    read_weights(many, KEYRING)


def test_parts_and_files_belong_to_one_file_and_root(many: Path, monkeypatch) -> None:
    other = many.parent / write_weights(many.parent, KEYRING, LLAMA, SERVED, bytes(3500), TEMPLATE)
    head, body = parts(many / TOKENIZER)
    _, foreign = parts(other / TOKENIZER)
    for data in (head + b"".join([foreign[0], *body[1:]]), (other / TOKENIZER).read_bytes()):
        (many / TOKENIZER).write_bytes(data)
        with pytest.raises(WeightsError, match=TOKENIZER):
            read_weights(many, KEYRING)
    shutil.rmtree(many)
    shutil.copytree(other, many)  # all of another root's files under this root's name
    with pytest.raises(WeightsError, match="another root"):
        read_weights(many, KEYRING)
    read_weights(other, KEYRING)


def test_links_holes_and_colliding_names_are_refused(tmp_path: Path) -> None:
    copy = write(tmp_path / "weights")
    path, away = copy / TENSORS, tmp_path / "away"
    os.link(path, away)
    with pytest.raises(LinkNotAllowed, match="hard link"):
        read_weights(copy, KEYRING)
    away.unlink()
    read_weights(copy, KEYRING)
    data = path.read_bytes()
    with path.open("wb") as out:
        out.truncate(1 << 20)
        out.seek(1 << 20)
        out.write(data)
    if path.stat().st_blocks * 512 < path.stat().st_size:  # where the file system has holes
        with pytest.raises(LinkNotAllowed, match="sparse"):
            read_weights(copy, KEYRING)
    path.write_bytes(data)
    for name in ("Config.json.enc", "to\u212aenizer.json.enc", "key.jſon"):
        (copy / name).write_bytes(b"")
        with pytest.raises(NameCollision, match="one name"):
            read_weights(copy, KEYRING)
        (copy / name).unlink()
    assert (LinkNotAllowed.reason, NameCollision.reason) == ("LINK_NOT_ALLOWED", "NAME_COLLISION")
    read_weights(copy, KEYRING)


def test_a_file_replaced_while_it_is_read_is_refused_or_harmless(tmp_path: Path) -> None:
    """Another thread swaps the tensors for other bytes all the time: nothing loads but what has the root."""
    copy = write(tmp_path / "weights")
    sound = (copy / TENSORS).read_bytes()
    wrong = bytearray(sound)
    wrong[len(wrong) // 2] ^= 1
    stop = threading.Event()

    def swap() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            if turn % 3:
                (tmp_path / "next").write_bytes(wrong if turn % 2 else sound)
                os.replace(tmp_path / "next", copy / TENSORS)
            else:  # in place, under an open descriptor
                with (copy / TENSORS).open("r+b") as out:
                    out.write(sound if turn % 2 else wrong)

    thread = threading.Thread(target=swap)
    thread.start()
    loaded = refused = 0
    try:
        for _ in range(1000):
            try:
                files = read_weights(copy, KEYRING)
            except WeightsError:
                refused += 1
                continue
            loaded += 1
            assert all(torch.equal(files.tensors[name], tensor) for name, tensor in SERVED.items())
    finally:
        stop.set()
        thread.join()
    assert loaded and refused
    (copy / TENSORS).write_bytes(sound)
    read_weights(copy, KEYRING)


def test_a_copied_home_without_its_keys_yields_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    home = Home.open(tmp_path / "home")
    tokenizer = b'{"version":"1.0","secret":"a text to look for"}'
    root = write_weights(home.path / "weights", weights_keyring(home), LLAMA, SERVED, tokenizer, TEMPLATE)
    assert (home.keys / "weights.key").stat().st_mode & 0o777 == 0o600
    stolen = Path(shutil.copytree(home.path, tmp_path / "stolen"))
    lying = b"".join(path.read_bytes() for path in stolen.rglob("*") if path.is_file())
    for tensor in SERVED.values():
        sample = tensor.flatten()[:16].view(torch.uint8).numpy().tobytes()
        assert len(set(sample)) < 4 or sample not in lying
    assert tokenizer[12:30] not in lying and TEMPLATE[:20].encode() not in lying and b"embed" not in lying
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "other"))
    thief = Home.open(stolen)
    with pytest.raises(WeightsError, match="another key") as error:
        read_weights(thief.weights_dir(root), weights_keyring(thief))
    assert "Restore weights.key" in error.value.cure
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    own = Home.open(tmp_path / "home")
    read_weights(own.weights_dir(root), weights_keyring(own))


HOOK = """#!/bin/sh
# XOR would do no good: a stand-in for a KMS that keeps the key with itself and hands out a name for it.
case "$1" in
wrap) cat > "$0.$(echo "$2" | tr -c 'a-z0-9\\n' _)"; echo aGFuZGxl ;;
unwrap) read -r name; [ "$name" = aGFuZGxl ] && cat "$0.$(echo "$2" | tr -c 'a-z0-9\\n' _)" ;;
esac
"""


def test_a_command_may_hold_the_key(tmp_path: Path, monkeypatch) -> None:
    hook = tmp_path / "kms"
    hook.write_text(HOOK)
    hook.chmod(0o700)
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("MYTHOS_KMS", str(hook))
    home = Home.open(tmp_path / "home")
    parent = home.path / "weights"
    root = write_weights(parent, weights_keyring(home), LLAMA, SERVED, b"{}", TEMPLATE)
    read_weights(parent / root, weights_keyring(home))
    assert not (home.keys / "weights.key").exists()
    for command, said in [
        ("/nonexistent/kms", "cannot be run"),
        ("false", "failed"),
        ("echo ?", "base64"),
        ("sleep 9", "no answer"),
    ]:
        monkeypatch.setattr("mythos.store.weights_key.HOOK_SECONDS", 0.2 if "sleep" in command else 30.0)
        monkeypatch.setenv("MYTHOS_KMS", command)
        if command.startswith("sleep"):
            hook.write_text("#!/bin/sh\nexec sleep 9\n")
            monkeypatch.setenv("MYTHOS_KMS", str(hook))
        with pytest.raises(KeyringError, match=said) as error:
            read_weights(parent / root, weights_keyring(home))
        assert error.value.cure
    monkeypatch.delenv("MYTHOS_KMS")
    with pytest.raises(WeightsError, match="another key"):
        read_weights(parent / root, weights_keyring(home))


def make_plain(directory: Path, keyring: Keyring = KEYRING) -> Path:
    """The same weights as an earlier version left them: the plain files, each in its old form."""
    files = read_weights(directory, keyring)
    shutil.rmtree(directory)
    directory.mkdir(mode=0o700)
    for name, data in (dict(files.files) | {"manifest.json": manifest_json(files.manifest)}).items():
        (directory / name).write_bytes(data)
    tensors = [weights_dir._bytes(files.tensors[name]) for name in sorted(files.tensors)]
    (directory / "model.safetensors").write_bytes(weights_dir._header(files.manifest) + b"".join(tensors))
    return directory


def test_plain_weights_are_refused_until_they_are_encrypted_in_place(tmp_path: Path) -> None:
    old = make_plain(write(tmp_path))
    with pytest.raises(PlainWeights, match="not encrypted") as error:
        read_weights(old, KEYRING)
    assert "mythos build" in error.value.cure
    data = (old / "model.safetensors").read_bytes()
    (old / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(WeightsError, match="was changed"):
        seal_in_place(old, KEYRING)
    (old / "model.safetensors").write_bytes(data)
    seal_in_place(old, KEYRING)
    assert {path.name for path in old.iterdir()} == weights_dir.LISTING and os.listdir(tmp_path) == [old.name]
    files = read_weights(old, KEYRING)
    assert all(torch.equal(files.tensors[name], tensor) for name, tensor in SERVED.items())


def killed_at(step: int, work: str, parent: str, name: str) -> None:
    """Dies before the `step`-th call of fsync or rename, without any clean-up."""
    count = iter(range(10_000))

    def dying(real):
        def call(*args):
            if next(count) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return call

    weights_dir.os.fsync, weights_dir.os.rename = dying(os.fsync), dying(os.rename)
    if work == "write":
        write(Path(parent))
    else:
        seal_in_place(Path(parent) / name, KEYRING)


@pytest.mark.parametrize("work", ["write", "encrypt"])
def test_a_process_killed_at_any_write_loses_nothing(tmp_path: Path, work: str) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mythos.model.weights_dir", "test_weights_dir"])
    for step in range(40):
        parent = tmp_path / str(step)
        name = write(parent).name
        plain = make_plain(parent / name) if work == "encrypt" else None
        if plain is None:
            shutil.rmtree(parent / name)
        process = context.Process(target=killed_at, args=(step, work, str(parent), name))
        process.start()
        process.join(100)
        remove_leftovers(parent)
        left = os.listdir(parent)
        assert left in ([name], []) and (work == "write" or left == [name])
        if left and plain is not None:
            seal_in_place(plain, KEYRING)
        if left:
            read_weights(parent / name, KEYRING)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert step > 8


def test_a_nonce_is_never_used_twice(many: Path) -> None:
    """Each file has a prefix of its own, each part an index, each writing a data key."""
    heads = {parts(path)[0] for path in many.glob("*.enc")}
    assert len(heads) == len(weights_dir.LISTING) - 1
    nonces = [sealed._nonce(b"prefix_", index, 5) for index in range(5)]
    assert len(set(nonces)) == 5 and {len(nonce) for nonce in nonces} == {12}
    assert sealed._nonce(b"prefix_", 0, 1) != nonces[0]
    keys = {write(many.parent / str(n)).joinpath("key.json").read_bytes() for n in range(3)}
    assert len(keys) == 3
