"""The table of `mythos incident`."""

from pathlib import Path
from typing import Annotated

import typer

from mythos.cli.options import Json
from mythos.records.incident import Finding, Nature, Phase

app = typer.Typer(
    rich_markup_mode=None, help="An outside report: open, contain, count, state, close; clocks run meanwhile."
)
Incident = Annotated[str, typer.Argument(metavar="INCIDENT")]
As = Annotated[str, typer.Option("--as", metavar="PERSON[:ROLE]", help="Who signs.")]
By = Annotated[list[str], typer.Option("--by", metavar="PERSON[:ROLE]", help="Who signs; again for more.")]
Text = Annotated[str, typer.Option("--text", metavar="TEXT|@FILE", help="In words; @FILE reads it there.")]
Reachable = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID|KIND:NAME",
        help="An asset, publication, share, key, grant or release by its id; tier:, organisation:, profile:.",
    ),
]


@app.command("open")
def open_(
    file: Annotated[Path, typer.Argument(help="The report as it came in; - for stdin.", allow_dash=True)],
    reporter: Annotated[str, typer.Option("--from", metavar="WHO", help="Who sent it; it is sealed.")],
    who: As,
    received: Annotated[str, typer.Option(metavar="TIME", help="When it came in. Default: now.")] = "",
    suspected: Annotated[
        str, typer.Option(metavar="TIME", help="From when on clocks run, if before that.")
    ] = "",
    nature: Annotated[
        list[Nature] | None, typer.Option(help="Default: cyber_breach. Again for more.")
    ] = None,
    reachable: Reachable = None,
    json: Json = False,
) -> int:
    """A report of something that is out, or may be: keep it, and start the clocks."""
    from mythos.cli.incidents import run_open

    natures = nature or [Nature.CYBER_BREACH]
    return run_open(file, reporter, received, suspected, natures, reachable or [], who)


@app.command()
def find(
    incident: Incident,
    finding: Annotated[Finding, typer.Argument(help="What it is about.")],
    text: Text,
    who: As,
    nature: Annotated[Nature | None, typer.Option(help="For a finding `nature`: which clock starts.")] = None,
    json: Json = False,
) -> int:
    """Enter what you found out, in your words and under your name."""
    from mythos.cli.incidents import run_find

    return run_find(incident, finding, text, nature, who)


@app.command()
def contain(
    incident: Incident,
    who: As,
    reachable: Reachable = None,
    absent: Annotated[
        list[str] | None, typer.Option(metavar="ID|KIND:NAME", help="There is no such thing, as you know.")
    ] = None,
    json: Json = False,
) -> int:
    """Take away at once all that the incident names, and what you add: exit code 1 if anything is left."""
    from mythos.cli.incidents import run_contain

    return run_contain(incident, reachable or [], absent or [], who)


@app.command()
def count(
    incident: Incident,
    who: As,
    starts: Annotated[str, typer.Option("--from", metavar="TIME", help="Default: all the log.")] = "",
    ends: Annotated[str, typer.Option("--until", metavar="TIME", help="Default: now.")] = "",
    json: Json = False,
) -> int:
    """Count from the access logs who read what, first and last."""
    from mythos.cli.incidents import run_count

    return run_count(incident, starts, ends, who)


@app.command()
def report(
    incident: Incident,
    who: Annotated[str, typer.Option("--as", metavar="PERSON[:ROLE]", help="Who hands it in.")] = "",
    duty: Annotated[
        list[str] | None, typer.Option(metavar="R29|R34|public", help="Under which duty it is handed in.")
    ] = None,
    phase: Annotated[Phase, typer.Option(help="A final one closes the duty.")] = Phase.INITIAL,
    out: Annotated[Path | None, typer.Option(help="Write the text here.")] = None,
    json: Json = False,
) -> int:
    """Draft the statement from the record. With --duty, enter that this very text is handed in."""
    from mythos.cli.incidents import run_report

    return run_report(incident, duty or [], phase, out, who)


@app.command()
def close(
    incident: Incident,
    text: Text,
    by: By,
    lesson: Annotated[
        list[str] | None,
        typer.Option(metavar="LISTENER:PATH", help="Visited by every audit from now on; again for more."),
    ] = None,
    json: Json = False,
) -> int:
    """Close it, in the name of two persons; each lesson becomes a row of `mythos vault audit`."""
    from mythos.cli.incidents import run_close

    return run_close(incident, text, lesson or [], by)


@app.command()
def show(incident: Incident, json: Json = False) -> int:
    """One incident: its texts, acts and clocks."""
    from mythos.cli.incidents import run_show

    return run_show(incident)


@app.command("list")
def list_(json: Json = False) -> int:
    """Every incident and its next deadline; exit code 1 when one is overdue."""
    from mythos.cli.incidents import run_list

    return run_list()
