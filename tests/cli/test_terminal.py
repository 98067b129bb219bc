"""`mythos chat` on a pseudo-terminal: keys, history, commands, Ctrl-C."""

import os
import pty
import re
import select
import signal
import stat
import subprocess
import termios
import time
from pathlib import Path

import pytest

from .conftest import COMMAND, clean_env, listen_to_ctrl_c

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-_])")


PROMPT = r"[\r\n]>"


class Terminal:
    """A process on a pseudo-terminal, read until something appears."""

    def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        self.process = subprocess.Popen(
            arguments, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
            preexec_fn=listen_to_ctrl_c,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, wanted: str, seconds: float = 90) -> str:
        """All that appeared up to and including `wanted` (escape sequences removed), since the last time."""
        deadline = time.monotonic() + seconds
        while True:
            plain = ESCAPES.sub("", self.seen)
            found = re.search(wanted, plain)
            if found:
                self.seen = plain[found.end() :]
                return plain[: found.end()]
            left = deadline - time.monotonic()
            assert left > 0, f"never saw {wanted!r} in {plain[-2000:]!r}"
            if select.select([self.master], [], [], min(left, 0.5))[0]:
                try:
                    data = os.read(self.master, 65536)
                except OSError:
                    data = b""
                assert data or re.search(wanted, plain), f"ended before {wanted!r}: {plain[-2000:]!r}"
                self.seen += data.decode(errors="replace")
                if "\x1b[6n" in self.seen:  # the program asks where the cursor is
                    self.seen = self.seen.replace("\x1b[6n", "")
                    self.type("\x1b[1;1R")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture(scope="module")
def terminal(built):
    env = clean_env(**built, TERM="xterm-256color", NO_COLOR="1")
    term = Terminal([*COMMAND, "chat", "--temperature", "0", "--max-tokens", "1000"], env)
    term.wait_for("/help lists")
    term.wait_for(PROMPT)
    yield term
    term.close()


def test_a_question_streams_an_answer_with_its_speed(terminal):
    terminal.type("What is the capital of France?\r")
    shown = terminal.wait_for(r"tok/s")
    assert "Paris" in shown
    terminal.wait_for(PROMPT)


def test_commands(terminal):
    for typed, wanted in [
        ("/help", "Alt-Enter"),
        ("/tier", r"\[opus\]"),
        ("/tier nonesuch", "use one of: opus"),
        ("/system Be brief.", "system prompt: Be brief."),
        ("/system -", r"\(none\)"),
        ("/stats", "1 answers"),
        ("/frobnicate", "/help lists them"),
        ("/reset", "forgotten"),
        ("/retry", "no question"),
    ]:
        terminal.type(typed + "\r")
        terminal.wait_for(wanted, 20)
        terminal.wait_for(PROMPT)


def test_ctrl_c_stops_the_answer_not_the_program(terminal):
    terminal.type("Write a very long story about a ship.\r")
    # A word of the answer: the prompt repaints the question, so none that is in it.
    terminal.wait_for(r"(?i)\b(once|the|there|was|in|it|of)\b")
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("stopped", 20)
    terminal.wait_for(PROMPT)
    terminal.type("/stats\r")
    terminal.wait_for("1 answers", 20)
    terminal.wait_for(PROMPT)


def test_a_backslash_makes_a_second_line(terminal, tmp_path):
    terminal.type("/reset\r")
    terminal.wait_for("forgotten")
    terminal.type("Say\\\ryes.\r")
    terminal.wait_for("tok/s")
    file = tmp_path / "talk.md"
    terminal.type(f"/save {file}\r")
    terminal.wait_for("saved to", 20)
    assert "Say\nyes." in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600
    terminal.type(f"/save {file}\r")
    terminal.wait_for("not overwritten", 20)
    terminal.wait_for(PROMPT)


def test_history_is_private_and_ctrl_d_leaves(terminal, built):
    history = Path(built["MYTHOS_HOME"]) / "chat_history"
    assert "capital of France" in history.read_text() and stat.S_IMODE(history.stat().st_mode) == 0o600
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0
