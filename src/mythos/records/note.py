"""Signed tree heads as text: C2SP signed notes (https://c2sp.org/signed-note), checkpoints
(https://c2sp.org/tlog-checkpoint) and the cosignatures of witnesses (https://c2sp.org/tlog-cosignature).

Stricter than the specifications, as only our own notes are read: Ed25519 alone, no extension lines, an origin
that can be a key's name, one spelling of base64, no key twice. As they demand, a signature by an unknown key
is passed over, and one by a known key that does not verify condemns the whole note.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mythos.records.canonical import RecordError
from mythos.records.dsse import SignatureError

LOG, WITNESS = 1, 4  # signature types: Ed25519 over the text; timestamped Ed25519 cosignature
MAX_NOTE = 1 << 16  # bytes
MAX_SIZE = 2**63 - 1  # leaves; also the latest POSIX second of a cosignature

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class TreeHead:
    """A log's state: `root` is the RFC 6962 hash of its first `size` leaves."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class Verifier:
    """The public half of a key that signs notes: `kind` is LOG or WITNESS; `public` is 32 raw bytes.

    A log's name is its origin. RecordError when one of the three cannot be.
    """

    name: str
    kind: int
    public: bytes

    def __post_init__(self) -> None:
        if not is_key_name(self.name) or self.kind not in (LOG, WITNESS) or len(self.public) != 32:
            raise RecordError(f"{self.name[:80]!r} is not an Ed25519 key that signs tree heads")

    @property
    def key_hash(self) -> bytes:
        """The four bytes that name the key in a signature line."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    def __str__(self) -> str:
        """The form in which it is handed around: `name+hash+base64(kind || public)` (a "vkey")."""
        return f"{self.name}+{self.key_hash.hex()}+{_encode(bytes([self.kind]) + self.public)}"


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A tree head whose note was verified. `signers`: who signed; for a witness, when (POSIX seconds)."""

    head: TreeHead
    note: bytes
    signers: Mapping[Verifier, int | None]


def is_key_name(name: str) -> bool:
    printable = name.isprintable() and not any(c.isspace() or c == "+" for c in name)
    return printable and 0 < len(name) <= 255


def parse_verifier(text: str) -> Verifier:
    """A verifier from its text form; RecordError for anything else."""
    parts = text.strip().split("+", 2)
    if len(parts) != 3:
        raise RecordError("a verifier key has the form name+hash+key")
    data = decode(parts[2], "verifier key")
    verifier = Verifier(parts[0], data[0] if data else 0, data[1:])
    if verifier.key_hash.hex() != parts[1]:
        raise RecordError("the verifier key's hash does not belong to its name and key")
    return verifier


def sign_head(head: TreeHead, key: Ed25519PrivateKey) -> bytes:
    """The log's signed note; `key` signs under the name of the origin."""
    log = Verifier(head.origin, LOG, key.public_key().public_bytes_raw())
    return f"{head.text}\n{_line(log, key.sign(head.text.encode()))}".encode()


def cosign_head(head: TreeHead, name: str, key: Ed25519PrivateKey, time: int) -> bytes:
    """A witness's signature line: at `time` (POSIX seconds) it had seen no larger consistent head."""
    witness = Verifier(name, WITNESS, key.public_key().public_bytes_raw())
    return _line(witness, time.to_bytes(8, "big") + key.sign(_cosigned(head.text, time))).encode()


def parse_head(note: bytes) -> TreeHead:
    """The head that a note speaks of, its signatures not verified."""
    return _head(_split(note)[0])


def open_note(note: bytes, signer: Verifier, others: Sequence[Verifier] = ()) -> SignedHead:
    """The verified head of `note`, signed by `signer` and perhaps by `others`.

    RecordError when it is malformed or of another log than the LOG keys given; SignatureError when `signer`
    did not sign or a signature by a known key does not verify.
    """
    text, lines = _split(note)
    head = _head(text)
    known = {(key.name, key.key_hash): key for key in (*others, signer)}
    if any(key.kind == LOG and key.name != head.origin for key in known.values()):
        raise RecordError(f"this is a tree head of the log {head.origin!r}, not of {signer.name!r}")
    signers: dict[Verifier, int | None] = {}
    for name, data in lines:
        key = known.get((name, data[:4]))
        if key is None:
            continue
        if key in signers:
            raise SignatureError(f"{name!r} signs twice")
        signers[key] = _verified(key, text, data[4:])
    if signer not in signers:
        raise SignatureError(f"the tree head is not signed by {signer.name!r}")
    return SignedHead(head, note, signers)


def merge(signed: SignedHead, other: SignedHead) -> bytes:
    """The note of `signed` with those verified signatures of `other` (the same head) that it lacks."""
    if signed.head != other.head:
        raise RecordError("signatures of one tree head do not fit another")
    missing = {(key.name, key.key_hash) for key in other.signers if key not in signed.signers}
    added = [(name, data) for name, data in _split(other.note)[1] if (name, data[:4]) in missing]
    return signed.note + "".join(f"— {name} {_encode(data)}\n" for name, data in added).encode()


def decode(text: str, what: str) -> bytes:
    """Standard base64 in its one canonical spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise RecordError(f"the {what} is not base64") from None
    if _encode(data) != text:  # unused low bits would give one value several spellings
        raise RecordError(f"the {what} is not canonical base64")
    return data


def number(text: str, what: str) -> int:
    """A decimal without leading zeroes, at most `MAX_SIZE`."""
    if not _NUMBER.fullmatch(text) or int(text) > MAX_SIZE:
        raise RecordError(f"the {what} is not a decimal number")
    return int(text)


def _verified(key: Verifier, text: str, signature: bytes) -> int | None:
    """The time of a cosignature, None for a log's signature; SignatureError when it does not verify."""
    time, message = None, text.encode()
    if key.kind == WITNESS:
        time, signature = int.from_bytes(signature[:8], "big"), signature[8:]
        message = _cosigned(text, time)
    try:
        if time is not None and time > MAX_SIZE:
            raise InvalidSignature
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
    except InvalidSignature:
        raise SignatureError(f"the signature by {key.name!r} does not verify") from None
    return time


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def _line(key: Verifier, signature: bytes) -> str:
    return f"— {key.name} {_encode(key.key_hash + signature)}\n"


def _split(note: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """The signed text, and name and bytes (key hash, signature) of each signature line."""
    if len(note) > MAX_NOTE:
        raise RecordError(f"a signed note of {len(note)} bytes; the limit is {MAX_NOTE}")
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise RecordError("a signed note is UTF-8 text") from None
    text, blank, signatures = whole.rpartition("\n\n")
    if any(c < " " and c != "\n" for c in whole) or not blank or not signatures.endswith("\n"):
        raise RecordError("a signed note is a text, an empty line, and signature lines")
    lines = []
    for line in signatures[:-1].split("\n"):
        dash, *rest = line.split(" ")
        if dash != "—" or len(rest) != 2 or not is_key_name(rest[0]):
            raise RecordError("a signature line has the form '— name signature'")
        data = decode(rest[1], "signature")
        if len(data) < 5:
            raise RecordError("a signature has a key hash and at least one byte")
        lines.append((rest[0], data))
    return text + "\n", lines


def _head(text: str) -> TreeHead:
    lines = text.split("\n")
    if len(lines) != 4 or not is_key_name(lines[0]):
        raise RecordError("a tree head has exactly three lines: origin, size, root")
    root = decode(lines[2], "root")
    if len(root) != 32:
        raise RecordError("the root of a tree head has 32 bytes")
    return TreeHead(lines[0], number(lines[1], "size"), root)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
