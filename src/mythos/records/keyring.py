"""What wraps data keys: two functions, and the name of the key behind them. That key stays with its owner."""

from collections.abc import Callable
from dataclasses import dataclass

from mythos.records.errors import MythosError


class KeyringError(MythosError):
    """The key cannot be asked just now: a hook that fails or is slow. Says nothing about what it sealed."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """`wrap(data_key, context)` gives bytes that only `unwrap(wrapped, context)` turns back.

    `unwrap` returns None for what this key did not wrap in this context. `kek` names the key-encryption key:
    it tells "another key" from "changed bytes". Both raise KeyringError when the key cannot be reached.
    """

    kek: str
    wrap: Callable[[bytes, str], bytes]
    unwrap: Callable[[bytes, str], bytes | None]
