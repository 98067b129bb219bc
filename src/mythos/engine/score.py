"""Log-likelihood of continuations, under a permit.

Shape letters: T rows of one pass, C rows whose next token is scored, V vocabulary.

A prefix and its continuations are one pass: the prefix is computed once, and a continuation sees the prefix
and itself. What else is scored plays no part, so a group has the same numbers each time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mythos.engine.engine import Engine
from mythos.engine.request import InvalidRequest
from mythos.model.attention import Attend
from mythos.records.permit import Permit


def _tree_attend(prefix: int, lengths: list[int], dtype: torch.dtype) -> Attend:
    total = prefix + sum(lengths)
    seen_TT = torch.ones(total, total, dtype=torch.bool).tril_()
    start = prefix
    for length in lengths:
        seen_TT[start : start + length, prefix:start] = False
        start += length
    bias_TT = torch.zeros(total, total, dtype=dtype).masked_fill_(~seen_TT, float("-inf"))

    def attend(_layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        q, k, v = (t.transpose(0, 1)[None] for t in (q_THK, k_TGK, v_TGK))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias_TT, enable_gqa=True)
        return out[0].transpose(0, 1)

    return attend


@torch.inference_mode()
def loglikelihoods(
    engine: Engine, permit: Permit, prefix: list[int], continuations: list[list[int]]
) -> list[float]:
    """log p(continuation | prefix), in nats, for each. Loads the tier when needed; blocks.

    Raises as `Engine.submit` does, and InvalidRequest for an empty prefix or continuation.
    """
    tier = engine.permitted(permit)
    longest = len(prefix) + max(map(len, continuations), default=0)
    if not prefix or not continuations or not all(continuations) or longest > tier.context:
        raise InvalidRequest("prefix and continuations must be non-empty and fit into the context")
    loaded = engine.loaded(permit)
    if loaded.ranks is not None:
        raise InvalidRequest("likelihoods are computed by one process, not over ranks")
    lengths = [len(c) for c in continuations]
    tokens, positions, rows, wanted = list(prefix), list(range(len(prefix))), [], []
    for continuation in continuations:
        before = [len(prefix) - 1, *range(len(tokens), len(tokens) + len(continuation) - 1)]
        rows += before
        wanted += continuation
        positions += range(len(prefix), len(prefix) + len(continuation))
        tokens += continuation
    attend = _tree_attend(len(prefix), lengths, loaded.dtype)
    logits_CV = loaded.model(
        torch.tensor(tokens), torch.tensor(positions), attend, rows=torch.tensor(rows), absorbed=True
    ).float()
    logp_C = torch.log_softmax(logits_CV, -1).gather(1, torch.tensor(wanted)[:, None])[:, 0]
    return [float(part.double().sum()) for part in logp_C.split(lengths)]
