"""How `mythos bench` speaks to its workers: one JSON object a line in, one JSON object a line out.

Standard library only: the other engines' workers, which run apart from our environment, use this file too.

    {"op": "load", ...}                     -> {"versions": {...}, "settings": {...}, "weight_bytes": n, ...}
    {"op": "run", "prompts": [[id, ...], ...], "tokens": n, "drafts": false}
        -> {"times": [[seconds, ...], ...], "prompt_tokens": [n, ...], "cached_tokens": [n, ...] | null}
    {"op": "quit"}                          the worker ends, as it does when its input closes

`run` submits all prompts at once and generates exactly `tokens` tokens of each, greedily, with end-of-turn
tokens forbidden or ignored; an engine that can draft does so only where `drafts` is true. `times` holds a
time for each generated token, in seconds since just before they were submitted.
A request that fails gives {"error": text}; an engine that is not installed gives {"missing": module}.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mythos.records.errors import MythosError

Handler = Callable[[dict[str, Any]], dict[str, Any]]


class WorkerError(MythosError):
    """A worker died, did not answer in time, or could not do what it was asked."""


class NotInstalled(MythosError):
    """The engine of this worker is not installed. `module` is what it could not import."""

    def __init__(self, worker: str, module: str) -> None:
        super().__init__(f"{worker} is not installed (no module {module})", "make bench-peers")
        self.module = module


def serve(**handlers: Handler) -> None:
    """Answer requests on stdin until `quit` or its end. What libraries print goes to stderr instead."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        op = request.pop("op")
        if op == "quit":
            return
        try:
            reply = handlers[op](request)
        except ModuleNotFoundError as error:
            reply = {"missing": error.name or str(error)}
        except Exception as error:  # the asker decides what a failure means; this process stays
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


class Worker:
    """A worker process, ended by the `with` block it is used in. `environment`: all its variables."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._buffer = b""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the asker, which then ends its workers
        )
        self.pid = self._process.pid

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, op: str, timeout: float = 600.0, **fields: Any) -> dict[str, Any]:
        """The reply to one request. NotInstalled, or WorkerError with the last lines of its stderr."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **fields}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None
        reply = json.loads(self._line(time.monotonic() + timeout, op))
        if "missing" in reply:
            raise NotInstalled(self.name, reply["missing"])
        if "error" in reply:
            raise WorkerError(f"{self.name}: {op} failed: {reply['error']}{self._said()}")
        return reply

    def stop(self) -> None:
        """End the process: ask, wait a little, kill. Safe to call again."""
        process = self._process
        if process.poll() is None and process.stdin is not None:
            try:
                process.stdin.write(b'{"op": "quit"}\n')
                process.stdin.close()
                process.wait(5)
            except (OSError, subprocess.TimeoutExpired):
                process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError):  # unsent bytes of a worker that is gone
                    stream.close()

    def cpu_seconds(self) -> float:
        """Processor time it has used so far, all threads; 0 where /proc does not say."""
        return process_cpu_seconds(self.pid)

    def peak_bytes(self) -> int | None:
        """The most memory it has held resident; None where /proc does not say."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return None
        line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
        return int(line.split()[1]) * 1024 if line else None

    def _line(self, deadline: float, op: str) -> bytes:
        assert self._process.stdout is not None
        file = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([file], [], [], left)[0]:
                self._process.kill()
                raise WorkerError(f"{self.name} did not answer {op} in time and was ended{self._said()}")
            data = os.read(file, 1 << 16)
            if not data:
                raise self._died()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self) -> WorkerError:
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return WorkerError(f"{self.name} died ({how}){self._said()}")

    def _said(self) -> str:
        """The end of its stderr, to be put behind a message."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 2000))
        lines = self._log.read().decode(errors="replace").splitlines()
        return "; it said: " + " | ".join(lines[-4:]) if lines else ""


def process_cpu_seconds(pid: int) -> float:
    """User and system time, fields 14 and 15 of /proc/PID/stat (proc(5)); 0 when it cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
