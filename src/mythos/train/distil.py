"""Distillation from one teacher or several: their likely next tokens, kept on disk, as the student's targets.

Shape letters: R rows of L tokens, T = R * L token rows, V vocabulary, A targets per token, N blocks of a row
of logits
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mythos.model.transformer import Transformer
from mythos.records.keyring import Keyring
from mythos.train.batch import Batch, Batches
from mythos.train.checkpoint import Checkpoint, load, save
from mythos.train.forward import Trainee
from mythos.train.loss import CHUNK

TOP = 64  # teacher's tokens kept of each place
BLOCK = 128  # logits of a block in the first stage of the search


def top_logits(logits_TV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(values, indices) of the `count` largest of each row, as `torch.topk` but faster for long rows.

    Exact: the `count` largest lie in the `count` blocks with the largest maxima, so only these are searched.
    """
    rows, vocab = logits_TV.shape
    if vocab % BLOCK or vocab // BLOCK <= count:
        return logits_TV.topk(count, -1)
    blocks_TNB = logits_TV.unflatten(-1, (-1, BLOCK))
    best_TA = blocks_TNB.amax(-1).topk(count, -1, sorted=False).indices
    among = blocks_TNB.gather(1, best_TA[..., None].expand(-1, -1, BLOCK))
    values_TA, places_TA = among.flatten(1).topk(count, -1)
    block_TA = best_TA.gather(-1, places_TA // BLOCK)
    return values_TA, block_TA * BLOCK + places_TA % BLOCK


@torch.no_grad()
def likely_tokens(teachers: Sequence[Transformer], batch: Batch) -> tuple[Tensor, Tensor]:
    """The TOP most likely tokens (T, A) int64 of each place and their probabilities, summing to one.

    Of several teachers the mean of their probabilities counts.
    """
    hidden = []
    for teacher in teachers:
        trainee = Trainee(teacher, compiled=False, recompute=False)
        hidden.append((trainee.hidden(batch.packed)[0], trainee.head_VD))
    indices, shares = [], []
    for start in range(0, len(batch.targets_TA), CHUNK):
        logits = [(x_TD[start : start + CHUNK] @ head_VD.T).float() for x_TD, head_VD in hidden]
        if len(logits) == 1:
            values_CA, indices_CA = top_logits(logits[0], TOP)
        else:
            mean_CV = torch.stack([one.softmax(-1) for one in logits]).mean(0)
            values_CA, indices_CA = top_logits(mean_CV.log(), TOP)
        indices.append(indices_CA)
        shares.append(values_CA.softmax(-1))
    return torch.cat(indices), torch.cat(shares)


def distilling(
    batches: Batches, teachers: Sequence[Transformer], truth: float, cache: Path, keyring: Keyring
) -> Batches:
    """`batches` with the teachers' likely tokens as targets, and the true next token with the share `truth`.

    What the teachers said is kept in `cache`, sealed, and asked for once: epochs and resumed runs read it.
    Places where the batch has no target have none of the teachers' either.
    """

    def batch_of(first: int, rows: int) -> Batch:
        batch, place = batches(first, rows), cache / f"{first}-{rows}"
        found = load(place, keyring)
        if found is None or found.facts != {"first": first, "rows": rows}:
            indices_TA, shares_TA = likely_tokens(teachers, batch)
            kept = {"tokens": indices_TA.to(torch.int32), "shares": shares_TA.to(torch.float16)}
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = Checkpoint({"first": first, "rows": rows}, kept)
            save(place, keyring, found)
        counted_T1 = batch.targets_TA[:, :1] >= 0
        indices_TA = torch.where(counted_T1, found.tensors["tokens"].long(), -1)
        shares_TA = found.tensors["shares"].float() * (1 - truth)
        targets_TA = torch.cat((batch.targets_TA, indices_TA), -1)
        return Batch(
            batch.packed, targets_TA, torch.cat((batch.weights_TA * truth, shares_TA), -1), batch.count
        )

    return batch_of
