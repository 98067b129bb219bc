"""Choosing the next token from one row of logits.

Shape letters: V vocabulary.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mythos.engine.request import Sampling, TokenLogprob

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.intp]

# Weights over the best one's above which tokens are looked at, until there are enough of them.
CUTS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 0.0)


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

    Forbidden tokens are -inf in `logits_V` (float32) and are never chosen. By numpy, whose start of a call
    takes less than torch's: the answer's next pass waits for this.
    """
    logits = logits_V.numpy()
    if generator is None:
        return int(logits.argmax())
    weights = np.exp((logits - logits.max()) / np.float32(max(sampling.temperature, 1e-4)))  # the best has 1
    if sampling.top_k == 0 and sampling.top_p >= 1.0:
        return _draw(weights, generator)
    ids = _likeliest(logits, weights, sampling)
    kept = weights[ids].astype(np.float64)
    total = kept.sum() if sampling.top_k else weights.sum()  # top-p works on what top-k left
    before = kept.cumsum() - kept
    return int(ids[_draw(kept[: max(1, int((before < sampling.top_p * total).sum()))], generator)])


def _likeliest(logits: Floats, weights: Floats, sampling: Sampling) -> Ids:
    """The `top_k` tokens of the greatest logits; without it enough of them for `top_p` of the whole. The
    likeliest first, the lowest id on a tie. Sorting all of a vocabulary would take longer than a pass.
    """
    wanted = sampling.top_p * weights.sum()
    ids = np.flatnonzero(weights > CUTS[0])
    for cut in CUTS[1:]:
        if len(ids) >= sampling.top_k if sampling.top_k else weights[ids].sum() >= wanted:
            break
        ids = np.flatnonzero(weights > cut)
    ids = ids[np.argsort(-logits[ids], kind="stable")]  # weights may be alike where logits are not
    return ids[: sampling.top_k] if sampling.top_k else ids


def _draw(weights: Floats | Doubles, generator: torch.Generator) -> int:
    # Inverse transform in double precision: one number from the stream per token.
    total = torch.from_numpy(weights).cumsum(0, dtype=torch.double).numpy()  # half of numpy's time
    u = float(torch.rand((), generator=generator, dtype=torch.double)) * total[-1]
    index = min(int(np.searchsorted(total, u, side="right")), len(weights) - 1)
    while weights[index] == 0:  # u rounded onto a border of an empty cell
        index -= 1
    return index


def logprob_of(logits_V: Tensor, token: int, top: int, text_of) -> TokenLogprob:
    """Log-probability of `token` under the model (temperature 1) and the `top` likeliest ones."""
    logp = torch.log_softmax(logits_V, -1)
    likely = torch.topk(logp, top) if top else None
    rows = zip(likely.indices.tolist(), likely.values.tolist(), strict=True) if likely else ()
    return TokenLogprob(token, text_of(token), float(logp[token]), tuple((i, text_of(i), p) for i, p in rows))
