"""Other people's stores on loopback, as they come from a package registry, and a line that breaks off."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

KEY, SECRET = "AKIATESTTESTTEST", "c2VjcmV0LW9mLXRoZS1idWNrZXQ"


def program(name: str) -> str:
    """The path of a program beside this Python, or on the PATH; skips the test when there is none."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (make test installs it)")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def process(command: Sequence[str], port: int, **environment: str) -> Iterator[str]:
    """A server in a process of its own, from its first open connection on: its base URL."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = subprocess.Popen(list(command), env={**os.environ, **environment}, **quiet)
    try:
        until = time.monotonic() + 120
        while True:
            assert started.poll() is None and time.monotonic() < until, f"{command[0]} did not start"
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        started.kill()
        started.wait()


@contextmanager
def rclone_s3(folder: Path, public: bool = False) -> Iterator[str]:
    """`rclone serve s3`: each directory in `folder` is a bucket; SigV4 is checked unless it is `public`."""
    port = free_port()
    command = [program("rclone"), "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--config", ""]
    with process(command, port, **({} if public else {"RCLONE_AUTH_KEY": f'"{KEY},{SECRET}"'})) as url:
        yield url


@contextmanager
def moto_s3() -> Iterator[str]:
    """moto's server: a simulation of Amazon's S3, with its ACLs, policies and versions."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with process(command, port) as url:
        yield url


@contextmanager
def breaking_line(port: int, after: int) -> Iterator[str]:
    """A line to 127.0.0.1:`port` on which every answer longer than `after` bytes breaks off there."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pass_on(source: socket.socket, to: socket.socket, most: int | None) -> None:
        done = 0
        try:
            while piece := source.recv(1 << 16):
                piece = piece if most is None else piece[: most - done]
                to.sendall(piece)
                done += len(piece)
                if done == most:
                    break
        except OSError:
            pass
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            behind = socket.create_connection(("127.0.0.1", port))
            for arguments in ((caller, behind, None), (behind, caller, after)):
                threading.Thread(target=pass_on, args=arguments, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
