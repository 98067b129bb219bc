"""Paged key/value cache of one tier, with a prefix cache of whole prompt chunks.

Shape letters: L layers, G kv heads, S slots (blocks x BLOCK), K head dim.

A *block* holds BLOCK positions. A *chunk* is CHUNK positions of a prompt, starting at a multiple of CHUNK:
the unit in which prompts are computed and shared. Only whole chunks that were computed as one chunk are
shared, so that reused keys and values are bit for bit those that would have been computed again.
"""

import hashlib
import hmac
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch

from mythos.spec.config import ModelConfig

BLOCK = 64
CHUNK = 256
BLOCKS_PER_CHUNK = CHUNK // BLOCK


def cache_for(config: ModelConfig, blocks: int, dtype: torch.dtype, secret: bytes) -> "PagedCache":
    """The cache of a model whose latent attention, if it has any, is absorbed."""
    if config.mla is not None:
        latent = config.mla.kv_rank + config.mla.rope_dim
        return PagedCache(config.layers, 1, latent, blocks, dtype, secret, values=False)
    return PagedCache(config.layers, config.kv_heads, config.head_dim, blocks, dtype, secret)


@dataclass(slots=True)
class _Chunk:
    blocks: tuple[int, ...]
    users: int


class PagedCache:
    """Blocks of one tier: `kv[l]` has shape (2G, blocks, BLOCK, K), keys first, then values; (G, ...) when
    values are the keys themselves, as in absorbed latent attention. What lies inside a block is the backend's
    affair: the native one keeps bytes and scales, and K is the bytes of a position.

    Blocks are handed out for a sequence's whole possible length at once (`reserve`), so a running sequence
    never has to stop for want of memory; a sequence that does not fit waits.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        blocks: int,
        dtype: torch.dtype,
        secret: bytes,
        values: bool = True,
    ) -> None:
        self.values = values  # whether they are stored beside the keys
        rows = kv_heads * (1 + values)
        # What lies in unused positions must be finite, since 0 * NaN is NaN; numpy's zeros are pages that the
        # system gives only when they are first written, so an idle pool costs nothing.
        shape = (rows, blocks, BLOCK, head_dim)
        raw = [np.zeros(shape, dtype=f"u{dtype.itemsize}") for _ in range(layers)]
        self.kv = [torch.from_numpy(layer).view(dtype) for layer in raw]
        self.flat = [layer.view(rows, blocks * BLOCK, head_dim) for layer in self.kv]
        self.blocks = blocks
        self._secret = secret
        self._free = list(range(blocks - 1, -1, -1))
        self._chunks: dict[bytes, _Chunk] = {}
        self._idle: OrderedDict[bytes, None] = OrderedDict()  # chunks nobody uses now, oldest first

    @property
    def available(self) -> int:
        """Blocks that a new sequence could get, shared chunks nobody uses included."""
        return len(self._free) + len(self._idle) * BLOCKS_PER_CHUNK

    @property
    def used(self) -> int:
        return self.blocks - self.available

    def salt(self, org: str) -> bytes:
        """The prefix-cache salt of an organisation, keyed with the server's secret."""
        return hmac.digest(self._secret, org.encode(), "sha256")

    def keys_of(self, org: str, prompt: tuple[int, ...]) -> list[bytes]:
        """One chained hash for each whole chunk of a prompt."""
        keys, key = [], self.salt(org)
        for start in range(0, len(prompt) - CHUNK + 1, CHUNK):
            tokens = b"".join(t.to_bytes(4, "little") for t in prompt[start : start + CHUNK])
            key = hashlib.sha256(key + tokens).digest()
            keys.append(key)
        return keys

    def reserve(self, keys: list[bytes], positions: int) -> tuple[list[int], int] | None:
        """Blocks for `positions` positions, the leading ones shared where `keys` are known.

        Returns (block table, shared chunks), or None when there is no room now.
        """
        shared = 0
        while shared < len(keys) and keys[shared] in self._chunks:
            shared += 1
        fresh = -(-positions // BLOCK) - shared * BLOCKS_PER_CHUNK
        idle_shared = sum(key in self._idle for key in keys[:shared])
        if fresh > self.available - idle_shared * BLOCKS_PER_CHUNK:
            return None
        table: list[int] = []
        for key in keys[:shared]:
            chunk = self._chunks[key]
            chunk.users += 1
            self._idle.pop(key, None)
            table.extend(chunk.blocks)
        while len(self._free) < fresh:
            old, _ = self._idle.popitem(last=False)
            self._free.extend(self._chunks.pop(old).blocks)
        table.extend(self._free.pop() for _ in range(fresh))
        return table, shared

    def publish(self, key: bytes, blocks: tuple[int, ...]) -> bool:
        """Share a chunk just computed. False when another sequence has published the same one."""
        if key in self._chunks:
            return False
        self._chunks[key] = _Chunk(blocks, users=1)
        return True

    def release(self, table: list[int], held: list[bytes]) -> None:
        """Give back a sequence's blocks. `held`: chunks it shares or has published, leading ones first."""
        shared: set[int] = set()
        for key in reversed(held):  # later chunks are useless without the earlier ones: evict those first
            chunk = self._chunks[key]
            chunk.users -= 1
            shared.update(chunk.blocks)
            if chunk.users == 0:
                self._idle[key] = None
        self._free.extend(block for block in table if block not in shared)

    def copy_out(self, table: list[int], positions: int) -> list[torch.Tensor]:
        """What the blocks of a table's first positions hold, by layer, as copies of their own."""
        index = torch.tensor(table[: -(-positions // BLOCK)])
        return [layer.index_select(1, index) for layer in self.kv]

    def copy_in(self, table: list[int], saved: list[torch.Tensor], skip: int) -> None:
        """Put back what `copy_out` gave, from block `skip` of the table on: the bits are the same."""
        index = torch.tensor(table[skip : saved[0].shape[1]], dtype=torch.long)
        for layer, copy in zip(self.kv, saved, strict=True):
            layer.index_copy_(1, index, copy[:, skip:])

    def bytes(self) -> int:
        """Bytes the pool may come to occupy."""
        return sum(layer.numel() * layer.element_size() for layer in self.kv)
