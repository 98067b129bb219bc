"""A tier over several processes: the bits of one process; ranks that die, find other bytes, do not start."""

import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny import CONFIG, TinyHome, tiny_home

from mythos.engine import ranks as ranks_module
from mythos.engine.engine import Engine
from mythos.engine.loader import Loader, NotAllowed, read_rank
from mythos.engine.ranks import RankLost, joined, strangers
from mythos.engine.request import Delta, Done, Finish, Request, Sampling
from mythos.model.errors import WeightsChanged, WeightsError
from mythos.model.parts import CannotSplit, check_ranks, cuts
from mythos.model.weights_dir import read_part, read_weights
from mythos.records.errors import MythosError
from mythos.records.root import CHUNK
from mythos.spec.config import MLAConfig, ModelConfig, MoEConfig
from mythos.store.weights_key import weights_keyring

# Widths that two and four ranks do not all divide, biases, a head of its own: whatever is put together.
DENSE = replace(CONFIG, attention_bias=True, qk_norm=True, ffn=272)
EXPERTS = replace(
    CONFIG,
    tied=False,
    dense_layers=(0,),
    moe=MoEConfig(routed=8, top_k=3, width=128, shared=1, bias=True, score="sigmoid", latent=64),
)
LATENT = replace(
    EXPERTS,
    kv_heads=4,
    head_dim=48,
    tied=True,
    mtp=1,
    mla=MLAConfig(kv_rank=64, nope_dim=32, rope_dim=16, value_dim=32, q_rank=48),
)
CONFIGS = {"dense": DENSE, "experts": EXPERTS, "latent": LATENT}
LENGTHS = (1, 17, 255, 256, 300, 600)
MakeHome = Callable[[str, ModelConfig], TinyHome]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyHome:
    return made(tmp_path, monkeypatch, CONFIG)


def made(path: Path, monkeypatch: pytest.MonkeyPatch, config: ModelConfig) -> TinyHome:
    monkeypatch.setenv("MYTHOS_KEYS", str(path / "keys"))
    return tiny_home(path, config=config)


def prompt(length: int) -> tuple[int, ...]:
    return tuple(random.Random(length).randrange(3, 259) for _ in range(length))


def request(length: int, tokens: int = 12) -> Request:
    return Request(prompt(length), tokens, Sampling(0.0), stop_at_eos=False, logprobs=3)


def finished(generation) -> tuple[list, Done]:
    chosen = []
    for event in generation:
        if isinstance(event, Delta):
            chosen += event.logprobs
        else:
            return chosen, event
    raise AssertionError("a generation ends with Done")


def answers(engine: Engine, home: TinyHome, together: bool) -> list[list]:
    """Chosen tokens with their log-probabilities, and those of the likeliest three."""
    if not together:
        return [finished(engine.submit(home.permit(), request(n)))[0] for n in LENGTHS]
    return [finished(g)[0] for g in [engine.submit(home.permit(), request(n)) for n in LENGTHS]]


def processes(engine: Engine) -> list[subprocess.Popen]:
    (runner,) = engine._runners.values()
    assert runner.loaded.ranks is not None
    return runner.loaded.ranks.processes


