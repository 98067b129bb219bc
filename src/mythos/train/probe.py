"""A linear probe on a model's own hidden states: what safeguard profiles are made from.

For each prompt two states are read at one layer: at the prompt's last position, and the mean over the model's
own greedy answer; once for the prompt alone, once where it ends a talk that was harmless until then. A
category's direction separates its prompts to refuse from all prompts to answer, by ridge regression on all of
these. Topics in `HELD_OUT` are never looked at here. The same input gives the same probe.

Shape letters: N prompts, L candidate layers, T tokens of an answer, C categories, D width.
"""

from collections.abc import Callable
from collections.abc import Sequence as Several
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from mythos.data.chat import encode_chat
from mythos.data.prompts import DOMAINS, HELD_OUT, REPLY, Prompt
from mythos.engine.backend import Eager
from mythos.engine.generation import Generation
from mythos.engine.guard import Guard, Watch, states_of
from mythos.engine.loader import LoadedTier
from mythos.engine.request import Lane, Request, Sampling
from mythos.engine.runner import Runner
from mythos.engine.sequence import Sequence
from mythos.engine.text import TextStream
from mythos.model.attention import causal_attend
from mythos.records.profile import Classifier, Profile, packed
from mythos.spec.config import ModelConfig

DEPTHS = (0.5, 0.6, 0.7)  # of the layers that are tried
ANSWER = 32  # tokens
RIDGE = 0.1  # times the width
OVER_REFUSAL = 0.04  # of the training topics' legitimate prompts, out of fold, by the input check
CHECK_EVERY = HOLD_BACK = 8
BATCH = 16
TURNS = 6  # of a talk, at most

Report = Callable[[str, int, int], None]  # phase, done, total


def quiet(phase: str, done: int, total: int) -> None:
    """No report."""


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """`opening_NLD` at the prompt's end; `answers` hold (L, T, D) each."""

    layers: tuple[int, ...]
    opening_NLD: Tensor
    answers: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """`ranking`: for each layer tried, how often a prompt to refuse outscores one to answer (out of fold)."""

    layer: int
    classifiers: tuple[Classifier, ...]
    ranking: dict[int, float]


def train_probe(loaded: LoadedTier, prompts: Several[Prompt], report: Report = quiet) -> Probe:
    """The probe of these weights. Minutes on two cores."""
    known = [p for p in prompts if p.topic not in HELD_OUT]
    turns = [*((p.text,) for p in known), *in_talks(known)]
    return fit_probe(read_states(loaded, encoded(loaded, turns), report=report), [*known, *known])


def profiles_of(probe: Probe, root: str, fallback: str = "") -> tuple[Profile, Profile]:
    """`guarded`, and `trusted-cyber`, for which the cyber category is exempt."""
    common = (root, probe.layer, probe.classifiers, HOLD_BACK, CHECK_EVERY, fallback)
    return Profile("guarded", *common, ()), Profile("trusted-cyber", *common, ("cyber",))


def in_talks(prompts: Several[Prompt]) -> list[tuple[str, ...]]:
    """Each prompt as the last of a user's two to six turns.

    The turns before are prompts to answer, of other domains, and of the same fold: what is left out to choose
    layer and thresholds stays left out.
    """
    folds, talks = _folds(prompts), []
    for i, (prompt, fold) in enumerate(zip(prompts, folds, strict=True)):
        other = [p.text for p, f in zip(prompts, folds, strict=True)
                 if f == fold and p.kind == "answer" and p.domain != prompt.domain]  # fmt: skip
        before = [other[(7 * i + 11 * n) % len(other)] for n in range(1 + i % (TURNS - 1))] if other else []
        talks.append((*before, prompt.text))
    return talks


def encoded(loaded: LoadedTier, talks: Several[Several[str]]) -> list[list[int]]:
    """What a user says in turns, `REPLY` between them, as token ids up to where the answer begins."""
    made = []
    for turns in talks:
        messages = [{"role": "user", "content": turns[0]}]
        for text in turns[1:]:
            messages += [{"role": "assistant", "content": REPLY}, {"role": "user", "content": text}]
        made.append(encode_chat(loaded.tokenizer, loaded.chat_template, messages))
    return made


