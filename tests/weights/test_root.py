"""Roots of weights: RFC 6962, and proofs that a part belongs."""

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mythos.records import root as r
from mythos.records.root import FileDigest, Manifest, TensorDigest

# Test vectors of the Certificate Transparency project: these eight leaves, and the root after each.
LEAVES = [
    b"", b"\x00", b"\x10", b"\x20\x21", b"\x30\x31", b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57", b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_tree_hash_is_that_of_the_rfc() -> None:
    leaves = [r.leaf_hash(leaf) for leaf in LEAVES]
    assert [r.tree_hash(leaves[: n + 1]).hex() for n in range(8)] == ROOTS
    assert r.tree_hash([]) == hashlib.sha256().digest()


@pytest.mark.parametrize("count", range(1, 20))
def test_every_audit_path_leads_to_the_root_and_only_its_own(count: int) -> None:
    leaves = [r.leaf_hash(bytes([n])) for n in range(count)]
    tree = r.tree_hash(leaves)
    for index, leaf in enumerate(leaves):
        path = r.audit_path(leaves, index)
        assert r.hash_from_path(leaf, index, count, path) == tree
        for wrong in range(-1, count + 2):
            if wrong != index:
                assert r.hash_from_path(leaf, wrong, count, path) != tree
        assert r.hash_from_path(leaf, index, count, (*path, leaf)) is None
        if path:
            assert r.hash_from_path(leaf, index, count, path[:-1]) is None


def tensor(data: bytes, dtype: str = "I8") -> TensorDigest:
    return TensorDigest(dtype, (len(data),), r.chunk_hashes(memoryview(data)))


DATA = {"a.weight": b"a" * r.CHUNK + b"A" * (r.CHUNK + 5), "b.weight": b"b" * r.CHUNK, "c.scale": b"c"}
MANIFEST = Manifest(
    tensors={name: tensor(data) for name, data in DATA.items()},
    files={"config.json": FileDigest(2, "00" * 32), "tokenizer.json": FileDigest(3, "11" * 32)},
)


def test_chunks_cover_a_tensor() -> None:
    assert [len(t.chunks) for t in MANIFEST.tensors.values()] == [3, 1, 1]


def test_every_chunk_is_proved_and_no_other_data() -> None:
    root = r.root(MANIFEST)
    for name, data in DATA.items():
        for index in range(len(MANIFEST.tensors[name].chunks)):
            chunk = data[index * r.CHUNK : (index + 1) * r.CHUNK]
            proof = r.prove_chunk(MANIFEST, name, index)
            assert r.chunk_belongs(root, proof, chunk)
            assert not r.chunk_belongs(root, proof, chunk[:-1] + b"x")
            assert not r.chunk_belongs("0" * 64, proof, chunk)
            for change in (
                {"name": "other.weight"}, {"dtype": "F32"}, {"shape": (1, len(data))}, {"chunk": index + 1},
                {"chunks": proof.chunks + 1}, {"leaf": proof.leaf - 1}, {"leaf_path": proof.leaf_path[1:]},
            ):  # fmt: skip
                assert not r.chunk_belongs(root, dataclasses.replace(proof, **change), chunk), change
    with pytest.raises(IndexError):
        r.prove_chunk(MANIFEST, "c.scale", 1)
    with pytest.raises(KeyError):
        r.prove_chunk(MANIFEST, "d.weight", 0)


def test_the_root_stands_for_every_fact() -> None:
    a, b, c = MANIFEST.tensors.values()
    changed = [
        {"a.weight": a, "b.weight": b},
        {"a.weight": b, "b.weight": a, "c.scale": c},
        {"a.weight": dataclasses.replace(a, dtype="F32"), "b.weight": b, "c.scale": c},
        {"a.weight": dataclasses.replace(a, shape=(1, *a.shape)), "b.weight": b, "c.scale": c},
        {"a.weight": dataclasses.replace(a, chunks=a.chunks[::-1]), "b.weight": b, "c.scale": c},
    ]
    roots = {r.root(Manifest(tensors, MANIFEST.files)) for tensors in changed}
    files = [{"config.json": FileDigest(2, "00" * 32)}, {"config.json": FileDigest(3, "00" * 32)}, {}]
    roots |= {r.root(Manifest(MANIFEST.tensors, part)) for part in files}
    assert len(roots | {r.root(MANIFEST)}) == len(changed) + len(files) + 1


@given(st.permutations(list(MANIFEST.tensors)), st.permutations(list(MANIFEST.files)))
def test_order_does_not_matter(tensors: list[str], files: list[str]) -> None:
    shuffled = Manifest(
        {name: MANIFEST.tensors[name] for name in tensors}, {name: MANIFEST.files[name] for name in files}
    )
    assert r.root(shuffled) == r.root(MANIFEST)
    assert r.manifest_json(shuffled) == r.manifest_json(MANIFEST)
