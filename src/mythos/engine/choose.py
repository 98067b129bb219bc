"""Which backend computes a tier: the native one where it can be built, else the plain one."""

import ctypes
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from mythos.engine.backend import Backend, Eager
from mythos.engine.native.backend import Native
from mythos.engine.native.build import Unavailable, library
from mythos.records.errors import MythosError
from mythos.store.home import Home
from mythos.store.weights_key import weights_keyring

if TYPE_CHECKING:
    from mythos.engine.loader import LoadedTier

VARIABLE, KINDS = "MYTHOS_BACKEND", ("auto", "native", "eager")

Maker = Callable[["LoadedTier", int, bytes], Backend]
"""(loaded, blocks of the cache, secret of the prefix cache) -> the backend."""


def maker(home: Home, tell: Callable[[str], None]) -> Maker:
    """How tiers get their backend here. What cannot be native is plain; `tell` gets the reason, once each.

    MYTHOS_BACKEND=native refuses instead (Unavailable), MYTHOS_BACKEND=eager tries nothing. MythosError when
    it says anything else.
    """
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted not in KINDS:
        raise MythosError(f"{VARIABLE} is {wanted!r}.", f"Use one of: {', '.join(KINDS)}.")
    threads = torch.get_num_threads()
    libraries: list[ctypes.CDLL] = []
    told: set[str] = set()

    def make(loaded: "LoadedTier", blocks: int, secret: bytes) -> Backend:
        if wanted == "eager":
            return Eager(loaded, blocks, secret)
        try:
            if not libraries:
                libraries.append(library(home, weights_keyring(home), tell))
            return Native(loaded, blocks, secret, libraries[0], threads)
        except Unavailable as error:
            if wanted == "native":
                raise
            if error.message not in told:
                told.add(error.message)
                tell(f"plain backend, several times slower: {error.message} {error.cure}")
            return Eager(loaded, blocks, secret)

    return make
