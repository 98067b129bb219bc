"""What goes wrong with weights, told to the user."""

from mythos.records.errors import MythosError


class WeightsError(MythosError):
    """Weights or their configuration cannot be read, do not fit each other, or cannot be written."""


class PlainWeights(WeightsError):
    """Weights that an earlier version left unencrypted. `seal_in_place` cures it."""


class LinkNotAllowed(WeightsError):
    """A symbolic or hard link, or a file with holes, where a file of its own belongs."""

    reason = "LINK_NOT_ALLOWED"


class NameCollision(WeightsError):
    """Two names that some file systems take for one."""

    reason = "NAME_COLLISION"
