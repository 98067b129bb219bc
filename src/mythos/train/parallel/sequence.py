"""Context parallelism: every rank has two chunks of each row, and gathers all keys and values (Llama 3, arXiv
2407.21783, section 3.3.2).

Of 2N chunks rank i has chunks i and 2N - 1 - i: a causal token's work grows with its place, and so each rank
has as much.

Shape letters: R rows of L tokens, N ranks, C = L / 2N tokens of a chunk, H query heads, G key/value heads, K
head width, V value width
"""

import torch
import torch.distributed as dist
from torch import Tensor

from mythos.model.attention import Attend
from mythos.train.attention import PackedAttention, packed_attend
from mythos.train.parallel.collectives import gather_rows


def own_tokens(x_RL: Tensor, ranks: int, rank: int) -> Tensor:
    """(R, L / N): a rank's tokens of each row."""
    if ranks == 1:
        return x_RL
    chunks = x_RL.chunk(2 * ranks, dim=1)
    return torch.cat((chunks[rank], chunks[2 * ranks - 1 - rank]), dim=1)


def split_attend(starts_RL: Tensor, group: dist.ProcessGroup) -> Attend:
    """Attention of a rank's tokens, whose documents begin at `starts_RL` (R, L / N), to their whole rows."""
    ranks, rank = group.size(), group.rank()
    if ranks == 1:
        return packed_attend(starts_RL)
    rows, chunk = starts_RL.shape[0], starts_RL.shape[1] // 2
    begins = rank * chunk, (2 * ranks - 1 - rank) * chunk

    def whole(x: Tensor) -> Tensor:  # (R * 2C, G, K) of this rank to (R, L, G, K)
        x = gather_rows(x, group).unflatten(0, (ranks, rows, 2, chunk))
        ordered = torch.cat((x[:, :, 0], x[:, :, 1].flip(0)))
        return ordered.movedim(0, 1).flatten(1, 2)

    def attend(_layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGV: Tensor) -> Tensor:
        q, k, v = q_THK.unflatten(0, (rows, 2 * chunk)), whole(k_TGK), whole(v_TGV)
        outs = []
        for part, begin in enumerate(begins):
            own, end = slice(part * chunk, (part + 1) * chunk), begin + chunk
            outs.append(PackedAttention.apply(q[:, own], k[:, :end], v[:, :end], starts_RL[:, own], begin))
        return torch.cat(outs, dim=1).flatten(0, 1)

    return attend
