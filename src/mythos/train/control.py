"""What a tier is held against: as many tokens spent without what makes the tier what it is."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mythos.data.chat import encode_chat
from mythos.engine.request import Sampling
from mythos.evaluate.reasoning_gym import MAX_TOKENS, graded
from mythos.evaluate.suite import Suite
from mythos.model.weights_dir import WeightsFiles
from mythos.records.evidence import Outcome
from mythos.records.keyring import Keyring
from mythos.spec.family import Family, MadeBy, Tier
from mythos.store.home import Home, private_directory, write_private
from mythos.train.ladder import Quality
from mythos.train.loop import METRICS
from mythos.train.quality import RESAMPLES, Prediction, predict
from mythos.train.recipes import pruned_tensors, recipe, run_directory, run_facts, train_tier
from mythos.train.run import Training
from mythos.train.sample import answers, in_training
from mythos.train.settings import Budget, TrainError
from mythos.train.weights import computing, model_from, plain_tensors, served_tensors

MEASURED, PRUNED = "measured.json", "pruned.json"
# How a shape learns fastest from scratch here (docs/notebook.md), so that the comparison is no straw man.
FROM_SCRATCH = {"optimiser": "muon", "learning_rate": 2e-3}


@dataclass(frozen=True, slots=True)
class Measured:
    """`right`: of each question of the suite whether it was answered rightly."""

    tokens: int
    quality: Quality
    right: Mapping[str, bool]


def control_of(family: Family, tier: Tier) -> Tier | None:
    """The tier of experts' control is its parent trained on, a distilled tier's its own shape from scratch,
    both with the tier's own rows and seed; None for one that has no such rival.
    """
    options: Mapping[str, Any] = dict(tier.made_by.options)
    name = f"{tier.name}-control"
    if tier.made_by.kind == "experts":
        how = {key: options[key] for key in ("share", "optimiser", "learning_rate")}
        config = family.tier(tier.parents[0]).config
        made_by = MadeBy("continue", options=tuple(how.items()))
        return replace(tier, name=name, config=config, made_by=made_by)
    if tier.made_by.kind == "distil":
        made_by = MadeBy("pretrain", options=tuple({"share": options["share"], **FROM_SCRATCH}.items()))
        scratch = replace(tier, name=name, made_by=made_by, parents=())
        there, here = recipe(tier), recipe(scratch)  # rows from scratch are shorter: as many tokens a step
        rows = max(1, there.rows * there.length // here.length)
        return replace(scratch, train=replace(tier.train, rows=rows))
    return None


def tokens_of(run: Path) -> int:
    """Tokens that all parts of a tier's run were trained on."""
    total = 0
    for place in run.glob(f"**/{METRICS}"):
        *_, last = place.read_text().splitlines() or ["{}"]
        total += json.loads(last).get("tokens", 0)
    return total


