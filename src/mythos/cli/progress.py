"""Progress of what takes more than two seconds, on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mythos.cli.output import amount, console, note

Progress = Callable[[str, int, int], None]  # phase, done, total
EVERY = 2.0  # seconds between plain lines


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A function to report to; each phase has a bar of its own."""
    if sys.stderr.isatty():
        with _bars(title) as report:
            yield report
    else:
        yield _lines(title)


@contextmanager
def _bars(title: str) -> Iterator[Progress]:
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    tasks: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[amounts]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True)) as bars:

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(f"{title}: {phase}", total=None, amounts="")
            bars.update(tasks[phase], completed=done, total=total or None, amounts=_amounts(done, total))

        yield report


def _lines(title: str) -> Progress:
    shown: dict[str, float] = {}
    finished: set[str] = set()

    def report(phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        complete = total > 0 and done >= total
        if phase in finished or (not complete and now - shown.get(phase, -EVERY) < EVERY):
            return
        shown[phase] = now
        if complete:
            finished.add(phase)
        percent = f" {100 * done // total}%" if total else ""
        note(f"{title}: {phase}{percent} {_amounts(done, total)}".rstrip())

    return report


def _amounts(done: int, total: int) -> str:
    if total > 1:
        return f"{amount(done)}/{amount(total)}"
    return amount(done) if done and not total else ""


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """For a step of unknown length: a spinner on a terminal, one line elsewhere."""
    if sys.stderr.isatty():
        with console(stderr=True).status(title):
            yield
    else:
        note(f"{title} ...")
        yield
