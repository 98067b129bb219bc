"""Starting the other ranks of a tier, and talking to them.

Rank 0 is the engine's process. Each other rank is a process that it starts (`mythos.engine.rank`) and tells,
by a pair of sockets that only the two have, what to load and then every pass: JSON behind four bytes of its
length. Tensors go by gloo, which listens on 127.0.0.1 only. A rank ends when its socket closes, so none
outlives rank 0, however that ends.
"""

import contextlib
import ctypes
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from mythos.engine.split import Exchange
from mythos.model.errors import WeightsError
from mythos.records.errors import MythosError
from mythos.store.home import Home

START_SECONDS = 120.0  # for a process to start and import torch; reading weights takes what it takes
PASS_SECONDS = 120.0  # for the ranks to meet in a sum
END_SECONDS = 5.0
LOST = 75  # a rank's exit code when another one has gone
_HEAD = struct.Struct("<I")
_SO_ATTACH_FILTER, _BPF_RETURN = 26, 6  # asm-generic/socket.h, linux/bpf_common.h


class RankLost(MythosError):
    """A rank of a tier does not start, has ended, or does not answer: the tier has to be loaded again."""


@dataclass(slots=True, eq=False)
class Ranks:
    """The processes of ranks 1, 2, ... of one tier, and this one's place among them once they have met."""

    processes: list[subprocess.Popen[bytes]]
    sockets: list[socket.socket]
    exchange: Exchange | None = None
    bytes: int = 0  # of weights that they hold

    @property
    def count(self) -> int:
        return len(self.processes) + 1

    @property
    def alive(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def tell(self, message: dict[str, Any]) -> None:
        """OSError when a rank has gone."""
        for control in self.sockets:
            send(control, message)

    def close(self) -> None:
        """Ends the ranks and waits for it."""
        for control in self.sockets:
            control.close()
        self.exchange = None
        deadline = time.monotonic() + END_SECONDS
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def lost(self, error: Exception) -> RankLost:
        """What to say when a pass or the meeting ended in `error`; all ranks are ended."""
        deadline, gone = time.monotonic() + END_SECONDS, None
        while gone is None and time.monotonic() < deadline:
            # A rank that lost another ends with LOST: named is the one that went first.
            ended = [(i + 1, p.poll()) for i, p in enumerate(self.processes)]
            if all(code is None for _, code in ended) and "imed out" in str(error):
                break
            gone = next(((rank, code) for rank, code in ended if code not in (None, LOST)), None)
            time.sleep(0.01)
        self.close()
        if gone is None and "imed out" in str(error):
            return RankLost(
                f"One of {self.count} ranks gave no answer within {PASS_SECONDS:g} s.",
                "Ask again: the ranks are started again.",
            )
        if gone is None:  # the error's own words may hold what callers wrote
            return RankLost(
                f"A pass over {self.count} ranks failed ({type(error).__name__}).",
                "Ask again: the ranks are started again.",
            )
        return RankLost(_ended(gone[0], self.count, gone[1]), "Ask again: the ranks are started again.")


def start(home: Home, family: str, tier: str, root: str, decision: str, count: int, threads: int) -> Ranks:
    """Starts ranks 1 to `count` - 1, each of which finds out for itself whether it may load, and loads.

    RankLost when one does not start within START_SECONDS.
    """
    ranks = Ranks([], [])
    try:
        for rank in range(1, count):
            ours, theirs = socket.socketpair()
            ranks.sockets.append(ours)
            with theirs:
                ranks.processes.append(_process(home, theirs.fileno()))
            task = {"family": family, "tier": tier, "root": root, "decision": decision}
            send(ours, task | {"rank": rank, "ranks": count, "threads": threads})
        deadline = time.monotonic() + START_SECONDS
        for rank, control in enumerate(ranks.sockets, 1):
            control.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                _answer(ranks, rank)
            except TimeoutError:
                raise RankLost(
                    f"Of {count} ranks, rank {rank} did not start within {START_SECONDS:g} s.",
                    f"Lower --ranks from {count}, or give this machine more processors and memory.",
                ) from None
            control.settimeout(None)
    except BaseException:
        ranks.close()
        raise
    return ranks


def _process(home: Home, descriptor: int) -> "subprocess.Popen[bytes]":
    places = {"MYTHOS_HOME": str(home.path), "MYTHOS_KEYS": str(home.keys)}
    return subprocess.Popen(
        # -P: no module is taken from the directory that this happens to run in.
        [sys.executable, "-P", "-m", "mythos.engine.rank", str(descriptor)],
        env=os.environ | places,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[descriptor],
        start_new_session=True,  # Ctrl-C is for rank 0, which lets running answers finish
    )


def meet(ranks: Ranks) -> Exchange:
    """Waits until all ranks have loaded their parts, and joins them. Raises what kept a rank from loading."""
    for rank in range(1, ranks.count):
        ranks.bytes += _answer(ranks, rank)["bytes"]
    place = tempfile.mkdtemp(prefix="mythos-ranks-")  # 0700: who can write there could take a rank's place
    try:
        ranks.tell({"meet": place})
        ranks.exchange = joined(Path(place), 0, ranks.count)
        ranks.exchange.alive = lambda: ranks.alive
        for rank in range(1, ranks.count):
            _answer(ranks, rank)
    except (OSError, RuntimeError) as error:
        raise ranks.lost(error) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return ranks.exchange


def joined(place: Path, rank: int, count: int) -> Exchange:
    """This process's place among `count` that meet by a file in the directory `place`. RuntimeError when they
    do not within PASS_SECONDS.
    """
    before = _listening()
    options = dist.ProcessGroupGloo._Options()  # pyright: ignore[reportAttributeAccessIssue]
    options._timeout = timedelta(seconds=PASS_SECONDS)
    options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    store = dist.FileStore(str(place / "store"), count)
    exchange = Exchange(dist.ProcessGroupGloo(store, rank, count, options), rank, count)
    for listener in _listening() - before:
        _close_to_all(listener)
    return exchange


def strangers(user: int) -> int:
    """How many of this process's TCP connections lead to a program on this machine that is not `user`'s.

    gloo takes whoever connects first for a rank. Read from /proc (proc_pid_net(5)); 0 where there is none.
    """
    rows = [fields for fields in _connections() if fields[3] == "01"]
    owner = {(fields[1], fields[2]): int(fields[7]) for fields in rows}
    own = _own_sockets()
    return sum(owner.get((f[2], f[1])) != user for f in rows if f"socket:[{f[9]}]" in own)


def _close_to_all(descriptor: int) -> None:
    """From now on nobody can connect to this listening socket.

    gloo keeps its own open though all ranks are there. A filter drops whatever comes to it from then on
    (socket(7), SO_ATTACH_FILTER; Linux).
    """
    program = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))  # of each packet 0 bytes
    filters = struct.pack("HP", 1, ctypes.addressof(program))
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filters)


