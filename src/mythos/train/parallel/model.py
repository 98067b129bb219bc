"""One rank's share of a model, under the names that its parameters have in the whole.

Shape letters: T token rows of one rank, N tensor-parallel ranks, D width, A experts per token, E experts
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from mythos.model.moe import Experts, MoE, Router
from mythos.model.rope import rotations
from mythos.model.transformer import Block, Prediction, Transformer, initial
from mythos.plan.layout import rank_layers
from mythos.spec.config import ModelConfig
from mythos.train.loop import MTP_WEIGHT
from mythos.train.loss import CHUNK, weighted_cross_entropy
from mythos.train.parallel.collectives import gather_rows
from mythos.train.parallel.experts import CountingRouter, SplitExperts, even_ids
from mythos.train.parallel.feed import Feed
from mythos.train.parallel.mesh import Mesh, layout
from mythos.train.parallel.sequence import split_attend
from mythos.train.parallel.tensor import SplitCrossEntropy, SplitEmbedding, split_block, split_dimension
from mythos.train.settings import TrainSettings

EXPERTS = (".experts.gate_up_proj", ".experts.down_proj")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of a tensor of the whole model: its first place and its size in each dimension."""

    whole: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(s, s + n) for s, n in zip(self.start, self.size, strict=True))

    def part(self, dimension: int, ranks: int, rank: int) -> "Box":
        """The share of a rank where FSDP or a split matrix cuts a dimension into chunks."""
        share = -(-self.size[dimension] // ranks)
        begin = min(rank * share, self.size[dimension])
        length = min(share, self.size[dimension] - begin)
        start, size = list(self.start), list(self.size)
        start[dimension] += begin
        size[dimension] = length
        return Box(self.whole, tuple(start), tuple(size))


class RankModel(nn.Module):
    """The layers, and at the ends of a pipeline the embedding and the head, of one rank.

    `even`: experts are not chosen but given out evenly (`even_ids`).
    """

    def __init__(self, config: ModelConfig, settings: TrainSettings, mesh: Mesh, even: bool = False) -> None:
        super().__init__()
        with torch.device("meta"):
            whole = Transformer(config)
        self.config, self.mesh = config, mesh
        self._recompute, self._even = settings.recompute, even
        pp, place = mesh.shape.pp, mesh.at.pp
        self.first, self.last = place == 0, place == pp - 1
        self.own = rank_layers(config, layout(mesh.shape, settings))[place]
        self.frequencies_R, self.rope_scale = whole.frequencies_R, whole.rope_scale
        # The last rank of a pipeline has a copy of the embedding for a tied head or prediction modules.
        self.copied = self.last and not self.first and (config.tied or config.mtp > 0)
        nothing = nn.Identity
        self.embed = whole.embed if self.first or self.copied else nothing()
        self.layers = nn.ModuleList(
            block if i in self.own else nothing() for i, block in enumerate(whole.layers)
        )
        self.norm = whole.norm if self.last else nothing()
        self.lm_head = whole.lm_head if self.last else None
        self.mtp = whole.mtp if self.last else nn.ModuleList()
        self.boxes = _cut(self, mesh)
        for block in self.blocks():
            if mesh.shape.tp > 1:
                split_block(block, mesh.groups["tp"])
            if isinstance(block.mlp, MoE):
                moe = block.mlp
                moe.gate = CountingRouter(moe.gate)
                if mesh.shape.ep > 1:
                    assert isinstance(moe.experts, Experts)
                    moe.experts = SplitExperts(moe.experts, moe.gate.moe.routed, mesh.groups["ep"], even)  # type: ignore[assignment]
        if mesh.shape.tp > 1 and not isinstance(self.embed, nn.Identity):
            self.embed = SplitEmbedding(whole.embed, mesh.groups["tp"])

    def blocks(self) -> Iterator[Block]:
        """The rank's blocks, those of prediction modules last."""
        for layer in self.own:
            block = self.layers[layer]
            assert isinstance(block, Block)
            yield block
        for module in self.mtp:
            assert isinstance(module, Prediction)
            yield module.block

    def forward(self, feed: Feed, x_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        """The state (T, D) for the next pipeline rank and nothing; from the last one the loss of the rank's
        tokens in nats, summed, with that of prediction modules and without.
        """
        rotation = rotations(feed.positions_T, self.frequencies_R, self.rope_scale)
        y_TD: Tensor = self.embed(feed.tokens_T) if x_TD is None else x_TD
        for layer in self.own:
            y_TD = self._through(self.layers[layer], y_TD, rotation, feed)
        if not self.last:
            return y_TD, y_TD.new_zeros(())
        y_TD = self.norm(y_TD)
        loss = self._loss(y_TD, feed.targets_T, feed.weights_T)
        told = loss.detach()
        for module, ahead in zip(self.mtp, feed.ahead, strict=True):
            assert isinstance(module, Prediction)
            y_TD = module.join(y_TD, self.embed(ahead.tokens_T))
            y_TD = module.norm(self._through(module.block, y_TD, rotation, feed))
            extra = self._loss(y_TD, ahead.targets_T, ahead.weights_T)
            loss = loss + MTP_WEIGHT / len(self.mtp) * extra
        return loss, told

    def _through(self, block: nn.Module, x_TD: Tensor, rotation: tuple[Tensor, Tensor], feed: Feed) -> Tensor:
        assert isinstance(block, Block)
        inputs = (x_TD, rotation, split_attend(feed.starts_RL, self.mesh.groups["cp"]))
        if self._even and isinstance(block.mlp, MoE):
            moe = block.mlp.gate.moe
            inputs = (*inputs, even_ids(len(x_TD), moe.top_k, moe.routed, x_TD.device))
        if self._recompute:
            found = checkpoint(
                block, *inputs, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
            )
            assert isinstance(found, Tensor)
            return found
        return block(*inputs)

    def _loss(self, x_TD: Tensor, targets_T: Tensor, weights_T: Tensor) -> Tensor:
        head_VD = self.embed.weight if self.lm_head is None else self.lm_head.weight
        assert isinstance(head_VD, Tensor)
        group = self.mesh.groups["tp"]
        if group.size() == 1:
            return weighted_cross_entropy(x_TD, head_VD, targets_T[:, None], weights_T[:, None])
        x = gather_rows(x_TD, group)
        return SplitCrossEntropy.apply(x, head_VD, targets_T, weights_T, group, CHUNK)  # pyright: ignore


def _cut(model: nn.Module, mesh: Mesh) -> dict[str, Box]:
    """Gives every parameter, on `meta`, the shape of the rank's share before FSDP; where that lies."""
    boxes = {}
    shape, at = mesh.shape, mesh.at
    for name, parameter in model.named_parameters():
        size = tuple(parameter.shape)
        box = Box(size, (0,) * len(size), size)
        dimension = split_dimension(name)
        if name.endswith(EXPERTS):
            box = box.part(0, shape.ep, at.ep)
        elif dimension is not None and dimension < len(size):
            box = box.part(dimension, shape.tp, at.tp)
        if box.size != size:
            parameter.data = torch.empty(box.size, dtype=parameter.dtype, device="meta")
        boxes[name] = box
    return boxes


def in_memory(module: nn.Module, device: str, dtype: torch.dtype) -> None:
    """Gives the parameters that are on `meta` memory, not yet written; buffers are zero."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if parameter.is_meta:
                exact = torch.float32 if isinstance(part, Router) else dtype
                tensor = torch.empty(parameter.shape, dtype=exact, device=device)
                setattr(part, name, nn.Parameter(tensor))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.zeros(buffer.shape, dtype=buffer.dtype, device=device))


def shard(model: RankModel, device: str, compute: torch.dtype = torch.bfloat16) -> None:
    """Puts the model, still on `meta`, under FSDP2 and on the device, its memory not yet written. One block
    at a time is there whole.

    Masters and gradients are float32, and sharded; what is computed with is gathered block by block in
    `compute`, routers in float32. Gradients are summed, not averaged.
    """
    mesh = model.mesh
    data, expert = mesh.sharded["data"], mesh.sharded["expert"]
    policy = MixedPrecisionPolicy(compute, torch.float32, cast_forward_inputs=False)
    exact = MixedPrecisionPolicy(torch.float32, torch.float32, cast_forward_inputs=False)
    for block in model.blocks():
        in_memory(block, device, torch.float32)
        if isinstance(block.mlp, MoE):
            fully_shard(block.mlp.gate, mesh=data, mp_policy=exact, reshard_after_forward=True)
            fully_shard(block.mlp.experts, mesh=expert, mp_policy=policy, reshard_after_forward=True)
        fully_shard(block, mesh=data, mp_policy=policy, reshard_after_forward=True)
    in_memory(model, device, torch.float32)
    fully_shard(model, mesh=data, mp_policy=policy, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    for name in local_parameters(model):
        group = mesh.groups["expert" if name.endswith(EXPERTS) else "data"]
        model.boxes[name] = model.boxes[name].part(0, group.size(), dist.get_rank(group))


def local_parameters(model: RankModel) -> dict[str, Tensor]:
    """What this rank has of every parameter, as views: writing them changes the model."""
    found = {}
    for name, parameter in model.named_parameters():
        local = parameter.detach()
        assert isinstance(local, DTensor)
        found[name] = local.to_local()
    return found


@torch.no_grad()
def fill(model: RankModel, seed: int) -> None:
    """Fresh weights that do not depend on the mesh: each matrix, of experts each one's, from a seed of its
    own. Other ranks' rows are drawn and dropped.
    """
    for name, local in local_parameters(model).items():
        kind, scale = initial(name, model.config.layers)
        if kind == "constant":
            local.fill_(scale)
            continue
        box = model.boxes[name]
        if name.endswith(EXPERTS):
            for place in range(box.size[0]):
                local[place] = _drawn(box.whole[1:], scale, f"{seed}/{name}/{box.start[0] + place}")
        elif local.numel():
            local.copy_(_drawn(box.whole, scale, f"{seed}/{name}")[box.slices])


def _drawn(size: tuple[int, ...], scale: float, about: str) -> Tensor:
    number = int.from_bytes(hashlib.sha256(about.encode()).digest()[:8], "big") >> 1
    return torch.empty(size).normal_(0.0, scale, generator=torch.Generator().manual_seed(number))


@torch.no_grad()
def take(model: RankModel, tensors: Mapping[str, Tensor]) -> None:
    """Writes the rank's share of a whole model's tensors, named as in `Transformer.state_dict`."""
    for name, local in local_parameters(model).items():
        local.copy_(tensors[name][model.boxes[name].slices])
    for name, buffer in model.named_buffers():
        buffer.copy_(tensors[name])
