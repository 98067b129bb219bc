"""Who asks. A Principal is made from a credential only, never from an address or a client's field."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Mapping


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. `org` is the unit of limits, usage and cache salt."""

    id: str
    kind: str  # operator | key
    org: str
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
