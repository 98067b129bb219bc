"""A tiny model on real text (modules of the standard library, a byte a token), for tests of training."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mythos.records.keyring import Keyring
from mythos.spec.config import ModelConfig
from mythos.train.batch import Batch, next_tokens, packed_rows
from mythos.train.loop import Metrics, Trained, train
from mythos.train.settings import Budget, TrainSettings
from mythos.train.weights import fresh_model

TINY = ModelConfig(vocab=256, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, ffn=64, context=128)
TEXT = np.frombuffer((Path(os.__file__).read_bytes() + Path(json.__file__).read_bytes())[:32_768], np.uint8)
LENGTH = 64
SETTINGS = TrainSettings(rows=4, length=LENGTH, learning_rate=3e-3, warmup_steps=5)


def keyring(key: bytes = bytes(32)) -> Keyring:
    cipher = AESGCM(key)

    def wrap(data_key: bytes, context: str) -> bytes:
        nonce = os.urandom(12)
        return nonce + cipher.encrypt(nonce, data_key, context.encode())

    def unwrap(wrapped: bytes, context: str) -> bytes | None:
        try:
            return cipher.decrypt(wrapped[:12], wrapped[12:], context.encode())
        except InvalidTag:
            return None

    return Keyring(f"test:{key[:4].hex()}", wrap, unwrap)


def batches(first: int, rows: int) -> Batch:
    """Each row a document of its own."""
    text = TEXT.astype(np.int64)
    starts = [(row * LENGTH) % (len(text) - LENGTH - 1) for row in range(first, first + rows)]
    tokens = np.stack([text[start : start + LENGTH] for start in starts])
    targets = np.stack([text[start + 1 : start + LENGTH + 1] for start in starts])
    return next_tokens(packed_rows(tokens, np.tile(np.arange(LENGTH), (rows, 1))), targets)


def run(
    place: Path,
    steps: int = 12,
    config: ModelConfig = TINY,
    report: Callable[[Metrics], None] = lambda _: None,
    compiled: bool = False,
    **changes: object,
) -> Trained:
    settings = replace(SETTINGS, **changes)  # pyright: ignore[reportArgumentType]
    budget = Budget(tokens=steps * settings.step_tokens)
    inputs = {"data": "text"}
    model = fresh_model(config, 0)
    return train(place, keyring(), model, batches, settings, budget, inputs, report, compiled=compiled)
