"""A forecast that is signed before its outcome exists: which run it is about, and what that is to reach."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mythos.records import dsse
from mythos.records.canonical import RecordError, canonical, parse_canonical
from mythos.records.decision import is_name, is_root

FORECAST_TYPE = "application/vnd.mythopoeia.forecast.v1+json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a forecast is about: the training of a tier on so many tokens, with any seed.

    `config` and `data` are SHA-256 of the canonical JSON of the model's configuration and of the digests of
    the corpora. Whatever is trained under the same is what was foreseen.
    """

    family: str
    tier: str
    config: str
    data: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """`value` in `low` to `high` at `confidence`, in the unit `unit`, foreseen from `runs` runs.

    `held_out` is the SHA-256 of what it is measured on and how, `evidence` that of the table of runs. Times
    are POSIX seconds.
    """

    id: str
    about: Outcome
    value: float
    low: float
    high: float
    confidence: float
    unit: str
    held_out: str
    runs: int
    evidence: str
    made_at: float
    made_by: str  # id of the signing key

    def __post_init__(self) -> None:
        about = self.about
        if not all(map(is_name, (self.id, about.family, about.tier, self.unit, self.made_by))):
            raise RecordError("forecast: a name is malformed")
        if not all(map(is_root, (about.config, about.data, self.held_out, self.evidence))):
            raise RecordError("forecast: a digest is not 64 hex digits")
        if not all(type(count) is int and 0 < count < 2**53 for count in (about.tokens, self.runs)):
            raise RecordError("forecast: tokens and runs are whole numbers above 0")
        numbers = (self.value, self.low, self.high, self.confidence, self.made_at)
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise RecordError("forecast: a number is not finite")
        if not (0 < self.low <= self.value <= self.high and 0.5 <= self.confidence < 1 and self.made_at >= 0):
            raise RecordError("forecast: the value does not lie in its interval, above 0")


def sign_forecast(forecast: Forecast, key: Ed25519PrivateKey) -> bytes:
    """The forecast in a DSSE envelope. `forecast.made_by` must be the id of `key`."""
    if forecast.made_by != dsse.key_id(key.public_key()):
        raise RecordError("forecast: made_by is not the signing key")
    return dsse.sign(FORECAST_TYPE, canonical(_plain(forecast)), key)


def open_forecast(envelope: bytes, trusted: Mapping[str, Ed25519PublicKey]) -> Forecast:
    """The forecast inside `envelope`, once a key of `trusted` (by key id) is shown to have signed it.

    RecordError when malformed (unknown type or field, wrong value, not canonical), SignatureError when no
    trusted key signed it.
    """
    payload, signers = dsse.verify(envelope, FORECAST_TYPE, trusted)
    fields = parse_canonical(payload)
    if not isinstance(fields, dict) or set(fields) != set(Forecast.__slots__):
        raise RecordError("forecast: missing or unknown field")
    about = fields["about"]
    if not isinstance(about, dict) or set(about) != set(Outcome.__slots__):
        raise RecordError("forecast: it does not say what it is about")
    fields["about"] = Outcome(**about)
    forecast = Forecast(**fields)
    if signers != {forecast.made_by}:
        raise dsse.SignatureError("forecast: not signed by the key it names")
    return forecast


def _plain(forecast: Forecast) -> dict[str, Any]:
    fields = {name: getattr(forecast, name) for name in Forecast.__slots__}
    return fields | {"about": {name: getattr(forecast.about, name) for name in Outcome.__slots__}}
