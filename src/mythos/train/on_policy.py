"""On-policy distillation: the student goes on with texts in its own words, and learns what the teachers
think of each word.

After generalised knowledge distillation (Agarwal et al. 2023, arXiv 2306.13649), all samples the student's
own, with the reverse KL divergence of MiniLLM (Gu et al. 2023, arXiv 2306.08543) at each place, not through
the sampling. A student trained on others' text alone never sees where its own mistakes lead.

The sampler is the engine, over the very model that is trained: its weights are what they are at that step and
are written nowhere. No decision names them, since nothing of them is registered yet; they follow from the
parents', which the build is allowed to train with, and what they say stays in the process.

Shape letters: R rows of L tokens, T = R * L token rows
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from mythos.engine.request import Sampling
from mythos.model.transformer import Transformer
from mythos.spec.family import Tier
from mythos.train.batch import Batch, Batches, packed_rows
from mythos.train.forward import Trainee
from mythos.train.sample import generated, unregistered

SAMPLED = 4  # the student says the last quarter of a row, or less

Sampler = Callable[[Sequence[Sequence[int]], Sequence[int], int], list[list[int]]]
"""(prompts, a seed for each, tokens at most) -> continuations; without the token that ended one."""


def sampler(
    tier: Tier, model: Transformer, tokenizer: bytes, pause: Callable[[], float] = lambda: 0.0
) -> Sampler:
    """Samples from `model` as it is whenever it is asked, at temperature 1. It computes in bf16.

    `pause` is called before each token, as between batches in `loop.train`.
    """
    loaded = unregistered(tier, model, "training", tokenizer, "")

    def sample(prompts: Sequence[Sequence[int]], seeds: Sequence[int], most: int) -> list[list[int]]:
        asked = [(prompt, Sampling(1.0, seed=one)) for prompt, one in zip(prompts, seeds, strict=True)]
        return [one.tokens for one in generated(loaded, asked, most, pause)]

    return sample


def on_policy(batches: Batches, sample: Sampler, teachers: Sequence[Transformer], seed: int) -> Batches:
    """Rows that begin as those of `batches` do and go on as `sample` says, with what teachers make of that.

    Of each row the document at its third quarter's end is the prompt. A place counts when the student chose
    what follows it, its end included; prompts do not. What a row holds depends on its number, `seed` and the
    student's weights, so a resumed run samples the same; it is no pure function of the number.
    """
    tutors = [Trainee(teacher, compiled=False, recompute=False) for teacher in teachers]

    @torch.no_grad()
    def batch_of(first: int, rows: int) -> Batch:
        given = batches(first, rows).packed
        length = given.tokens_RL.shape[1]
        most = max(1, length // SAMPLED)
        border = length - most
        starts = given.starts_RL[:, border - 1].tolist()
        prompts = [given.tokens_RL[row, start:border].tolist() for row, start in enumerate(starts)]
        said = sample(prompts, [row_seed(seed, first + row) for row in range(rows)], most)
        tokens_RL, positions_RL = (np.zeros((rows, length), np.int64) for _ in range(2))
        weights_RL = torch.zeros(rows, length)
        for row, (prompt, words) in enumerate(zip(prompts, said, strict=True)):
            whole = [*prompt, *words]
            tokens_RL[row, : len(whole)] = whole
            positions_RL[row] = np.arange(length)
            positions_RL[row, len(whole) :] -= len(whole)  # what fills a row up is a document of its own
            weights_RL[row, len(prompt) - 1 : len(whole)] = 1.0
        packed = packed_rows(tokens_RL, positions_RL)
        weights_T1 = weights_RL.flatten()[:, None]
        taught = tuple((tutor.hidden(packed)[0], tutor.head_VD.detach()) for tutor in tutors)
        none_T1 = torch.full(weights_T1.shape, -1)
        return Batch(packed, none_T1, weights_T1, int(weights_T1.sum()), teachers=taught)

    return batch_of


def row_seed(seed: int, row: int) -> int:
    """The seed from which the words of a row are drawn."""
    return int.from_bytes(hashlib.sha256(f"on-policy {seed} {row}".encode()).digest()[:7])
