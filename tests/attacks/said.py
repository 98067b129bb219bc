"""What an operation says."""

from dataclasses import dataclass


@dataclass
class Said:
    """`word`, and every reason code that came with it."""

    word: str
    codes: frozenset[str] = frozenset()
