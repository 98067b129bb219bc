"""How well a model predicts held-out text, in bits per byte, and how surely one does it better than another.

Shape letters: T token rows, D width, V vocabulary, N documents
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mythos.model.transformer import Transformer
from mythos.train.forward import Packed, Trainee
from mythos.train.loss import CHUNK

RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows of held-out text. `documents_RL` says which document (from 0) a target belongs to."""

    packed: Packed
    targets_RL: Tensor
    documents_RL: Tensor


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model makes of held-out documents: nats spent on each, and the UTF-8 bytes of each,
    both (N,).
    """

    nats_N: np.ndarray
    bytes_N: np.ndarray

    @property
    def bits_per_byte(self) -> float:
        return float(self.nats_N.sum() / math.log(2) / self.bytes_N.sum())


@torch.no_grad()
def token_losses(x_TD: Tensor, head_VD: Tensor, targets_T: Tensor) -> Tensor:
    """(T,) fp32 nats of each target; 0 where it is below 0."""
    losses = []
    for x_CD, targets_C in zip(x_TD.split(CHUNK), targets_T.split(CHUNK), strict=True):
        logits_CV = (x_CD @ head_VD.T).float()
        loss_C = logits_CV.logsumexp(-1) - logits_CV.gather(-1, targets_C.clamp(min=0)[:, None])[:, 0]
        losses.append(torch.where(targets_C < 0, 0.0, loss_C))
    return torch.cat(losses)


@torch.no_grad()
def predict(model: Transformer, rows: Iterable[HeldOut], bytes_N: np.ndarray) -> Prediction:
    """Scores every held-out target once; a document begins without context, as a prompt does."""
    trainee, nats_N = (
        Trainee(model, compiled=False, recompute=False),
        torch.zeros(len(bytes_N), dtype=torch.float64),
    )
    for part in rows:
        x_TD, _ = trainee.hidden(part.packed)
        losses_T = token_losses(x_TD, trainee.head_VD, part.targets_RL.flatten())
        nats_N.index_add_(0, part.documents_RL.flatten(), losses_T.double())
    return Prediction(nats_N.numpy(), bytes_N)


def paired_interval(better: Prediction, worse: Prediction, seed: int = 0) -> tuple[float, float, float]:
    """(estimate, low, high): bits per byte that `better` saves on the same documents, 95% by bootstrap over
    them.
    """
    saved_N, bytes_N = (worse.nats_N - better.nats_N) / math.log(2), better.bytes_N
    picks = np.random.default_rng(seed).integers(0, len(saved_N), (RESAMPLES, len(saved_N)))
    resampled = saved_N[picks].sum(1) / bytes_N[picks].sum(1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(saved_N.sum() / bytes_N.sum()), float(low), float(high)
