"""Canonical form, envelopes, the handling decision, the clock and ids."""

import base64
import json
import math
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mythos.records import dsse
from mythos.records.canonical import RecordError, canonical, parse, parse_canonical
from mythos.records.clock import Clock, ClockError
from mythos.records.decision import (
    HANDLING_PURPOSES,
    HANDLING_TYPE,
    Handling,
    open_handling,
    sign_handling,
)
from mythos.records.dsse import SignatureError, key_id, pae
from mythos.records.ids import new_id
from mythos.records.permit import Action

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TRUSTED = {key_id(KEY.public_key()): KEY.public_key()}
HANDLING = Handling(
    id="dec_1",
    family="pocket",
    tier="opus",
    root="ab" * 32,
    principals=("operator",),
    actions=tuple(Action),
    purposes=HANDLING_PURPOSES,
    policy="local-handling.v1",
    issued_at=1_777_636_800.25,
    issued_by=key_id(KEY.public_key()),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e15, 1e15) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_canonical_form_is_stable_and_means_the_same(value):
    data = canonical(value)
    assert canonical(parse_canonical(data)) == data
    assert json.loads(data) == json.loads(json.dumps(value))


def test_canonical_form_of_the_rfc_example():
    # RFC 8785, section 3.2.3 (the sorted sample)
    value = {"\u20ac": "Euro Sign", "\r": "Carriage Return", "1": "One", "\u00f6": "o", "</script>": "x"}
    assert list(json.loads(canonical(value))) == ["\r", "1", "</script>", "\u00f6", "\u20ac"]
    numbers = [333333333.33333329, 1e30, 4.50, 2e-3, 1e-27]
    assert canonical(numbers) == b"[333333333.3333333,1e+30,4.5,0.002,1e-27]"


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**60, {1: 2}, object(), "\ud800", b"x"])
def test_no_canonical_form(value):
    with pytest.raises(RecordError):
        canonical(value)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2}',
        '{"a":{"b":1,"b":1}}',
        "NaN",
        "[Infinity]",
        "1e400",
        "-1e400",
        "[" * 100_000,
        "{",
        "",
        '{"a":1} x',
        "9" * 5000,
        '"\\ud800"x',
    ],
)
def test_malformed_json_is_refused(text):
    with pytest.raises(RecordError):
        parse(text.encode())


@pytest.mark.parametrize(
    "data", [b'{"b":1,"a":2}', b'{"a": 1}', b"1.0", b'"\\u0061"', b"\xff", b" 1", b'"\\ud800"']
)
def test_a_second_spelling_is_refused(data):
    with pytest.raises(RecordError):
        parse_canonical(data)


def test_pae_is_the_specification_s():
    # the example of the DSSE protocol document
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_a_handling_decision_comes_back_as_it_went():
    envelope = sign_handling(HANDLING, KEY)
    assert open_handling(envelope, TRUSTED) == HANDLING
    whole = replace(HANDLING, issued_at=5.0)  # canonical JSON writes 5
    assert open_handling(sign_handling(whole, KEY), TRUSTED) == whole


def test_only_the_issuer_named_can_sign():
    with pytest.raises(RecordError, match="issued_by"):
        sign_handling(HANDLING, OTHER)
    both = {**TRUSTED, key_id(OTHER.public_key()): OTHER.public_key()}
    payload, _ = dsse.verify(sign_handling(HANDLING, KEY), HANDLING_TYPE, TRUSTED)
    with pytest.raises(SignatureError, match="issuer"):
        open_handling(dsse.sign(HANDLING_TYPE, payload, OTHER), both)


def edit(change) -> bytes:
    """The signed envelope with `change` applied to its JSON."""
    outer = json.loads(sign_handling(HANDLING, KEY))
    change(outer)
    return json.dumps(outer).encode()


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "change, error",
    [
        (lambda e: e.update(payloadType="application/json"), "payload type"),
        (lambda e: e.update(signatures=[]), "no signature"),
        (lambda e: e.update(signatures={}), "no signature"),
        (lambda e: e.update(signatures=e["signatures"] * 2), "signs twice"),
        (lambda e: e.update(extra=1), "exactly the fields"),
        (lambda e: e.pop("payload"), "exactly the fields"),
        (lambda e: e.update(payload=text64(b"{}")), "does not verify"),
        (lambda e: e.update(payload="*"), "base64"),
        (lambda e: e.update(payload=7), "base64"),
        (lambda e: e["signatures"][0].update(keyid=key_id(OTHER.public_key())), "not trusted"),
        (lambda e: e["signatures"][0].update(keyid=None), "not trusted"),
        (lambda e: e["signatures"][0].update(keyid=[]), "not trusted"),
        (lambda e: e["signatures"][0].update(sig=text64(bytes(64))), "does not verify"),
        (lambda e: e["signatures"][0].update(sig=text64(b"short")), "does not verify"),
        (lambda e: e["signatures"][0].update(sig=""), "does not verify"),
        (lambda e: e["signatures"][0].update(alg="none"), "exactly the fields"),
        (lambda e: e.update(signatures=["x"]), "exactly the fields"),
    ],
)
def test_an_edited_envelope_is_refused(change, error):
    with pytest.raises(RecordError, match=error):
        open_handling(edit(change), TRUSTED)


