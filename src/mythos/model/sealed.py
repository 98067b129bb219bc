"""Files at rest: AES-256-GCM in parts, after the STREAM construction (Hoang et al., CRYPTO 2015, section 7).

    "mythos1\\0" | prefix (7 random bytes) | part | 16-byte tag | part | 16-byte tag | ...

The nonce of a part is prefix | its index (4 bytes, big-endian) | 1 if it is the last, else 0; its associated
data is the header's first 8 bytes, the root and the file's name. So parts cannot be left out, added, put in
another order or moved to another file or root. The reader knows the sizes of the parts beforehand.
"""

import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"mythos1\0"
PREFIX, TAG = 7, 16
HEADER = len(MAGIC) + PREFIX
KEY_BITS = 256


class Torn(Exception):
    """A part ends too early, or is not what was sealed there."""


def seal(out: BinaryIO, key: AESGCM, root: str, name: str, parts: Iterable[Any]) -> None:
    """Writes `parts` (flat bytes, at least one) to `out`. Only two of them are held at a time."""
    prefix = secrets.token_bytes(PREFIX)
    out.write(MAGIC + prefix)
    about, scratch, index = _about(root, name), bytearray(), 0
    rest = iter(parts)
    part = next(rest)
    while part is not None:
        after = next(rest, None)  # which part is the last is sealed with it
        if len(scratch) < len(part) + TAG:
            scratch = bytearray(len(part) + TAG)
        view = memoryview(scratch)[: len(part) + TAG]
        key.encrypt_into(prefix + index.to_bytes(4, "big") + bytes([after is None]), part, about, view)
        out.write(view)
        part, index = after, index + 1


def plain_size(file_size: int, part: int) -> int:
    """Bytes sealed in a file of `file_size` that was cut into parts of `part` bytes; -1 when none can be."""
    body = file_size - HEADER
    count = max(1, -(-body // (part + TAG)))
    return max(-1, body - count * TAG)


@dataclass(frozen=True, slots=True)
class Source:
    """An open file, sealed (`key` given) or plain, and the sizes of its parts. Threads may share it."""

    descriptor: int
    sizes: Sequence[int]
    key: AESGCM | None = None
    root: str = ""
    name: str = ""

    def fits(self) -> bool:
        """Whether the file has exactly the bytes that such parts take."""
        tags = HEADER + TAG * len(self.sizes) if self.key else 0
        return os.fstat(self.descriptor).st_size == sum(self.sizes) + tags

    def read(self, items: Iterable[tuple[int, int, Any]]) -> Iterable[tuple[int, Any]]:
        """For each (index, plain bytes before it, buffer): reads the part into the buffer. Torn when wrong.

        What is decrypted lies in memory of this process only; the file is not looked at again.
        """
        key = self.key
        prefix = b""
        if key is not None:
            head = bytearray(HEADER)
            self._fill(head, 0)
            if head[: len(MAGIC)] != MAGIC:
                raise Torn
            prefix = bytes(head[len(MAGIC) :])
        scratch = bytearray((max(self.sizes) + TAG) if key else 0)
        about, count = _about(self.root, self.name), len(self.sizes)
        for index, before, buffer in items:
            if key is None:
                self._fill(buffer, before)
            else:
                view = memoryview(scratch)[: self.sizes[index] + TAG]
                self._fill(view, HEADER + before + TAG * index)
                try:
                    key.decrypt_into(_nonce(prefix, index, count), view, about, buffer)
                except InvalidTag:
                    raise Torn from None
            yield index, buffer

    def _fill(self, buffer: Any, offset: int) -> None:
        view, at = memoryview(buffer), 0
        while at < len(view):
            count = os.preadv(self.descriptor, [view[at:]], offset + at)
            if not count:
                raise Torn
            at += count


def _nonce(prefix: bytes, index: int, count: int) -> bytes:
    return prefix + index.to_bytes(4, "big") + bytes([index == count - 1])


def _about(root: str, name: str) -> bytes:
    return MAGIC + root.encode() + b"\0" + name.encode()
