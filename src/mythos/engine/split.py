"""A model over several ranks, which has the bits of one process: ranks exchange outputs, never parts of sums.

A rank computes its own heads, its own experts and its own rows of each matrix over whole inputs, with the
kernels of one process, which give an output the same bits beside any others (`mythos.engine.selfcheck`). What
was computed is then put together on every rank. gloo adds up in an order that depends on where a value lies,
so nothing is added up between ranks: where whole rows come from one rank each, the others send zeros.

Shape letters: T token rows, W rows whose logits are wanted, N outputs of all ranks, P of one rank at most,
D width, A experts per token, V vocabulary
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from threading import Thread
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mythos.model.moe import MoE
from mythos.model.parts import share
from mythos.model.quant import Int8Embedding, Int8Experts, weighed
from mythos.model.transformer import Transformer

LOOK = timedelta(seconds=1)  # how long to wait for the other ranks before asking whether they are there


@dataclass(slots=True, eq=False)
class Exchange:
    """This rank's place among the ranks of one tier. ConnectionError when `alive` says that one has gone."""

    group: Any  # a dist.ProcessGroupGloo, of whose methods torch's stub knows none
    rank: int
    ranks: int
    alive: Callable[[], bool] = lambda: True

    def whole(self, own_TP: Tensor, outputs: int) -> Tensor:
        """(T, outputs) on every rank, from each rank's share of the outputs."""
        own_TP = self._even(own_TP, outputs)
        parts = [torch.empty_like(own_TP) for _ in range(self.ranks)]
        self._met(self.group.allgather([parts], [own_TP]))
        return torch.cat(parts, dim=-1)[:, :outputs].contiguous()

    def on_first(self, own_TP: Tensor, outputs: int) -> Tensor:
        """The same on rank 0 alone; the others keep what they have."""
        own_TP = self._even(own_TP, outputs)
        parts = [torch.empty_like(own_TP) for _ in range(self.ranks)] if self.rank == 0 else []
        self._met(self.group.gather(parts, own_TP, 0))
        return torch.cat(parts, dim=-1)[:, :outputs] if parts else own_TP

    def filled(self, rows: Tensor) -> Tensor:
        """Each row (of even bf16 width) from the rank on which it is not all zeros: bits are added, as
        integers.
        """
        bits = rows.contiguous().view(torch.int32)
        self._met(self.group.allreduce([bits]))
        return bits.view(rows.dtype)

    def _met(self, work: Any) -> None:
        """Waits until all ranks have met in `work`, a dist.Work.

        gloo tells those that wait for a rank when its connection closes, but not who was in the middle of
        sending to it: that one waits until the group's time is over. So it asks, too.
        """
        while True:
            try:
                work.wait(LOOK)
                return
            except RuntimeError:
                if work.is_completed():
                    work.wait()  # raises what it ended in, if not well
                    return
                if not self.alive():
                    # A group waits for its work when it is let go. This thread should not: another one does.
                    Thread(target=_outlasts, args=(self.group, work), daemon=True).start()
                    raise ConnectionError("a rank has gone") from None

    def _even(self, own_TP: Tensor, outputs: int) -> Tensor:
        return F.pad(own_TP, (0, share(outputs, self.ranks) - own_TP.shape[1])).contiguous()


def _outlasts(_group: Any, work: Any) -> None:
    with suppress(RuntimeError):
        work.wait()


class SharedLinear(nn.Module):
    """A matrix whose inputs come from all ranks and whose outputs go to all."""

    def __init__(self, linear: nn.Module, inputs: int, outputs: int, exchange: Exchange) -> None:
        super().__init__()
        self.linear, self._inputs, self._outputs, self._exchange = linear, inputs, outputs, exchange

    def forward(self, own_TP: Tensor) -> Tensor:
        return self._exchange.whole(self.linear(self._exchange.whole(own_TP, self._inputs)), self._outputs)


class SharedExperts(nn.Module):
    """Whole experts, some of them here; every rank has all tokens and the router's choice."""

    def __init__(self, experts: Int8Experts, exchange: Exchange) -> None:
        super().__init__()
        self.experts, self._exchange = experts, exchange
        self._first = exchange.rank * len(experts.gate_up_proj)

    def forward(self, x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor) -> Tensor:
        y_TAD = self.experts.outputs(x_TD, ids_TA - self._first)
        return weighed(self._exchange.filled(y_TAD), weights_TA)


class SharedHead(nn.Module):
    """Logits over this rank's rows of the vocabulary; rank 0 gets those of all, (W, V)."""

    def __init__(self, head: nn.Module, vocab: int, exchange: Exchange) -> None:
        super().__init__()
        self.head, self._vocab, self._exchange = head, vocab, exchange

    def forward(self, x_WD: Tensor) -> Tensor:
        if not len(x_WD):
            return x_WD.new_empty(0, self._vocab)
        own_WP = self.head.head(x_WD) if isinstance(self.head, Int8Embedding) else self.head(x_WD)
        return self._exchange.on_first(own_WP, self._vocab)


class SharedEmbedding(nn.Module):
    """Vectors of this rank's rows of the vocabulary, and the others' from them."""

    def __init__(self, embed: Int8Embedding, vocab: int, exchange: Exchange) -> None:
        super().__init__()
        self.embed, self._exchange = embed, exchange
        self._first = exchange.rank * share(vocab, exchange.ranks)
        self.head = SharedHead(embed, vocab, exchange)

    def forward(self, tokens_T: Tensor) -> Tensor:
        own_T = tokens_T - self._first
        missing_T = (own_T < 0) | (own_T >= len(self.embed.weight))
        x_TD = self.embed(own_T.masked_fill(missing_T, 0))
        return self._exchange.filled(x_TD.masked_fill(missing_T[:, None], 0.0))


def split(model: Transformer, exchange: Exchange) -> Transformer:
    """`model`, which holds one rank's tensors (`mythos.model.parts`), computing with all ranks; in place."""
    config = model.config
    value = config.head_dim if config.mla is None else config.mla.value_dim
    for block in model.layers:
        attention, mlp = block.get_submodule("self_attn"), block.get_submodule("mlp")
        _shared(attention, "o_proj", config.heads * value, config.width, exchange)
        inner = config.ffn
        if isinstance(mlp, MoE):
            assert isinstance(mlp.experts, Int8Experts) and config.moe is not None
            mlp.set_submodule("experts", SharedExperts(mlp.experts, exchange))
            mlp, inner = mlp.shared_experts, config.moe.shared * config.moe.width
        if mlp is not None:
            _shared(mlp, "down_proj", inner, config.width, exchange)
    if model.lm_head is not None:
        model.set_submodule("lm_head", SharedHead(model.lm_head, config.vocab, exchange))
    assert isinstance(model.embed, Int8Embedding)
    model.set_submodule("embed", SharedEmbedding(model.embed, config.vocab, exchange))
    return model


def _shared(module: nn.Module, name: str, inputs: int, outputs: int, exchange: Exchange) -> None:
    module.set_submodule(name, SharedLinear(module.get_submodule(name), inputs, outputs, exchange))
