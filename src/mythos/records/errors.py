"""The base of every error a user may see: what happened, and what cures it."""


class MythosError(Exception):
    """`message` says what happened; `cure` names what the user can do about it (may be empty)."""

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(f"{message} {cure}".strip())
        self.message = message
        self.cure = cure
