"""Signed notes: known vectors, strictness, and that no byte of one can be changed."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from mythos.records import note as notes
from mythos.records.canonical import RecordError
from mythos.records.dsse import SignatureError
from mythos.records.note import (
    LOG,
    WITNESS,
    TreeHead,
    Verifier,
    cosign_head,
    merge,
    open_note,
    parse_head,
    parse_verifier,
    sign_head,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
HEAD = TreeHead("log.example/a", 7, bytes(range(32)))


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


LOG_KEY = Verifier("log.example/a", LOG, public(KEY))
WITNESS_KEY = Verifier("w.example/1", WITNESS, public(OTHER))
NOTE = sign_head(HEAD, KEY)
COSIGNED = NOTE + cosign_head(HEAD, "w.example/1", OTHER, 1_700_000_000)


def test_the_vector_of_the_go_implementation():
    """golang.org/x/mod/sumdb/note, package documentation."""
    verifier = parse_verifier("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    assert (verifier.name, verifier.kind, verifier.key_hash.hex()) == ("PeterNeumann", LOG, "c74f20a3")
    signed = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n\n"
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6Ry"
        "yBwJnAM=\n"
    )
    text, ((name, data),) = notes._split(signed.encode())
    assert name == "PeterNeumann" and data[:4] == verifier.key_hash
    Ed25519PublicKey.from_public_bytes(verifier.public).verify(data[4:], text.encode())
    with pytest.raises(RecordError):  # a note, but not a tree head
        open_note(signed.encode(), verifier)


def test_the_examples_of_the_specification_parse():
    """c2sp.org/tlog-cosignature."""
    text = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzG"
        "ku9nTo+zyWE+xeMcTOAYQ8=\n"
        "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nP"
        "Zqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
    )
    assert parse_head(text.encode()).size == 20852163
    assert parse_head(text.encode()).text == text[: text.index("\n\n") + 1]
    _, lines = notes._split(text.encode())
    assert int.from_bytes(lines[1][1][4:12], "big") == 1679315147  # the time in its example
    assert len(lines[1][1]) == 4 + 8 + 64 and len(lines[0][1]) == 4 + 64


def test_signed_and_cosigned():
    assert open_note(NOTE, LOG_KEY).head == HEAD
    assert open_note(COSIGNED, LOG_KEY).signers == {LOG_KEY: None}  # an unknown key is passed over
    assert open_note(COSIGNED, WITNESS_KEY, [LOG_KEY]).signers == {LOG_KEY: None, WITNESS_KEY: 1_700_000_000}
    assert merge(open_note(NOTE, LOG_KEY), open_note(COSIGNED, LOG_KEY, [WITNESS_KEY])) == COSIGNED
    assert (
        merge(open_note(NOTE, LOG_KEY), open_note(COSIGNED, LOG_KEY)) == NOTE
    )  # nothing unverified comes along


@pytest.mark.parametrize("signed", [NOTE, COSIGNED], ids=["log", "cosigned"])
def test_every_changed_byte_is_refused(signed):
    """Every byte, to each other value (cosigned: every bit), for a reader who needs all signatures."""
    keys, flips = (LOG_KEY,), range(1, 256)
    if signed is COSIGNED:
        keys, flips = (WITNESS_KEY, LOG_KEY), [1 << bit for bit in range(8)]
    for at in range(len(signed)):
        for flip in flips:
            changed = signed[:at] + bytes([signed[at] ^ flip]) + signed[at + 1 :]
            with pytest.raises(RecordError):
                opened = open_note(changed, keys[0], keys[1:])
                if set(opened.signers) != set(
                    keys
                ):  # a name changed: that signature is by an unknown key now
                    raise SignatureError("not signed by both")
    for at in range(len(signed)):
        with pytest.raises(RecordError):
            opened = open_note(signed[:at], keys[0], keys[1:])
            if set(opened.signers) != set(keys):
                raise SignatureError("not signed by both")
    assert set(open_note(signed, keys[0], keys[1:]).signers) == set(keys)  # control


def resigned(text: str) -> bytes:
    data = LOG_KEY.key_hash + KEY.sign(text.encode())
    return f"{text}\n— {LOG_KEY.name} {base64.b64encode(data).decode()}\n".encode()


ROOT = base64.b64encode(HEAD.root).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"log.example/a\n07\n{ROOT}\n",
        f"log.example/a\n+7\n{ROOT}\n",
        f"log.example/a\n7 \n{ROOT}\n",
        f"log.example/a\n٧\n{ROOT}\n",
        f"log.example/a\n-1\n{ROOT}\n",
        f"log.example/a\n{2**63}\n{ROOT}\n",
        f"log.example/a\n7\n{ROOT}\nextension\n",
        f"log.example/a\n7\n{ROOT[:-1]}\n",
        f"log.example/a\n7\n{ROOT[:-2]}9=\n",  # the same bytes in another spelling
        "log.example/a\n7\nAAAA\n",
        f"log.example/a\r\n7\n{ROOT}\n",
        f"log.example/ a\n7\n{ROOT}\n",
        f"log+example\n7\n{ROOT}\n",
        f"\n7\n{ROOT}\n",
        f"log.example/b\n7\n{ROOT}\n",  # another log, signed with this one's key
        f"log.example/a\n7\n{ROOT}\n\n",
    ],
)
def test_what_is_no_tree_head_is_refused_though_signed(text):
    assert open_note(resigned(f"log.example/a\n7\n{ROOT}\n"), LOG_KEY).head == HEAD  # control
    with pytest.raises(RecordError):
        open_note(resigned(text), LOG_KEY)


def test_signatures_of_others_and_twice():
    with pytest.raises(SignatureError):
        open_note(sign_head(HEAD, OTHER), LOG_KEY)
    with pytest.raises(SignatureError):
        open_note(NOTE + NOTE.rpartition(b"\n\n")[2], LOG_KEY)
    with pytest.raises(SignatureError):  # a log's key is no witness's, though it is the same key
        open_note(
            NOTE + cosign_head(HEAD, LOG_KEY.name, KEY, 5), Verifier(LOG_KEY.name, WITNESS, public(OTHER))
        )
    forged = COSIGNED + cosign_head(HEAD, "w.example/1", KEY, 5)
    assert (
        WITNESS_KEY in open_note(forged, WITNESS_KEY).signers
    )  # same name, another key: unknown, passed over
    moved = cosign_head(TreeHead(HEAD.origin, 8, HEAD.root), "w.example/1", OTHER, 5)
    with pytest.raises(SignatureError):  # a known key whose signature is of another head condemns the note
        open_note(NOTE + moved, LOG_KEY, [WITNESS_KEY])


@pytest.mark.parametrize(
    "text", ["", "a+b", "a+00000000+", str(LOG_KEY)[:-4], "x" + str(LOG_KEY), "a b+1+AA=="]
)
def test_bad_verifier_keys(text):
    assert parse_verifier(f"{LOG_KEY}\n") == LOG_KEY and parse_verifier(str(WITNESS_KEY)) == WITNESS_KEY
    with pytest.raises(RecordError):
        parse_verifier(text)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "replace")))
def test_arbitrary_bytes_are_refused_as_records(data):
    for read in (parse_head, lambda d: open_note(d, LOG_KEY)):
        with pytest.raises(RecordError):
            read(data)
