"""A witness: someone else's memory of the log (https://c2sp.org/tlog-witness, with files instead of HTTP).

It lives in a directory of its own, at best on another person's machine, and keeps there the last head that it
cosigned. It cosigns only what provably extends that, so of a log that is shown to two parties in two forms
it cosigns one at most. The state carries the witness's own signature and is on disk before a cosignature
leaves.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.ledger.tiles import LedgerError, write_atomic
from mythos.records.canonical import RecordError
from mythos.records.clock import Clock
from mythos.records.dsse import SignatureError
from mythos.records.note import (
    LOG,
    WITNESS,
    SignedHead,
    TreeHead,
    Verifier,
    cosign_head,
    merge,
    open_note,
    parse_head,
    parse_verifier,
)
from mythos.records.root import tree_hash
from mythos.records.tlog import consistency_holds, parse_request

TRUST, STATE, LOCK = "trust", "cosigned", "lock"


class WitnessRefusal(LedgerError):
    """No cosignature. `status` as in C2SP: 400 malformed, 403 not signed by the log, 404 unknown origin,
    409 another old size (`size` is the right one) or another root of the same size, 422 the proof fails."""

    def __init__(self, status: int, message: str, cure: str = "", size: int | None = None) -> None:
        super().__init__(message, cure)
        self.status = status
        self.size = size


def init_witness(directory: Path, name: str, key: Ed25519PrivateKey, log: Verifier, clock: Clock) -> Verifier:
    """Start to witness `log` as `name`, from the empty log; returns what others check its signatures with.

    The file `trust` then holds both verifier keys. LedgerError when a witness lives there already: what it
    cosigned must never be forgotten.
    """
    witness = Verifier(name, WITNESS, key.public_key().public_bytes_raw())
    if log.kind != LOG:
        raise RecordError(f"{log.name!r} is the key of a witness, not of a log")
    try:
        os.close(os.open(directory / LOCK, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise LedgerError(f"{directory} holds a witness already", "Name another directory.") from None
    write_atomic(directory / TRUST, f"{log}\n{witness}\n".encode())
    empty = TreeHead(log.name, 0, tree_hash(()))
    line = cosign_head(empty, name, key, int(clock.now()))
    write_atomic(directory / STATE, f"{empty.text}\n".encode() + line)
    return witness


def cosign(directory: Path, key: Ed25519PrivateKey, request: bytes, clock: Clock) -> bytes:
    """The note of `request` (C2SP `add-checkpoint`) with two signatures: this witness's, then the log's.

    WitnessRefusal when it may not be cosigned; LedgerError when the witness's own files are lost or changed.
    """
    try:
        asked = parse_request(request)
        head = parse_head(asked.note)
    except RecordError as error:
        raise WitnessRefusal(400, error.message) from None
    with _state(directory, key) as (log, witness, last):
        if head.origin != log.name:
            raise WitnessRefusal(404, f"this witness knows the log {log.name!r}, not {head.origin!r}")
        try:
            signed = open_note(asked.note, log)
        except SignatureError as error:
            raise WitnessRefusal(403, error.message) from None
        if asked.old > head.size:
            raise WitnessRefusal(400, f"a log of {asked.old} events cannot become one of {head.size}")
        if asked.old != last.head.size:
            message = f"the last head cosigned here has {last.head.size} events, not {asked.old}"
            cure = f"mythos ledger witness request --since {last.head.size}"
            raise WitnessRefusal(409, message, cure, last.head.size)
        if head.size == last.head.size and head.root != last.head.root:
            message = f"the log has signed two different histories of {head.size} events"
            raise WitnessRefusal(409, message, "Keep both heads: they prove it.", head.size)
        if not consistency_holds(last.head, head, asked.path):
            raise WitnessRefusal(422, "the proof does not show that the log only grew")
        now = int(clock.after(float(last.signers[witness] or 0)))
        line = cosign_head(head, witness.name, key, now)
        own = open_note(f"{head.text}\n".encode() + line, witness)
        note = merge(own, signed)
        write_atomic(directory / STATE, note)
    return note


@contextmanager
def _state(directory: Path, key: Ed25519PrivateKey) -> Iterator[tuple[Verifier, Verifier, SignedHead]]:
    """The log, the witness, and the last head cosigned; nobody else changes it until the block ends."""
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(open(directory / LOCK, "r+b"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            log, witness = map(parse_verifier, (directory / TRUST).read_text().splitlines())
            last = open_note((directory / STATE).read_bytes(), witness)
            if (last.head.origin, witness.public) != (log.name, key.public_key().public_bytes_raw()):
                raise RecordError("its files do not belong together")
        except (OSError, ValueError, RecordError) as error:
            raise LedgerError(
                f"the witness in {directory} has lost its memory: {error}",
                "Restore the newest copy of it; without one, retire this witness and its key.",
            ) from None
        yield log, witness, last