def train_control(
    home: Home,
    keyring: Keyring,
    tier: Tier,
    control: Tier,
    parents: Mapping[str, WeightsFiles],
    training: Training,
    suite: Suite,
    progress: Callable[[str, int, int], None],
) -> Measured:
    """Trains the control on as many tokens as the tier's run was, up to a whole step, in a run of its own,
    and measures it as the tier is measured: held-out text and the questions of `reasoning_gym`. `parents`
    are the tier's.

    What was measured is kept; its weights are registered nowhere. TrainError when the tier's run is gone.
    """
    roots = {name: files.root for name, files in parents.items()}
    tokens = tokens_of(run_directory(home, tier, run_facts(tier, roots, training)))
    if not tokens:
        raise TrainError(
            f"How many tokens {tier.name} was trained on stands in its run, which is gone.",
            f"mythos build {tier.family} --tier {tier.name} with another --budget makes a new one.",
        )
    step = recipe(control, training.seed).step_tokens
    whole = Budget(tokens=-(-tokens // step) * step)  # experts have smaller steps: never less
    same, own = replace(training, budget=whole), {n: parents[n] for n in control.parents}
    facts = run_facts(control, {name: roots[name] for name in own}, same)
    place = run_directory(home, control, facts) / MEASURED
    if not place.exists():
        tensors = train_tier(home, keyring, control, own, same, progress)
        quality = _quality(control, tensors, training, progress)
        right = _answered(control, tensors, training, suite, progress)
        kept = {"tokens": tokens_of(place.parent), "quality": _kept(quality), "right": right}
        write_private(place, json.dumps(kept).encode(), replace=True)
    kept = json.loads(place.read_bytes())
    return Measured(kept["tokens"], _read(kept["quality"]), kept["right"])


def measure_pruned(
    home: Home,
    keyring: Keyring,
    tier: Tier,
    parents: Mapping[str, WeightsFiles],
    training: Training,
    progress: Callable[[str, int, int], None],
) -> Quality:
    """What a distilled tier began with: its parent without what was left out. What was measured is kept in
    the tier's run.
    """
    facts = run_facts(tier, {name: files.root for name, files in parents.items()}, training)
    place = run_directory(home, tier, facts) / PRUNED
    if not place.exists():
        begun = pruned_tensors(home, keyring, tier, parents, training, progress)
        quality = _quality(tier, begun, training, progress)
        private_directory(place.parent)
        write_private(place, json.dumps(_kept(quality)).encode(), replace=True)
    return _read(json.loads(place.read_bytes()))


def more_right(of: Mapping[str, bool], than: Mapping[str, bool], seed: int = 0) -> tuple[float, float, float]:
    """(estimate, low, high): the share of questions answered rightly less the other's, on the questions that
    both were asked; 95% by bootstrap over questions, the same for both.
    """
    names = sorted(of.keys() & than.keys())
    difference_N = np.array([int(of[name]) - int(than[name]) for name in names])
    picks = np.random.default_rng(seed).integers(0, len(names), (RESAMPLES, len(names)))
    low, high = np.quantile(difference_N[picks].mean(1), [0.025, 0.975])
    return float(difference_N.mean()), float(low), float(high)


def gap_closed(tier: Quality, pruned: Quality, parent: Quality, seed: int = 0) -> tuple[float, float, float]:
    """(estimate, low, high): the share of what pruning cost against the parent, in bits per byte, the mean
    over the domains, that training has won back; 95% by bootstrap over documents, the same for all three.
    """
    random = np.random.default_rng(seed)
    estimate, resampled = np.zeros(2), np.zeros((2, RESAMPLES))
    for name in sorted(tier):
        bytes_N = tier[name].bytes_N
        picks = random.integers(0, len(bytes_N), (RESAMPLES, len(bytes_N)))
        for row, better in enumerate((tier, parent)):
            saved_N = pruned[name].nats_N - better[name].nats_N
            estimate[row] += saved_N.sum() / bytes_N.sum()
            resampled[row] += saved_N[picks].sum(1) / bytes_N[picks].sum(1)
    low, high = np.quantile(resampled[0] / resampled[1], [0.025, 0.975])
    return float(estimate[0] / estimate[1]), float(low), float(high)


def _quality(
    tier: Tier,
    tensors: Mapping[str, Tensor],
    training: Training,
    progress: Callable[[str, int, int], None],
) -> dict[str, Prediction]:
    """Of the served form of float32 tensors."""
    served = served_tensors(tier, tensors)
    model = computing(model_from(tier.config, plain_tensors(served)))
    made, corpora = {}, training.material.held_out
    for done, (name, corpus) in enumerate(corpora.items()):
        progress(f"measure {tier.name}", done, len(corpora))
        made[name] = predict(model, corpus)
    return made


def _kept(quality: Quality) -> dict[str, Any]:
    return {name: (one.nats_N.tolist(), one.bytes_N.tolist()) for name, one in quality.items()}


def _read(kept: Mapping[str, Any]) -> dict[str, Prediction]:
    return {name: Prediction(*map(np.array, one)) for name, one in kept.items()}


def _answered(
    tier: Tier,
    tensors: Mapping[str, Tensor],
    training: Training,
    suite: Suite,
    progress: Callable[[str, int, int], None],
) -> dict[str, bool]:
    material = training.material
    loaded = in_training(tier, tensors, material.tokenizer, material.template)
    turns = [[{"role": "user", "content": item.data["question"]}] for item in suite.items]
    asked = [(encode_chat(loaded.tokenizer, material.template, turn), Sampling(0.0)) for turn in turns]
    end = sorted(loaded.tokenizer.eos_ids)[0]
    said = answers(
        loaded, asked, MAX_TOKENS, end, training.pause, lambda done, all_: progress("tasks", done, all_)
    )
    return {
        item.id: graded(item.id, one.text) is Outcome.SUCCESS
        for item, one in zip(suite.items, said, strict=True)
    }
