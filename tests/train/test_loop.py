"""The training loop: it learns, it resumes bit for bit, and what goes wrong is told and loses nothing."""

import errno
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mythos.spec.config import MLAConfig, MoEConfig
from mythos.train import checkpoint, loop
from mythos.train.batch import Batch, further
from mythos.train.checkpoint import Checkpoint, CheckpointError
from mythos.train.forward import Trainee
from mythos.train.loop import METRICS, Metrics, Trained, train
from mythos.train.loss import weighted_cross_entropy
from mythos.train.settings import Budget, TrainError, TrainSettings, parse_budget, rate_factor
from mythos.train.weights import fresh_model, model_from
from tests.train.runs import SETTINGS, TINY, batches, keyring, run

MOE = replace(TINY, moe=MoEConfig(routed=4, top_k=2, width=32, bias=True))
LATENT = replace(
    TINY,
    head_dim=12,
    mla=MLAConfig(kv_rank=16, nope_dim=8, rope_dim=4, value_dim=8, q_rank=24),
    mtp=2,
    moe=MoEConfig(routed=4, top_k=2, width=32, shared=1, score="sigmoid", bias=True, latent=16),
)


class Stopped(Exception):
    """What a test ends a run with."""


def stop_at(step: int):
    def report(metrics: Metrics) -> None:
        if metrics.step == step:
            raise Stopped

    return report


def same(a: Trained, b: Trained) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(
        torch.equal(a.tensors[n], b.tensors[n]) for n in a.tensors
    )


def steps_told(place: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (place / METRICS).read_text().splitlines()]


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_the_loss_falls_on_real_text(tmp_path: Path, optimiser: str) -> None:
    told: list[Metrics] = []
    trained = run(tmp_path / "run", 80, report=told.append, optimiser=optimiser)
    assert told[0].loss > 5.4  # log 256 is 5.55
    assert trained.loss < 3.0


def test_prediction_modules_learn_beside_the_model(tmp_path: Path) -> None:
    """Their loss is not told as the model's, and falls: what they predict of trained text is better than
    chance.
    """
    told: list[Metrics] = []
    trained = run(tmp_path / "run", 80, LATENT, report=told.append, balance="quantile")
    assert 5.4 < told[0].loss < 5.7
    assert trained.loss < 3.2
    model = model_from(LATENT, trained.tensors)
    trainee, batch = Trainee(model, compiled=False, recompute=False), batches(0, 4)
    with torch.no_grad():
        states, _ = trainee.ahead(batch.packed, trainee.hidden(batch.packed)[0])
        for places, x_TD in enumerate(states, 1):
            later = further(batch, places)
            loss = weighted_cross_entropy(x_TD, trainee.head_VD, later.targets_TA, later.weights_TA)
            assert loss / (later.targets_TA >= 0).sum() < 4.0


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (TINY, {}),
        (TINY, {"optimiser": "muon", "accumulate": 2}),
        (TINY, {"recompute": True}),
        (MOE, {"balance": "bias"}),
        (MOE, {"balance": "quantile", "optimiser": "muon"}),
        (LATENT, {"balance": "quantile", "optimiser": "muon", "recompute": True}),
    ],
)
def test_a_stopped_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config, changes
) -> None:
    whole = run(tmp_path / "whole", config=config, **changes)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)  # after each step
    for step in (3, 4, 9):
        with pytest.raises(Stopped):
            run(tmp_path / "parts", config=config, report=stop_at(step), **changes)
    again = run(tmp_path / "parts", config=config, **changes)
    assert same(again, whole)
    assert steps_told(tmp_path / "parts") == list(range(1, 13))


@pytest.mark.parametrize(("config", "optimiser"), [(TINY, "adamw"), (MOE, "muon")])
def test_a_run_that_is_done_keeps_its_weights_alone_and_gives_them_again(
    tmp_path: Path, config, optimiser: str
) -> None:
    done = run(tmp_path / "run", config=config, optimiser=optimiser)
    size = sum(4 * tensor.numel() for tensor in done.tensors.values())
    assert size < (tmp_path / "run" / "checkpoint" / "tensors.enc").stat().st_size < 1.1 * size
    assert same(done, run(tmp_path / "run", config=config, optimiser=optimiser))


