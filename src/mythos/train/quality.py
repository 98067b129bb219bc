"""How well a model predicts held-out text, in bits per byte.

Shape letters: T token rows, D width, V vocabulary, N documents
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mythos.data.corpus import Corpus
from mythos.data.mix import held_out
from mythos.model.transformer import Transformer
from mythos.train.batch import packed_rows
from mythos.train.forward import Trainee
from mythos.train.loss import CHUNK

RESAMPLES = 2_000
LENGTH, ROWS = 256, 16  # of a row, and of a batch, of held-out text
MOST = 25_000  # tokens of a domain, or nearly so: a large model reads them in minutes


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
def predict(model: Transformer, corpus: Corpus) -> Prediction:
    """Scores held-out documents, each target once; a document begins without context, as a prompt does.

    Of a corpus of more than MOST tokens, each second, third, ... document.
    """
    every = -(-len(corpus.tokens) // MOST)
    trainee = Trainee(model, compiled=False, recompute=False)
    nats_N = torch.zeros(len(corpus.ends), dtype=torch.float64)
    for rows, documents_RL in held_out(corpus, LENGTH, ROWS, every):
        x_TD, _ = trainee.hidden(packed_rows(rows.tokens, rows.positions))
        losses_T = token_losses(x_TD, trainee.head_VD, torch.from_numpy(rows.targets).flatten())
        # What fills a row up belongs to no document and has no targets: it adds 0 to the first.
        nats_N.index_add_(0, torch.from_numpy(documents_RL).flatten().clamp(min=0), losses_T.double())
    return Prediction(nats_N.numpy()[::every], np.asarray(corpus.bytes)[::every])