def running(pid: int) -> bool:
    """Whether a process runs: one that waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def listening(pid: int) -> list[tuple[str, int]]:
    """Addresses and ports at which a process takes TCP connections."""
    own = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    found = []
    for family, file in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/{pid}/net/{file}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                address, port = fields[1].split(":")
                raw = b"".join(bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8))
                found.append((socket.inet_ntop(family, raw), int(port, 16)))
    return found


def same_as_one_process(home: TinyHome, ranks: int) -> None:
    with home.engine() as engine:
        alone = answers(engine, home, together=False)
        held = engine.loaded(home.permit()).bytes
    with home.engine(ranks=ranks) as engine:
        assert answers(engine, home, together=False) == alone  # nothing cached
        assert answers(engine, home, together=True) == alone  # together, prefixes cached
        _, done = finished(engine.submit(home.permit(), request(5)))
        assert done.backend == f"sharded-int8-x{ranks}"
        assert held <= engine.loaded(home.permit()).bytes == engine.stats()["weight_bytes"] < 1.5 * held
        started = processes(engine)
        assert len(started) == ranks - 1 and all(process.poll() is None for process in started)
    assert all(process.returncode is not None for process in started)


@pytest.mark.parametrize("name", ["dense", pytest.param("experts", marks=pytest.mark.slow), "latent"])
def test_two_ranks_have_the_bits_of_one_process(tmp_path, monkeypatch, name: str) -> None:
    same_as_one_process(made(tmp_path, monkeypatch, CONFIGS[name]), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_four_ranks_have_the_bits_of_one_process(tmp_path, monkeypatch, name: str) -> None:
    config = CONFIGS[name] if name == "latent" else replace(CONFIGS[name], kv_heads=4)
    same_as_one_process(made(tmp_path, monkeypatch, config), 4)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_parts_of_all_ranks_are_the_whole(tmp_path, monkeypatch, name: str, ranks: int) -> None:
    config = CONFIGS[name] if name == "latent" else replace(CONFIGS[name], kv_heads=4)
    home = made(tmp_path, monkeypatch, config)
    root = home.permit().root
    directory, keyring = home.home.weights_dir(root), weights_keyring(home.home)
    whole = read_weights(directory, keyring, root).tensors
    parts = [
        read_part(directory, keyring, root, lambda config, rank=rank: cuts(config, rank, ranks)).tensors
        for rank in range(ranks)
    ]
    assert parts[0].keys() == {name for name in whole if not name.startswith("mtp.")}
    shared = 0
    for name in parts[0]:
        found = [part[name] for part in parts]
        if all(torch.equal(one, whole[name]) for one in found):
            shared += whole[name].nbytes
        else:
            assert torch.equal(torch.cat(found), whole[name]), name
    assert shared < sum(tensor.nbytes for tensor in whole.values()) / 3


def flipped(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_rank_reads_the_chunks_of_its_part_alone(tmp_path, monkeypatch) -> None:
    """One bit is changed in the second chunk of the embedding, which rank 0 of 2 has nothing in."""
    home = made(tmp_path, monkeypatch, replace(CONFIG, vocab=2 * CHUNK // CONFIG.width, layers=1))
    root = home.permit().root
    weights = home.home.weights_dir(root) / "model.safetensors.enc"
    flipped(weights, CHUNK + CHUNK // 2)  # `embed.weight` is nearly all of the file, and its first tensor
    read_rank(home.home, root, 0, 2)
    with pytest.raises(WeightsChanged):
        read_rank(home.home, root, 1, 2)
    with home.engine(ranks=2) as engine, pytest.raises(WeightsError, match=r"^Rank 1 of 2: .*was changed"):
        engine.loaded(home.permit())


def test_a_rank_looks_the_decision_up_itself(home: TinyHome) -> None:
    """Rank 0 hands on a decision that stands in no record: it believes it, the other one does not."""
    permit = home.permit()
    tier, decision = home.decided(permit.root, permit.decision)
    with pytest.raises(MythosError, match="^Rank 1 of 2: no decision allows loading the weights of small"):
        Loader(home.home, 2).load(tier, replace(decision, id="dec_of_nobody"))
    with pytest.raises(NotAllowed):
        Loader(home.home, 2).load(tier, replace(decision, root="0" * 64))


def test_a_killed_rank_ends_the_answers_and_the_next_one_starts_it_again(home: TinyHome) -> None:
    with home.engine(ranks=2) as engine:
        permit = home.permit()
        whole, _ = finished(engine.submit(permit, request(20)))
        generation = engine.submit(permit, request(20, 4000))
        events = iter(generation)
        next(events)
        (process,) = processes(engine)
        process.kill()
        *_, done = events
        assert isinstance(done, Done) and done.finish is Finish.FAILED
        assert done.error == (
            "Rank 1 of 2 has ended (killed by signal 9). Ask again: the ranks are started again."
        )
        assert finished(engine.submit(permit, request(20)))[0] == whole
        (idle,) = processes(engine)
        idle.kill()  # while nothing runs: nobody need know
        idle.wait()
        assert finished(engine.submit(permit, request(20)))[0] == whole
        (last,) = processes(engine)
    assert not running(process.pid) and not running(idle.pid) and not running(last.pid)


MEETS = textwrap.dedent("""
    import os, pathlib, sys, time
    from mythos.engine.ranks import joined

    exchange = joined(pathlib.Path(sys.argv[1]), 1, 2)
    if os.fork() == 0:
        sys.stdin.read()  # holds the connection until nobody is there to read from
        os._exit(0)
    print("met", flush=True)
    time.sleep(600)
