"""Proofs against a reference that follows RFC 6962 section 2.1 word for word, at every size up to 200."""

import hashlib
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.records.canonical import RecordError
from mythos.records.note import TreeHead
from mythos.records.root import leaf_hash, node_hash
from mythos.records.tlog import (
    InclusionProof,
    WitnessRequest,
    consistency_holds,
    consistency_path,
    inclusion_holds,
    inclusion_path,
    parse_proof,
    parse_request,
    proof_text,
    request_text,
)

MAX = 200
LEAVES = [leaf_hash(b"%d" % n) for n in range(MAX)]


@cache
def mth(low: int, high: int) -> bytes:
    n = high - low
    if n == 0:
        return hashlib.sha256(b"").digest()
    if n == 1:
        return LEAVES[low]
    k = 1
    while k * 2 < n:
        k *= 2
    return hashlib.sha256(b"\x01" + mth(low, low + k) + mth(low + k, high)).digest()


def path(m: int, low: int, high: int) -> list[bytes]:
    n = high - low
    if n == 1:
        return []
    k = 1
    while k * 2 < n:
        k *= 2
    if m < k:
        return [*path(m, low, low + k), mth(low + k, high)]
    return [*path(m - k, low + k, high), mth(low, low + k)]


def subproof(m: int, low: int, high: int, whole: bool) -> list[bytes]:
    n = high - low
    if m == n:
        return [] if whole else [mth(low, high)]
    k = 1
    while k * 2 < n:
        k *= 2
    if m <= k:
        return [*subproof(m, low, low + k, whole), mth(low + k, high)]
    return [*subproof(m - k, low + k, high, False), mth(low, low + k)]


def head(size: int) -> TreeHead:
    return TreeHead("log.example", size, mth(0, size))


def test_published_roots():
    """The test vectors of certificate-transparency-go for RFC 6962."""
    texts = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
    leaves = [leaf_hash(bytes.fromhex(text)) for text in texts]
    assert mth(0, 0).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaves[0].hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    fours = [node_hash(node_hash(*leaves[i : i + 2]), node_hash(*leaves[i + 2 : i + 4])) for i in (0, 4)]
    assert node_hash(*fours).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_every_inclusion_proof():
    for size in range(1, MAX + 1):
        for index in range(size):
            found = inclusion_path(mth, index, size)
            assert list(found) == path(index, 0, size)
            assert inclusion_holds(LEAVES[index], index, head(size), found)


def test_every_consistency_proof():
    for new in range(MAX + 1):
        for old in range(new + 1):
            found = consistency_path(mth, old, new)
            assert list(found) == (subproof(old, 0, new, True) if old else [])
            assert consistency_holds(head(old), head(new), found)


def test_au_06_proofs_of_something_else():
    """An inner node as a leaf, another size, another log, another index: all false; the right one true."""
    other = TreeHead("log.example", 7, bytes(32))
    for size in range(2, 40):
        for index in range(size):
            found = inclusion_path(mth, index, size)
            assert inclusion_holds(LEAVES[index], index, head(size), found)  # control
            for wrong in (size - 1, size + 1, 2 * size):
                same_shape = TreeHead("log.example", wrong, mth(0, size))
                assert not inclusion_holds(LEAVES[index], index, head(wrong), found)
                if inclusion_holds(LEAVES[index], index, same_shape, found):
                    # the path has the same shape in the other size, and the head is not one the log ever had
                    assert mth(0, wrong) != same_shape.root
            assert not inclusion_holds(LEAVES[index], index, other, found)
            assert not inclusion_holds(LEAVES[(index + 1) % size], index, head(size), found)
            assert not inclusion_holds(LEAVES[index], (index + 1) % size, head(size), found)
            assert not inclusion_holds(LEAVES[index], index + size, head(size), found)
            assert not inclusion_holds(LEAVES[index], index, head(size), found[:-1])
            assert not inclusion_holds(LEAVES[index], index, head(size), (*found, found[-1]))
        # a node over two leaves, shown as leaf `0` of the tree of half the height
        inner = mth(0, 2)
        assert not inclusion_holds(inner, 0, head(size), inclusion_path(mth, 0, size)[1:])
        # and the two children of a node as if they were the text of an entry
        assert leaf_hash(LEAVES[0] + LEAVES[1]) != inner


@settings(max_examples=60)
@given(st.data())
def test_changed_proofs_do_not_hold(data):
    new = data.draw(st.integers(2, MAX))
    old = data.draw(st.integers(1, new - 1))
    proof = list(consistency_path(mth, old, new))
    assert consistency_holds(head(old), head(new), proof)
    at = data.draw(st.integers(0, len(proof) - 1))
    changed = proof[:]
    changed[at] = bytes(
        a ^ b for a, b in zip(proof[at], data.draw(st.binary(min_size=32, max_size=32)), strict=True)
    )
    if changed != proof:
        assert not consistency_holds(head(old), head(new), changed)
    assert not consistency_holds(head(old), head(new), proof[:at] + proof[at + 1 :])
    assert not consistency_holds(head(old), head(new), [*proof, proof[at]])
    assert not consistency_holds(head(new), head(old), proof)
    assert not consistency_holds(TreeHead("other", old, mth(0, old)), head(new), proof)
    fork = TreeHead("log.example", old, leaf_hash(mth(0, old)))
    assert not consistency_holds(fork, head(new), proof)
    assert not consistency_holds(head(old), TreeHead("log.example", new, fork.root), proof)
    assert not consistency_holds(head(new), TreeHead("log.example", new, fork.root), [])
    assert not consistency_holds(TreeHead("log.example", 0, fork.root), head(new), [])


def test_indices_out_of_the_tree():
    for index, size in ((0, 0), (5, 5), (-1, 5)):
        with pytest.raises(IndexError):
            inclusion_path(mth, index, size)
    for old, new in ((6, 5), (-1, 5)):
        with pytest.raises(IndexError):
            consistency_path(mth, old, new)


HASHES = st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple)
NUMBERS = st.integers(0, 2**63 - 1)


@settings(max_examples=50)
@given(NUMBERS, HASHES, st.binary(min_size=1, max_size=50), st.binary(max_size=50))
def test_texts_there_and_back(number, hashes, note, extra):
    proof = InclusionProof(number, hashes, note, extra)
    assert parse_proof(proof_text(proof)) == proof
    request = WitnessRequest(number, hashes, note)
    assert parse_request(request_text(request)) == request


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n",
        b"old 5\n",
        b"c2sp.org/tlog-proof@v1\n\nx",
        b"c2sp.org/tlog-proof@v2\nindex 5\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 05\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 5\nAAAA\n\nx",
        b"c2sp.org/tlog-proof@v1\nextra ?\nindex 5\n\nx",
        b"c2sp.org/tlog-proof@v1\nindex 5\nextra AAAA\n\nx",
        b"c2sp.org/tlog-proof@v1\n\xff\n\nx",
        b"old -1\n\nx",
        b"old 1\n" + b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n" * 64 + b"\nx",
    ],
)
def test_malformed_texts(text):
    for read in (parse_proof, parse_request):
        with pytest.raises(RecordError):
            read(text)