def _listening() -> set[int]:
    """Descriptors of this process's listening TCP sockets; none where there is no /proc."""
    own = _own_sockets()
    places = [f"socket:[{fields[9]}]" for fields in _connections() if fields[3] == "0A"]
    return {own[place] for place in places if place in own}


def _connections() -> list[list[str]]:
    with contextlib.suppress(FileNotFoundError):
        return [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return []


def _own_sockets() -> dict[str, int]:
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                found[os.readlink(f"/proc/self/fd/{name}")] = int(name)
    return found


def send(control: socket.socket, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    control.sendall(_HEAD.pack(len(data)) + data)


def receive(control: socket.socket) -> dict[str, Any] | None:
    """The next message; None when the other end has closed."""
    head = _exactly(control, _HEAD.size)
    data = _exactly(control, _HEAD.unpack(head)[0]) if head is not None else None
    return None if data is None else json.loads(data)


def _exactly(control: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        with contextlib.suppress(ConnectionError):
            if part := control.recv(count - len(data)):
                data += part
                continue
        return None
    return data


def _answer(ranks: Ranks, rank: int) -> dict[str, Any]:
    """What a rank says; raises the error that it says instead, RankLost when it has ended."""
    said = receive(ranks.sockets[rank - 1])
    if said is None:
        code = ranks.processes[rank - 1].wait()
        ranks.close()
        raise RankLost(_ended(rank, ranks.count, code), "What it said stands above.")
    if "error" in said:
        kind = WeightsError if said["damaged"] else MythosError
        raise kind(f"Rank {rank} of {ranks.count}: {said['error']}", said["cure"])
    return said


def _ended(rank: int, count: int, code: int | None) -> str:
    how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return f"Rank {rank} of {count} has ended ({how})."
