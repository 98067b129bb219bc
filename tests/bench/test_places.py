"""Where the other engines are, or why they are not: installed, compiled, or neither."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest

from mythos.cli.bench_machine import read_bytes
from mythos.cli.bench_peers import (
    CHECKOUT,
    COMPILED,
    PEERS,
    STAND_IN,
    lock_digest,
    peer_arms,
    peer_packages,
    processor_digest,
)

INSTALLED = PEERS[0]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A checkout with the workers and locks, and nothing installed."""
    (tmp_path / "bench").mkdir()
    workers = {f"{peer.engine}_worker.py" for peer in (*PEERS, STAND_IN)}
    for name in ("peers.lock", "llamacpp.lock", *workers):
        (tmp_path / "bench" / name).write_bytes((CHECKOUT / "bench" / name).read_bytes())
    for name in ("peers", "llamacpp"):
        (tmp_path / ".cache" / name).mkdir(parents=True)
    return tmp_path


def test_where_installed_peers_are_or_why_not(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert "source checkout" in str(peer_packages(INSTALLED, tmp_path_factory.mktemp("empty")))
    assert peer_packages(INSTALLED, place) == "not installed; make bench-peers"
    stamp = place / ".cache" / "peers" / "installed"
    stamp.write_text("0" * 64)
    assert "older bench/peers.lock" in str(peer_packages(INSTALLED, place))
    stamp.write_text(sha256((place / "bench" / "peers.lock").read_bytes()).hexdigest() + "\n")
    assert peer_packages(INSTALLED, place) == place / ".cache" / "peers"


def test_where_the_compiled_peer_is_or_why_not(place: Path) -> None:
    assert "needs clang" in str(peer_packages(COMPILED[0], place))
    stamp = place / ".cache" / "llamacpp" / "compiled"
    good = {"lock": lock_digest(place), "processor": processor_digest()}
    for wrong, reason in [("lock", "older bench/llamacpp.lock"), ("processor", "another processor")]:
        stamp.write_text(json.dumps(good | {wrong: "0" * 64}))
        assert reason in str(peer_packages(COMPILED[0], place))
    stamp.write_text("{")
    assert "not compiled" in str(peer_packages(COMPILED[0], place))
    stamp.write_text(json.dumps(good))
    assert peer_packages(COMPILED[0], place) == place / ".cache" / "llamacpp"


def test_peers_that_are_not_there_are_left_out_with_a_reason(place: Path) -> None:
    lock = (place / "bench" / "peers.lock").read_bytes()
    (place / ".cache" / "peers" / "installed").write_text(sha256(lock).hexdigest())
    model = {"file": "none.gguf", "threads": 1, "file_weight_bytes": 1}
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        assert peer_arms(stack, 1, model, skipped, place) == []
    assert list(skipped) == [*(peer.name for peer in PEERS), STAND_IN.name]
    assert all("make bench-peers" in reason for reason in skipped.values())
    assert "no module" in skipped[INSTALLED.name] and "no module" in skipped[STAND_IN.name]


def test_without_a_compiler_the_build_says_what_to_install_and_goes_on() -> None:
    script = CHECKOUT / "bench" / "build_llamacpp.py"
    variables = {"PATH": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    assert "there is no clang or clang++ or cmake" in done.stderr
    assert "cure: install them" in done.stderr and "make bench-peers" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("cache", "expected"),
    [("32768K", 256 << 20), ("105M", 840 << 20), ("1G", 1 << 30), (None, 256 << 20), ("?", 256 << 20)],
)
def test_much_more_is_read_than_the_cache_holds(cache: str | None, expected: int) -> None:
    assert read_bytes(cache) == expected
