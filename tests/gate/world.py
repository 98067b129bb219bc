"""What the tests of this directory share: a time that can be set, a small family, a home of its own."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from mythos.spec.config import ModelConfig
from mythos.spec.family import Family, MadeBy, Price, SamplingDefaults, Tier
from mythos.store.home import Home

T0 = 1_777_636_800.0  # 2026-05-01T12:00:00Z
ROOT = "ab" * 32


@dataclass
class Time:
    """The machine's time, as the test sets it."""

    now: float = T0

    def __call__(self) -> float:
        return self.now


def make_family() -> Family:
    config = ModelConfig(vocab=8, layers=1, width=8, heads=1, kv_heads=1, head_dim=8, ffn=8, context=8)
    return Family(
        "pocket",
        "four tiers",
        "Apache-2.0",
        tuple(
            Tier(name, "pocket", "", config, MadeBy("fetch"), (), Price(1, 2), SamplingDefaults(), 8, 8)
            for name in ("haiku", "sonnet", "opus", "capybara")
        ),
    )


def open_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MYTHOS_KEYS", str(place / "keys"))
    return Home.open(place / "home")
