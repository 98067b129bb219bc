"""The name of weights: one Merkle root over every tensor, in chunks, and every file beside them.

Hashing is that of RFC 6962 section 2.1 (SHA-256, 0x00 before a leaf, 0x01 before a node). A tensor's chunks
form a tree of their own, whose root stands in the tensor's leaf; so whoever loads one tensor, or a part of
it, proves that part against the root without the rest.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mythos.records.canonical import canonical

CHUNK = 4 * 1024 * 1024  # bytes of a tensor per leaf; the last one may be shorter
VERSION = 1


@dataclass(frozen=True, slots=True)
class TensorDigest:
    """`dtype` as safetensors writes it; `chunks` are leaf hashes of the row-major little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FileDigest:
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    tensors: Mapping[str, TensorDigest]
    files: Mapping[str, FileDigest]


@dataclass(frozen=True, slots=True)
class ChunkProof:
    """That one chunk of one tensor belongs to a root. Paths are RFC 6962 audit paths, lowest first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunk: int
    chunks: int
    chunk_path: tuple[bytes, ...]
    leaf: int
    leaves: int
    leaf_path: tuple[bytes, ...]


def leaf_hash(data: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(b"\x00")
    digest.update(data)
    return digest.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def chunk_hashes(data: memoryview) -> tuple[bytes, ...]:
    """Leaf hashes of a tensor's bytes (a flat view of unsigned bytes)."""
    return tuple(leaf_hash(data[start : start + CHUNK]) for start in range(0, max(len(data), 1), CHUNK))


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """The Merkle tree hash over leaf hashes; of no leaves, the hash of nothing."""
    if not leaves:
        return hashlib.sha256().digest()
    level = list(leaves)
    while len(level) > 1:
        paired = [node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(level) & ~1 :]  # an odd last one moves up as it is
    return level[0]


def audit_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The sibling hashes from leaf `index` up to the root."""
    path, level = [], list(leaves)
    while len(level) > 1:
        if (sibling := index ^ 1) < len(level):
            path.append(level[sibling])
        paired = [node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(level) & ~1 :]
        index //= 2
    return tuple(path)


def hash_from_path(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """The tree hash that `path` leads to from leaf `index` of `count`; None when no tree has it."""
    if not 0 <= index < count:
        return None
    steps = iter(path)
    digest = leaf
    while count > 1:
        if index ^ 1 < count:
            sibling = next(steps, None)
            if sibling is None:
                return None
            digest = node_hash(sibling, digest) if index % 2 else node_hash(digest, sibling)
        index, count = index // 2, (count + 1) // 2
    return digest if next(steps, None) is None else None


def _leaves(manifest: Manifest) -> list[bytes]:
    """First a leaf with the version and the counts; then files and tensors, each sorted by name."""
    head = {
        "kind": "weights",
        "version": VERSION,
        "files": len(manifest.files),
        "tensors": len(manifest.tensors),
    }
    leaves = [leaf_hash(canonical(head))]
    for name, file in sorted(manifest.files.items()):
        leaf = {"kind": "file", "name": name, "size": file.size, "sha256": file.sha256}
        leaves.append(leaf_hash(canonical(leaf)))
    for name, tensor in sorted(manifest.tensors.items()):
        tree = tree_hash(tensor.chunks)
        leaves.append(_tensor_leaf(name, tensor.dtype, tensor.shape, len(tensor.chunks), tree))
    return leaves


def _tensor_leaf(name: str, dtype: str, shape: tuple[int, ...], chunks: int, tree: bytes) -> bytes:
    leaf = {
        "kind": "tensor",
        "name": name,
        "dtype": dtype,
        "shape": list(shape),
        "chunks": chunks,
        "tree": tree.hex(),
    }
    return leaf_hash(canonical(leaf))


def root(manifest: Manifest) -> str:
    """The root as 64 hexadecimal digits."""
    return tree_hash(_leaves(manifest)).hex()


def prove_chunk(manifest: Manifest, name: str, chunk: int) -> ChunkProof:
    """The proof for one chunk of the tensor `name`; KeyError or IndexError when there is no such chunk."""
    tensor = manifest.tensors[name]
    if not 0 <= chunk < len(tensor.chunks):
        raise IndexError(f"{name} has {len(tensor.chunks)} chunks")
    leaves = _leaves(manifest)
    leaf = 1 + len(manifest.files) + sorted(manifest.tensors).index(name)
    return ChunkProof(
        name=name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        chunk=chunk,
        chunks=len(tensor.chunks),
        chunk_path=audit_path(tensor.chunks, chunk),
        leaf=leaf,
        leaves=len(leaves),
        leaf_path=audit_path(leaves, leaf),
    )


def chunk_belongs(root: str, proof: ChunkProof, data: bytes | memoryview) -> bool:
    """Whether `data` is the chunk that `proof` speaks of, in the weights called `root`."""
    tree = hash_from_path(leaf_hash(data), proof.chunk, proof.chunks, proof.chunk_path)
    if tree is None:
        return False
    leaf = _tensor_leaf(proof.name, proof.dtype, proof.shape, proof.chunks, tree)
    found = hash_from_path(leaf, proof.leaf, proof.leaves, proof.leaf_path)
    return found is not None and found.hex() == root


def manifest_json(manifest: Manifest) -> bytes:
    """The canonical JSON of a manifest (RFC 8785)."""
    tensors = {
        name: {"dtype": t.dtype, "shape": list(t.shape), "chunks": [chunk.hex() for chunk in t.chunks]}
        for name, t in manifest.tensors.items()
    }
    files = {name: {"size": file.size, "sha256": file.sha256} for name, file in manifest.files.items()}
    return canonical({"version": VERSION, "tensors": tensors, "files": files})
