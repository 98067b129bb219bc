"""The table of `mythos ledger` commands."""

from pathlib import Path
from typing import Annotated

import typer

from mythos.cli.options import Json

app = typer.Typer(rich_markup_mode=None, help="The append-only log: list, sign, prove, verify, witness.")
witness = typer.Typer(rich_markup_mode=None, help="Keep the log's memory elsewhere; cosign what extends it.")
app.add_typer(witness, name="witness")

Trust = Annotated[
    str | None,
    typer.Option(
        metavar="KEY|FILE",
        help="The log's verifier key, obtained out of band, or a file of such: the log's and its witnesses'.",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Write it to this file instead of stdout.")]
Sequence = Annotated[int, typer.Argument(metavar="SEQ", min=0, help="The event's number.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The witness's own directory.")]


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest events.")] = 20, json: Json = False
) -> int:
    """The newest events, oldest first."""
    from mythos.cli.ledger import run_list

    return run_list(limit)


@app.command()
def head(
    out: Out = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the tiles again from the table.")] = False,
    json: Json = False,
) -> int:
    """Sign the log as it stands now, and print the signed head."""
    from mythos.cli.ledger import run_head

    return run_head(out, rebuild)


@app.command()
def key(json: Json = False) -> int:
    """Print the log's verifier key, for others to check with."""
    from mythos.cli.ledger import run_key

    return run_key()


@app.command()
def prove(
    seq: Sequence,
    out: Out = None,
    size: Annotated[int | None, typer.Option(help="In the signed head of this many events.")] = None,
    disclose: Annotated[
        bool, typer.Option("--disclose", help="With the event and its salt: whoever has the proof reads it.")
    ] = False,
    json: Json = False,
) -> int:
    """A proof that one event is in the log."""
    from mythos.cli.ledger import run_prove

    return run_prove(seq, out, size, disclose)


@app.command()
def check(
    proof: Annotated[Path, typer.Argument(help="What `prove` wrote.")],
    trust: Trust = None,
    leaf: Annotated[str | None, typer.Option(help="The leaf hash (hex), when nothing is disclosed.")] = None,
    json: Json = False,
) -> int:
    """Check such a proof; needs no log."""
    from mythos.cli.ledger import run_check

    return run_check(proof, trust, leaf)


@app.command()
def verify(
    trust: Trust = None,
    head: Annotated[
        list[Path] | None, typer.Option(help="A signed head obtained elsewhere: from a witness, a backup.")
    ] = None,
    json: Json = False,
) -> int:
    """Check the whole log: events, signed heads, tiles."""
    from mythos.cli.ledger import run_verify

    return run_verify(trust, head or [])


@witness.command("request")
def witness_request(
    since: Annotated[
        int | None,
        typer.Option(min=0, help="What the witness cosigned last. Default: the last cosigned head."),
    ] = None,
    out: Out = None,
    json: Json = False,
) -> int:
    """Sign the log's head and ask a witness to cosign it."""
    from mythos.cli.ledger import run_request

    return run_request(since, out)


@witness.command("init")
def witness_init(
    directory: Directory,
    log: Annotated[str, typer.Option(metavar="KEY|FILE", help="What `mythos ledger key` prints there.")],
    name: Annotated[str, typer.Option(help="The witness's name, such as witness.example/w1.")],
    json: Json = False,
) -> int:
    """Start a witness, at best on another machine."""
    from mythos.cli.ledger import run_init

    return run_init(directory, log, name)


@witness.command("cosign")
def witness_cosign(
    directory: Directory,
    request: Annotated[Path, typer.Argument(help="What `request` wrote.")],
    out: Out = None,
    json: Json = False,
) -> int:
    """Cosign a head that extends the last one."""
    from mythos.cli.ledger import run_cosign

    return run_cosign(directory, request, out)


@witness.command("attach")
def witness_attach(
    note: Annotated[Path, typer.Argument(metavar="FILE", help="What `cosign` wrote.")],
    trust: Annotated[str, typer.Option(metavar="KEY|FILE", help="The witness's verifier key.")],
    json: Json = False,
) -> int:
    """Keep a cosignature with the log."""
    from mythos.cli.ledger import run_attach

    return run_attach(note, trust)
