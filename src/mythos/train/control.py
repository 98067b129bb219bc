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
from mythos.store.home import Home, write_private
from mythos.train.ladder import Quality
from mythos.train.loop import METRICS
from mythos.train.quality import RESAMPLES, Prediction, predict
from mythos.train.recipes import recipe, run_directory, run_facts, train_tier
from mythos.train.run import Training
from mythos.train.sample import answers, in_training
from mythos.train.weights import computing, model_from, plain_tensors, served_tensors

MEASURED = "measured.json"
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
    control: Tier,
    parents: Mapping[str, WeightsFiles],
    training: Training,
    suite: Suite,
    progress: Callable[[str, int, int], None],
) -> Measured:
    """Trains the control in a run of its own and measures it as a tier is measured: held-out text and the
    questions of `reasoning_gym`. What was measured is kept; its weights are registered nowhere.
    """
    material, roots = training.material, {name: files.root for name, files in parents.items()}
    place = run_directory(home, control, run_facts(control, roots, training)) / MEASURED
    if not place.exists():
        tensors = train_tier(home, keyring, control, parents, training, progress)
        served = plain_tensors(served_tensors(tensors))
        model = computing(model_from(control.config, served))
        made = {}
        for done, (name, corpus) in enumerate(material.held_out.items()):
            progress(f"measure {control.name}", done, len(material.held_out))
            made[name] = predict(model, corpus)
        right = _answered(control, tensors, training, suite, progress)
        kept = {
            "tokens": tokens_of(place.parent),
            "quality": {name: (one.nats_N.tolist(), one.bytes_N.tolist()) for name, one in made.items()},
            "right": right,
        }
        write_private(place, json.dumps(kept).encode(), replace=True)
    kept = json.loads(place.read_bytes())
    quality = {name: Prediction(*map(np.array, one)) for name, one in kept["quality"].items()}
    return Measured(kept["tokens"], quality, kept["right"])


def more_right(of: Mapping[str, bool], than: Mapping[str, bool], seed: int = 0) -> tuple[float, float, float]:
    """(estimate, low, high): the share of questions answered rightly less the other's, on the questions that
    both were asked; 95% by bootstrap over questions, the same for both.
    """
    names = sorted(of.keys() & than.keys())
    difference_N = np.array([int(of[name]) - int(than[name]) for name in names])
    picks = np.random.default_rng(seed).integers(0, len(names), (RESAMPLES, len(names)))
    low, high = np.quantile(difference_N[picks].mean(1), [0.025, 0.975])
    return float(difference_N.mean()), float(low), float(high)


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
