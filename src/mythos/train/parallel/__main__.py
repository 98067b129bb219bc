"""`torchrun ... -m mythos.train.parallel FAMILY --tier T --mesh pp=2,dp=2 --steps N` trains on a mesh.

The corpora are those that `mythos data build` or `mythos build` made in MYTHOS_HOME; every rank reads them
there. The run lies in MYTHOS_HOME/runs, which all ranks have to see.
"""

import argparse
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from mythos.data.corpus import SPLITS, open_corpus
from mythos.model.checkpoint import save_checkpoint
from mythos.records.errors import MythosError
from mythos.spec.family import Tier
from mythos.spec.load import load_family
from mythos.store.home import Home, private_directory
from mythos.store.weights_key import weights_keyring
from mythos.train.batch import mixed
from mythos.train.parallel.launch import joined
from mythos.train.parallel.mesh import check, parse_mesh
from mythos.train.parallel.run import Step, train_on_mesh
from mythos.train.parallel.shards import find, whole_tensors
from mythos.train.recipes import WEIGHTS, recipe
from mythos.train.settings import TrainError
from mythos.train.weights import model_from


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 1 after a message on stderr. `torchrun --max-restarts` then starts all anew."""
    try:
        _train(_parsed(arguments))
    except MythosError as error:
        print(f"rank {os.environ.get('RANK', '0')}: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("mythos.train.parallel", description="Train a family's tier on a mesh.")
    add = parser.add_argument
    add("family", help="a packaged family, or the path of a family file")
    add("--tier", required=True)
    add("--mesh", default="dp=1", help="as pp=2,dp=2,ep=2: what is left out is 1")
    add("--steps", type=int, required=True)
    add("--rows", type=int, help="of a micro-batch on one replica; default: the tier's own")
    add("--accumulate", type=int, help="micro-batches of a replica in a step; default: the tier's own")
    add("--every", type=int, default=100, help="steps between checkpoints")
    add("--run", help="name of the run's directory in MYTHOS_HOME/runs; default: FAMILY-TIER-mesh")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--timeout", type=float, default=600, help="seconds after which a rank that does not answer is lost")
    add(
        "--export",
        type=Path,
        help="write the weights to this directory at the end, as transformers reads them",
    )
    return parser.parse_args(arguments)


def _train(asked: argparse.Namespace) -> None:
    family, shape = load_family(asked.family), parse_mesh(asked.mesh)
    names = [tier.name for tier in family.tiers]
    if asked.tier not in names:
        raise TrainError(f"{family.name} has no tier {asked.tier}.", f"One of {', '.join(names)}.")
    if min(asked.steps, asked.every) < 1:
        raise TrainError("--steps and --every are 1 or more.", "Correct them.")
    tier = family.tier(asked.tier)
    settings = recipe(tier) if tier.made_by.kind == "pretrain" else None
    if settings is None:
        raise TrainError(f"{tier.name} is not trained from scratch.", "A mesh trains such tiers only.")
    settings = replace(
        settings, rows=asked.rows or settings.rows, accumulate=asked.accumulate or settings.accumulate
    )
    if settings.balance == "quantile":  # a family's default, for which no rank has all scores of a step
        settings = replace(settings, balance="bias")
    check(tier.config, shape, settings)
    home = Home.open()
    corpora = {name: open_corpus(home.path / "data" / family.name / name / SPLITS[0]) for name in WEIGHTS}
    for name, corpus in corpora.items():
        if corpus.vocab_size > tier.config.vocab:
            raise TrainError(
                f"The corpus {name} has {corpus.vocab_size} tokens, {tier.name} knows {tier.config.vocab}.",
                "Make the data of this family.",
            )
    private_directory(home.path / "runs")
    run = home.path / "runs" / (asked.run or f"{family.name}-{tier.name}-mesh")
    inputs = {"data": {name: corpus.digest for name, corpus in corpora.items()}, "weights": WEIGHTS}
    keyring = weights_keyring(home)
    with joined(shape, asked.device, timedelta(seconds=asked.timeout)) as rank:
        private_directory(run)
        train_on_mesh(
            run, keyring, tier.config, settings, shape, rank, mixed(corpora, WEIGHTS, settings), asked.steps,
            asked.every, inputs, asked.device, report=_print if rank == 0 else lambda _: None,
        )  # fmt: skip
        if rank == 0 and asked.export is not None:
            _export(tier, run, home, asked.export)


def _print(step: Step) -> None:
    print(
        f"step {step.step}  loss {step.loss:.4f}  gradient {step.gradient_norm:.3g}  {step.seconds:.2f} s  "
        f"goodput {step.goodput:.1%}",
        flush=True,
    )


def _export(tier: Tier, run: Path, home: Home, place: Path) -> None:
    """The weights of the last checkpoint, which fit in this rank's memory."""
    found = find(run, weights_keyring(home))
    assert found is not None
    save_checkpoint(model_from(tier.config, whole_tensors(found)), place)


if __name__ == "__main__":
    sys.exit(main())
