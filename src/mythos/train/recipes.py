"""How a declared tier is trained: from scratch, on from its parent, pruned from its parent and distilled from
all its parents, or as experts; then its stages.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mythos import __version__
from mythos.data.sources import MIXES, SAFETY
from mythos.model.transformer import Transformer
from mythos.model.weights_dir import TOKENIZER, WeightsFiles
from mythos.records.canonical import canonical
from mythos.records.keyring import Keyring
from mythos.spec.config import ModelConfig
from mythos.spec.family import Tier
from mythos.store.home import Home, private_directory, write_private
from mythos.train.batch import Batch, Batches, mixed
from mythos.train.distil import distilling
from mythos.train.domains import domain_routers
from mythos.train.experts import expand
from mythos.train.on_policy import on_policy, sampler
from mythos.train.prune import channel_importance, layers_to_keep, without_channels, without_layers
from mythos.train.run import Run, Training
from mythos.train.settings import DECAY_SHARE, TrainError, TrainSettings
from mythos.train.stages import CHATS, run_stages, stage_facts, stage_shares
from mythos.train.weights import computing, fresh_model, model_from, plain_tensors, rounding

# Shares of the rows. All four, so that each is learnt a little; the small ones come round often enough.
WEIGHTS = {"coding": 0.35, "reasoning": 0.2, "defence": 0.15, "general": 0.3}
DISTILLED = WEIGHTS | {SAFETY: 0.03}  # a student learns from its first step on what is declined, and how

# One expert each, beside the parent's own MLP.
EXPERT_DOMAINS = ("coding", "reasoning", "defence", "general")
# Of the budget, for each; the rest trains router and experts together. What is learnt alone is of little use,
# so that its steps are small: of a short budget one is made whatever its share.
EXPERT_SHARE, EXPERT_TOKENS = 0.003, 256
# Times the rate, for each expert. Code is what a short training soon overdoes, general text has far to go.
EXPERT_RATES = {"parent": 1.0, "coding": 0.5, "reasoning": 1.0, "defence": 1.0, "general": 2.0}
# Of what the training changed in all that every token passes: outside the experts, and in the parent's own
# MLP. With two MLPs for each token the whole of it moves further than the parent would; to take some back at
# the end is better than to train there at a lower rate.
COMMON_KEPT = 0.7
ROUTER_ROWS = 4  # of each domain, from which the routers begin
# Of the logits they begin with. They say which expert is chosen at any scale; at this one the two that are
# weigh nearly the same, so that the parent's own MLP goes on learning from the text of all domains.
ROUTER_SCALE = 0.1
# The selection bias of the parent's own MLP. Scores are at most 1: every token goes to it, and to one more.
PARENT_BIAS = 10.0
# A step on what a parent knows already teaches little and brings noise: most of the steps decay.
FURTHER_DECAY = 0.6
# Nor is the embedding trained then: every step moves the rows of all words that it did not see, by noise.
FIXED = ("embed.weight",)
MERGED = "merged"  # the subdirectory of that last part
OWN_WORDS = "on-policy"  # the subdirectory of a student's last part


def recipe(tier: Tier, seed: int = 0) -> TrainSettings:
    """The settings under which a tier is trained."""
    options: Mapping[str, Any] = dict(tier.made_by.options)
    small, step = tier.made_by.kind == "pretrain", tier.train
    further = _goes_on(tier)
    return TrainSettings(
        rows=step.rows or (16 if small else 4),
        length=256 if small else 512,
        accumulate=step.accumulate,
        optimiser=options["optimiser"],
        learning_rate=options["learning_rate"],
        expert_rates=tuple(EXPERT_RATES.values()) if _own_rates(tier) else (),
        decay_share=FURTHER_DECAY if further else DECAY_SHARE,
        # Experts of domains are as busy as their domains: to balance them would send text to the wrong one.
        balance=step.balance if tier.config.moe and tier.config.moe.bias and not further else "none",
        recompute=step.recompute,
        seed=seed,
    )


def _goes_on(tier: Tier) -> bool:
    """Whether a tier is all of its parent, and trained on."""
    return tier.made_by.kind in ("experts", "continue")


def _own_rates(tier: Tier) -> bool:
    """Whether it is made of experts that have rates of their own."""
    options: Mapping[str, Any] = dict(tier.made_by.options)
    return tier.made_by.kind == "experts" and options["optimiser"] == "adamw"


def run_facts(tier: Tier, parents: Mapping[str, str], training: Training) -> dict[str, Any]:
    """All that the weights of the tier follow from, as it stands in their lineage. `parents`: their roots."""
    material = training.material
    facts = {
        "config": asdict(tier.config),
        "made_by": {"kind": tier.made_by.kind, **dict(tier.made_by.options)},
        "parents": dict(parents),
        "settings": asdict(recipe(tier, training.seed)),
        "budget": asdict(training.budget),
        "data": {name: material.train[name].digest for name in corpora_of(tier)},
        "weights": _weights(tier),
        "experts": _expert_facts() if tier.made_by.kind == "experts" else {},
        "rounding": rounding(tier),
        "fixed": FIXED if _goes_on(tier) else (),
        "code": f"mythos {__version__}",
        "torch": str(torch.__version__),
    }
    if stages := stage_facts(tier, recipe(tier, training.seed)):
        facts["stages"] = stages
    return json.loads(json.dumps(facts))  # as it is read back: no tuples


def _expert_facts() -> dict[str, Any]:
    return {
        "mixes": {name: MIXES[name] for name in EXPERT_DOMAINS},
        "share": EXPERT_SHARE,
        "tokens": EXPERT_TOKENS,
        "rates": EXPERT_RATES,
        "common_kept": COMMON_KEPT,
        "router_rows": ROUTER_ROWS,
        "router_scale": ROUTER_SCALE,
        "parent_bias": PARENT_BIAS,
    }


def corpora_of(tier: Tier) -> list[str]:
    """The corpora that a tier is trained on, in the order of their names."""
    return sorted({*_weights(tier), *(CHATS if "sft" in stage_shares(tier) else ())})


def _weights(tier: Tier) -> Mapping[str, float]:
    return DISTILLED if tier.made_by.kind == "distil" else WEIGHTS


def run_directory(home: Home, tier: Tier, facts: Mapping[str, Any]) -> Path:
    """Where the run of these facts lies: another budget or other data is another run."""
    return (
        home.path / "runs" / f"{tier.family}-{tier.name}-{hashlib.sha256(canonical(facts)).hexdigest()[:12]}"
    )


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
    for name in corpora_of(tier):
        corpus = training.material.train[name]
        if corpus.vocab_size > tier.config.vocab:
            raise TrainError(
                f"The corpus {name} has {corpus.vocab_size} tokens, {tier.name} knows {tier.config.vocab}.",
                "Build the corpora with the family's own tokenizer.",
            )
    for name, files in parents.items():
        if files.files[TOKENIZER] != training.material.tokenizer:
            raise TrainError(
                f"{name} has another tokenizer than the data of {tier.family}.",
                "Give the family one tier that is fetched, or the same tokenizer to all.",
            )
    run = _run(home, keyring, tier, parents, training)
    private_directory(run.place.parent)
    private_directory(run.place)
    return run_stages(run, tier, _first(run, tier, parents, progress), progress)


def _run(
    home: Home, keyring: Keyring, tier: Tier, parents: Mapping[str, WeightsFiles], training: Training
) -> Run:
    facts = run_facts(tier, {name: files.root for name, files in parents.items()}, training)
    return Run(run_directory(home, tier, facts), keyring, recipe(tier, training.seed), training, facts)


def _first(
    run: Run,
    tier: Tier,
    parents: Mapping[str, WeightsFiles],
    progress: Callable[[str, int, int], None],
) -> dict[str, Tensor]:
    """The tier before its stages, with the share of the budget that they leave."""
    share = 1 - sum(stage_shares(tier).values())
    if tier.made_by.kind == "pretrain":
        model = fresh_model(tier.config, run.settings.seed)
        batches = mixed(run.training.material.train, WEIGHTS, run.settings)
        return run.train(model, batches, share=share)
    plain = {name: plain_tensors(files.tensors) for name, files in parents.items()}
    if tier.made_by.kind == "continue":
        return _continued(run, tier, parents, plain, share)
    if tier.made_by.kind == "experts":
        ((name, files),) = parents.items()
        return _experts(run, tier, files.config, plain[name], share)
    return _distilled(run, tier, parents, plain, share, progress)


def _continued(
    run: Run,
    tier: Tier,
    parents: Mapping[str, WeightsFiles],
    plain: Mapping[str, dict[str, Tensor]],
    share: float,
) -> dict[str, Tensor]:
    """All of its one parent, trained on."""
    ((name, files),) = parents.items()
    if files.config != tier.config:
        raise TrainError(
            f"{tier.name} goes on from {name} and has another shape.", "Correct the family file."
        )
    batches = mixed(run.training.material.train, WEIGHTS, run.settings)
    return plain[name] | run.train(_to_go_on(tier.config, plain[name]), batches, share=share)


def _to_go_on(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Transformer:
    model = model_from(config, tensors)
    for name in FIXED:
        model.get_parameter(name).requires_grad_(False)
    return model


def _experts(
    run: Run, tier: Tier, dense: ModelConfig, plain: dict[str, Tensor], share: float
) -> dict[str, Tensor]:
    """The parent's MLP, and one trained from it on each domain, behind routers that know the domains; then
    all of it trained on the mix.

    After Branch-Train-MiX (arXiv 2403.07816): what lies outside the MLPs is the mean of what the domains made
    of it. Routers begin as classifiers of the domains (`domains`); TrainError when they have no selection
    bias.
    """
    assert tier.config.moe is not None
    if not tier.config.moe.bias:
        raise TrainError(
            f"The routers of {tier.name} have no selection bias, by which its parent's MLP sees every token.",
            "Set bias = true beside its number of experts in the family file.",
        )
    corpora, settings, sources = run.training.material.train, run.settings, [plain]
    for domain in EXPERT_DOMAINS:
        own = _alone(settings, domain)
        batches, model = mixed(corpora, MIXES[domain], own), _to_go_on(dense, plain)
        # A step or a few: to compile for them takes longer, and the first compiled step would not count.
        alone = replace(run, settings=own, training=replace(run.training, compiled=False))
        sources.append(plain | alone.train(model, batches, domain, share * EXPERT_SHARE))
    merged = _merged(run, tier, dense, plain, sources)
    sources.clear()  # models that nobody needs while a larger one is trained
    share *= 1 - EXPERT_SHARE * len(EXPERT_DOMAINS)
    batches = mixed(corpora, WEIGHTS, settings)  # the rows that the parent trained on, its control, would see
    model, fixed = _to_go_on(tier.config, merged), {name: merged[name] for name in FIXED}
    merged.clear()  # as little as the sources
    return _partly_back(fixed | run.train(model, batches, MERGED, share), plain, tier.config)


def _partly_back(
    trained: dict[str, Tensor], plain: Mapping[str, Tensor], config: ModelConfig
) -> dict[str, Tensor]:
    """What every token passes between what it was and what it became (after Wortsman et al. 2021,
    arXiv 2109.01903, who do so with all of a model).
    """
    back = dict(trained)
    for name, was in expand(plain, config).items():
        if ".experts." in name:  # the first is the parent's own
            own, others = trained[name][:1], trained[name][1:]
            back[name] = torch.cat([torch.lerp(was[:1], own, COMMON_KEPT), others])
        elif ".mlp." not in name:
            back[name] = torch.lerp(was, trained[name], COMMON_KEPT)
    return back


def _alone(settings: TrainSettings, domain: str) -> TrainSettings:
    """Those of the domain's expert while it is a model of its own: a short row a step, its own rate."""
    rate = settings.learning_rate * (EXPERT_RATES[domain] if settings.expert_rates else 1.0)
    length = min(settings.length, EXPERT_TOKENS)
    return replace(
        _other_rows(settings), rows=1, accumulate=1, length=length, learning_rate=rate, expert_rates=()
    )


