"""The table of `mythos report`."""

from pathlib import Path
from typing import Annotated

import typer

from mythos.cli.naming import DEFAULT_FAMILY
from mythos.cli.options import Family, Json
from mythos.records.report import ReportKind

app = typer.Typer(rich_markup_mode=None, help="Reports from signed evidence: make, write, publish, verify.")
Id = Annotated[str, typer.Argument(metavar="REPORT")]
As = Annotated[str, typer.Option("--as", metavar="PERSON[:ROLE]", help="Who signs.")]
Public = Annotated[bool, typer.Option("--public", help="The public version: what is withheld is a hole.")]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page here.")]


@app.command()
def make(
    kind: ReportKind,
    who: As,
    tier: Annotated[str, typer.Argument(help="What it is about.")] = "",
    about: Annotated[
        str, typer.Option(metavar="ID", help="The release of a decision record; the report of a review.")
    ] = "",
    profile: Annotated[str, typer.Option(help="The safeguard profile, by name or name@digest.")] = "none",
    words: Annotated[
        Path | None, typer.Option(metavar="TOML", help="Answers to its questions; what is withheld.")
    ] = None,
    public: Public = False,
    html: Html = None,
    family: Family = DEFAULT_FAMILY,
    json: Json = False,
) -> int:
    """Fill in, sign and keep a report; every figure comes from a signed record."""
    from mythos.cli.reports import run_make

    return run_make(kind, family, tier, profile, about, words, public, html, who)


@app.command()
def write(report: Id, html: Html = None, public: Public = False, json: Json = False) -> int:
    """Write the page of a report on record, full or public."""
    from mythos.cli.reports import run_write

    return run_write(report, public, html)


@app.command()
def publish(
    report: Id,
    who: As,
    why: Annotated[str, typer.Option(help="For those who vote; it is sealed.")] = "a report",
    starts: Annotated[str, typer.Option("--from", metavar="TIME", help="Default: now.")] = "",
    ends: Annotated[str, typer.Option("--until", metavar="TIME", help="Default: without end.")] = "",
    json: Json = False,
) -> int:
    """Ask that its public version be public; two others vote: mythos publication vote."""
    from mythos.cli.reports import run_publish

    return run_publish(report, starts, ends, why, who)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A page, full or public.")],
    trust: Annotated[
        str | None,
        typer.Option(
            metavar="ROOT", help="Whom you trust, from elsewhere: 64 hex digits, or signed trust roots."
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Check a page by itself, without server, database or network.

    Exit code 0: verified; 5: consistent, but without --trust; 1: broken.
    """
    from mythos.cli.reports import run_verify

    return run_verify(file, trust)


@app.command("list")
def list_(json: Json = False) -> int:
    """Every report on record."""
    from mythos.cli.reports import run_list

    return run_list()
