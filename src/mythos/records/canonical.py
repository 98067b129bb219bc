"""Canonical JSON (RFC 8785): one value, one sequence of bytes. What is hashed or signed has this form."""

import json
import math
from typing import Any, NoReturn

import rfc8785

from mythos.records.errors import MythosError

MAX_BYTES = 1 << 20  # of one record; the largest today is a few hundred bytes


class RecordError(MythosError):
    """A record is malformed: not canonical, an unknown type or field, a value out of range."""


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of `value` (dict, list, tuple, str, int up to 2**53, finite float, bool, None)."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeEncodeError) as error:
        raise RecordError(f"value has no canonical JSON form: {error}") from error


def parse(data: bytes, limit: int = MAX_BYTES) -> Any:
    """JSON of `data`, strictly: UTF-8, no duplicate keys, no NaN or infinity, at most `limit` bytes."""
    if len(data) > limit:
        raise RecordError(f"record of {len(data)} bytes; the limit is {limit}")
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise RecordError(f"record is not JSON: {error}") from error


def parse_canonical(data: bytes, limit: int = MAX_BYTES) -> Any:
    """As `parse`, and `data` must be the canonical form of what it says (no second spelling)."""
    value = parse(data, limit)
    if canonical(value) != data:
        raise RecordError("record is not in canonical form (RFC 8785)")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RecordError(f"duplicate key {twice!r}")
    return result


def _no_constant(name: str) -> NoReturn:
    raise RecordError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise RecordError(f"number {text} is out of range")
    return value
