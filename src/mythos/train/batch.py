"""What a step learns from: packed rows and, for every token, the targets that count and how much.

Every way of training is a choice of targets and weights: the next token (pretraining; answers only in chats),
a teacher's likely tokens, the tokens of a preferred and of a rejected answer; or the teachers themselves, on
what the student said.

Shape letters: R rows of L tokens, T = R * L token rows, A targets per token, P pairs
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mythos.data.corpus import Corpus
from mythos.data.mix import Mixture
from mythos.train.forward import Packed
from mythos.train.reverse_kl import Teacher
from mythos.train.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Preference:
    """Pairs of answers: `side_T` is 1 at the targets of the preferred one, -1 at the other's, else 0.

    `pair_T` (int64) says of which pair, `reference_P` how much more log-likelihood the reference gives to the
    preferred answer than to the other.
    """

    side_T: Tensor
    pair_T: Tensor
    reference_P: Tensor
    beta: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Targets below 0 count nothing. The loss of a step is divided by the sum of its batches' `count`.

    With `teachers` nothing is a target: the loss is the reverse KL divergence from them (`reverse_kl`), where
    the weights, (T, 1), are not 0.
    With a `preference` the weights follow from it (`preference.preference_loss`), and pairs are counted.
    """

    packed: Packed
    targets_TA: Tensor
    weights_TA: Tensor
    count: int
    preference: Preference | None = None
    teachers: tuple[Teacher, ...] = ()


def further(batch: Batch, places: int) -> Batch:
    """The batch whose targets are those of the tokens `places` later in the same document, none where there
    is no such token. `count` stays: losses of both are divided by the same number.
    """
    starts_RL = batch.packed.starts_RL
    length = starts_RL.shape[1]
    same_RL = (starts_RL.roll(-places, 1) == starts_RL) & (torch.arange(length) < length - places)
    # A batch is one flat row of rows: what rolls in from the next row is not the same document.
    targets_TA = batch.targets_TA.roll(-places, 0).masked_fill(~same_RL.flatten()[:, None], -1)
    return Batch(batch.packed, targets_TA, batch.weights_TA.roll(-places, 0), batch.count)


Batches = Callable[[int, int], Batch]
"""(first row, number of rows) -> the batch of these rows; a pure function unless it says otherwise."""


def packed_rows(tokens_RL: np.ndarray, positions_RL: np.ndarray) -> Packed:
    """Rows whose positions restart at 0 with every document."""
    tokens, positions = torch.from_numpy(tokens_RL), torch.from_numpy(positions_RL)
    return Packed(tokens, positions, torch.arange(tokens.shape[1]) - positions)


def next_tokens(packed: Packed, targets_RL: np.ndarray) -> Batch:
    """Plain next-token training; targets below 0 are not learnt."""
    targets_TA = torch.from_numpy(targets_RL).flatten()[:, None]
    return Batch(packed, targets_TA, torch.ones(targets_TA.shape), int((targets_TA >= 0).sum()))


def mixed(
    corpora: Mapping[str, Corpus], weights: Mapping[str, float], settings: TrainSettings, whole: bool = False
) -> Batches:
    """Next-token batches of a mix of corpora; with `whole` of whole conversations, of which only the
    assistant's turns are learnt.
    """
    of = {name: corpora[name] for name in weights}
    mixture = Mixture(of, weights, settings.length, settings.seed, whole)

    def batches(first: int, rows: int) -> Batch:
        part = mixture.rows(first, rows)
        return next_tokens(packed_rows(part.tokens, part.positions), part.targets)

    return batches
