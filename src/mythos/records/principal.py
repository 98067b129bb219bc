"""Who asks. A Principal is made from a credential only, never from an address or a client's field."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mythos.records.errors import MythosError

LOCAL_ORG = "local"  # the organisation of whoever runs this deployment


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. `org` is the unit of limits, usage and cache salt."""

    id: str
    kind: str  # operator | key
    org: str
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)


OPERATOR = Principal("operator", "operator", LOCAL_ORG)


def is_operator(principal: Principal) -> bool:
    """The local operator, at the command line or by a key of their own."""
    return principal.id == OPERATOR.id and principal.org == LOCAL_ORG


class NotAllowed(MythosError):
    """A write that only the operator at the command line may do."""


def require_operator(principal: Principal) -> None:
    """NotAllowed unless this is the operator in person, not an API key (not even the operator's own)."""
    if not is_operator(principal) or principal.kind != OPERATOR.kind:
        raise NotAllowed("only the local operator may do this", "Run the command on the machine itself.")