def test_steps_after_the_last_checkpoint_are_made_again(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(Stopped):
        run(tmp_path / "parts", report=stop_at(7))  # no checkpoint yet
    assert same(run(tmp_path / "parts"), whole)
    assert steps_told(tmp_path / "parts") == list(range(1, 13))


@pytest.mark.parametrize(
    "change", [{"learning_rate": 1e-3}, {"seed": 1}, {"rows": 2}, {"recompute": True}, {"balance": "bias"}]
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    run(tmp_path / "run")
    with pytest.raises(TrainError, match="other settings"):
        run(tmp_path / "run", **change)


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    """To the rounding of bf16: the sums run in another order."""
    large, small = run(tmp_path / "large", rows=8), run(tmp_path / "small", rows=2, accumulate=4)
    for name, tensor in large.tensors.items():
        torch.testing.assert_close(small.tensors[name], tensor, atol=3e-2, rtol=0.1)


def test_recompute_changes_no_bit(tmp_path: Path) -> None:
    assert same(run(tmp_path / "kept"), run(tmp_path / "made again", recompute=True))


def test_damaged_data_ends_the_run_and_its_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    def poisoned(first: int, rows: int) -> Batch:
        batch = batches(first, rows)
        return replace(batch, weights_TA=batch.weights_TA * float("nan")) if first >= 16 else batch

    settings, budget = SETTINGS, Budget(tokens=40 * SETTINGS.step_tokens)
    with pytest.raises(TrainError, match="not finite for 10 steps, from step 5"):
        train(tmp_path, keyring(), fresh_model(TINY, 0), poisoned, settings, budget, {}, compiled=False)
    found = checkpoint.load(tmp_path, keyring())
    assert found is not None
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors.values())


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, keyring(), Checkpoint({"n": 1}, {"a": torch.ones(3)}))

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "seal", full)
    with pytest.raises(CheckpointError, match="No space left") as raised:
        checkpoint.save(tmp_path, keyring(), Checkpoint({"n": 2}, {"a": torch.zeros(3)}))
    assert "Free some disk space" in raised.value.cure
    found = checkpoint.load(tmp_path, keyring())
    assert found is not None and found.facts == {"n": 1}


WRITER = """
import os, signal, sys, torch
from pathlib import Path
from mythos.train import checkpoint
from mythos.train.checkpoint import Checkpoint
from tests.train.runs import keyring

def write(place, call):
    checkpoint.save(place, keyring(), Checkpoint({"n": 1}, {"a": torch.ones(1000)}))
    calls = 0
    def killing(of):
        def wrapped(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return of(*arguments, **named)
        return wrapped
    for module, name in ((os, "rename"), (os, "fsync"), (os, "mkdir"), (checkpoint, "seal")):
        setattr(module, name, killing(getattr(module, name)))
    checkpoint.save(place, keyring(), Checkpoint({"n": 2}, {"a": torch.zeros(1000)}))

for call in range(1, 15):
    place = Path(sys.argv[1]) / str(call)
    place.mkdir()
    if not (child := os.fork()):
        write(place, call)
        os._exit(0)
    print(call, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_writer_killed_anywhere_leaves_one_whole_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITER, tmp_path], capture_output=True, text=True, check=True
    )
    ends = dict(line.split() for line in done.stdout.splitlines())
    assert list(ends.values()).count("0") in range(1, 5)  # the rest were killed: every write was met
    for call, code in ends.items():
        found = checkpoint.load(tmp_path / call, keyring())
        assert found is not None
        number = found.facts["n"]
        assert number == 2 or code != "0"  # what was acknowledged is there
        assert torch.equal(found.tensors["a"], torch.ones(1000) if number == 1 else torch.zeros(1000))
        assert [path.name for path in (tmp_path / call).iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("name", ["key.json", "state.json.enc", "tensors.enc"])
def test_a_changed_or_cut_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path, keyring(), Checkpoint({"n": 1}, {"a": torch.ones(1000)}))
    file = tmp_path / "checkpoint" / name
    sound = file.read_bytes()
    middle = len(sound) // 2
    for bad in (sound[:-1], sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :], b""):
        file.write_bytes(bad)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.load(tmp_path, keyring())
    file.write_bytes(sound)
    assert checkpoint.load(tmp_path, keyring()) is not None
    with pytest.raises(CheckpointError, match="another key"):
        checkpoint.load(tmp_path, keyring(bytes(31) + b"1"))


def test_a_checkpoint_shows_no_weight(tmp_path: Path) -> None:
    tensor = torch.arange(1000, dtype=torch.float32)
    checkpoint.save(tmp_path, keyring(), Checkpoint({"n": "a name to look for"}, {"a": tensor}))
    stored = b"".join(path.read_bytes() for path in (tmp_path / "checkpoint").iterdir())
    assert tensor[100:120].numpy().tobytes() not in stored
    assert b"a name to look for" not in stored


def test_a_budget_of_seconds_decays_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that is a second further whenever it is asked, which a step does three times."""
    ticks = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    told: list[Metrics] = []
    budget = Budget(seconds=200.0)
    train(
        tmp_path, keyring(), fresh_model(TINY, 0), batches, SETTINGS, budget, {}, told.append, compiled=False
    )
    decaying = [metrics for metrics in told if metrics.step > SETTINGS.warmup_steps and metrics.rate < 1.0]
    assert 0.1 * len(told) < len(decaying) < 0.3 * len(told)
    assert told[-1].rate < 0.3
    assert 190 <= told[-1].seconds <= 210


