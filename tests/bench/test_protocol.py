"""Asking workers: real processes that answer, fail, die, hang or lack their engine."""

import time

import pytest

from mythos.cli.bench_protocol import NotInstalled, WorkerError
from tests.bench.toys import toy


def test_a_worker_answers_whatever_its_libraries_print() -> None:
    with toy() as worker:
        assert worker.ask("load")["versions"] == {"toy": "1"}
        reply = worker.ask("run", prompts=[[1, 2, 3], [4]], tokens=5)
    assert [len(times) for times in reply["times"]] == [5, 5]
    assert reply["prompt_tokens"] == [3, 1]


def test_a_request_that_fails_leaves_the_worker_alive() -> None:
    with toy("fails") as worker:
        with pytest.raises(WorkerError, match="ValueError: no such prompt"):
            worker.ask("run", prompts=[[1]], tokens=1)
        with pytest.raises(WorkerError, match="KeyError"):
            worker.ask("sing")
        assert worker.ask("load")


def test_a_worker_that_dies_is_told_with_what_it_said() -> None:
    with toy("dies") as worker:
        for token in range(3):
            worker.ask("run", prompts=[[token]], tokens=1)
        with pytest.raises(WorkerError, match=r"toy-dies died \(exit status 3\)") as caught:
            worker.ask("run", prompts=[[9]], tokens=1)
        assert caught.value.message.endswith("out of luck")
        with pytest.raises(WorkerError, match="died"):
            worker.ask("run", prompts=[[9]], tokens=1)


def test_a_worker_that_hangs_is_ended() -> None:
    with toy("hangs") as worker:
        worker.ask("load")
        with pytest.raises(WorkerError, match="did not answer run in time"):
            worker.ask("run", timeout=0.2, prompts=[[1]], tokens=1)
        with pytest.raises(WorkerError, match="died"):
            worker.ask("load")


def test_a_missing_engine_is_not_a_failure() -> None:
    with toy("missing") as worker, pytest.raises(NotInstalled) as caught:
        worker.ask("load")
    assert caught.value.module == "no_such_engine"
    assert caught.value.cure == "make bench-peers"


def test_a_worker_that_rests_uses_no_processor_and_ends_when_told() -> None:
    with toy() as worker:
        worker.ask("load")
        before = worker.cpu_seconds()
        time.sleep(0.3)
        assert worker.cpu_seconds() - before <= 0.02
        process = worker._process
    assert process.returncode == 0
    worker.stop()  # again does no harm
