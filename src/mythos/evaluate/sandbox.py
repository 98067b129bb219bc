"""Runs a program that a model wrote against tests, in two locked-in processes (see `sandbox_child`)."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mythos.records.evidence import Outcome

CHILD = Path(__file__).with_name("sandbox_child.py")
CPU_SECONDS = 5  # of the program; beyond it the program has failed
WALL_SECONDS = 60.0  # of both; beyond it, its processor time unspent, nothing is known: TIMEOUT
MEMORY = 1 << 29  # bytes of address space


@dataclass(frozen=True, slots=True)
class Verdict:
    """`isolation` names what held the program, for example "limits+landlock+seccomp"; "" when nothing ran."""

    outcome: Outcome
    why: str
    isolation: str


def run_tests(
    program: str,
    prompt: str,
    test: str,
    entry_point: str,
    cpu_seconds: int = CPU_SECONDS,
    wall_seconds: float = WALL_SECONDS,
    memory: int = MEMORY,
) -> Verdict:
    """SUCCESS when `check(entry_point of program)` of `test` passes.

    FAILURE: an assertion failed, or the program raised, ended, or used up its processor time or memory.
    ERROR: the sandbox could not run it. TIMEOUT: the wall clock ran out first (asleep, or a stalled machine).
    `prompt` (trusted, as is `test`) holds helpers that the tests may use.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="mythos-sandbox-") as folder:
            return _run(program, prompt, test, entry_point, cpu_seconds, wall_seconds, memory, folder)
    except (OSError, ValueError, KeyError) as error:
        return Verdict(Outcome.ERROR, f"{type(error).__name__}", "")


def _run(
    program: str, prompt: str, test: str, entry_point: str, cpu: int, wall: float, memory: int, folder: str
) -> Verdict:
    calls, asked = os.pipe()  # the program reads `calls`, the tests write `asked`
    answers, answered = os.pipe()
    children: list[subprocess.Popen[bytes]] = []

    def start(role: str, read: int, write: int, job: dict[str, str], stdout: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", str(CHILD), role, str(read), str(write), str(cpu), str(memory)]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            pass_fds=(read, write),
            cwd=folder,
            env={},
            start_new_session=True,
        )
        children.append(child)
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(json.dumps(job).encode())
        return child

    try:
        try:
            start(
                "program",
                calls,
                answered,
                {"program": program, "entry_point": entry_point},
                subprocess.DEVNULL,
            )
            job = {"prompt": prompt, "test": test, "entry_point": entry_point}
            tests = start("tests", answers, asked, job, subprocess.PIPE)
        finally:  # the children alone hold the pipes: when one ends, the other reads the end
            for descriptor in (calls, asked, answers, answered):
                os.close(descriptor)
        line = _read_line(tests, time.monotonic() + wall)
        if line is None:
            return Verdict(Outcome.TIMEOUT, f"no end within {wall:.0f} s", "")
        if not line:
            return Verdict(Outcome.ERROR, "the tests' process ended without a verdict", "")
        fields = json.loads(line)
        return Verdict(Outcome(fields["outcome"]), fields["why"], fields["isolation"])
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


def _read_line(child: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """What the child writes until it ends; None at the deadline."""
    assert child.stdout is not None
    data = b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([child.stdout], [], [], left)[0]:
            block = os.read(child.stdout.fileno(), 65536)
            if not block:
                return data
            data += block
    return None
