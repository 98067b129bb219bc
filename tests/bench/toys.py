"""Toy workers for the tests, as `mythos bench` starts real ones."""

from pathlib import Path

from mythos.cli.bench_peers import worker
from mythos.cli.bench_protocol import Worker

SCRIPT = str(Path(__file__).with_name("toy_worker.py"))


def toy(behaviour: str = "well") -> Worker:
    return worker(f"toy-{behaviour}", [SCRIPT, behaviour], threads=1)
