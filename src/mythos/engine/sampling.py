"""Choosing the next token from one row of logits.

Shape letters: V vocabulary.
"""

import torch
from torch import Tensor

from mythos.engine.request import Sampling, TokenLogprob

_HEAD = 256  # candidates sorted at first: nearly always enough for top-p


def generator_for(sampling: Sampling) -> torch.Generator | None:
    """A private random stream: seeded by the request, or freshly by the system. None for greedy."""
    if sampling.temperature == 0:
        return None
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed % 2**63)
    return generator


def choose(logits_V: Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """Greedy at temperature 0 (lowest id on a tie), else temperature, top-k, top-p, one draw.

    Forbidden tokens are -inf in `logits_V` (float32) and are never chosen.
    """
    if generator is None:
        return int(logits_V.numpy().argmax())  # a sixth of the time of torch's
    scaled = logits_V / max(sampling.temperature, 1e-4)
    if sampling.top_k == 0 and sampling.top_p >= 1.0:
        return _draw(torch.softmax(scaled, -1), generator)
    k = min(sampling.top_k or _HEAD, len(scaled))
    values, ids = torch.topk(scaled, k)
    if sampling.top_k:
        probs = torch.softmax(values, -1)  # top-p then works on what top-k left
    else:
        probs = (values - torch.logsumexp(scaled, -1)).exp()
        if float(probs.sum()) < sampling.top_p and k < len(scaled):
            values, ids = torch.sort(scaled, descending=True, stable=True)
            probs = torch.softmax(values, -1)
    before = probs.cumsum(-1) - probs
    keep = before < sampling.top_p
    keep[0] = True
    return int(ids[_draw(probs * keep, generator)])


def _draw(weights: Tensor, generator: torch.Generator) -> int:
    # Inverse transform in double precision: one number from the stream per token.
    total = weights.double().cumsum(-1)
    u = torch.rand((), generator=generator, dtype=torch.double) * total[-1]
    index = int(torch.searchsorted(total, u, right=True))
    index = min(index, len(weights) - 1)
    while weights[index] == 0:  # u rounded onto a border of an empty cell
        index -= 1
    return index


def logprob_of(logits_V: Tensor, token: int, top: int, text_of) -> TokenLogprob:
    """Log-probability of `token` under the model (temperature 1) and the `top` likeliest ones."""
    logp = torch.log_softmax(logits_V, -1)
    likely = torch.topk(logp, top) if top else None
    rows = zip(likely.indices.tolist(), likely.values.tolist(), strict=True) if likely else ()
    return TokenLogprob(token, text_of(token), float(logp[token]), tuple((i, text_of(i), p) for i, p in rows))
