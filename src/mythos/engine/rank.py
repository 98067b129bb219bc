"""A rank of a tier beside rank 0: what `mythos.engine.ranks` starts as `python -m mythos.engine.rank FD`.

It believes nothing that it is told: the decision is looked up and verified in the records here, the key of
the weights is read here, and what is loaded is hashed against the root.
"""

import os
import socket
import sys
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch

from mythos.engine.backend import Segment, run_chunk, run_decode
from mythos.engine.cache import cache_for
from mythos.engine.loader import allowed, held_bytes, read_rank
from mythos.engine.ranks import LOST, joined, receive, send, strangers
from mythos.engine.split import split
from mythos.gate.authorize import decision_on, load_standing
from mythos.ledger.log import last_time
from mythos.model.errors import WeightsError
from mythos.model.parts import part_config
from mythos.records.clock import Clock
from mythos.records.errors import MythosError
from mythos.spec.family import Family
from mythos.store.db import Store
from mythos.store.home import Home

STRANGER = {
    "error": "a connection between ranks leads to a program of another user.",
    "cure": "Start again; if it stays so, find who listens: ss -ltnp.",
    "damaged": False,
}


def main(descriptor: int) -> None:
    """Loads, then computes the passes that it is told, until rank 0 has gone."""
    control = socket.socket(fileno=descriptor)
    messages: SimpleQueue[dict[str, Any]] = SimpleQueue()
    Thread(target=_listen, args=(control, messages), daemon=True).start()
    task = messages.get()
    torch.set_num_threads(task["threads"])
    send(control, {})
    try:
        home = Home.open()
        _permit(home, task)
        model, _ = read_rank(home, task["root"], task["rank"], task["ranks"])
    except MythosError as error:
        damaged = isinstance(error, WeightsError)
        send(control, {"error": error.message, "cure": error.cure, "damaged": damaged})
        messages.get()  # until rank 0 closes the socket
        return
    send(control, {"bytes": held_bytes(model)})
    try:
        exchange = joined(Path(messages.get()["meet"]), task["rank"], task["ranks"])
        send(control, {} if not strangers(os.getuid()) else STRANGER)
        split(model, exchange)
        config = part_config(model.config, task["ranks"])
        cache = cache_for(config, messages.get()["blocks"], torch.bfloat16, b"")
        while True:
            told = messages.get()
            segments = [Segment(*fields) for fields in told["segments"]]
            if told["decode"]:
                run_decode(model, cache, segments)
            else:
                run_chunk(model, cache, segments[0])
    except Exception as error:
        # Its message may hold what callers wrote. torch has no kind of its own for a peer that is gone.
        print(f"rank {task['rank']} of {task['ranks']}: {type(error).__name__}", file=sys.stderr, flush=True)
        os._exit(LOST if isinstance(error, RuntimeError | OSError) else 1)


def _listen(control: socket.socket, messages: "SimpleQueue[dict[str, Any]]") -> None:
    """Takes in what rank 0 says. Without rank 0 there is nothing to do, wherever the other thread stands."""
    while (message := receive(control)) is not None:
        messages.put(message)
    os._exit(0)


def _permit(home: Home, task: dict[str, Any]) -> None:
    """NotAllowed unless a decision with the id of `task` holds here and now for these weights."""
    store = Store.open(home)
    clock = Clock(lambda: last_time(store))
    standing = load_standing(home, store, Family(task["family"], "", "", ()))
    decision = decision_on(standing, task["root"], task["decision"], clock.now())
    allowed(task["family"], task["tier"], task["root"], decision)
    store.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
