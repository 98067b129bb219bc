"""A distillation step beside a plain one, in one run: forward, backward and optimiser of 4 x 512 tokens.

    python bench/distil_step.py [--rounds 8] [--family pocket --tier sonnet] [--json]

Arms, one after the other in each round, on the same rows: plain next tokens; a teacher's 64 likely tokens
from the cache, sealed, as from the second epoch on or after a stop; and what keeping them costs the first
time, the teacher's own pass, without a step. Told are the median ratios of each arm to the plain step; the
bar is 1.5 for a step from the cache. Weights are fresh: how long a step takes does not depend on them.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mythos.model.transformer import Transformer
from mythos.records.keyring import Keyring
from mythos.spec.config import ModelConfig
from mythos.spec.load import load_family
from mythos.train.batch import Batch, Batches, next_tokens, packed_rows
from mythos.train.distil import distilling
from mythos.train.forward import Trainee
from mythos.train.loss import weighted_cross_entropy
from mythos.train.optim import Optimiser
from mythos.train.settings import TrainSettings
from mythos.train.weights import computing, fresh_model

ROWS, LENGTH, TRUTH = 4, 512, 0.2
BAR = 1.5


def keyring() -> Keyring:
    """A key that lives as long as this run."""
    cipher, nonce = AESGCM(AESGCM.generate_key(256)), b"made once..."
    return Keyring(
        "bench",
        lambda key, about: cipher.encrypt(nonce, key, about.encode()),
        lambda wrapped, about: cipher.decrypt(nonce, wrapped, about.encode()),
    )


def rows_of(vocab: int) -> Batches:
    def batches(first: int, rows: int) -> Batch:
        random = np.random.default_rng(first)
        tokens = random.integers(0, vocab, (rows, LENGTH + 1))
        positions = np.tile(np.arange(LENGTH), (rows, 1))
        return next_tokens(packed_rows(tokens[:, :-1], positions), tokens[:, 1:])

    return batches


def step_of(config: ModelConfig, compiled: bool) -> Callable[[Batch], None]:
    """One step of a student of its own."""
    model = fresh_model(config, 0)
    optimiser = Optimiser(model, TrainSettings())
    trainee = Trainee(computing(model), compiled, recompute=False)

    def step(batch: Batch) -> None:
        x_TD, _ = trainee.hidden(batch.packed)
        loss = weighted_cross_entropy(x_TD, trainee.head_VD, batch.targets_TA, batch.weights_TA, compiled)
        (loss / batch.count).backward()
        optimiser.collect()
        optimiser.step(1.0)

    return step


def teacher_of(config: ModelConfig) -> Transformer:
    return computing(fresh_model(config, 1)).requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="pocket")
    parser.add_argument("--tier", default="sonnet")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--layers", type=int, help="of both models, for a quick look")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    family = load_family(options.family)
    tier = family.tier(options.tier)
    if tier.made_by.kind != "distil":
        raise SystemExit(f"{tier.name} is not distilled")
    student, teacher = tier.config, family.tier(tier.parents[0]).config
    if options.layers:
        student, teacher = (replace(config, layers=options.layers) for config in (student, teacher))
    plain, tutor, step = rows_of(student.vocab), teacher_of(teacher), step_of(student, not options.eager)
    taught_step = step_of(student, not options.eager)  # a program of its own: batches of 65 targets
    with tempfile.TemporaryDirectory() as place:
        taught = distilling(plain, [tutor], TRUTH, Path(place), keyring())
        arms: dict[str, Callable[[int], None]] = {
            "plain step": lambda first: step(plain(first, ROWS)),
            "asking the teacher": lambda first: _keep(taught(first, ROWS)),
            "step from the cache": lambda first: taught_step(taught(first, ROWS)),
        }
        times: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(options.rounds + 2):  # two to make programs and states
            for name, arm in arms.items():
                began = time.perf_counter()
                arm(number * ROWS)
                if number >= 2:
                    times[name].append(time.perf_counter() - began)
    report = {
        name: {
            "seconds": [min(took), statistics.median(took), max(took)],
            "by_plain": statistics.median(t / p for t, p in zip(took, times["plain step"], strict=True)),
        }
        for name, took in times.items()
    }
    if options.json:
        print(json.dumps(report))
        return
    for name, row in report.items():
        low, middle, high = row["seconds"]
        print(f"{name:20} {middle:7.2f} s ({low:.2f} to {high:.2f})   time / plain {row['by_plain']:.3f}")
    met = "met" if report["step from the cache"]["by_plain"] <= BAR else "not met"
    print(f"the bar of {BAR} for a step from the cache is {met}")


def _keep(batch: Batch) -> None:
    assert torch.isfinite(batch.weights_TA).all()


if __name__ == "__main__":
    main()
