"""The training pass through a model: blocks compiled once for all layers, attention within documents.

Shape letters: R rows of L tokens, T = R * L token rows, D width, E experts
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from mythos.model.latent import LatentAttention
from mythos.model.moe import MLP
from mythos.model.rope import rotations
from mythos.model.transformer import Block, Prediction, Transformer
from mythos.train.attention import packed_attend
from mythos.train.balance import quantile_bias


@dataclass(frozen=True, slots=True)
class Packed:
    """Packed rows: tokens, their position in their document, and where in its row that begins; all (R, L)."""

    tokens_RL: Tensor
    positions_RL: Tensor
    starts_RL: Tensor


class Routed(NamedTuple):
    """What one router did with a batch: its scores, before any bias, and the selection bias it
    chose under.
    """

    scores_TE: Tensor
    bias_E: Tensor


class Trainee:
    """A model in training and its way through the blocks.

    With `compiled`, torch.compile makes one program for all layers of a kind: their tensors are bound to it
    from outside. With `recompute`, what a block computed is not kept but made again in the backward. With
    `balanced`, each batch is routed under the biases that balance it (`balance.quantile_bias`). `head_VD` is
    the head's matrix for the loss of what `hidden` gave last.
    """

    def __init__(self, model: Transformer, compiled: bool, recompute: bool, balanced: bool = False) -> None:
        self.model = model
        self.head_VD = model.embed.weight if model.lm_head is None else model.lm_head.weight
        self._recompute = recompute
        if compiled:
            torch.compiler.reset()  # programs of earlier models count against a limit of them
        self._run = torch.compile(_run, dynamic=False) if compiled else _run
        kinds: dict[bool, _BlockPass] = {}

        def bound(block: nn.Module) -> tuple[_BlockPass, dict[str, Tensor]]:
            assert isinstance(block, Block)
            tensors = {f"block.{name}": t for name, t in [*block.named_parameters(), *block.named_buffers()]}
            return kinds.setdefault(block.routed, _BlockPass(block, balanced)), tensors

        self._blocks = [bound(block) for block in model.layers]
        self._predictions = []
        for module in model.mtp:
            assert isinstance(module, Prediction)
            self._predictions.append((module, *bound(module.block)))

    def hidden(self, batch: Packed) -> tuple[Tensor, list[Routed]]:
        """What the head sees of every token, (T, D), and what each routed layer's router did."""
        x_TD, routed = self.through(range(len(self._blocks)), self.embedded(batch), batch)
        return self.model.norm(x_TD), routed

    def embedded(self, batch: Packed) -> Tensor:
        """What goes into the first block, (T, D)."""
        tokens_T = batch.tokens_RL.flatten()
        if self.model.lm_head is None:
            x_TD, self.head_VD = _Tied.apply(self.model.embed.weight, tokens_T)  # pyright: ignore[reportGeneralTypeIssues]
            return x_TD
        return self.model.embed(tokens_T)

    def through(self, layers: Iterable[int], x_TD: Tensor, batch: Packed) -> tuple[Tensor, list[Routed]]:
        """What these layers, one after another, make of x, and what their routers did."""
        model, routed = self.model, []
        rotation = rotations(batch.positions_RL.flatten(), model.frequencies_R, model.rope_scale)
        for layer in layers:
            kind, tensors = self._blocks[layer]
            x_TD, *of = self._block(kind, tensors, x_TD, rotation, batch.starts_RL)
            routed += of
        return x_TD, routed

    def ahead(self, batch: Packed, x_TD: Tensor) -> tuple[list[Tensor], list[Routed]]:
        """What the head sees of every token in each prediction module in turn, from what `hidden` gave, and
        what their routers did.

        Module n reads the token n + 1 places later. Where that is in another document or nowhere, what it
        makes is noise, which no token sees whose own later token is there.
        """
        if not self._predictions:
            return [], []
        model, seen, routed = self.model, [], []
        rotation = rotations(batch.positions_RL.flatten(), model.frequencies_R, model.rope_scale)
        for depth, (module, kind, tensors) in enumerate(self._predictions):
            next_T = batch.tokens_RL.roll(-depth - 1, 1).flatten()
            x_TD = module.join(x_TD, model.embed(next_T))
            x_TD, *of = self._block(kind, tensors, x_TD, rotation, batch.starts_RL)
            x_TD = module.norm(x_TD)
            seen.append(x_TD)
            routed += of
        return seen, routed

    def _block(
        self,
        kind: "_BlockPass",
        tensors: dict[str, Tensor],
        x_TD: Tensor,
        rotation: tuple[Tensor, Tensor],
        starts_RL: Tensor,
    ) -> tuple[Tensor, Routed] | tuple[Tensor]:
        inputs = (kind, tensors, x_TD, *rotation, starts_RL)
        if self._recompute:
            x_TD, *of = checkpoint(self._run, *inputs, use_reentrant=False)
        else:
            x_TD, *of = self._run(*inputs)
        return (x_TD, Routed(*of)) if of else (x_TD,)


