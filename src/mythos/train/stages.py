"""What comes after a tier has its knowledge: conversations (`sft`), then pairs of answers (`dpo`)."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from mythos.data.chat import encode_chat
from mythos.data.encode import encode_conversation, text_end
from mythos.data.safety import exchanges, exchanges_sha256
from mythos.data.sources import SAFETY
from mythos.data.tokenizer import Tokenizer
from mythos.engine.request import Sampling
from mythos.spec.family import STAGES, Tier
from mythos.store.home import private_directory, write_private
from mythos.train.batch import mixed
from mythos.train.checkpoint import Checkpoint, load, save
from mythos.train.critique import Answer, Pair, critics_sha256, pairs_of
from mythos.train.preference import BETA, PackedPairs, gaps, margins, packed_pairs, preferring
from mythos.train.run import Run
from mythos.train.sample import answers, in_training
from mythos.train.settings import TrainSettings
from mythos.train.weights import computing, model_from

Progress = Callable[[str, int, int], None]

# Shares of the rows of conversations: the domains that have any, and our own exchanges.
CHATS = {"coding": 0.3, "reasoning": 0.3, "defence": 0.2, SAFETY: 0.2}
RATES = {"sft": 0.25, "dpo": 0.02}  # of the tier's learning rate; by AdamW, whatever the tier's optimiser
WARMUP = 5  # steps: stages are short

MOST = 96  # tokens of an answer that is critiqued
ANSWERS = (Sampling(0.0), Sampling(0.8, 0.95))  # to each prompt
OUTCOME = "outcome.json"


def stage_shares(tier: Tier) -> dict[str, float]:
    """The stages of a tier and their shares of its budget."""
    options: Mapping[str, Any] = dict(tier.made_by.options)
    return {stage: float(options[stage]) for stage in STAGES if stage in options}


def stage_settings(settings: TrainSettings, stage: str) -> TrainSettings:
    """Those of the stage, from the tier's own. On pairs experts are chosen as when the tier serves: so they
    were for the reference.
    """
    rate = settings.learning_rate * RATES[stage]
    balance = "none" if stage == "dpo" else settings.balance
    return replace(settings, optimiser="adamw", learning_rate=rate, warmup_steps=WARMUP, balance=balance)


def stage_facts(tier: Tier, settings: TrainSettings) -> dict[str, Any]:
    """What the weights of the tier's stages follow from beside text, budget and code."""
    facts: dict[str, Any] = {}
    for stage in stage_shares(tier):
        facts[stage] = {"settings": asdict(stage_settings(settings, stage))}
    if "sft" in facts:
        facts["sft"]["mix"] = CHATS
    if "dpo" in facts:
        facts["dpo"] |= {
            "beta": BETA,
            "exchanges": exchanges_sha256(),
            "critics": critics_sha256(),
            "answers": [asdict(one) for one in ANSWERS],
            "most": MOST,
        }
    return facts


def run_stages(run: Run, tier: Tier, tensors: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
    """`tensors` (float32) after the tier's stages; each has a subdirectory of the run."""
    shares = stage_shares(tier)
    if "sft" in shares:
        of = replace(run, settings=stage_settings(run.settings, "sft"))
        batches = mixed(run.training.material.train, CHATS, of.settings, whole=True)
        tensors = tensors | of.train(model_from(tier.config, tensors), batches, "sft", shares["sft"])
    if "dpo" in shares:
        of = replace(run, settings=stage_settings(run.settings, "dpo"))
        packed, reference_P = _pairs(of, tier, tensors, progress)
        if packed.rows:
            batches = preferring(packed, reference_P, BETA, of.settings.seed)
            tensors = tensors | of.train(model_from(tier.config, tensors), batches, "dpo", shares["dpo"])
        _tell(of, tier, tensors, packed, reference_P)
    return tensors


def _pairs(
    run: Run, tier: Tier, tensors: Mapping[str, Tensor], progress: Progress
) -> tuple[PackedPairs, Tensor]:
    """Pairs of answers of these weights and their reference, made once in a run and kept, sealed."""
    place, length = run.place / "pairs", run.settings.length
    end_id = text_end(Tokenizer.from_bytes(run.training.material.tokenizer))
    found = load(place, run.keyring)
    if found is None:
        pairs = _made(run, tier, tensors, progress)
        packed = packed_pairs(pairs, length, end_id)
        model = computing(model_from(tier.config, tensors))
        found = Checkpoint({"pairs": [asdict(one) for one in pairs]}, {"reference": gaps(model, packed)})
        private_directory(place)
        save(place, run.keyring, found)
    made = [
        Pair(of["exchange"], of["principle"], tuple(of["prompt"]), tuple(of["chosen"]), tuple(of["rejected"]))
        for of in found.facts["pairs"]
    ]
    return packed_pairs(made, length, end_id), found.tensors["reference"]


def _made(run: Run, tier: Tier, tensors: Mapping[str, Tensor], progress: Progress) -> list[Pair]:
    """The tier answers each prompt itself, and its answers are critiqued beside the one that we wrote."""
    material = run.training.material
    loaded = in_training(tier, tensors, material.tokenizer, material.template)
    asked = exchanges()
    prompts, written = [], []
    for one in asked:
        turns = [{"role": "user", "content": one.text}, {"role": "assistant", "content": one.answer}]
        prompt = encode_chat(loaded.tokenizer, material.template, turns[:1])
        whole = encode_conversation(loaded.tokenizer, material.template, turns)
        learnt = tuple(token for token, yes in zip(whole.ids, whole.trained, strict=True) if yes)
        prompts.append(prompt)
        written.append(Answer(learnt, one.answer, ended=True))
    wanted = [(prompt, replace(how, seed=number)) for how in ANSWERS for number, prompt in enumerate(prompts)]
    end = written[0].tokens[-1]
    said = answers(
        loaded, wanted, MOST, end, run.training.pause, lambda done, all_: progress("answers", done, all_)
    )
    pairs = []
    for number, one in enumerate(asked):
        own = said[number :: len(asked)]
        pairs += pairs_of(one, prompts[number], own, written[number])
    return pairs


def _tell(
    run: Run, tier: Tier, tensors: Mapping[str, Tensor], packed: PackedPairs, reference_P: Tensor
) -> None:
    """Writes what became of the pairs: how many of which principle, and of how many the order is right."""
    place = run.place / "dpo"
    private_directory(place)
    margin_P = margins(computing(model_from(tier.config, tensors)), packed, reference_P, BETA)
    used = int((~margin_P.isnan()).sum())
    outcome = {
        "pairs": used,
        "too_long": len(packed.pairs) - used,
        "principles": dict(sorted(Counter(pair.principle for pair in packed.pairs).items())),
        "in_order": int((torch.nan_to_num(margin_P) > 0).sum()),
    }
    write_private(place / OUTCOME, json.dumps(outcome).encode(), replace=True)
