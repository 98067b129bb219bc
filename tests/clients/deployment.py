"""A deployment for a client to talk to: a throw-away home, registered weights, the real server on loopback.

The weights are random, so that hundreds of requests take a minute: what the model says means nothing, how it
is said must be right. Two things here exist in no shipped command or setting: keys of our choosing, known to
the service by their hash alone, and further names for a tier.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mythos.records.principal import LOCAL_ORG, OPERATOR, Principal
from mythos.serve.service import Service
from mythos.serve.settings import Settings
from mythos.spec.family import SamplingDefaults
from tests.serve.live import serve
from tests.tiny import TinyHome, tiny_home

KEY = "sk-mythos-of-these-tests"
TIER = "opus"


@contextmanager
def deployed(
    place: Path,
    keys: Iterable[str],
    aliases: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    damage: bool = False,
    max_output: int = 256,
) -> Iterator[tuple[Service, str]]:
    """The service of a new home under `place`, and its base URL while it runs.

    `keys` are the operator's for as long as the service lives. `damage` flips a bit of the stored weights. A
    short `max_output`, in tokens, ends the answers of a model that does not know when to.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYTHOS_KEYS", str(place / "keys"))
        tiny = tiny_home(place, (TIER,))
    (tier,) = tiny.family.tiers
    greedy = replace(tier, sampling=SamplingDefaults(temperature=0.0), max_output=max_output)
    tiny = replace(tiny, family=replace(tiny.family, tiers=(greedy,)))
    if damage:
        flip_a_bit(tiny)
    holder = Principal(OPERATOR.id, "key", LOCAL_ORG)
    with tiny.engine() as engine, serve(tiny, engine, settings, aliases) as live:
        live.service.session_keys.update({hashlib.sha256(key.encode()).hexdigest(): holder for key in keys})
        yield live.service, live.base_url


def flip_a_bit(tiny: TinyHome) -> None:
    (tier,) = tiny.standing().family.tiers
    assert tier.root is not None
    stored = tiny.home.weights_dir(tier.root) / "model.safetensors.enc"
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(data)
