"""Safeguard profiles: which classifiers watch an answer, and what happens when one trips.

A profile belongs to one root: its directions mean something in the hidden states of those weights alone. It
is named by its content (`name@` and 16 hex digits of its digest), so that a decision names exactly this one.
"""

import array
import base64
import binascii
import hashlib
import math
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from mythos.records.canonical import RecordError, canonical, parse_canonical
from mythos.records.decision import is_name, is_root
from mythos.records.errors import MythosError
from mythos.records.table import from_table

NO_PROFILE = "none"
CHECKS = ("exchange_check", "input_check", "output_check")  # every profile has them all
MAX_WINDOW = 1024  # tokens
_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_IDENTITY = re.compile(r"([a-z][a-z0-9-]{0,63})@([0-9a-f]{16})")


@dataclass(frozen=True, slots=True)
class Classifier:
    """A hidden state h scores direction . h + bias.

    `direction` is base64 of little-endian float32. The other three are thresholds (a score that reaches one
    trips): `input` for the prompt's last position, `output` for the mean over the newest `check_every` tokens
    of the answer, `exchange` for the mean of the input's score and the whole answer's mean.
    """

    category: str
    direction: str
    bias: float
    input: float
    output: float
    exchange: float


@dataclass(frozen=True, slots=True)
class Profile:
    """`layer` counts blocks from 0; the state is what that block puts out.

    Every `check_every` tokens the answer is checked; then all but the newest `hold_back` tokens of what was
    checked may leave. `fallback` names the tier that answers instead ("" for none). A request whose strongest
    category is among `exempt` passes.
    """

    name: str
    root: str
    layer: int
    classifiers: tuple[Classifier, ...]
    hold_back: int
    check_every: int
    fallback: str
    exempt: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.name == NO_PROFILE or not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} cannot name a profile")
        if not is_root(self.root):
            raise ValueError("root is not 64 hex digits")
        if self.fallback and not is_name(self.fallback):
            raise ValueError("fallback is not a tier's name")
        if self.layer < 0 or not 0 <= self.hold_back <= MAX_WINDOW or not 1 <= self.check_every <= MAX_WINDOW:
            raise ValueError("layer, hold_back or check_every is out of range")
        names = [c.category for c in self.classifiers]
        if not names or len(set(names)) != len(names) or not all(map(_NAME.fullmatch, names)):
            raise ValueError("classifiers must be some, each of its own category")
        if list(self.exempt) != sorted(set(self.exempt)) or not set(self.exempt) < set(names):
            raise ValueError("exempt must be sorted, and some but not all of the categories")
        if len({len(vector(c.direction)) for c in self.classifiers}) != 1:
            raise ValueError("classifiers differ in width")

    @property
    def width(self) -> int:
        return len(vector(self.classifiers[0].direction))

    @property
    def categories(self) -> tuple[str, ...]:
        """What trips it: exempt categories pass."""
        return tuple(sorted({c.category for c in self.classifiers} - set(self.exempt)))

    @property
    def data(self) -> bytes:
        """Canonical bytes: what is stored and what the digest is of."""
        return canonical(asdict(self))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def identity(self) -> str:
        """What permits and decisions call it."""
        return f"{self.name}@{self.digest[:16]}"


def open_profile(data: bytes) -> Profile:
    """The profile whose canonical bytes these are. RecordError when malformed in any way."""
    try:
        return from_table(Profile, parse_canonical(data), "profile")
    except RecordError:
        raise
    except MythosError as error:
        raise RecordError(error.message, error.cure) from None


def identity_parts(identity: str) -> tuple[str, str] | None:
    """(name, first 16 hex digits of the digest), or None when it is no identity of a profile."""
    found = _IDENTITY.fullmatch(identity)
    return (found[1], found[2]) if found else None


def vector(direction: str) -> array.array:
    """The float32 values of a direction. ValueError when it is not base64 of finite ones."""
    try:
        values = array.array("f", base64.b64decode(direction, validate=True))
    except (ValueError, binascii.Error):
        raise ValueError("a direction is not base64 of float32 values") from None
    if sys.byteorder == "big":
        values.byteswap()
    if not values or not all(map(math.isfinite, values)):
        raise ValueError("a direction is empty or not finite")
    return values


def packed(values: Iterable[float]) -> str:
    """The inverse of `vector`."""
    packed_values = array.array("f", values)
    if sys.byteorder == "big":
        packed_values.byteswap()
    return base64.b64encode(packed_values.tobytes()).decode("ascii")
