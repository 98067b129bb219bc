"""The one model class: a decoder-only transformer built from a ModelConfig, dense or with routed experts.

Shape letters: T token rows, D width, V vocabulary, R rotated pairs of a head.

Rows are a flat batch of tokens; only `attend` knows which belong to one sequence, so that the same code
trains on packed sequences, prefills chunks and decodes many streams in one step. Submodules named `*_proj`,
`embed` and `lm_head` may be replaced from outside by quantised ones: they are called, never looked into.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mythos.model.attention import Attend, Attention, RMSNorm
from mythos.model.rope import rope_frequencies, rotations
from mythos.spec.config import ModelConfig


class Embedding(nn.Module):
    """Token vectors, and the output head when it is tied to them."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, width))

    def forward(self, tokens_T: Tensor) -> Tensor:
        return F.embedding(tokens_T, self.weight)

    def head(self, x_TD: Tensor) -> Tensor:
        return F.linear(x_TD, self.weight)


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD))


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config.width, config.ffn)

    def forward(self, x_TD: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), rotation, attend)
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD))


class Transformer(nn.Module):
    """Parameters start uninitialised or as torch makes them: load weights or call `init_weights`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab, config.width)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.lm_head = None if config.tied else nn.Linear(config.width, config.vocab, bias=False)
        self.frequencies_R, self.rope_scale = rope_frequencies(config.rope, config.head_dim)

    def forward(
        self, tokens_T: Tensor, positions_T: Tensor, attend: Attend, rows: Tensor | None = None
    ) -> Tensor:
        """Logits (T, V), or (len(rows), V) of the token rows named by `rows`."""
        rotation = rotations(positions_T, self.frequencies_R, self.rope_scale)
        x_TD = self.embed(tokens_T)
        for block in self.layers:
            x_TD = block(x_TD, rotation, attend)
        if rows is not None:
            x_TD = x_TD[rows]
        head = self.embed.head if self.lm_head is None else self.lm_head
        return head(self.norm(x_TD))
