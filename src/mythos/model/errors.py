"""What goes wrong with weights, told to the user."""

from mythos.records.errors import MythosError


class WeightsError(MythosError):
    """Weights or their configuration cannot be read, do not fit each other, or cannot be written."""
