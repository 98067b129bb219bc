"""Which tier a name or a rank leads to. Names and their order come from the family file only."""

import os
from collections.abc import Collection, Sequence

from mythos.cli.output import CommandError, Exit

DEFAULT_FAMILY = "pocket"


def family_place(name: str) -> str:
    """A family's name, or its file's path as seen from any directory."""
    return os.path.abspath(name) if os.sep in name or name.endswith(".toml") else name


def nearest(rank: float, declared: Sequence[str], existing: Collection[str]) -> str:
    """The existing tier nearest to `rank`: 0 the cheapest declared, 1 the largest. Of two, the cheaper.

    >>> nearest(0.0, ("a", "b", "c", "d"), {"c"})
    'c'
    >>> nearest(1.0, ("a", "b", "c", "d"), {"a", "c"})
    'c'
    """
    place = rank * (len(declared) - 1)
    candidates = [(abs(index - place), index) for index, name in enumerate(declared) if name in existing]
    if not candidates:
        raise no_tier(())
    return declared[min(candidates)[1]]


def default_tier(declared: Sequence[str], existing: Collection[str]) -> str:
    """The tier for a caller who names none: two thirds up, the strongest for general use."""
    return nearest(2 / 3, declared, existing)


def chosen_tier(wanted: str | None, declared: Sequence[str], existing: Collection[str]) -> str:
    """`wanted` when it exists, the default when nothing is wanted; CommandError names those that exist."""
    if wanted is None:
        return default_tier(declared, existing)
    if wanted not in existing:
        raise no_tier([name for name in declared if name in existing], wanted)
    return wanted


def no_tier(existing: Sequence[str], wanted: str = "") -> CommandError:
    if not existing:
        return CommandError("no tier is built yet", "mythos up", Exit.NOT_BUILT)
    return CommandError(
        f"there is no built tier called {wanted}", f"use one of: {', '.join(existing)}", Exit.NOT_BUILT
    )
