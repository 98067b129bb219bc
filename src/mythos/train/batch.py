"""What a step learns from: packed rows and, for every token, the targets that count and how much.

Every way of training is a choice of targets and weights: the next token (pretraining; answers only in chats),
a teacher's likely tokens.

Shape letters: R rows of L tokens, T = R * L token rows, A targets per token
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mythos.train.forward import Packed


@dataclass(frozen=True, slots=True)
class Batch:
    """Targets below 0 count nothing. The loss of a step is divided by the sum of its batches' `count`."""

    packed: Packed
    targets_TA: Tensor
    weights_TA: Tensor
    count: int


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
