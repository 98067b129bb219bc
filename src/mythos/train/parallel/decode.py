"""One decode step of one rank, measured as `measure` does: weights in bf16, whole but for pp, ep and tp.

Here the ranks of dp and cp answer other streams: a rank has streams of its own, and those of tp share theirs.

Shape letters: B streams, H query heads, G key heads, K head width, V value width, L cached tokens
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mythos.model.attention import Attend
from mythos.model.moe import MoE
from mythos.model.rope import rotations
from mythos.spec.config import ModelConfig
from mythos.train.parallel.collectives import gather_rows, gathered
from mythos.train.parallel.experts import even_ids
from mythos.train.parallel.live import Live, bytes_of
from mythos.train.parallel.measure import Sent, sent
from mythos.train.parallel.mesh import Mesh
from mythos.train.parallel.model import RankModel, in_memory
from mythos.train.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Decoded:
    """Bytes and FLOPs of a rank in one step of `streams` streams with `context` cached tokens each."""

    streams: int
    context: int
    weights: int
    cache: int
    peak: int
    flops: int
    sent: tuple[Sent, ...]


@torch.no_grad()
def measure_decode(config: ModelConfig, settings: TrainSettings, mesh: Mesh, streams: int) -> Decoded:
    """One token of each stream through the rank; latent attention absorbed, over a cache of latents.

    Streams are rounded up to a multiple of tp.
    """
    streams = -(-streams // mesh.shape.tp) * mesh.shape.tp
    context = settings.length
    model = RankModel(config, settings, mesh, even=True)
    in_memory(model, "cpu", torch.bfloat16)
    caches = {layer: _cache(config, mesh, streams, context) for layer in model.own}
    weights, cache = (
        bytes_of(model.state_dict().values()),
        bytes_of(tensor for pair in caches.values() for tensor in pair),
    )
    tensors = [*model.state_dict().values(), *(tensor for pair in caches.values() for tensor in pair)]
    positions_B = torch.full((streams,), context - 1)
    with Live() as live:
        live.watch(tensors)
        rotation = rotations(positions_B, model.frequencies_R, model.rope_scale)
        rows = streams // mesh.shape.tp
        if model.first:
            x = model.embed(torch.zeros(streams, dtype=torch.int64))
        else:
            x = torch.empty(rows, config.width, dtype=torch.bfloat16)
            dist.recv(x, mesh.neighbour(-1), group=mesh.groups["pp"])
        for layer, block in zip(model.own, model.blocks(), strict=False):
            ids = None
            if isinstance(block.mlp, MoE):
                moe = block.mlp.gate.moe
                ids = even_ids(rows, moe.top_k, moe.routed, x.device)
            x = block(x, rotation, _attend(caches[layer]), ids, config.mla is not None)
        if not model.last:
            dist.send(x, mesh.neighbour(1), group=mesh.groups["pp"])
        else:
            head = model.embed.weight if model.lm_head is None else model.lm_head.weight
            assert isinstance(head, Tensor)
            logits = F.linear(gather_rows(model.norm(x), mesh.groups["tp"]), head)
            if mesh.shape.tp > 1:  # each rank's best token and its logit
                best = logits.max(-1)
                gathered(torch.stack((best.values.float(), best.indices.float())), mesh.groups["tp"])
    return Decoded(streams, context, weights, cache, live.peak, live.flops, sent(live, mesh))


def _cache(config: ModelConfig, mesh: Mesh, streams: int, context: int) -> tuple[Tensor, ...]:
    """Keys and values of a layer, or its latents, which every rank of tp holds whole."""
    if config.mla is not None:
        width = config.mla.kv_rank + config.mla.rope_dim
        return (torch.empty(streams, context, 1, width, dtype=torch.bfloat16),)
    shape = (streams, context, config.kv_heads // mesh.shape.tp, config.head_dim)
    return torch.empty(shape, dtype=torch.bfloat16), torch.empty(shape, dtype=torch.bfloat16)


def _attend(cache: tuple[Tensor, ...]) -> Attend:
    """Attention of one token a stream, the last one cached, to all of its cache."""

    def attend(_layer: int, q_BHK: Tensor, k_BGK: Tensor, v_BGV: Tensor) -> Tensor:
        keys, values = cache[0], cache[-1]
        keys[:, -1] = k_BGK
        if len(cache) == 2:
            values[:, -1] = v_BGV
        groups = keys.shape[2]
        q = q_BHK.unflatten(1, (groups, -1)).flatten(0, 1)
        k, v = (t.transpose(1, 2).flatten(0, 1) for t in (keys, values))
        scores = torch.bmm(q, k.transpose(1, 2)).float() * q.shape[-1] ** -0.5
        return torch.bmm(scores.softmax(-1).to(v.dtype), v).view(len(q_BHK), -1, v.shape[-1])

    return attend
