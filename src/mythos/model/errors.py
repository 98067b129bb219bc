"""What goes wrong with weights, told to the user. `reason` is a stable code for each cause."""

from mythos.records.errors import MythosError


class WeightsError(MythosError):
    """Weights or their configuration cannot be read, do not fit each other, or cannot be written."""

    reason = "WEIGHTS_UNREADABLE"


class WeightsChanged(WeightsError):
    """What lies there is not what its root names."""

    reason = "WEIGHTS_CHANGED"


class FileMissing(WeightsError):
    """A file of the weights is not there."""

    reason = "FILE_MISSING"


class FileNotListed(WeightsError):
    """A file that does not belong to the weights lies among them."""

    reason = "FILE_NOT_LISTED"


class PlainWeights(WeightsError):
    """Weights that an earlier version left unencrypted. `seal_in_place` cures it."""

    reason = "NOT_ENCRYPTED"


class LinkNotAllowed(WeightsError):
    """A symbolic or hard link, or a file with holes, where a file of its own belongs."""

    reason = "LINK_NOT_ALLOWED"


class NameCollision(WeightsError):
    """Two names that some file systems take for one."""

    reason = "NAME_COLLISION"