@torch.inference_mode()
def read_states(
    loaded: LoadedTier, prompts: list[list[int]], answered: bool = True, report: Report = quiet
) -> States:
    """States of each tokenised prompt, and of the answer given to it unless `answered` is False."""
    model, count = loaded.model, loaded.tier.config.layers
    layers = tuple(sorted({max(0, round(depth * count) - 1) for depth in DEPTHS}))
    # An answer that is over at once is read as one more of the prompt's last token.
    added = None
    if answered:
        given = _answers(loaded, prompts, report)
        added = [answer or prompt[-1:] for answer, prompt in zip(given, prompts, strict=True)]
    whole = [(p, p + (added[i] if added else [])) for i, p in enumerate(prompts)]
    opening, answers = [], []
    for start in range(0, len(whole), BATCH):
        part = whole[start : start + BATCH]
        lengths = [len(ids) for _, ids in part]
        with states_of(model.layers, layers) as states:
            model(
                torch.tensor([t for _, ids in part for t in ids]),
                torch.cat([torch.arange(n) for n in lengths]),
                causal_attend(lengths),
                rows=torch.tensor([0]),
            )
        stacked = torch.stack([states[layer].float() for layer in layers])
        for (prompt, _), state_LTD in zip(part, stacked.split(lengths, 1), strict=True):
            opening.append(state_LTD[:, len(prompt) - 1].clone())
            answers.append(state_LTD[:, len(prompt) :].clone())
        report("hidden states", len(opening), len(whole))
    return States(layers, torch.stack(opening), tuple(answers))


