"""What computes a pass for the engine: rows of sequences in, logits out; keys and values stay in its cache.

A backend has a `name` (receipts carry it), `rows` (how many a pass of `decode` may have), a `cache` (`whole`
when nothing of it lies elsewhere), `chunk` and `decode`: the plain form in torch and any other serve under
one scheduler. Every backend keeps what `exact` mode promises: a row's bits depend on its own sequence alone.

Shape letters: T rows of a pass, W rows whose logits are wanted, V vocabulary, D width.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from mythos.engine.attention import Attend, chunk_attend, decode_attend
from mythos.engine.cache import PagedCache, cache_for
from mythos.engine.guard import states_of
from mythos.model.quant import INT8_ROWS
from mythos.model.transformer import Transformer

if TYPE_CHECKING:
    from mythos.engine.loader import LoadedTier


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens of one sequence at positions `start`, `start` + 1, ...; `table` are the blocks of its cache.

    Logits are wanted of its last `wanted` tokens.
    """

    table: list[int]
    start: int
    tokens: Items[int]
    wanted: int


@dataclass(frozen=True, slots=True)
class Pass:
    """`logits_WV` float32, in the order of the segments; `states` what the asked layers put out, (T, D)."""

    logits_WV: Tensor
    states: Mapping[int, Tensor]


class Backend(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def torch_threads(self) -> bool:
        """Whether a pass is computed by torch, and so by its threads."""
        ...

    @property
    def cache(self) -> PagedCache: ...
    @property
    def whole(self) -> bool:
        """Whether all keys and values lie in `cache`: a sequence can be put aside only then."""
        ...

    def chunk(self, segment: Segment, layers: Items[int] = ()) -> Pass:
        """A prompt's chunk, by itself."""
        ...

    def decode(self, segments: list[Segment], layers: Items[int] = ()) -> Pass:
        """The newest tokens of several sequences, at most `rows` in all: one each, or more under speculation,
        whose rows have the bits that they would have had one after the other.
        """
        ...


class Eager:
    """Plain torch over the served int8 weights: the reference of every other backend."""

    name = "eager-int8"
    torch_threads = True
    rows = INT8_ROWS  # one kernel up to here, so that a row has the same bits beside 0 or 15 others
    whole = True

    def __init__(self, loaded: "LoadedTier", blocks: int, secret: bytes) -> None:
        self.model = loaded.model
        self.cache = cache_for(loaded.tier.config, blocks, loaded.dtype, secret)

    def chunk(self, segment: Segment, layers: Items[int] = ()) -> Pass:
        return run_chunk(self.model, self.cache, segment, layers)

    def decode(self, segments: list[Segment], layers: Items[int] = ()) -> Pass:
        return run_decode(self.model, self.cache, segments, layers)


@torch.inference_mode()
def run_chunk(model: Transformer, cache: PagedCache, segment: Segment, layers: Items[int] = ()) -> Pass:
    """`Backend.chunk` in plain torch."""
    count = len(segment.tokens)
    return _run(model, [segment], chunk_attend(cache, segment.table, segment.start, count), layers)


@torch.inference_mode()
def run_decode(
    model: Transformer, cache: PagedCache, segments: list[Segment], layers: Items[int] = ()
) -> Pass:
    """`Backend.decode` in plain torch."""
    # Each row is attended to by itself, over what a pass of its own would have found.
    ends = [(s.table, s.start + n) for s in segments for n in range(1, len(s.tokens) + 1)]
    attend = decode_attend(cache, [table for table, _ in ends], [end for _, end in ends])
    return _run(model, segments, attend, layers)


def _run(model: Transformer, segments: list[Segment], attend: Attend, layers: Items[int]) -> Pass:
    positions_T = torch.cat([torch.arange(s.start, s.start + len(s.tokens)) for s in segments])
    rows, first = [], 0
    for segment in segments:
        first += len(segment.tokens)
        rows += range(first - segment.wanted, first)
    every = len(rows) == first
    with states_of(model.layers, layers) as states:
        logits_WV = model(
            torch.tensor([token for s in segments for token in s.tokens]),
            positions_T,
            attend,
            rows=None if every else torch.tensor(rows, dtype=torch.long),
            absorbed=True,
        )
    return Pass(logits_WV.float(), states)
