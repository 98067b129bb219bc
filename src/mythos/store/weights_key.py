"""The key-encryption key of weights at rest: the file `weights.key` in the key directory, or a command.

With MYTHOS_KMS set, `$MYTHOS_KMS wrap CONTEXT` and `$MYTHOS_KMS unwrap CONTEXT` are run without a shell; they
read and write base64 on stdin and stdout. So a KMS or a TPM can hold the key: it never comes here.
"""

import base64
import binascii
import contextlib
import hashlib
import os
import secrets
import shlex
import subprocess

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mythos.records.keyring import Keyring, KeyringError
from mythos.store.home import Home, HomeError, read_private, write_private

NAME, HOOK = "weights.key", "MYTHOS_KMS"
KEY_BYTES, NONCE_BYTES = 32, 12
HOOK_SECONDS = 30.0
MAX_WRAPPED = 64 << 10  # bytes a hook may answer with


def weights_keyring(home: Home) -> Keyring:
    """The keyring of this machine: the command in MYTHOS_KMS, else the key file (0600, made on first use).

    HomeError when the file is damaged or not private.
    """
    command = os.environ.get(HOOK, "").strip()
    return _command_keyring(command) if command else _file_keyring(home)


def _file_keyring(home: Home) -> Keyring:
    path = home.keys_dir / NAME
    if not path.exists():
        with contextlib.suppress(FileExistsError):  # another process was first: its key counts
            write_private(path, secrets.token_bytes(KEY_BYTES), replace=False)
    key = read_private(path)
    if len(key) != KEY_BYTES:
        raise HomeError(
            f"{path} is not a key of {KEY_BYTES} bytes",
            "Restore it from your own copy, or move it away and build each tier again.",
        )
    cipher = AESGCM(key)

    def wrap(data_key: bytes, context: str) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + cipher.encrypt(nonce, data_key, context.encode())

    def unwrap(wrapped: bytes, context: str) -> bytes | None:
        try:
            return cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], context.encode())
        except (InvalidTag, ValueError):
            return None

    return Keyring(f"file:{hashlib.sha256(b'mythos kek id' + key).hexdigest()[:16]}", wrap, unwrap)


def _command_keyring(command: str) -> Keyring:
    def call(verb: str, data: bytes, context: str) -> bytes:
        cure = f"Try it by hand: printf AAAA | {command} {verb} {context}"
        try:
            words = [*shlex.split(command), verb, context]
            done = subprocess.run(
                words, input=base64.b64encode(data), capture_output=True, timeout=HOOK_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise KeyringError(f"{HOOK} ({command}) gave no answer in {HOOK_SECONDS:.0f} s.", cure) from None
        except (OSError, ValueError) as error:
            cure = f"Set {HOOK} to a command that exists."
            raise KeyringError(f"{HOOK} ({command}) cannot be run ({error}).", cure) from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-200:]
            raise KeyringError(f"{HOOK} ({command} {verb}) failed ({done.returncode}): {said}", cure)
        try:
            answer = base64.b64decode(done.stdout.strip(), validate=True)
        except (binascii.Error, ValueError):
            answer = b""
        if not 0 < len(answer) <= MAX_WRAPPED:
            raise KeyringError(f"{HOOK} ({command} {verb}) did not answer in base64.", cure)
        return answer

    def wrap(data_key: bytes, context: str) -> bytes:
        return call("wrap", data_key, context)

    def unwrap(wrapped: bytes, context: str) -> bytes | None:
        return call("unwrap", wrapped, context)

    return Keyring("command", wrap, unwrap)
