"""Answers of a model that is being made, by the engine that will serve it, from weights in their served form.

Such a model has no root and no decision yet: it answers the program that trains it, in its own process.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count

import torch
from torch import Tensor

from mythos.data.tokenizer import Tokenizer
from mythos.engine.backend import Eager
from mythos.engine.cache import BLOCK
from mythos.engine.generation import Generation
from mythos.engine.loader import LoadedTier
from mythos.engine.masks import grammar_tokenizer
from mythos.engine.request import Delta, Finish, Lane, Request, Sampling
from mythos.engine.runner import MAX_BATCH, Runner
from mythos.engine.sampling import generator_for
from mythos.engine.sequence import Sequence as Running
from mythos.engine.text import TextStream
from mythos.model.quant import load_served
from mythos.model.transformer import Transformer
from mythos.spec.family import Tier
from mythos.train.critique import Answer
from mythos.train.weights import served_tensors


def in_training(tier: Tier, tensors: Mapping[str, Tensor], tokenizer: bytes, template: str) -> LoadedTier:
    """The float32 `tensors` in their served form, ready for the engine's runner."""
    model = load_served(tier.config, served_tensors(tier, tensors)).eval()
    return unregistered(tier, model, "eager-int8", tokenizer, template)


def unregistered(tier: Tier, model: Transformer, backend: str, tokenizer: bytes, template: str) -> LoadedTier:
    """`model` as it is, which has no root yet, ready for the engine's runner. It computes in bf16."""
    reader = Tokenizer.from_bytes(tokenizer)
    ends = sorted(reader.eos_ids)
    return LoadedTier(
        root="",
        profile="none",
        backend=backend,
        tier=tier,
        model=model,
        tokenizer=reader,
        chat_template=template,
        grammar_tokenizer=grammar_tokenizer(tokenizer, ends),
        eos=torch.tensor(ends),
        dtype=torch.bfloat16,
        bytes=0,
    )


def answers(
    loaded: LoadedTier,
    asked: Sequence[tuple[Sequence[int], Sampling]],
    most: int,
    end: int,
    pause: Callable[[], float],
    report: Callable[[int, int], None],
) -> list[Answer]:
    """One answer of at most `most` tokens to each prompt; `end` is put behind one that ended by itself.

    With greedy sampling or a seed the same weights give the same answers. `pause` is called between steps.
    """
    ended = count(1)
    said = generated(loaded, asked, most, pause, lambda: report(next(ended), len(asked)))
    return [_read(one, end) for one in said]


def generated(
    loaded: LoadedTier,
    asked: Sequence[tuple[Sequence[int], Sampling]],
    most: int,
    pause: Callable[[], float],
    on_end: Callable[[], None] = lambda: None,
) -> list[Running]:
    """What the runner makes of each prompt, at most `most` tokens. `on_end` is called as each ends."""
    longest = max(len(prompt) for prompt, _ in asked) + most
    runner = Runner(loaded, Eager(loaded, min(MAX_BATCH, len(asked)) * -(-longest // BLOCK), b""))
    running = []
    for prompt, sampling in asked:
        made = Running(
            request=Request(tuple(prompt), most, sampling, lane=Lane.BATCH),
            generation=Generation(lambda _: None),
            org="",
            root="",
            decision="",
            text=TextStream(()),
            generator=generator_for(sampling),
            limit=most,
            on_end=lambda _: on_end(),
        )
        running.append(made)
        runner.add(made)
    while runner.busy:
        pause()
        runner.step()
    return running


def _read(done: Running, end: int) -> Answer:
    text, ended = "", False
    for event in done.generation:
        if isinstance(event, Delta):
            text += event.text
        else:
            ended = event.finish is Finish.END
    return Answer((*done.tokens, end) if ended else tuple(done.tokens), text, ended)
