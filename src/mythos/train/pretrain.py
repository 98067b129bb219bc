"""A tier from scratch: its corpora, its recipe, and the run."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mythos import __version__
from mythos.data.corpus import Corpus
from mythos.data.mix import Mixture
from mythos.records.canonical import canonical
from mythos.records.keyring import Keyring
from mythos.spec.family import Tier
from mythos.store.home import Home
from mythos.train.batch import Batches, next_tokens, packed_rows
from mythos.train.loop import Metrics, Trained, train
from mythos.train.material import Material
from mythos.train.settings import Budget, TrainError, TrainSettings
from mythos.train.weights import fresh_model

# Shares of the rows. All four, so that each is learnt a little; the small ones come round often enough.
WEIGHTS = {"coding": 0.35, "reasoning": 0.2, "defence": 0.15, "general": 0.3}


def recipe(tier: Tier, seed: int = 0) -> TrainSettings:
    """The settings under which a tier of kind `pretrain` is trained."""
    options: Mapping[str, Any] = dict(tier.made_by.options)
    return TrainSettings(
        rows=16,
        length=256,
        optimiser=options["optimiser"],
        learning_rate=options["learning_rate"],
        balance="quantile" if tier.config.moe and tier.config.moe.bias else "none",
        seed=seed,
    )


def run_facts(tier: Tier, material: Material, budget: Budget) -> dict[str, Any]:
    """All that the weights of the tier follow from, as it stands in their lineage."""
    facts = {
        "config": asdict(tier.config),
        "settings": asdict(recipe(tier)),
        "budget": asdict(budget),
        "data": {name: corpus.digest for name, corpus in sorted(material.train.items())},
        "weights": WEIGHTS,
        "code": f"mythos {__version__}",
        "torch": str(torch.__version__),
    }
    return json.loads(json.dumps(facts))  # as it is read back: no tuples


def run_directory(home: Home, tier: Tier, material: Material, budget: Budget) -> Path:
    """Where the run of these facts lies: another budget or other data is another run."""
    digest = hashlib.sha256(canonical(run_facts(tier, material, budget))).hexdigest()
    return home.path / "runs" / f"{tier.family}-{tier.name}-{digest[:12]}"


def mixed(corpora: Mapping[str, Corpus], weights: Mapping[str, float], settings: TrainSettings) -> Batches:
    """Next-token batches of a mix of corpora."""
    mixture = Mixture(corpora, weights, settings.length, settings.seed)

    def batches(first: int, rows: int) -> Any:
        part = mixture.rows(first, rows)
        return next_tokens(packed_rows(part.tokens, part.positions), part.targets)

    return batches


def pretrain(
    run: Path,
    keyring: Keyring,
    tier: Tier,
    material: Material,
    budget: Budget,
    report: Callable[[Metrics], None],
    pause: Callable[[], float],
    compiled: bool,
) -> Trained:
    """Trains the tier in the directory `run`, or goes on there. TrainError when the vocabulary is another."""
    for name, corpus in material.train.items():
        if corpus.vocab_size > tier.config.vocab:
            raise TrainError(
                f"The corpus {name} has {corpus.vocab_size} tokens, {tier.name} knows {tier.config.vocab}.",
                "Build the corpora with the family's own tokenizer.",
            )
    settings = recipe(tier)
    model = fresh_model(tier.config, settings.seed)
    batches = mixed(material.train, WEIGHTS, settings)
    inputs = run_facts(tier, material, budget)
    return train(run, keyring, model, batches, settings, budget, inputs, report, pause, compiled)