class _Tied(torch.autograd.Function):
    """One matrix as embedding and head: what the embedding gives of the tokens, and the matrix for the head.

    A step's tokens are few of the vocabulary's rows. Left to autograd, the embedding's gradient would be a
    whole matrix of zeros but for them, added to the head's.
    """

    @staticmethod
    def forward(ctx, weight_VD: Tensor, tokens_T: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(tokens_T)
        return weight_VD[tokens_T], weight_VD.view_as(weight_VD)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:
        (tokens_T,), (dx_TD, dhead_VD) = ctx.saved_tensors, grads
        return dhead_VD.index_add_(0, tokens_T, dx_TD), None  # the head's gradient goes nowhere else


class _BlockPass(nn.Module):
    """A block that also tells what its router did."""

    def __init__(self, block: Block, balanced: bool) -> None:
        super().__init__()
        self.block = block
        self._balanced = balanced

    def forward(self, x_TD: Tensor, rotation: tuple[Tensor, Tensor], starts_RL: Tensor) -> tuple[Tensor, ...]:
        block = self.block
        attention, mlp = block.self_attn, block.mlp
        y_TD, attend = block.input_layernorm(x_TD), packed_attend(starts_RL)
        if isinstance(attention, LatentAttention):
            x_TD = x_TD + attention(y_TD, rotation, attend)
        else:
            q, k, v = together(y_TD, attention.q_proj, attention.k_proj, attention.v_proj)
            x_TD = x_TD + attention.mix(q, k, v, rotation, attend)
        y_TD = block.post_attention_layernorm(x_TD)
        if isinstance(mlp, MLP):
            gate_TF, up_TF = together(y_TD, mlp.gate_proj, mlp.up_proj)
            return (x_TD + mlp.down_proj(F.silu(gate_TF) * up_TF),)
        gate = mlp.gate
        scores_TE, bias_E = gate.scores(y_TD).detach(), gate.e_score_correction_bias
        if self._balanced:
            bias_E = quantile_bias(gate, scores_TE)
        ids_TA = gate.choose(scores_TE, bias_E)
        return (
            x_TD + block.mlp(y_TD, ids_TA),
            scores_TE,
            torch.zeros_like(scores_TE[0]) if bias_E is None else bias_E,
        )


def together(x_TK: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """What each layer makes of x, by one product: a wide matrix takes less time than its parts."""
    weight_NK = torch.cat([layer.weight for layer in layers])
    bias_N = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return F.linear(x_TK, weight_NK, bias_N).split([layer.out_features for layer in layers], dim=-1)


def _run(
    kind: _BlockPass, tensors: dict[str, Tensor], x_TD: Tensor, cos: Tensor, sin: Tensor, starts_RL: Tensor
) -> tuple[Tensor, ...]:
    return functional_call(kind, tensors, (x_TD, (cos, sin), starts_RL))
