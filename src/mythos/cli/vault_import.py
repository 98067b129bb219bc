"""`mythos vault import`: a folder, or a bucket of an S3-compatible store."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mythos.cli.output import CommandError, Exit, emit, json_wanted, note, printable, show
from mythos.cli.vault import opened
from mythos.records.asset import Kind
from mythos.vault.bucket import open_bucket
from mythos.vault.import_bucket import import_bucket
from mythos.vault.importing import import_folder

SHOWN = 20  # names that are printed


def run_import(source: str, endpoint: str, kind: Kind | None) -> int:
    if source.startswith("s3://"):
        return _bucket(source, endpoint, kind)
    if endpoint:
        raise CommandError("a folder has no endpoint", "name s3://BUCKET/PREFIX", Exit.USAGE)
    return _folder(Path(source), kind)


def _folder(folder: Path, kind: Kind | None) -> int:
    _, place = opened()
    report = import_folder(*place, folder, kind, _progress)
    if json_wanted():
        emit(asdict(report))
        return Exit.OK
    _taken("files", report.taken, report.bytes, report.already)
    if report.open_files:
        show(f"others on this machine could read {len(report.open_files)} of the files in {folder}:")
        _names(report.open_files)
        note("those files are still there: delete or close them once you have checked the vault")
    _skipped(report.skipped)
    return Exit.OK


def _bucket(source: str, endpoint: str, kind: Kind | None) -> int:
    """1 when something could not be taken: run it again."""
    bucket = open_bucket(source, endpoint)
    _, place = opened()
    report = import_bucket(*place, bucket, kind, _progress)
    code = Exit.FAILED if report.skipped else Exit.OK
    if json_wanted():
        emit(asdict(report))
        return code
    _taken("objects", report.taken, report.bytes, report.already)
    if report.open_objects:
        show(f"others could read {len(report.open_objects)} of the objects:")
        _names([f"{key} ({why})" for key, why in report.open_objects])
    else:
        show("no object answered without credentials")
    show("anybody gets the list of them" if report.listed else "nobody gets the list without credentials")
    for line in report.settings:
        show(printable(line))
    if report.older or report.older is None:
        note(f"{'an unknown number of' if report.older is None else report.older} older versions stay there")
    if report.open_objects or report.listed:
        note("the bucket is as it was: close or empty it once you have checked the vault")
    _skipped(report.skipped)
    return code


def _taken(what: str, count: int, size: int, already: int) -> None:
    before = f", {already} were here already" if already else ""
    show(f"{count} {what} taken, {size} bytes, all private{before}")


def _names(names: Sequence[str]) -> None:
    show("\n".join(printable(name) for name in names[:SHOWN]))
    if len(names) > SHOWN:
        note(f"and {len(names) - SHOWN} more; --json names all")


def _skipped(skipped: Sequence[tuple[str, str]]) -> None:
    for name, why in skipped[:SHOWN]:
        note(f"not taken: {printable(name)} ({printable(why)})")
    if len(skipped) > SHOWN:
        note(f"and {len(skipped) - SHOWN} more were not taken")


def _progress(count: int) -> None:
    note(f"{count} taken")
