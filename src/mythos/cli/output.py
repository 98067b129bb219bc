"""How every command speaks: its result on stdout (one JSON object with `--json`), all else on stderr."""

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from functools import cache
from typing import IO, TYPE_CHECKING, Any

from mythos.records.errors import MythosError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class Exit(IntEnum):
    """The exit codes, stable across releases (docs/reference/cli.md has the table)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_BUILT = 3
    REFUSED = 4
    UNREACHABLE = 5
    UNTRUSTED = 5  # `ledger verify`, `check`: consistent, but nothing from outside to compare with
    FETCH = 6
    DAMAGED = 7
    INTERRUPTED = 130


class CommandError(MythosError):
    """An error of the command line itself, which knows its exit code."""

    def __init__(self, message: str, cure: str = "", code: Exit = Exit.FAILED) -> None:
        super().__init__(message, cure)
        self.code = code


# Errors of the lower floors by class name, so that naming them here imports nothing heavy.
CODES = {
    "WeightsError": Exit.DAMAGED,
    "FetchError": Exit.FETCH,
    "FamilyError": Exit.NOT_BUILT,
    "RecordError": Exit.REFUSED,  # a decision that is malformed or not signed by a trusted key
    "NotAllowed": Exit.REFUSED,
    "ClockError": Exit.REFUSED,
    "Rejected": Exit.REFUSED,  # by the gate
    "NoAsset": Exit.REFUSED,
    "NotAllowedHere": Exit.REFUSED,
    "OverLimit": Exit.REFUSED,
}


def exit_code(error: MythosError) -> Exit:
    if isinstance(error, CommandError):
        return error.code
    return next((CODES[c.__name__] for c in type(error).__mro__ if c.__name__ in CODES), Exit.FAILED)


class _Mode:
    json = False


def use_json(wanted: bool) -> bool:
    """Called by the `--json` option wherever it stands."""
    _Mode.json = _Mode.json or wanted
    return wanted


def json_wanted() -> bool:
    return _Mode.json


def emit(data: dict[str, Any]) -> None:
    """One machine-readable object, on one line of stdout."""
    print(json.dumps(data, ensure_ascii=False, default=str), flush=True)


def note(text: str) -> None:
    """A message for the person, on stderr."""
    print(text, file=sys.stderr, flush=True)


def show(*renderables: "RenderableType") -> None:
    """The result for a person, on stdout."""
    for renderable in renderables:
        console().print(renderable, highlight=False)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Rows of plain text, for a person. An id is shown whole: it is typed again."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in heads:
        drawn.add_column(heading, no_wrap=heading in ("id", "public as", "state"))
    for row in rows:
        drawn.add_row(*(escape(printable(str(cell))) for cell in row))
    show(*[title] * bool(title), drawn)


def table_of(lines: Sequence[Mapping[str, object]], title: str = "") -> None:
    """`table` of at least one line; all share their keys, which are the heads."""
    table(list(lines[0]), [list(line.values()) for line in lines], title)


@cache
def console(stderr: bool = False) -> "Console":
    """A rich console. Piped output is not folded at 80 columns unless COLUMNS says so.

    It writes to what `sys.stdout` or `sys.stderr` is at each print, as `emit` and `note` do.
    """
    from rich.console import Console

    stream: IO[str] = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 120
    return Console(stderr=stderr, width=width, soft_wrap=False)


def fail(message: str, cure: str, code: Exit) -> int:
    """Say what went wrong and what cures it; returns the exit code."""
    note(f"error: {message}")
    if cure:
        note(f"cure: {cure}")
    if json_wanted():
        emit({"error": message, "cure": cure, "code": int(code)})
    return int(code)


def printable(text: str) -> str:
    """A model's text without control characters: an answer may not drive the terminal."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0))


def amount(value: float) -> str:
    """A count in three figures: 134.5M, 9.9T."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


def money(value: float, currency: str) -> str:
    """A price with enough digits for the fraction of a cent that one answer costs."""
    digits = 2 if value >= 0.1 or value == 0 else 2 - math.floor(math.log10(value))
    return f"{value:.{digits}f} {currency}"


def date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