""")


def test_a_killed_rank_is_noticed_though_no_connection_says_so(tmp_path: Path) -> None:
    """gloo's own notice comes when the connection closes, and not to who is in the middle of sending."""
    other = subprocess.Popen(
        [sys.executable, "-c", MEETS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        exchange = joined(tmp_path, 0, 2)
        exchange.alive = lambda: other.poll() is None
        assert other.stdout is not None and other.stdout.readline() == "met\n"
        other.kill()
        with pytest.raises(ConnectionError, match="a rank has gone"):
            exchange.whole(torch.ones(3, 2), 4)


PROGRAM = textwrap.dedent("""
    import pathlib, sys, time
    from tests.tiny import tiny_home

    home = tiny_home(pathlib.Path(sys.argv[1]))
    with home.engine(ranks=2) as engine:
        loaded = engine.loaded(home.permit())
        print(loaded.ranks.processes[0].pid, flush=True)
        time.sleep(600)
""")


def test_ranks_end_when_rank_0_is_killed(tmp_path: Path) -> None:
    env = os.environ | {"MYTHOS_KEYS": str(tmp_path / "keys"), "PYTHONPATH": os.pathsep.join(sys.path)}
    first = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None
        other = int(first.stdout.readline())
        assert running(other)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    deadline = time.monotonic() + 60
    while running(other) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not running(other)


def test_a_rank_that_does_not_start(home: TinyHome, monkeypatch) -> None:
    monkeypatch.setattr(ranks_module, "START_SECONDS", 0.0)
    with home.engine(ranks=2) as engine, pytest.raises(RankLost) as lost:
        engine.loaded(home.permit())
    assert lost.value.message == "Of 2 ranks, rank 1 did not start within 0 s."
    assert "Lower --ranks from 2" in lost.value.cure


@pytest.mark.parametrize(
    ("config", "ranks", "said"),
    [
        (CONFIG, 3, "--ranks is 3, which does not divide the 4 heads. Change it to one of 1, 2."),
        (CONFIG, 4, "--ranks is 4, which does not divide the 2 key-value heads. Change it to one of 1, 2."),
        (LATENT, 16, "does not divide the 4 heads. Change it to one of 1, 2, 4."),
        (replace(EXPERTS, kv_heads=4, moe=MoEConfig(6, 2, 64)), 4, "does not divide the 6 experts."),
        (replace(DENSE, kv_heads=4, ffn=5), 4, "of 5 rows (its inner width) none are left for a rank"),
        (CONFIG, 0, "and from 1 to 64 are served"),
        (CONFIG, 65, "and from 1 to 64 are served"),
    ],
)
def test_numbers_of_ranks_that_cannot_be(config: ModelConfig, ranks: int, said: str) -> None:
    with pytest.raises(CannotSplit) as refused:
        check_ranks(config, ranks)
    assert said in str(refused.value)


def test_no_process_is_started_for_a_number_that_cannot_be(home: TinyHome) -> None:
    with home.engine(ranks=3) as engine, pytest.raises(CannotSplit):
        engine.loaded(home.permit())


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="needs /proc")
def test_ranks_listen_on_loopback_and_only_to_each_other(home: TinyHome) -> None:
    """gloo's sockets stay open, but once all ranks have met nobody gets through to them."""
    before = listening(os.getpid())  # servers of other tests
    with home.engine(ranks=2) as engine:
        whole, _ = finished(engine.submit(home.permit(), request(20)))
        places = [place for pid in (os.getpid(), processes(engine)[0].pid) for place in listening(pid)]
        places = [place for place in places if place not in before]
        assert len(places) == 2 and {address for address, _ in places} == {"127.0.0.1"}
        for place in places:
            with pytest.raises(TimeoutError):
                socket.create_connection(place, timeout=0.2)
        assert finished(engine.submit(home.permit(), request(20)))[0] == whole


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="needs /proc")
def test_connections_to_programs_of_others_are_seen() -> None:
    user = os.getuid()
    before = strangers(user + 1)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert strangers(user) == 0
            assert strangers(user + 1) == before + 2  # both ends lie here
