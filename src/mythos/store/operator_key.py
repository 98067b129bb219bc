"""Signing keys of this deployment's services: Ed25519, one file each in the key directory.

`operator.key` is the local operator's, who issues handling decisions; enrolled, it is also the gate's.
"""

import contextlib
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mythos.records.dsse import key_id
from mythos.store.home import Home, HomeError, read_private, write_private

NAME = "operator.key"
LEDGER_KEY, SERVER_KEY = "ledger", "server"


def operator_keys(home: Home) -> Ed25519PrivateKey:
    """The operator's private key, made on first use. HomeError when the file is damaged or not private."""
    return service_key(home, "operator")


def service_key(home: Home, name: str) -> Ed25519PrivateKey:
    """The key a service of this deployment signs with: `operator` (also the gate), `server`, `ledger`."""
    return make_key(home.keys_dir / f"{name}.key")


def make_key(path: Path) -> Ed25519PrivateKey:
    """The private key in the file `path`, made when there is none. HomeError as in `read_key`."""
    key = read_key(path)
    if key is None:
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        with contextlib.suppress(FileExistsError):  # another process was first: its key counts
            write_private(path, pem, replace=False)
        key = read_key(path)
        assert key is not None
    return key


def trusted_keys(home: Home) -> dict[str, Ed25519PublicKey]:
    """By key id, the keys whose handling decisions count here: the operator's, or none. Makes nothing."""
    key = read_key(home.keys_dir / NAME) if home.keys.exists() else None
    return {} if key is None else {key_id(key.public_key()): key.public_key()}


def key_stamp(home: Home) -> tuple[int, ...]:
    """Changes whenever the key file or its directory does, permissions included. Two `stat`s."""
    stamp: tuple[int, ...] = ()
    with contextlib.suppress(OSError):
        for path in (home.keys, home.keys / NAME):
            info = path.lstat()
            stamp += (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    return stamp


def read_key(path: Path) -> Ed25519PrivateKey | None:
    """The private key in a file of ours, None when it is missing. HomeError when damaged or not private."""
    try:
        key = serialization.load_pem_private_key(read_private(path), password=None)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        again = ", or move it away and run `mythos build` again for each tier" if path.name == NAME else ""
        raise HomeError(f"{path} is not an Ed25519 private key", f"Restore it from your own copy{again}.")
    return key
