"""Peak memory of training SmolLM2-135M's shape with AdamW, 4 x 512 tokens a step: ours beside `transformers`.

    python bench/train_memory.py [--json]

Three steps, optimiser included, each arm in a process of its own; what counts is the most that it held. The
peer keeps float32 weights and computes under autocast to bf16. Needs `transformers` (make setup-dev).
"""

import argparse
import json
import resource
import subprocess
import sys

import torch

STEPS = 3


def ours(recompute: bool) -> None:
    from train_step import batch

    from mythos.spec.load import load_family
    from mythos.train.forward import Trainee
    from mythos.train.loss import cross_entropy
    from mythos.train.optim import Optimiser
    from mythos.train.settings import TrainSettings
    from mythos.train.weights import computing, fresh_model

    model = computing(fresh_model(load_family("pocket").tier("opus").config, 0))
    optimiser = Optimiser(model, TrainSettings())
    trainee = Trainee(model, compiled=True, recompute=recompute)
    packed, targets_T = batch(model.config.vocab)
    for _ in range(STEPS):
        (cross_entropy(trainee.hidden(packed)[0], trainee.head_VD, targets_T) / len(targets_T)).backward()
        optimiser.collect()
        optimiser.step(1.0)


def peer() -> None:
    from train_step import LENGTH, ROWS, batch
    from transformers import LlamaConfig, LlamaForCausalLM

    from mythos.model.hf_config import config_to_hf
    from mythos.spec.load import load_family

    config = load_family("pocket").tier("opus").config
    model = LlamaForCausalLM(LlamaConfig(**config_to_hf(config)))
    optimiser = torch.optim.AdamW(model.parameters())
    packed, targets_T = batch(config.vocab)
    targets = targets_T.view(ROWS, LENGTH)
    for _ in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(packed.tokens_RL, labels=targets, shift_labels=targets).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()


ARMS = {"transformers": peer, "ours": lambda: ours(False), "ours, recompute": lambda: ours(True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.arm:
        ARMS[options.arm]()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
        return
    peaks = {}
    for arm in ARMS:
        command = [sys.executable, __file__, "--arm", arm]
        peaks[arm] = float(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        )
    if options.json:
        print(json.dumps(peaks))
        return
    for arm, peak in peaks.items():
        print(f"{arm:16} {peak:.2f} GB, {peak / peaks['transformers']:.2f} of transformers")


if __name__ == "__main__":
    main()
