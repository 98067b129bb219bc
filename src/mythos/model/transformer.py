"""The one model class: a decoder-only transformer built from a ModelConfig, dense or with routed experts.

Shape letters: T token rows, D width, V vocabulary, R rotated pairs of a head.

Rows are a flat batch of tokens; only `attend` knows which belong to one sequence, so that the same code
trains on packed sequences, prefills chunks and decodes many streams in one step. Submodules named `*_proj`,
`embed` and `lm_head` may be replaced from outside by quantised ones: they are called, and only absorbed
latent attention looks into one.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mythos.model.attention import Attend, Attention, RMSNorm
from mythos.model.errors import WeightsError
from mythos.model.latent import LatentAttention
from mythos.model.moe import MLP, MoE
from mythos.model.rope import rope_frequencies, rotations
from mythos.spec.config import ModelConfig, untrained_parts


class Embedding(nn.Module):
    """Token vectors, and the output head when it is tied to them."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, width))

    def forward(self, tokens_T: Tensor) -> Tensor:
        return F.embedding(tokens_T, self.weight)

    def head(self, x_TD: Tensor) -> Tensor:
        return F.linear(x_TD, self.weight)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        mla = config.mla
        self.self_attn = Attention(config, layer) if mla is None else LatentAttention(config, mla, layer)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.routed = config.moe is not None and layer not in config.dense_layers
        if config.moe is not None and self.routed:
            self.mlp = MoE(config.width, config.moe)
        else:
            self.mlp = MLP(config.width, config.ffn)

    def forward(
        self,
        x_TD: Tensor,
        rotation: tuple[Tensor, Tensor],
        attend: Attend,
        ids_TA: Tensor | None = None,
        absorbed: bool = False,
    ) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), rotation, attend, absorbed)
        y_TD = self.post_attention_layernorm(x_TD)
        return x_TD + (self.mlp(y_TD, ids_TA) if self.routed else self.mlp(y_TD))


class Prediction(nn.Module):
    """A module that predicts one token further ahead (DeepSeek-V3, arXiv 2412.19437, section 2.2).

    Embedding and head are the model's own.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.enorm = RMSNorm(config.width, config.norm_eps)
        self.hnorm = RMSNorm(config.width, config.norm_eps)
        self.eh_proj = nn.Linear(2 * config.width, config.width, bias=False)
        self.block = Block(config, layer)
        self.norm = RMSNorm(config.width, config.norm_eps)

    def join(self, x_TD: Tensor, next_TD: Tensor) -> Tensor:
        """What the block reads: a token's state, and the embedding of the next token whose turn it is."""
        return self.eh_proj(torch.cat((self.enorm(next_TD), self.hnorm(x_TD)), dim=-1))


class Transformer(nn.Module):
    """Parameters start uninitialised or as torch makes them: load weights or call `init_weights`.

    WeightsError for a configuration with parts that can be planned but not built.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if missing := untrained_parts(config):
            raise WeightsError(
                f"No tensors exist for {', '.join(missing)}: such a model can be planned, not built.",
                "Leave these settings out.",
            )
        self.config = config
        self.embed = Embedding(config.vocab, config.width)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.lm_head = None if config.tied else nn.Linear(config.width, config.vocab, bias=False)
        self.mtp = nn.ModuleList(Prediction(config, config.layers + depth) for depth in range(config.mtp))
        rotated = config.head_dim if config.mla is None else config.mla.rope_dim
        self.frequencies_R, self.rope_scale = rope_frequencies(config.rope, rotated)

    def forward(
        self,
        tokens_T: Tensor,
        positions_T: Tensor,
        attend: Attend,
        rows: Tensor | None = None,
        routing: Sequence[Tensor] | None = None,
        absorbed: bool = False,
    ) -> Tensor:
        """Logits (T, V), or (len(rows), V) of the token rows named by `rows`.

        `routing` pins the experts of every token: one (T, A) tensor of expert ids per layer that has experts.
        `absorbed` is how latent attention is computed (`mythos.model.latent`); other attention has one way.
        """
        rotation = rotations(positions_T, self.frequencies_R, self.rope_scale)
        pinned = iter(routing or ())
        x_TD = self.embed(tokens_T)
        for block in self.layers:
            ids_TA = next(pinned) if routing and block.routed else None
            x_TD = block(x_TD, rotation, attend, ids_TA, absorbed)
        if rows is not None:
            x_TD = x_TD[rows]
        head = self.embed.head if self.lm_head is None else self.lm_head
        return head(self.norm(x_TD))

    def ahead(
        self, depth: int, x_TD: Tensor, next_tokens_T: Tensor, positions_T: Tensor, attend: Attend
    ) -> Tensor:
        """(T, D) for the head: prediction module `depth`, from 0, on what the head saw of the one before it.

        `next_tokens_T` are the tokens that come depth + 1 places later; predicted is what follows them.
        """
        module = self.mtp[depth]
        assert isinstance(module, Prediction)
        rotation = rotations(positions_T, self.frequencies_R, self.rope_scale)
        x_TD = module.join(x_TD, self.embed(next_tokens_T))
        return module.norm(module.block(x_TD, rotation, attend))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None, std: float = 0.02) -> None:
        """Fresh weights for training: normal(0, std), less for what adds to the residual (GPT-2), norms at 1.

        Every parameter is written, so that a model built on `meta` and moved by `to_empty` starts whole.
        """
        for name, parameter in self.named_parameters():
            kind, scale = initial(name, self.config.layers, std)
            if kind == "normal":
                parameter.normal_(0.0, scale, generator=generator)
            else:
                parameter.fill_(scale)
        for buffer in self.buffers():
            buffer.zero_()


def initial(name: str, layers: int, std: float = 0.02) -> tuple[Literal["constant", "normal"], float]:
    """How the parameter `name` of a model of so many layers begins: with one value, or normal with
    this deviation.
    """
    if name.endswith("norm.weight"):
        return "constant", 1.0
    if name.endswith(".bias"):
        return "constant", 0.0
    residual = name.endswith(("o_proj.weight", "down_proj.weight", "experts.down_proj"))
    return "normal", std / (2 * layers) ** 0.5 if residual else std
