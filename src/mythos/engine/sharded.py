"""A tier over several ranks: each pass is told to all, and computed by all on their parts."""

from collections.abc import Sequence as Items

from mythos.engine.backend import Pass, Segment, run_chunk, run_decode
from mythos.engine.cache import cache_for
from mythos.engine.loader import LoadedTier
from mythos.model.parts import part_config
from mythos.model.quant import INT8_ROWS


class Sharded:
    """Rank 0's side. Blocks of the cache have the same numbers on all ranks, each with its own heads in them.

    A pass raises RankLost when a rank has gone; the others are ended too: the tier has to be loaded again.
    """

    rows = INT8_ROWS
    torch_threads = True
    whole = False  # the other ranks have their own heads of every block

    def __init__(self, loaded: LoadedTier, blocks: int, secret: bytes) -> None:
        assert loaded.ranks is not None
        self.name = loaded.backend
        self.model, self.ranks = loaded.model, loaded.ranks
        config = part_config(loaded.model.config, self.ranks.count)
        self.cache = cache_for(config, blocks, loaded.dtype, secret)
        self._tell({"blocks": blocks})

    def chunk(self, segment: Segment, layers: Items[int] = ()) -> Pass:
        self._tell({"decode": False, "segments": [_fields(segment)]})
        try:
            return run_chunk(self.model, self.cache, segment, layers)
        except Exception as error:
            raise self.ranks.lost(error) from error

    def decode(self, segments: list[Segment], layers: Items[int] = ()) -> Pass:
        self._tell({"decode": True, "segments": [_fields(segment) for segment in segments]})
        try:
            return run_decode(self.model, self.cache, segments, layers)
        except Exception as error:
            raise self.ranks.lost(error) from error

    def _tell(self, message: dict) -> None:
        try:
            self.ranks.tell(message)
        except OSError as error:
            raise self.ranks.lost(error) from error


def _fields(segment: Segment) -> list:
    return [segment.table, segment.start, list(segment.tokens), segment.wanted]
