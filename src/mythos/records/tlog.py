"""Proofs about an append-only log (RFC 6962 section 2.1, verified as in RFC 9162 section 2.1.4.2), and two
texts that carry them: https://c2sp.org/tlog-proof and the request of https://c2sp.org/tlog-witness.

Proofs are made from `hash_of(low, high)`, the tree hash over the leaves low..high-1, asked for only where RFC
6962 splits a tree; that is all a store of hashes must be able to tell.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mythos.records.canonical import RecordError
from mythos.records.note import TreeHead, decode, number
from mythos.records.root import hash_from_path, node_hash, tree_hash

MAX_PATH = 63  # hashes in a proof
PROOF_HEADER = "c2sp.org/tlog-proof@v1"

HashOf = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That leaf `index` is in the tree of `note`. `extra`, if any, is the entry that was hashed."""

    index: int
    path: tuple[bytes, ...]
    note: bytes
    extra: bytes = b""


@dataclass(frozen=True, slots=True)
class WitnessRequest:
    """A head to cosign, and the proof from the head of `old` leaves, the last that the witness cosigned."""

    old: int
    path: tuple[bytes, ...]
    note: bytes


def split_point(size: int) -> int:
    """The largest power of two below `size` (at least 2): where RFC 6962 splits a tree."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_path(hash_of: HashOf, index: int, size: int) -> tuple[bytes, ...]:
    """The audit path of leaf `index` in the tree of `size` leaves, lowest first."""
    if not 0 <= index < size:
        raise IndexError(f"no leaf {index} in a tree of {size}")
    low, high, path = 0, size, []
    while high - low > 1:
        middle = low + split_point(high - low)
        if index < middle:
            path.append(hash_of(middle, high))
            high = middle
        else:
            path.append(hash_of(low, middle))
            low = middle
    return tuple(reversed(path))


def consistency_path(hash_of: HashOf, old: int, new: int) -> tuple[bytes, ...]:
    """The proof that the tree of `old` leaves is a prefix of that of `new`; empty from 0 and to itself."""
    if not 0 <= old <= new:
        raise IndexError(f"no proof from {old} to {new} leaves")
    low, high, path = 0, new, []
    while 0 < old < high:
        middle = low + split_point(high - low)
        if old <= middle:
            path.append(hash_of(middle, high))
            high = middle
        else:
            path.append(hash_of(low, middle))
            low = middle
    if low:  # the old tree itself is not a node of the new one: start from its last full part
        path.append(hash_of(low, high))
    return tuple(reversed(path))


def inclusion_holds(leaf: bytes, index: int, head: TreeHead, path: Sequence[bytes]) -> bool:
    return hash_from_path(leaf, index, head.size, path) == head.root


def consistency_holds(old: TreeHead, new: TreeHead, path: Sequence[bytes]) -> bool:
    """Whether `path` shows that the log of `new` only grew since `old`."""
    if old.origin != new.origin or old.size > new.size:
        return False
    if old.size in (0, new.size):
        return not path and old.root == (new.root if old.size else tree_hash(()))
    steps = list(path)
    if old.size & (old.size - 1) == 0:  # a full tree: the verifier has its root already
        steps.insert(0, old.root)
    if not steps:
        return False
    first, last = old.size - 1, new.size - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    was = now = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            was, now = node_hash(step, was), node_hash(step, now)
            while first and not first & 1:
                first, last = first >> 1, last >> 1
        else:
            now = node_hash(now, step)
        first, last = first >> 1, last >> 1
    return last == 0 and was == old.root and now == new.root


def proof_text(proof: InclusionProof) -> bytes:
    """The C2SP `tlog-proof` form."""
    extra = [f"extra {base64.b64encode(proof.extra).decode()}"] if proof.extra else []
    return _joined([PROOF_HEADER, *extra, f"index {proof.index}"], proof.path, proof.note)


def parse_proof(data: bytes) -> InclusionProof:
    lines, note = _parted(data)
    if lines.pop(0) != PROOF_HEADER:
        raise RecordError(f"an inclusion proof begins with {PROOF_HEADER}")
    extra = decode(lines.pop(0)[6:], "extra data") if lines and lines[0].startswith("extra ") else b""
    return InclusionProof(_field(lines, "index"), _path(lines), note, extra)


def request_text(request: WitnessRequest) -> bytes:
    """The body of C2SP `add-checkpoint`."""
    return _joined([f"old {request.old}"], request.path, request.note)


def parse_request(data: bytes) -> WitnessRequest:
    lines, note = _parted(data)
    return WitnessRequest(_field(lines, "old"), _path(lines), note)


def _joined(lines: list[str], path: Sequence[bytes], note: bytes) -> bytes:
    lines = [*lines, *(base64.b64encode(step).decode() for step in path)]
    return "\n".join([*lines, "", ""]).encode() + note


def _parted(data: bytes) -> tuple[list[str], bytes]:
    """The lines above the first empty one (never none), and the note below."""
    head, blank, note = data.partition(b"\n\n")
    if not blank or not head.isascii():
        raise RecordError("a proof is lines of text, an empty line, and a signed tree head")
    return head.decode().split("\n"), note


def _field(lines: list[str], name: str) -> int:
    """The number of the first line, `name N`, which is taken from `lines`."""
    start, _, rest = (lines.pop(0) if lines else "").partition(" ")
    if start != name:
        raise RecordError(f"a line '{name} N' is missing")
    return number(rest, name)


def _path(lines: list[str]) -> tuple[bytes, ...]:
    path = tuple(decode(line, "proof") for line in lines)
    if len(path) > MAX_PATH or any(len(step) != 32 for step in path):
        raise RecordError(f"a proof has at most {MAX_PATH} hashes of 32 bytes")
    return path
