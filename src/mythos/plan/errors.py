"""What goes wrong with a plan, told to the user."""

from mythos.records.errors import MythosError


class PlanError(MythosError):
    """A plan's inputs are unknown, impossible or do not fit each other."""
