"""Learning from pairs of answers without a reward model: direct preference optimisation.

Rafailov et al. 2023, arXiv 2305.18290. The loss of a pair is -log sigmoid(m), where the margin m is beta
times how much more than the reference, the model before this stage, the model prefers the better answer. Its
gradient is that of cross-entropy in which each token of the better answer has the weight beta * sigmoid(-m)
and each of the other -beta * sigmoid(-m) (section 4): a choice of targets and weights like any other.

Shape letters: R rows of L tokens, T = R * L token rows, D width, V vocabulary, P pairs
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mythos.data.mix import IGNORED
from mythos.data.pack import order, pack
from mythos.model.transformer import Transformer
from mythos.train.batch import Batch, Batches, Preference, packed_rows
from mythos.train.critique import Pair
from mythos.train.forward import Trainee
from mythos.train.loss import weighted_cross_entropy
from mythos.train.quality import token_losses

BETA = 0.1
AT_ONCE = 4  # rows of the reference's pass


@dataclass(frozen=True, slots=True)
class PackedPairs:
    """Rows of `length` tokens: the pairs of each, by number, both answers of a pair in the same row.

    `end_id` fills a row up. Pairs that are longer than a row are in none.
    """

    pairs: Sequence[Pair]
    rows: Sequence[Sequence[int]]
    length: int
    end_id: int


def packed_pairs(pairs: Sequence[Pair], length: int, end_id: int) -> PackedPairs:
    """As many pairs in a row as fit. Each answer stands behind a prompt of its own, as a document."""
    sizes = [2 * (len(pair.prompt) - 1) + len(pair.chosen) + len(pair.rejected) for pair in pairs]
    return PackedPairs(pairs, pack(sizes, length), length, end_id)


def preferring(packed: PackedPairs, reference_P: Tensor, beta: float, seed: int) -> Batches:
    """Batches of the pairs; `reference_P` as of `gaps`. Each epoch has an order of rows of its own."""

    def batches(first: int, rows: int) -> Batch:
        numbers = []
        for number in range(first, first + rows):
            epoch, place = divmod(number, len(packed.rows))
            numbers.append(int(order(f"{seed}/pairs/{epoch}", len(packed.rows))[place]))
        return _batch(packed, numbers, reference_P, beta)

    return batches


def preference_loss(x_TD: Tensor, head_VD: Tensor, batch: Batch, compiled: bool = False) -> Tensor:
    """Sum over the pairs of -log sigmoid(margin), in fp32, with the gradient that goes with it."""
    of = batch.preference
    assert of is not None
    margin_P = _margins(x_TD, head_VD, batch)
    push_P = of.beta * torch.sigmoid(-margin_P)
    weights_T1 = (push_P[of.pair_T] * of.side_T)[:, None]
    pushed = weighted_cross_entropy(x_TD, head_VD, batch.targets_TA, weights_T1, compiled)
    return pushed + (-F.logsigmoid(margin_P).sum() - pushed).detach()


@torch.no_grad()
def margins(model: Transformer, packed: PackedPairs, reference_P: Tensor, beta: float) -> Tensor:
    """(P,) the margin of each pair; of one that is in no row not a number."""
    trainee, found_P = (
        Trainee(model, compiled=False, recompute=False),
        torch.full_like(reference_P, torch.nan),
    )
    for start in range(0, len(packed.rows), AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, len(packed.rows)))
        batch = _batch(packed, numbers, reference_P, beta)
        x_TD, _ = trainee.hidden(batch.packed)
        pairs = [pair for number in numbers for pair in packed.rows[number]]
        found_P[pairs] = _margins(x_TD, trainee.head_VD, batch)
    return found_P


def gaps(model: Transformer, packed: PackedPairs) -> Tensor:
    """(P,) how much more log-likelihood, in nats, the model gives to the preferred answer of each pair."""
    return margins(model, packed, torch.zeros(len(packed.pairs)), 1.0)


def _margins(x_TD: Tensor, head_VD: Tensor, batch: Batch) -> Tensor:
    of = batch.preference
    assert of is not None
    losses_T = token_losses(x_TD, head_VD, batch.targets_TA[:, 0])
    gap_P = torch.zeros_like(of.reference_P).index_add(0, of.pair_T, -of.side_T * losses_T)
    return of.beta * (gap_P - of.reference_P)


def _batch(packed: PackedPairs, numbers: Sequence[int], reference_P: Tensor, beta: float) -> Batch:
    """The rows of these numbers; its pairs in the order in which they stand there."""
    shape = (len(numbers), packed.length)
    tokens, positions = np.full(shape, packed.end_id), np.zeros(shape, np.int64)
    targets, sides, places = np.full(shape, IGNORED), np.zeros(shape, np.float32), np.zeros(shape, np.int64)
    pairs: list[int] = []
    for row, number in enumerate(numbers):
        at = 0
        for index in packed.rows[number]:
            pair = packed.pairs[index]
            for side, answer in ((1, pair.chosen), (-1, pair.rejected)):
                ids = np.array((*pair.prompt, *answer))
                here, learnt = (
                    slice(at, at + len(ids) - 1),
                    slice(at + len(pair.prompt) - 1, at + len(ids) - 1),
                )
                tokens[row, here], positions[row, here] = ids[:-1], np.arange(len(ids) - 1)
                targets[row, learnt], sides[row, learnt] = answer, side
                places[row, learnt] = len(pairs)
                at += len(ids) - 1
            pairs.append(index)
        positions[row, at:] = np.arange(packed.length - at)
    targets_TA = torch.from_numpy(targets).flatten()[:, None]
    preference = Preference(
        torch.from_numpy(sides).flatten(), torch.from_numpy(places).flatten(), reference_P[pairs], beta
    )
    ones_TA = torch.ones(targets_TA.shape)
    return Batch(packed_rows(tokens, positions), targets_TA, ones_TA, len(pairs), preference)
