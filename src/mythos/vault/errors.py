"""What goes wrong with an asset, as its caller may see it."""

from mythos.records.asset import AssetReason
from mythos.records.errors import MythosError


class VaultError(MythosError):
    """The vault cannot do it: a field out of range, a disk that is full, content that is damaged."""


class BadField(VaultError):
    """A field of what was asked is out of range."""


class NoAsset(MythosError):
    """There is no such asset, or the caller may not know it: the two are one error."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no asset {name[:80]!r}", "`mythos vault list` names yours.")


class NotAllowedHere(MythosError):
    """The caller knows the asset and may not do this to it."""


class OverLimit(MythosError):
    """The caller has read all that may be read in a day."""


class Refused(Exception):
    """Raised inside a transaction; `mythos.vault.rights.attempt` turns it into one of the above."""

    def __init__(self, reason: AssetReason | str, may_know: bool = True, error: MythosError | None = None):
        super().__init__(str(reason))
        self.reason = str(reason)
        self.may_know = may_know
        self.error = error
