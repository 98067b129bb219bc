"""What goes wrong with a plan, told to the user."""

from mythos.records.errors import MythosError


class PlanError(MythosError):
    """A plan's inputs are unknown, impossible or do not fit each other."""


def reason(error: Exception) -> str:
    """Why a file could not be read, without the file's name, which the sentence around it has."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