def _other_rows(settings: TrainSettings) -> TrainSettings:
    """Of other rows than those that all of it is trained on later."""
    return replace(settings, seed=settings.seed + 1)


def _merged(
    run: Run, tier: Tier, dense: ModelConfig, plain: dict[str, Tensor], sources: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The parent, first in `sources`, and the models of the domains as one; before it is trained."""
    between = {
        name: torch.stack([of[name] for of in sources[1:]]).mean(0) for name in plain if ".mlp." not in name
    }
    merged = expand(plain | between, tier.config, sources)
    corpora, settings = run.training.material.train, _other_rows(run.settings)
    known = [mixed(corpora, {name: 1.0}, settings)(0, ROUTER_ROWS) for name in EXPERT_DOMAINS]
    routers = domain_routers(computing(model_from(dense, plain)), known)
    for layer, weight_ED in enumerate(routers):
        gate = f"layers.{layer}.mlp.gate"
        own_D = torch.zeros(1, dense.width)  # chosen by its bias, whatever the token
        merged[f"{gate}.weight"] = torch.cat([own_D, weight_ED * ROUTER_SCALE])
        merged[f"{gate}.e_score_correction_bias"] = torch.tensor([PARENT_BIAS] + [0.0] * len(EXPERT_DOMAINS))
    return merged


def _distilled(
    run: Run,
    tier: Tier,
    parents: Mapping[str, WeightsFiles],
    plain: Mapping[str, dict[str, Tensor]],
    share: float,
    progress: Callable[[str, int, int], None],
) -> dict[str, Tensor]:
    """Layers of the first parent, taught by all of them."""
    teachers = [
        computing(model_from(files.config, plain[name])).requires_grad_(False)
        for name, files in parents.items()
    ]
    batches = mixed(run.training.material.train, DISTILLED, run.settings)
    name, first = next(iter(parents.items()))
    tensors = _pruned(run, tier, name, first.config, teachers[0], plain[name], batches, progress)
    student = model_from(tier.config, tensors)
    options: Mapping[str, Any] = dict(tier.made_by.options)
    own = options.get("on_policy", 0.0)
    if own < 1:
        taught = distilling(batches, teachers, options["truth"], run.place / "teacher", run.keyring)
        tensors = run.train(student, taught, share=share * (1 - own))
    if own > 0:
        student = model_from(tier.config, tensors)
        sample = sampler(tier, student, run.training.material.tokenizer, run.training.pause)
        spoken = on_policy(batches, sample, teachers, run.settings.seed)
        tensors = run.train(student, spoken, OWN_WORDS, share * own)
    return tensors


def pruned_tensors(
    home: Home,
    keyring: Keyring,
    tier: Tier,
    parents: Mapping[str, WeightsFiles],
    training: Training,
    progress: Callable[[str, int, int], None],
) -> dict[str, Tensor]:
    """What a distilled tier began with, float32: its first parent with the layers that its run kept."""
    run = _run(home, keyring, tier, parents, training)
    name, first = next(iter(parents.items()))
    plain = plain_tensors(first.tensors)
    teacher = computing(model_from(first.config, plain)).requires_grad_(False)
    batches = mixed(training.material.train, DISTILLED, run.settings)
    return _pruned(run, tier, name, first.config, teacher, plain, batches, progress)


def _pruned(
    run: Run,
    tier: Tier,
    name: str,
    first: ModelConfig,
    teacher: Transformer,
    plain: dict[str, Tensor],
    batches: Batches,
    progress: Callable[[str, int, int], None],
) -> dict[str, Tensor]:
    """The teacher with as many layers, and inner channels, as the tier has."""
    if replace(first, layers=tier.config.layers, ffn=tier.config.ffn) != tier.config:
        raise TrainError(
            f"{tier.name} differs from {name} in more than layers and ffn.", "Correct the family file."
        )
    keep = _layers(run.place, teacher, tier.config.layers, batches, progress)
    tensors = without_layers(plain, keep)
    if tier.config.ffn < first.ffn:
        shallow = model_from(replace(first, layers=tier.config.layers), tensors)
        tensors = without_channels(tensors, channel_importance(shallow, [batches(0, 4)]), tier.config.ffn)
    return tensors


def _layers(
    run: Path, teacher: Transformer, keep: int, batches: Batches, progress: Callable[[str, int, int], None]
) -> list[int]:
    """Which of the teacher's layers the student begins with; measured once in a run."""
    place = run / "layers.json"
    if not place.exists():
        sample = [_with_targets(batches)]
        kept = layers_to_keep(teacher, keep, sample, lambda done, total: progress("prune", done, total))
        write_private(place, json.dumps(kept).encode(), replace=True)
    return json.loads(place.read_bytes())


def _with_targets(batches: Batches) -> Batch:
    """The first two rows with a target in every fourth place: a row of questions may have hardly any."""
    for first in range(0, 2000, 2):
        batch = batches(first, 2)
        if batch.count * 4 >= batch.targets_TA.shape[0]:
            return batch
    raise TrainError("The text has too little to learn.", "Give plain text, or longer answers.")
