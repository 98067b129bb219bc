"""The hashes of the log as files: C2SP tiles (https://c2sp.org/tlog-tiles) of height 8, partial ones too.

`DIRECTORY/tile/LEVEL/INDEX` holds up to 256 hashes of 32 bytes: leaves at level 0, above it the root of each
full tile below. Entries are never written here: they carry names. Tiles are a projection of the ledger table;
whoever reads one checks what follows from it against a signed root, and `heads` makes damaged ones again.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mythos.records.errors import MythosError
from mythos.records.root import tree_hash
from mythos.records.tlog import split_point

HEIGHT, WIDTH, HASH = 8, 256, 32

Tile = tuple[int, int, list[bytes]]  # level, index, hashes


class LedgerError(MythosError):
    """The log, its tiles or its tree heads are not what was signed, or do not reach as far as was asked."""


class RightEdge:
    """The log's growing side: of every level the hashes that fill no tile yet. `size` counts leaves."""

    def __init__(self, size: int = 0, levels: list[list[bytes]] | None = None) -> None:
        self.size = size
        self.levels = levels or []

    def add(self, leaf: bytes) -> list[Tile]:
        """Append a leaf hash; the tiles that it fills."""
        self.size += 1
        full: list[Tile] = []
        while True:
            level = len(full)
            if level == len(self.levels):
                self.levels.append([])
            self.levels[level].append(leaf)
            if len(self.levels[level]) < WIDTH:
                return full
            hashes, self.levels[level] = self.levels[level], []
            full.append((level, (self.size >> HEIGHT * (level + 1)) - 1, hashes))
            leaf = tree_hash(hashes)

    def partial(self) -> Iterator[Tile]:
        """The tiles that are not full."""
        for level, hashes in enumerate(self.levels):
            if hashes:
                yield level, self.size >> HEIGHT * (level + 1), hashes

    def root(self) -> bytes:
        rest: list[bytes] = []
        for hashes in self.levels:  # what lower levels hold stands to the right, as a smaller subtree
            if hashes:
                rest = [tree_hash(hashes + rest)]
        return tree_hash(rest)


class Tiles:
    """Reads the tiles of a log of `size` leaves, each at most once. LedgerError when one is not there."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.size = size
        self._read: dict[tuple[int, int], list[bytes]] = {}

    def hashes(self, level: int, index: int) -> list[bytes]:
        """All hashes of one tile."""
        if (level, index) not in self._read:
            width = min(WIDTH, (self.size >> HEIGHT * level) - WIDTH * index)
            self._read[level, index] = read_tile(self.directory, level, index, width)
        return self._read[level, index]

    def hash_of(self, low: int, high: int) -> bytes:
        """The tree hash over the leaves low..high-1, as `records.tlog` asks for it."""
        count = high - low
        if count & (count - 1):
            middle = low + split_point(count)
            return tree_hash((self.hash_of(low, middle), self.hash_of(middle, high)))
        level, rest = divmod(count.bit_length() - 1, HEIGHT)
        index, start = divmod(low >> HEIGHT * level, WIDTH)
        return tree_hash(self.hashes(level, index)[start : start + (1 << rest)])

    def edge(self) -> RightEdge:
        """The right edge at `size`."""
        levels: list[list[bytes]] = []
        while (count := self.size >> HEIGHT * len(levels)) > 0:
            level = len(levels)
            levels.append(list(self.hashes(level, count // WIDTH)) if count % WIDTH else [])
        return RightEdge(self.size, levels)


def tile_path(directory: Path, level: int, index: int, width: int = WIDTH) -> Path:
    """Where a tile lies: index 1234067 is `x001/x234/067`, and a partial tile ends in `.p/WIDTH`."""
    parts = [f"{index % 1000:03d}"]
    while index := index // 1000:
        parts.insert(0, f"x{index % 1000:03d}")
    if width < WIDTH:
        parts[-1] += ".p"
        parts.append(str(width))
    return directory.joinpath("tile", str(level), *parts)


def read_tile(directory: Path, level: int, index: int, width: int) -> list[bytes]:
    """The first `width` hashes of a tile: a partial tile may have become a full one. LedgerError."""
    for path in dict.fromkeys(
        (tile_path(directory, level, index, width), tile_path(directory, level, index))
    ):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if len(data) % HASH == 0 and len(data) >= width * HASH:
            return [data[at : at + HASH] for at in range(0, width * HASH, HASH)]
    where = tile_path(directory, level, index, width)
    raise LedgerError(f"the tile {where} is missing or damaged", "mythos ledger head --rebuild")


def write_tile(directory: Path, tile: Tile) -> None:
    """Write a tile; a full one takes the place of its partial ones."""
    level, index, hashes = tile
    path = tile_path(directory, level, index, len(hashes))
    write_atomic(path, b"".join(hashes))
    if len(hashes) == WIDTH:
        shutil.rmtree(path.with_name(path.name + ".p"), ignore_errors=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a 0600 file, on disk when this returns; a reader sees all of it or what was there before."""
    missing = [place for place in (path.parent, *path.parent.parents) if not place.is_dir()]
    for place in reversed(missing):
        place.mkdir(mode=0o700, exist_ok=True)
    file, draft = tempfile.mkstemp(dir=path.parent, prefix=".draft")
    try:
        with os.fdopen(file, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(file)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
