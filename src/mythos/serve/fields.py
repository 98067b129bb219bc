"""Checking fields of a request: each failure is a 400 that names the path."""

import math
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qs

from mythos.serve.errors import bad, clean


def query_fields(query: bytes) -> dict[str, list[str]]:
    """The fields of a query string."""
    try:
        return parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=64)
    except ValueError:
        raise bad("query", "has too many fields") from None


def as_object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad(path, "Input should be an object")
    return value


def as_list(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise bad(path, "Input should be a valid array")
    return value


def as_str(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise bad(path, "Input should be a valid string")
    return value


def as_bool(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise bad(path, "Input should be a valid boolean")
    return value


def as_int(value: Any, path: str, low: int | None = None, high: int | None = None) -> int:
    """A whole number within [low, high]; True is none, 1.0 is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad(path, "Input should be a valid integer")
    if low is not None and value < low:
        raise bad(path, f"Input should be greater than or equal to {low}")
    if high is not None and value > high:
        raise bad(path, f"Input should be less than or equal to {high}")
    return value


def as_number(value: Any, path: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise bad(path, "Input should be a valid number")
    if not low <= value <= high:
        raise bad(path, f"range: {low:g}..{high:g}")
    return float(value)


def one_of(value: Any, path: str, allowed: Collection[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise bad(path, f"Input should be one of {', '.join(repr(a) for a in sorted(allowed))}")
    return value


def required(body: dict[str, Any], name: str, path: str = "") -> Any:
    where = f"{path}.{name}" if path else name
    if name not in body:
        raise bad(where, "Field required")
    return body[name]


class Ignored:
    """Names of what a request holds beyond what is acted upon. In strict mode an unknown field is a 400."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self.names: dict[str, None] = {}

    def unknown(self, body: dict[str, Any], known: Collection[str], path: str = "") -> None:
        """Every field of `body` that is not known."""
        for name in body:
            if name not in known:
                if self._strict:
                    where = f"{path}.{name}" if path else name
                    raise bad(clean(where), "Extra inputs are not permitted", code="unknown_field")
                self.name(f"{_plain(path)}.{name}" if path else name)

    def value(self, value: Any, path: str, known: Collection[str]) -> None:
        """The value of a field without effect here: clients learn new ones before we do, so an unknown one is
        named. In strict mode it is a 400."""
        if self._strict:
            one_of(value, path, known)
        elif as_str(value, path) not in known:
            self.name(path)

    def name(self, name: str) -> None:
        """Something known, accepted and not acted upon."""
        if len(self.names) < 256:
            self.names[name[:128]] = None


def _plain(path: str) -> str:
    """A path without its indices, so that one word stands for many places."""
    return ".".join(part for part in path.split(".") if not part.isdigit())