@pytest.mark.parametrize(("first", "then"), [(1.0, 0.4), (0.4, 1.0)])
def test_a_budget_of_seconds_is_spent_when_the_pace_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: float, then: float
) -> None:
    """Within a decay over three fifths: by a clock that changes its pace halfway."""
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += first if now < 100 else then
        return now

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=monotonic))
    told: list[Metrics] = []
    settings, budget = replace(SETTINGS, decay_share=0.6), Budget(seconds=60.0)
    train(
        tmp_path, keyring(), fresh_model(TINY, 0), batches, settings, budget, {}, told.append, compiled=False
    )
    assert 57 <= told[-1].seconds <= 63
    assert told[-1].rate < 0.3


def test_a_budget_of_few_seconds_is_not_spent_on_its_decay(tmp_path: Path, monkeypatch) -> None:
    """A long decay of few steps: by the same clock, of a second a step."""
    ticks = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    told: list[Metrics] = []
    settings, budget = replace(SETTINGS, decay_share=0.6), Budget(seconds=6.0)
    train(
        tmp_path, keyring(), fresh_model(TINY, 0), batches, settings, budget, {}, told.append, compiled=False
    )
    assert told[-1].seconds <= 6.0 and told[-1].rate < 1.0


def test_a_budget_that_the_first_step_spends_has_one_step(tmp_path: Path, monkeypatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    settings, model = replace(SETTINGS, decay_share=0.6), fresh_model(TINY, 0)
    made = train(
        tmp_path, keyring(), model, batches, settings, Budget(seconds=0.5), {}, lambda _: None, compiled=False
    )
    assert made.steps == 1


def test_budgets_in_words() -> None:
    assert parse_budget("10m") == Budget(seconds=600)
    assert parse_budget("2h") == Budget(seconds=7200)
    assert parse_budget("90s") == Budget(seconds=90)
    assert parse_budget("1.5M-tokens") == Budget(tokens=1_500_000)
    for text in ("", "m", "10", "-5m", "0h", "10x", "5M-token", "nan m", "infm", "10m-tokens", "1e400h"):
        with pytest.raises(TrainError, match="no budget"):
            parse_budget(text)


@given(st.integers(1, 400), st.integers(0, 50), st.floats(0.0, 0.9))
def test_the_rate_rises_stays_and_falls(steps: int, warmup: int, share: float) -> None:
    settings = TrainSettings(warmup_steps=warmup, decay_share=share)
    start = steps - round(steps * share)
    factors = [rate_factor(step, settings, start, steps) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:start] == sorted(factors[:start])
    tail = factors[max(start, warmup) :]
    assert tail == sorted(tail, reverse=True)


def test_the_warm_up_of_a_short_run_takes_a_tenth_of_it() -> None:
    settings = TrainSettings(warmup_steps=20, decay_share=0.0)
    short = [rate_factor(step, settings, None, None, (step + 1) / 30) for step in range(30)]
    assert [round(factor, 6) for factor in short[:3]] == [round(1 / 3, 6), round(2 / 3, 6), 1.0]
    long = [rate_factor(step, settings, None, None, (step + 1) / 3000) for step in range(3000)]
    assert sum(factor < 1 for factor in long) == 20