def test_a_second_spelling_of_the_signature_is_refused():
    text = json.loads(sign_handling(HANDLING, KEY))["signatures"][0]["sig"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twin = text[:-3] + alphabet[alphabet.index(text[-3]) + 1] + "=="  # differs in bits that carry nothing
    assert base64.b64decode(twin) == base64.b64decode(text)
    with pytest.raises(RecordError, match="base64"):
        open_handling(edit(lambda e: e["signatures"][0].update(sig=twin)), TRUSTED)
    open_handling(edit(lambda e: e["signatures"][0].update(sig=text)), TRUSTED)  # control


def test_duplicate_keys_in_the_envelope_are_refused():
    envelope = sign_handling(HANDLING, KEY)
    with pytest.raises(RecordError, match="duplicate"):
        open_handling(b'{"payload":"",' + envelope[1:], TRUSTED)


def test_a_key_filed_under_another_id_is_refused():
    wrong = {key_id(KEY.public_key()): OTHER.public_key()}
    with pytest.raises(SignatureError, match="does not belong"):
        open_handling(sign_handling(HANDLING, KEY), wrong)
    with pytest.raises(SignatureError, match="not trusted"):
        open_handling(sign_handling(HANDLING, KEY), {})


@pytest.mark.parametrize(
    "change, error",
    [
        ({"extra": 1}, "unknown field"),
        ({"root": None}, "root"),
        ({"root": "AB" * 32}, "root"),
        ({"root": "ab" * 31}, "root"),
        ({"root": "ab" * 32 + "\n"}, "root"),
        ({"principals": []}, "principals"),
        ({"principals": "operator"}, "principals is not a list"),
        ({"principals": ["operator", "operator"]}, "twice"),
        ({"principals": [["operator"]]}, "principals"),
        ({"principals": ["*", 7]}, "principals"),
        ({"actions": ["answer", "export"]}, "unknown action"),
        ({"actions": [{}]}, "unknown action"),
        ({"actions": []}, "actions"),
        ({"purposes": ["production"]}, "unknown purpose"),
        ({"purposes": []}, "purposes"),
        ({"issued_at": "2026"}, "issued_at"),
        ({"issued_at": True}, "issued_at"),
        ({"issued_at": -1}, "issued_at"),
        ({"family": ""}, "family"),
        ({"tier": {"name": "opus"}}, "tier"),
        ({"id": "x" * 200}, "id"),
        ({"policy": 1}, "policy"),
    ],
)
def test_a_signed_but_malformed_decision_is_refused(change, error):
    payload, _ = dsse.verify(sign_handling(HANDLING, KEY), HANDLING_TYPE, TRUSTED)
    signed = dsse.sign(HANDLING_TYPE, canonical({**json.loads(payload), **change}), KEY)
    with pytest.raises(RecordError, match=error):
        open_handling(signed, TRUSTED)


@pytest.mark.parametrize("payload", [b"null", b"[]", b"{}", b"", b"{", b'{"id":1,"id":2}'])
def test_a_signed_payload_that_is_no_decision_is_refused(payload):
    with pytest.raises(RecordError):
        open_handling(dsse.sign(HANDLING_TYPE, payload, KEY), TRUSTED)


def test_a_signed_payload_in_another_spelling_is_refused():
    payload, _ = dsse.verify(sign_handling(HANDLING, KEY), HANDLING_TYPE, TRUSTED)
    spaced = json.dumps(json.loads(payload)).encode()
    with pytest.raises(RecordError, match="canonical"):
        open_handling(dsse.sign(HANDLING_TYPE, spaced, KEY), TRUSTED)


def test_a_signature_for_one_type_is_none_for_another():
    payload, _ = dsse.verify(sign_handling(HANDLING, KEY), HANDLING_TYPE, TRUSTED)
    outer = json.loads(dsse.sign("application/vnd.mythopoeia.release.v1+json", payload, KEY))
    outer["payloadType"] = HANDLING_TYPE
    with pytest.raises(SignatureError, match="does not verify"):
        open_handling(json.dumps(outer).encode(), TRUSTED)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_flipped_byte_goes_unnoticed(position, flip):
    envelope = bytearray(sign_handling(HANDLING, KEY))
    envelope[position % len(envelope)] ^= flip
    with pytest.raises(RecordError):
        open_handling(bytes(envelope), TRUSTED)


def test_clock_never_runs_behind_the_ledger():
    system = [1000.0]
    clock = Clock(lambda: 990.0, lambda: system[0])
    assert clock.now() == 1000.0
    system[0] = 930.0  # 60 s behind: within tolerance, the ledger's time counts
    assert clock.now() == 990.0
    system[0] = 929.9
    with pytest.raises(ClockError) as caught:
        clock.now()
    assert "system clock" in caught.value.cure
    for broken in (math.nan, math.inf, -math.inf):
        system[0] = broken
        with pytest.raises(ClockError):
            clock.now()


def test_ids_are_random_and_url_safe():
    ids = {new_id("msg") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(one.startswith("msg_") and one[4:].isalnum() and one.isascii() for one in ids)
