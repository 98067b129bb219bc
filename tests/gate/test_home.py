"""The two directories, private files, the operator's key and the session file."""

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mythos.records.dsse import key_id
from mythos.store.home import Home, HomeError
from mythos.store.operator_key import key_stamp, operator_keys, trusted_keys
from mythos.store.session import process_started, read_session, remove_session, write_session


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_directories_are_private_whatever_the_umask(tmp_path, monkeypatch):
    monkeypatch.setenv("MYTHOS_HOME", str(tmp_path / "deep" / "home"))
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    before = os.umask(0)
    try:
        home = Home.open()
        assert home.path == tmp_path / "deep" / "home"
        assert {mode(home.path), mode(home.keys_dir), mode(home.cache)} == {0o700}
        operator_keys(home)
        assert mode(home.keys_dir / "operator.key") == 0o600
    finally:
        os.umask(before)
    assert Home.open() == home  # a second time


def test_keys_stay_outside_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("MYTHOS_KEYS", raising=False)
    monkeypatch.delenv("MYTHOS_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):  # as where both are one directory
        monkeypatch.setenv(name, str(tmp_path / "both"))
    home = Home.open()
    assert home.path not in (home.keys_dir, *home.keys_dir.parents)


@pytest.mark.parametrize("inside", ["keys", "a/b", ".", "../home/keys"])
def test_keys_inside_home_are_refused(tmp_path, monkeypatch, inside):
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "home" / inside))
    with pytest.raises(HomeError) as caught:
        Home.open(tmp_path / "home")
    assert "MYTHOS_KEYS" in caught.value.cure


def test_keys_inside_home_through_a_symlink_are_refused(tmp_path, monkeypatch):
    (tmp_path / "home" / "hidden").mkdir(parents=True, mode=0o700)
    (tmp_path / "home").chmod(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "home" / "hidden")
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "link"))
    with pytest.raises(HomeError, match="inside"):
        Home.open(tmp_path / "home")
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "home" / "hidden"))
    (tmp_path / "alias").symlink_to(tmp_path / "home")
    with pytest.raises(HomeError, match="inside"):
        Home.open(tmp_path / "alias")
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))  # control
    assert Home.open(tmp_path / "alias").path == tmp_path / "home"


def test_keys_moved_inside_later_are_refused(home, tmp_path):
    operator_keys(home)
    inside = home.path / "moved"
    home.keys.rename(inside)
    home.keys.symlink_to(inside)
    with pytest.raises(HomeError, match="inside"):
        _ = home.keys_dir


def test_open_directories_are_refused_with_their_cure(tmp_path, monkeypatch, home):
    operator_keys(home)
    home.keys.chmod(0o750)
    with pytest.raises(HomeError) as caught:
        trusted_keys(home)
    assert caught.value.cure == f"chmod 700 {home.keys}"
    home.keys.chmod(0o700)
    home.path.chmod(0o755)
    with pytest.raises(HomeError) as caught:
        Home.open(home.path)
    assert caught.value.cure == f"chmod 700 {home.path}"
    home.path.chmod(0o700)
    assert Home.open(home.path) == home
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o755)
    assert mode(Home.open(empty).path) == 0o700  # nothing in it could have been read


def test_a_file_or_an_impossible_place_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(HomeError):
            Home.open(place)


def test_weights_dir_takes_roots_only(home):
    assert home.weights_dir("ab" * 32) == home.path / "weights" / ("ab" * 32)
    for bad in ("", "..", "../" * 21 + "a", "AB" * 32, "ab" * 32 + "/x"):
        with pytest.raises(HomeError):
            home.weights_dir(bad)


def test_operator_key_is_made_once(home):
    assert trusted_keys(home) == {}
    assert not home.keys.exists()  # reading makes nothing
    before = key_stamp(home)
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: operator_keys(home), range(16)))
    ids = {key_id(key.public_key()) for key in keys}
    assert len(ids) == 1
    assert set(trusted_keys(home)) == ids
    assert os.listdir(home.keys_dir) == ["operator.key"]
    assert key_stamp(home) not in (before, ())


@pytest.mark.parametrize("how", ["open", "symlink", "empty", "garbage", "directory", "other_kind"])
def test_a_bad_key_file_is_refused_not_replaced(home, tmp_path, how):
    operator_keys(home)
    path = home.keys_dir / "operator.key"
    good = path.read_bytes()
    if how == "open":
        path.chmod(0o640)
    elif how == "symlink":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "garbage":
        path.write_bytes(good[:60] + b"A" + good[61:40])
    elif how == "directory":
        path.unlink()
        path.mkdir()
    else:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        path.write_bytes(
            X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
    for read in (operator_keys, trusted_keys):
        with pytest.raises(HomeError) as caught:
            read(home)
        assert caught.value.cure
    if how == "open":
        assert caught.value.cure == f"chmod 600 {path}"
        path.chmod(0o600)
        assert trusted_keys(home)  # control


def test_session_of_a_running_process(home):
    assert read_session(home) is None
    written = write_session(home, "http://127.0.0.1:8000", "sk-mythos-x", "pocket", os.getpid())
    assert read_session(home) == written
    assert mode(home.session_file) == 0o600
    remove_session(home)
    assert not home.session_file.exists()
    remove_session(home)  # nothing to remove


def test_session_of_a_process_that_is_gone(home):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_session(home, "http://127.0.0.1:8000", "k", "pocket", child.pid)
    session = read_session(home)
    assert session is not None and session.pid == child.pid
    remove_session(home)  # another process's: left alone
    assert read_session(home) == session
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie still has its id
    assert read_session(home) is None
    child.wait()
    assert read_session(home) is None
    with pytest.raises(HomeError):
        write_session(home, "http://127.0.0.1:8000", "k", "pocket", child.pid)
    write_session(home, "http://127.0.0.1:8001", "k")  # the next server takes the file over
    assert read_session(home) is not None
    child.communicate()


def test_session_of_a_process_id_used_again(home):
    write_session(home, "http://127.0.0.1:8000", "k")
    fields = json.loads(home.session_file.read_text())
    fields["started"] = "another boot:1"
    home.session_file.write_text(json.dumps(fields))
    assert read_session(home) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"pid": 1}',
        '{"base_url": "u", "key": "k", "pid": "1", "started": "x", "family": ""}',
    ],
)
def test_a_damaged_session_file_is_ignored(home, text):
    home.session_file.touch(mode=0o600)
    home.session_file.write_text(text)
    assert read_session(home) is None


def test_an_open_session_file_is_ignored(home):
    write_session(home, "http://127.0.0.1:8000", "k")
    home.session_file.chmod(0o644)
    assert read_session(home) is None


def test_two_processes_differ():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert process_started(child.pid) not in (None, process_started(os.getpid()))
        assert process_started(child.pid) == process_started(child.pid)
    finally:
        child.communicate()
