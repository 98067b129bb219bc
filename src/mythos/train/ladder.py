"""The ladder of a family on held-out text: each tier's bits per byte, and how surely each step is a
step up.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mythos.data.corpus import Corpus
from mythos.gate.authorize import authorize, load_standing
from mythos.model.weights_dir import read_weights
from mythos.records.clock import Clock
from mythos.records.permit import Action, Refusal
from mythos.records.principal import Principal
from mythos.spec.family import Family, Tier
from mythos.store.db import Store
from mythos.store.home import Home, private_directory, write_private
from mythos.store.weights_key import weights_keyring
from mythos.train.quality import LENGTH, MOST, RESAMPLES, ROWS, Prediction, predict
from mythos.train.settings import TrainError
from mythos.train.weights import computing, model_from, plain_tensors

RULE = f"v2, windows of {LENGTH}, {ROWS} rows, {MOST} tokens"  # another rule gives other figures

Quality = Mapping[str, Prediction]
"""What a tier makes of each domain's held-out text."""


def measure(
    home: Home,
    store: Store,
    clock: Clock,
    principal: Principal,
    family: Family,
    tier: Tier,
    held_out: Mapping[str, Corpus],
    progress: Callable[[str, int, int], None],
) -> Quality:
    """The served weights of the tier on each corpus, under a handling decision. What was measured once is
    kept.

    TrainError when no decision allows it.
    """
    answer = authorize(
        load_standing(home, store, family), principal, Action.LOAD, tier.name, "evaluation", clock.now()
    )
    if isinstance(answer, Refusal):
        raise TrainError(f"{tier.name} cannot be measured: {answer.message}.", f"mythos build {family.name}")
    place = _place(home, answer.root, held_out)
    if place.exists():
        kept = json.loads(place.read_bytes())
        return {name: Prediction(*map(np.array, kept[name])) for name in held_out}
    found = {}
    files = read_weights(home.weights_dir(answer.root), weights_keyring(home), answer.root)
    model = computing(model_from(files.config, plain_tensors(files.tensors)))
    for done, (name, corpus) in enumerate(held_out.items()):
        progress(f"measure {tier.name}", done, len(held_out))
        found[name] = predict(model, corpus)
    progress(f"measure {tier.name}", len(held_out), len(held_out))
    kept = {name: (made.nats_N.tolist(), made.bytes_N.tolist()) for name, made in found.items()}
    write_private(place, json.dumps(kept).encode(), replace=True)
    return found


def step_up(better: Quality, worse: Quality, seed: int = 0) -> tuple[float, float, float]:
    """(estimate, low, high): bits per byte saved, the mean over the domains; 95% by bootstrap over documents.

    Documents are drawn anew within each domain, the same for both tiers: what one text is worth cancels out.
    """
    random = np.random.default_rng(seed)
    estimate, resampled = 0.0, np.zeros(RESAMPLES)
    for name, prediction in sorted(better.items()):
        saved_N = (worse[name].nats_N - prediction.nats_N) / math.log(2)
        picks = random.integers(0, len(saved_N), (RESAMPLES, len(saved_N)))
        estimate += float(saved_N.sum() / prediction.bytes_N.sum()) / len(better)
        resampled += saved_N[picks].sum(1) / prediction.bytes_N[picks].sum(1) / len(better)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return estimate, float(low), float(high)


def _place(home: Home, root: str, held_out: Mapping[str, Corpus]) -> Path:
    private_directory(home.path / "runs")
    private_directory(home.path / "runs" / "quality")
    return home.path / "runs" / "quality" / f"{root[:16]}-{rule_digest(held_out)[:16]}.json"


def rule_digest(held_out: Mapping[str, Corpus]) -> str:
    """SHA-256 of what is measured on and how: figures compare when it is the same."""
    rule = [RULE, *(corpus.digest for corpus in held_out.values())]
    return hashlib.sha256(" ".join(rule).encode()).hexdigest()
