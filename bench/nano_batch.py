"""Does a smaller batch, or Muon, learn more in the same time? A tier of nano at several rows per step.

    python bench/nano_batch.py [--tier opus] [--minutes 3] [--rows 4,8,16] [--seeds 1] [--json]
    python bench/nano_batch.py --tier capybara --optimisers muon,adamw --minutes 10

Each number of rows of 256 tokens, with each optimiser, is trained from scratch for the same time on nano's
own text (prepared in MYTHOS_HOME when it is not there), and told with its steps and the bits per byte of
held-out text, the mean over the domains. Runs are kept under MYTHOS_HOME/runs and go on where they were
stopped. Give them the machine alone: a budget of time compares nothing beside other work.
"""

import argparse
import json
from dataclasses import replace

from mythos.cli.local import open_records
from mythos.cli.training import prepared
from mythos.spec.load import load_family
from mythos.store.weights_key import weights_keyring
from mythos.train.loop import Metrics
from mythos.train.quality import predict
from mythos.train.recipes import train_tier
from mythos.train.run import Training
from mythos.train.settings import Budget
from mythos.train.weights import computing, model_from, plain_tensors, served_tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tier", default="opus")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--rows", default="4,8,16")
    parser.add_argument("--optimisers", help="default: the tier's own")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    family, records = load_family("nano"), open_records()
    tier, keyring = family.tier(options.tier), weights_keyring(records.home)
    stuff, idle, compiled = prepared(records, family)
    made_by = dict(tier.made_by.options)
    optimisers = (options.optimisers or str(made_by["optimiser"])).split(",")
    arms = [(rows, optimiser) for rows in map(int, options.rows.split(",")) for optimiser in optimisers]
    found = []
    for seed in range(options.seeds):
        for rows, optimiser in arms:
            told: list[Metrics] = []
            budget = Budget(seconds=60 * options.minutes)
            training = Training(stuff, budget, told.append, idle, compiled, seed)
            how = replace(tier.made_by, options=tuple((made_by | {"optimiser": optimiser}).items()))
            cut = replace(tier, made_by=how, train=replace(tier.train, rows=rows))
            tensors = train_tier(records.home, keyring, cut, {}, training, lambda *_: None)
            served = served_tensors(cut, tensors)
            model = computing(model_from(cut.config, plain_tensors(served)))
            bits = {name: predict(model, corpus).bits_per_byte for name, corpus in stuff.held_out.items()}
            line = {
                "rows": rows, "optimiser": optimiser, "seed": seed, "steps": told[-1].step if told else None,
                "tokens": told[-1].tokens if told else None, "bits": bits,
                "mean": sum(bits.values()) / len(bits),
            }  # fmt: skip
            found.append(line)
            if not options.json:
                print(
                    f"{tier.name}, {rows} rows a step, {optimiser}, seed {seed}: {line['steps']} steps, "
                    f"{line['tokens']} tokens, {line['mean']:.4f} bits per byte",
                    flush=True,
                )
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
