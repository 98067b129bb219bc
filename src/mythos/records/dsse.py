"""Signed envelopes: DSSE v1 (https://github.com/secure-systems-lab/dsse) with Ed25519 (RFC 8032).

The signature covers the payload's type as well as its bytes, so a record signed as one kind can never be
read as another.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mythos.records.canonical import RecordError, canonical, parse, parse_canonical


class SignatureError(RecordError):
    """No trusted key signed this payload as this type."""


def key_id(public: Ed25519PublicKey) -> str:
    """SHA-256 of the raw 32-byte public key, hex."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, key: Ed25519PrivateKey) -> bytes:
    """An envelope (canonical JSON) with one signature."""
    signature = {"keyid": key_id(key.public_key()), "sig": _encode(key.sign(pae(payload_type, payload)))}
    return canonical({"payload": _encode(payload), "payloadType": payload_type, "signatures": [signature]})


def add_signature(envelope: bytes, key: Ed25519PrivateKey) -> bytes:
    """`envelope` with one more signature. RecordError when malformed or already signed by `key`."""
    outer = _fields(parse(envelope), {"payload", "payloadType", "signatures"}, "envelope")
    signer = key_id(key.public_key())
    if any(entry.get("keyid") == signer for entry in outer["signatures"]):
        raise RecordError(f"already signed by key {_shown(signer)}")
    message = pae(outer["payloadType"], _decode(outer["payload"], "payload"))
    signature = {"keyid": signer, "sig": _encode(key.sign(message))}
    return canonical({**outer, "signatures": [*outer["signatures"], signature]})


def peek(envelope: bytes) -> Any:
    """The JSON an envelope claims to hold, no signature looked at: to learn which keys must have signed."""
    outer = _fields(parse(envelope), {"payload", "payloadType", "signatures"}, "envelope")
    return parse_canonical(_decode(outer["payload"], "payload"))


def verify(
    envelope: bytes, payload_type: str, trusted: Mapping[str, Ed25519PublicKey]
) -> tuple[bytes, frozenset[str]]:
    """The payload and the ids of the keys that signed it.

    Stricter than the specification, because every reader here is ours: every signature listed must be by a
    trusted key and must verify, no key signs twice, and unknown fields are refused.
    RecordError when the envelope is malformed, SignatureError when it is not signed as required.
    """
    outer = _fields(parse(envelope), {"payload", "payloadType", "signatures"}, "envelope")
    if outer["payloadType"] != payload_type:
        raise RecordError(f"payload type {outer['payloadType']!r}, expected {payload_type!r}")
    payload = _decode(outer["payload"], "payload")
    signatures = outer["signatures"]
    if not isinstance(signatures, list) or not signatures:
        raise SignatureError("the envelope carries no signature")
    message = pae(payload_type, payload)
    signers: set[str] = set()
    for entry in signatures:
        signature = _fields(entry, {"keyid", "sig"}, "signature")
        signer = signature["keyid"]
        if not isinstance(signer, str) or signer not in trusted:
            raise SignatureError(f"signed by key {_shown(signer)}, which is not trusted here")
        if signer in signers:
            raise SignatureError(f"key {_shown(signer)} signs twice")
        if key_id(trusted[signer]) != signer:
            raise SignatureError(f"key id {_shown(signer)} does not belong to the key trusted under it")
        try:
            trusted[signer].verify(_decode(signature["sig"], "signature"), message)
        except InvalidSignature:
            raise SignatureError(f"the signature by key {_shown(signer)} does not verify") from None
        signers.add(signer)
    return payload, frozenset(signers)


def _fields(value: Any, names: set[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != names:
        raise RecordError(f"the {what} must have exactly the fields {', '.join(sorted(names))}")
    return value


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(text: Any, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise RecordError(f"the {what} is not base64") from None
    if _encode(data) != text:  # unused low bits would give one signature several spellings
        raise RecordError(f"the {what} is not canonical base64")
    return data


def _shown(signer: Any) -> str:
    return repr(str(signer)[:16])
