"""From a TOML or JSON table to a frozen dataclass, strictly: no key unknown or missing, no type guessed."""

import dataclasses
import difflib
import functools
import types
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mythos.records.errors import MythosError

T = TypeVar("T")


def from_table(kind: type[T], table: Any, where: str) -> T:
    """An instance of the dataclass `kind`; `where` names the table in errors (MythosError)."""
    if not isinstance(table, Mapping):
        raise MythosError(f"{where} should be a table, not {_name(table)}.")
    hints = _hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    check_keys(table, list(fields), where)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _value(hints[name], table[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise MythosError(f"{where} lacks the key {name!r}.")
    try:
        return kind(**values)
    except ValueError as error:
        raise MythosError(f"{where}: {error}.") from None


_hints = functools.cache(get_type_hints)  # costs more than all else here


def check_keys(table: Mapping[str, Any], known: list[str], where: str) -> None:
    """MythosError for a key that is not among `known`, naming the nearest."""
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise MythosError(
                f"{where} has the unknown key {key!r}.", f"Did you mean {near[0]!r}?" if near else ""
            )


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        return _value(next(arm for arm in get_args(hint) if arm is not type(None)), value, where)
    if origin is Literal:
        if value not in get_args(hint):
            raise MythosError(
                f"{where} is {value!r}; it should be one of {', '.join(map(repr, get_args(hint)))}."
            )
        return value
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise MythosError(f"{where} should be a table, not {_name(value)}.")
        return {key: _value(get_args(hint)[1], item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if value not in list(hint):
            raise MythosError(f"{where} is {value!r}; it should be one of {', '.join(hint)}.")
        return hint(value)
    if origin is tuple:
        if not isinstance(value, list):
            raise MythosError(f"{where} should be a list, not {_name(value)}.")
        return tuple(_value(get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return from_table(hint, value, where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) > 1e300 or value != value:
            raise MythosError(f"{where} is {value}, no finite number.")
        return float(value)
    if not isinstance(value, hint) or isinstance(value, bool) and hint is not bool:
        raise MythosError(f"{where} should be of type {hint.__name__}, not {_name(value)}.")
    return value


def _name(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
