"""How a declared tier is trained: from scratch, or pruned from its parent and distilled from all
its parents.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mythos import __version__
from mythos.data.corpus import Corpus
from mythos.data.mix import Mixture
from mythos.model.transformer import Transformer
from mythos.model.weights_dir import WeightsFiles
from mythos.records.canonical import canonical
from mythos.records.keyring import Keyring
from mythos.spec.family import Tier
from mythos.store.home import Home, private_directory, write_private
from mythos.train.batch import Batches, next_tokens, packed_rows
from mythos.train.distil import distilling
from mythos.train.loop import Metrics, train
from mythos.train.material import Material
from mythos.train.prune import layers_to_keep, without_layers
from mythos.train.settings import Budget, TrainError, TrainSettings
from mythos.train.weights import computing, fresh_model, model_from, plain_tensors


@dataclass(frozen=True, slots=True)
class Training:
    """What training a tier takes beside its declaration. `pause`, `compiled`: see
    `mythos.train.loop.train`.
    """

    material: Material
    budget: Budget
    report: Callable[[Metrics], None] = lambda _: None
    pause: Callable[[], float] = lambda: 0.0
    compiled: bool = True


# Shares of the rows. All four, so that each is learnt a little; the small ones come round often enough.
WEIGHTS = {"coding": 0.35, "reasoning": 0.2, "defence": 0.15, "general": 0.3}


def recipe(tier: Tier, seed: int = 0) -> TrainSettings:
    """The settings under which a tier is trained."""
    options: Mapping[str, Any] = dict(tier.made_by.options)
    small = tier.made_by.kind == "pretrain"
    return TrainSettings(
        rows=16 if small else 4,
        length=256 if small else 512,
        optimiser=options["optimiser"],
        learning_rate=options["learning_rate"],
        balance="quantile" if tier.config.moe and tier.config.moe.bias else "none",
        seed=seed,
    )


def run_facts(tier: Tier, parents: Mapping[str, str], material: Material, budget: Budget) -> dict[str, Any]:
    """All that the weights of the tier follow from, as it stands in their lineage. `parents`: their roots."""
    facts = {
        "config": asdict(tier.config),
        "made_by": {"kind": tier.made_by.kind, **dict(tier.made_by.options)},
        "parents": dict(parents),
        "settings": asdict(recipe(tier)),
        "budget": asdict(budget),
        "data": {name: corpus.digest for name, corpus in sorted(material.train.items())},
        "weights": WEIGHTS,
        "code": f"mythos {__version__}",
        "torch": str(torch.__version__),
    }
    return json.loads(json.dumps(facts))  # as it is read back: no tuples


def run_directory(home: Home, tier: Tier, facts: Mapping[str, Any]) -> Path:
    """Where the run of these facts lies: another budget or other data is another run."""
    return (
        home.path / "runs" / f"{tier.family}-{tier.name}-{hashlib.sha256(canonical(facts)).hexdigest()[:12]}"
    )


def mixed(corpora: Mapping[str, Corpus], weights: Mapping[str, float], settings: TrainSettings) -> Batches:
    """Next-token batches of a mix of corpora."""
    mixture = Mixture(corpora, weights, settings.length, settings.seed)

    def batches(first: int, rows: int) -> Any:
        part = mixture.rows(first, rows)
        return next_tokens(packed_rows(part.tokens, part.positions), part.targets)

    return batches


def train_tier(
    home: Home,
    keyring: Keyring,
    tier: Tier,
    parents: Mapping[str, WeightsFiles],
    training: Training,
    progress: Callable[[str, int, int], None],
) -> dict[str, Tensor]:
    """The float32 tensors of the tier, trained in its run's directory, or gone on with there.

    TrainError when the vocabulary of the data is not the tier's.
    """
    material, settings = training.material, recipe(tier)
    for name, corpus in material.train.items():
        if corpus.vocab_size > tier.config.vocab:
            raise TrainError(
                f"The corpus {name} has {corpus.vocab_size} tokens, {tier.name} knows {tier.config.vocab}.",
                "Build the corpora with the family's own tokenizer.",
            )
    facts = run_facts(tier, {n: files.root for n, files in parents.items()}, material, training.budget)
    run = run_directory(home, tier, facts)
    private_directory(run.parent)
    private_directory(run)
    batches = mixed(material.train, WEIGHTS, settings)
    if tier.made_by.kind == "pretrain":
        model = fresh_model(tier.config, settings.seed)
    else:
        plain = [plain_tensors(files.tensors) for files in parents.values()]
        teachers = [
            computing(model_from(files.config, tensors)).requires_grad_(False)
            for files, tensors in zip(parents.values(), plain, strict=True)
        ]
        keep = _layers(run, teachers[0], tier.config.layers, batches, progress)
        model = model_from(tier.config, without_layers(plain[0], keep))
        truth = float(dict(tier.made_by.options)["truth"])
        batches = distilling(batches, teachers, truth, run / "teacher", keyring)
    trained = train(
        run, keyring, model, batches, settings, training.budget, facts, training.report, training.pause,
        training.compiled,
    )  # fmt: skip
    return dict(trained.tensors)


def _layers(
    run: Path, teacher: Transformer, keep: int, batches: Batches, progress: Callable[[str, int, int], None]
) -> list[int]:
    """Which of the teacher's layers the student begins with; measured once in a run."""
    place = run / "layers.json"
    if not place.exists():
        sample = [batches(0, 1)]
        kept = layers_to_keep(teacher, keep, sample, lambda done, total: progress("prune", done, total))
        write_private(place, json.dumps(kept).encode(), replace=True)
    return json.loads(place.read_bytes())