def _answers(loaded: LoadedTier, prompts: list[list[int]], report: Report) -> list[list[int]]:
    """Greedy answers, made as the engine makes them."""
    longest = max(map(len, prompts)) + ANSWER
    runner = Runner(loaded, Eager(loaded, 64 * (-(-longest // 64)), b""))
    made, ended = [], count(1)
    for ids in prompts:
        request = Request(tuple(ids), ANSWER, Sampling(0.0), lane=Lane.BATCH)
        unread, text = Generation(lambda _: None), TextStream(())

        def end(_: object) -> None:
            report("answers", next(ended), len(prompts))

        made.append(Sequence(request, unread, "", loaded.root, "", text, None, ANSWER, on_end=end))
        runner.add(made[-1])
    while runner.busy:
        runner.step()
    return [seq.tokens for seq in made]


def fit_probe(states: States, prompts: Several[Prompt]) -> Probe:
    """Layer and thresholds by leaving out one topic of each domain in turn, then directions from all."""
    if any(p.topic in HELD_OUT for p in prompts):
        raise ValueError("a probe may not learn from held-out topics")
    refuse_N = torch.tensor([p.kind == "refuse" for p in prompts])
    folds = _folds(prompts)
    best: tuple[float, int, list[Tensor]] | None = None
    ranking: dict[int, float] = {}
    for index, layer in enumerate(states.layers):
        highest = [torch.zeros(len(prompts), dtype=torch.double) for _ in range(3)]
        for fold in sorted(set(folds)):
            chosen = torch.tensor([f != fold for f in folds])
            weight_CD, bias_C = _directions(states, index, prompts, chosen)
            for n in (~chosen).nonzero()[:, 0].tolist():
                scores = _scores(states, index, n, weight_CD, bias_C)
                for kind in range(3):
                    highest[kind][n] = scores[kind]
        inputs_N = highest[0]
        ranking[layer] = float((inputs_N[refuse_N][:, None] > inputs_N[~refuse_N]).double().mean())
        if best is None or ranking[layer] > best[0]:
            best = ranking[layer], index, highest
    assert best is not None
    _, index, highest = best
    weight_CD, bias_C = _directions(states, index, prompts, torch.ones(len(prompts), dtype=torch.bool))
    allowed = 1 - OVER_REFUSAL
    # Long answers are checked often: nothing any legitimate answer scored may trip the other two checks.
    limits = [
        float(highest[0][~refuse_N].quantile(allowed, interpolation="higher")) + 1e-6,
        *(float(kind[~refuse_N].max()) + 1e-6 for kind in highest[1:]),
    ]
    classifiers = tuple(
        Classifier(category, packed(weight_D.tolist()), float(bias), *limits)
        for category, weight_D, bias in zip(DOMAINS, weight_CD, bias_C, strict=True)
    )
    return Probe(states.layers[index], classifiers, ranking)


def _folds(prompts: Several[Prompt]) -> list[int]:
    """One fold for the first topic of each domain, one for the second, and so on."""
    topics: dict[str, list[str]] = {}
    for p in prompts:
        if p.topic not in topics.setdefault(p.domain, []):
            topics[p.domain].append(p.topic)
    return [topics[p.domain].index(p.topic) for p in prompts]


def _directions(
    states: States, index: int, prompts: Several[Prompt], chosen_N: Tensor
) -> tuple[Tensor, Tensor]:
    """(C, D) and (C): each category's prompts to refuse against all prompts to answer, among the chosen."""
    both_2ND = torch.stack(
        [states.opening_NLD[:, index], torch.stack([a[index].mean(0) for a in states.answers])]
    ).double()
    directions, biases = [], []
    for domain in DOMAINS:
        label_N = torch.tensor([p.kind == "refuse" and p.domain == domain for p in prompts])
        use_N = chosen_N & (label_N | torch.tensor([p.kind == "answer" for p in prompts]))
        x_MD, y_M = both_2ND[:, use_N].flatten(0, 1), label_N[use_N].double().repeat(2)
        mean_D, scale_D = x_MD.mean(0), x_MD.std(0, correction=0) + 1e-3
        z_MD = (x_MD - mean_D) / scale_D
        ridge_MM = RIDGE * z_MD.shape[1] * torch.eye(len(z_MD), dtype=torch.double)
        weight_D = z_MD.T @ torch.linalg.solve(z_MD @ z_MD.T + ridge_MM, y_M - y_M.mean()) / scale_D
        directions.append(weight_D)
        biases.append(y_M.mean() - mean_D @ weight_D)
    return torch.stack(directions), torch.stack(biases)


def _scores(
    states: States, index: int, n: int, weight_CD: Tensor, bias_C: Tensor
) -> tuple[float, float, float]:
    """Prompt n's highest score by the input check, the output checks and the exchange checks."""
    first_C = weight_CD @ states.opening_NLD[n, index].double() + bias_C
    answer_TC = states.answers[n][index].double() @ weight_CD.T + bias_C
    windows = answer_TC.split(CHECK_EVERY)
    ends = [min(i, len(answer_TC)) for i in range(CHECK_EVERY, len(answer_TC) + CHECK_EVERY, CHECK_EVERY)]
    exchange = [(first_C + answer_TC[:end].mean(0)) / 2 for end in ends]
    return (
        float(first_C.max()),
        max(float(window_TC.mean(0).max()) for window_TC in windows),
        max(float(score_C.max()) for score_C in exchange),
    )


def trips(profile: Profile, config: ModelConfig, states: States) -> list[tuple[str, bool] | None]:
    """What the engine's own checks say of each prompt: (category, whether before the answer), or None."""
    guard, index = Guard.of(profile, profile.root, config), states.layers.index(profile.layer)
    found: list[tuple[str, bool] | None] = []
    for opening_LD, answer_LTD in zip(states.opening_NLD, states.answers, strict=True):
        watch = Watch(guard)
        watch.prompt(opening_LD[index])
        at_once = watch.tripped is not None
        for state_D in answer_LTD[index]:
            watch.token(state_D)
        watch.check()
        found.append(None if watch.tripped is None else (watch.tripped[0], at_once))
    return found
