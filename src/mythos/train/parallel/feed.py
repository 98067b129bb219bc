"""What a rank reads of a step: its rows, and of these its tokens.

Shape letters: R rows of L tokens, T token rows of one rank
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mythos.train.batch import Batch, Batches, further
from mythos.train.parallel.mesh import Mesh
from mythos.train.parallel.sequence import own_tokens
from mythos.train.settings import TrainError, TrainSettings


@dataclass(frozen=True, slots=True)
class Ahead:
    """For a prediction module: the tokens it reads, and what follows them."""

    tokens_T: Tensor
    targets_T: Tensor
    weights_T: Tensor


@dataclass(frozen=True, slots=True)
class Feed:
    """One micro-batch. Targets below 0 count nothing."""

    tokens_T: Tensor
    positions_T: Tensor
    starts_RL: Tensor
    targets_T: Tensor
    weights_T: Tensor
    ahead: Sequence[Ahead]


def feed(batch: Batch, mesh: Mesh, mtp: int, device: str) -> Feed:
    """A rank's tokens of a batch of next tokens, on the device."""
    if batch.preference is not None or batch.teachers or batch.targets_TA.shape[1] != 1:
        raise TrainError(
            "A mesh trains on next tokens only.", "Leave distillation and stages to one process."
        )
    packed, (cp, rank) = batch.packed, (mesh.shape.cp, mesh.at.cp)
    shape = packed.tokens_RL.shape

    def own(x: Tensor) -> Tensor:
        return own_tokens(x.view(shape), cp, rank).flatten().to(device)

    later = [further(batch, places) for places in range(1, mtp + 1)]
    return Feed(
        own(packed.tokens_RL),
        own(packed.positions_RL),
        own_tokens(packed.starts_RL, cp, rank).to(device),
        own(batch.targets_TA),
        own(batch.weights_TA),
        [
            Ahead(own(packed.tokens_RL.roll(-depth, 1)), own(one.targets_TA), own(one.weights_TA))
            for depth, one in enumerate(later, 1)
        ],
    )


def step_feeds(
    batches: Batches, step: int, settings: TrainSettings, mesh: Mesh, mtp: int, device: str = "cpu"
) -> list[Feed]:
    """The micro-batches of this rank in a step (from 0), which the replicas share out row by row."""
    replicas, replica = mesh.shape.replicas, mesh.at.dp * mesh.shape.ep + mesh.at.ep
    first = step * settings.step_rows * replicas
    return [
        feed(batches(first + (part * replicas + replica) * settings.rows, settings.rows), mesh, mtp, device)
        for part in range(settings.accumulate)
    ]


def even_feed(settings: TrainSettings, mesh: Mesh, mtp: int, vocab: int) -> Feed:
    """A micro-batch for a trace: one document a row, tokens that do not matter."""
    tokens_RL = (torch.arange(settings.rows * settings.length) % vocab).view(settings.rows, settings.length)
    positions_RL = torch.arange(settings.length).expand(settings.rows, -1).contiguous()
    cp, rank = mesh.shape.cp, mesh.at.cp

    def own(x: Tensor) -> Tensor:
        return own_tokens(x, cp, rank).flatten()

    tokens_T = own(tokens_RL)
    ones_T = torch.ones(tokens_T.shape)
    starts_RL = own_tokens(torch.zeros_like(tokens_RL), cp, rank)
    ahead = [Ahead(tokens_T, tokens_T, ones_T) for _ in range(mtp)]
    return Feed(tokens_T, own(positions_RL), starts_RL, tokens_T, ones_T, ahead)
