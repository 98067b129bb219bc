"""The vault's key, and what is sealed with it beside the contents: titles, previews, words, reasons.

One random 256-bit key for a vault, wrapped by the keyring of weights at rest (the file in MYTHOS_KEYS, or the
command in MYTHOS_KMS) and kept wrapped in `MYTHOS_HOME/vault/key`. From it HKDF-SHA-256 (RFC 5869) makes one
key for each use.
"""

import base64
import contextlib
import json
import secrets
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mythos.records.canonical import canonical, parse
from mythos.store.db import Store
from mythos.store.home import Home, private_directory, read_private, write_private
from mythos.store.tables import assets
from mythos.store.weights_key import weights_keyring
from mythos.vault.errors import VaultError

KEY_BYTES, NONCE_BYTES = 32, 12
CONTEXT = "mythos-vault"
LARGEST = 1 << 16  # bytes of one sealed text


@dataclass(frozen=True, slots=True)
class Vault:
    """An open vault: its directory and the keys of this process's memory."""

    place: Path
    texts: AESGCM = field(repr=False)  # seals small texts
    blobs: AESGCM = field(repr=False)  # wraps the data key of each content
    tags: bytes = field(repr=False)  # keys the tags that find equal contents of one owner


_open: "weakref.WeakKeyDictionary[Store, Vault]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def vault_of(store: Store) -> Vault:
    """The vault of this store's home, made on first use. VaultError when its key is lost or does not fit."""
    with _lock:
        found = _open.get(store)
        if found is None:
            found = _open[store] = _opened(store)
    return found


def _opened(store: Store) -> Vault:
    place = vault_place(store.home)
    for directory in (place, place / "blobs", place / "new"):
        private_directory(directory)
    file, keyring = place / "key", weights_keyring(store.home)
    if not file.exists():
        with store.read() as conn:
            if conn.execute(sa.select(assets.c.id).limit(1)).first() is not None:
                raise VaultError(f"{file} is missing", "Restore it from a backup of the data directory.")
        wrapped = keyring.wrap(secrets.token_bytes(KEY_BYTES), CONTEXT)
        made = json.dumps({"kek": keyring.kek, "wrapped": base64.b64encode(wrapped).decode()})
        with contextlib.suppress(FileExistsError):  # another process was first: its key counts
            write_private(file, made.encode(), replace=False)
    try:
        stored = json.loads(read_private(file))
        kek, wrapped = stored["kek"], base64.b64decode(stored["wrapped"])
    except (ValueError, KeyError, TypeError):
        raise VaultError(f"{file} is damaged", "Restore it from a backup of the data directory.") from None
    key = keyring.unwrap(wrapped, CONTEXT)
    if key is None or len(key) != KEY_BYTES:
        why = "it is damaged" if kek == keyring.kek else f"it needs the key {kek}, this one is {keyring.kek}"
        raise VaultError(
            f"the vault's key in {file} does not open: {why}", "Restore MYTHOS_KEYS, or the file."
        )

    def derived(use: str) -> bytes:
        return HKDF(hashes.SHA256(), KEY_BYTES, None, f"mythos vault {use}".encode()).derive(key)

    return Vault(place, AESGCM(derived("texts")), AESGCM(derived("blobs")), derived("tags"))


def vault_place(home: Home) -> Path:
    return home.path / "vault"


def seal_text(vault: Vault, context: str, value: Any) -> bytes:
    """JSON `value` sealed: only the same `context` (what it belongs to) opens it."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    data = canonical(value)
    if len(data) > LARGEST:
        raise VaultError(f"a text of {len(data)} bytes; the limit is {LARGEST}")
    return nonce + vault.texts.encrypt(nonce, data, context.encode())


def open_text(vault: Vault, context: str, sealed: bytes) -> Any:
    """The value that `seal_text` sealed for `context`. VaultError when it is not what was sealed there."""
    try:
        data = vault.texts.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context.encode())
    except (InvalidTag, ValueError):
        raise VaultError(
            "a sealed text in the database is not what was sealed there", "mythos ledger verify"
        ) from None
    return parse(data)


def wrap_key(vault: Vault, blob: str, key: bytes) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + vault.blobs.encrypt(nonce, key, blob.encode())


def unwrap_key(vault: Vault, blob: str, wrapped: bytes) -> bytes:
    try:
        return vault.blobs.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], blob.encode())
    except (InvalidTag, ValueError):
        raise VaultError(
            "the key of a content is not what was wrapped there", "mythos ledger verify"
        ) from None
