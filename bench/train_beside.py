"""What a build costs a served stream: time per token with a training run beside it, and with that run
stopped.

    python bench/train_beside.py [--rounds 12] [--json]

Needs a built tier (`mythos build opus`). The run trains the shape of nano's sonnet on made-up tokens, with
the lowest priority and waiting while a server answers, as `mythos build` does. In turns: 48 tokens with the
run going on, 48 with it stopped by a signal; each stream begins in the middle of a step of the run.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOKENS = 48


def trainer(home_path: str, place: str) -> None:
    import numpy as np

    from mythos.cli.build import give_way
    from mythos.records.keyring import Keyring
    from mythos.spec.load import load_family
    from mythos.store.answering import Idle
    from mythos.store.home import Home
    from mythos.train.batch import Batch, next_tokens, packed_rows
    from mythos.train.loop import train
    from mythos.train.settings import Budget, TrainSettings
    from mythos.train.weights import fresh_model

    give_way()

    def batches(first: int, rows: int) -> Batch:
        tokens = np.random.default_rng(first).integers(0, 4096, (rows, 257))
        positions = np.tile(np.arange(256), (rows, 1))
        return next_tokens(packed_rows(tokens[:, :-1].copy(), positions), tokens[:, 1:].copy())

    def ready(_: object) -> None:
        Path(place, "ready").touch()

    model = fresh_model(load_family("nano").tier("sonnet").config, 0)
    plain = Keyring("none", lambda key, _: key, lambda key, _: key)
    settings, budget = TrainSettings(rows=16, length=256), Budget(seconds=3600)
    train(Path(place, "run"), plain, model, batches, settings, budget, {}, ready, Idle(Home.open(home_path)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        trainer(*options.train)
        return
    from mythos.engine.engine import Engine
    from mythos.engine.loader import Loader
    from mythos.engine.request import Delta, Request, Sampling
    from mythos.gate.authorize import authorize, decision_on, load_standing
    from mythos.records.clock import Clock
    from mythos.records.permit import Action, Permit
    from mythos.records.principal import OPERATOR
    from mythos.spec.load import load_family
    from mythos.store.answering import Answering
    from mythos.store.db import Store
    from mythos.store.home import Home

    home, family = Home.open(), load_family("pocket")
    store, clock = Store.open(home), Clock()
    permit = authorize(
        load_standing(home, store, family), OPERATOR, Action.ANSWER, "opus", "evaluation", clock.now()
    )
    assert isinstance(permit, Permit), permit

    def decided(root: str, decision: str):
        state = load_standing(home, store, family)
        found = decision_on(state, root, decision, clock.now())
        assert found is not None
        return state.family.tier("opus"), found

    engine, answering = Engine(Loader(home), decided, 4 << 30, now=clock.now), Answering(home)
    engine.start()

    def stream() -> list[float]:
        """Seconds between the tokens of one stream."""
        answering.begin()
        request = Request(tuple(range(100, 150)), TOKENS, Sampling(0.0), stop_at_eos=False)
        times = [time.perf_counter() for event in engine.submit(permit, request) if isinstance(event, Delta)]
        answering.end()
        return [after - before for before, after in zip(times, times[1:], strict=False)]

    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, __file__, "--train", str(home.path), place]
        run = subprocess.Popen(command)
        try:
            while not Path(place, "ready").exists():
                time.sleep(0.2)
            stream()
            ratios, beside, alone = [], [], []
            for _ in range(options.rounds):
                os.kill(run.pid, signal.SIGCONT)
                time.sleep(1.5)  # into the middle of a step
                beside.append(statistics.mean(stream()))
                os.kill(run.pid, signal.SIGSTOP)
                time.sleep(0.1)
                alone.append(statistics.mean(stream()))
                ratios.append(beside[-1] / alone[-1])
        finally:
            os.kill(run.pid, signal.SIGCONT)
            run.kill()
            run.wait()
            engine.stop()
    report = {
        "milliseconds_beside": 1e3 * statistics.median(beside),
        "milliseconds_alone": 1e3 * statistics.median(alone),
        "ratio": statistics.median(ratios),
        "ratios": sorted(ratios),
    }
    if options.json:
        print(json.dumps(report))
        return
    print(
        f"time per token {report['milliseconds_beside']:.1f} ms beside a build, "
        f"{report['milliseconds_alone']:.1f} ms alone: "
        f"ratio {report['ratio']:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
