"""A build waits while a server of the same data directory answers, however the server ends."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from mythos.store.answering import Answering, Idle
from mythos.store.home import Home
from mythos.train.loop import train
from mythos.train.settings import Budget
from mythos.train.weights import fresh_model
from tests.train.runs import SETTINGS, TINY, batches, keyring


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    return Home.open(tmp_path / "home")


def test_it_waits_for_the_last_of_all_answers(home: Home) -> None:
    idle, server, other = Idle(home), Answering(home), Answering(home)
    assert idle() < 1
    server.begin()
    server.begin()
    other.begin()
    server.end()
    server.end()
    done = threading.Event()
    threading.Thread(target=lambda: (idle(), done.set())).start()
    assert not done.wait(0.2)  # the other server still answers
    other.end()
    assert done.wait(10)
    server.begin()  # and a look is no obstacle to the next answer
    server.end()
    assert idle() < 1
    for part in (idle, server, other):
        part.close()


def test_a_server_that_dies_keeps_nobody_waiting(home: Home) -> None:
    child = os.fork()
    if not child:
        server = Answering(home)
        server.begin()
        (home.path / "begun").touch()
        time.sleep(60)
        os._exit(0)
    while not (home.path / "begun").exists():
        time.sleep(0.01)
    idle, done = Idle(home), threading.Event()
    threading.Thread(target=lambda: (idle(), done.set())).start()
    assert not done.wait(0.2)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert done.wait(10)


def test_waiting_is_no_training(tmp_path: Path) -> None:
    """A pause of a thousand seconds, told and not slept, leaves the run's seconds below those of
    the process.
    """
    began, told = time.monotonic(), []
    budget, model = Budget(tokens=4 * SETTINGS.step_tokens), fresh_model(TINY, 0)
    train(
        tmp_path, keyring(), model, batches, SETTINGS, budget, {}, told.append, lambda: 1000.0, compiled=False
    )  # fmt: skip
    assert told[-1].seconds < time.monotonic() - began - 3999
