"""The table of `mythos receipt` commands, and `mythos why`."""

from pathlib import Path
from typing import Annotated

import typer

from mythos.cli.options import Json

app = typer.Typer(rich_markup_mode=None, help="Receipts of answers: get, verify, replay.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="What `mythos receipt get` printed, or a bundle.")]
Trust = Annotated[
    str | None,
    typer.Option(
        metavar="ROOT",
        help="Whom you trust, from elsewhere than FILE: 64 hex digits, signed trust roots, or a PEM key.",
    ),
]


@app.command()
def get(receipt: Annotated[str, typer.Argument(metavar="ID")], json: Json = False) -> int:
    """Print a receipt of yours with its bundle, from the running server or from the store."""
    from mythos.cli.receipts import get

    return get(receipt)


@app.command()
def verify(file: File, trust: Trust = None, json: Json = False) -> int:
    """Follow an answer back to the persons who allowed it; needs no server and no database.

    Exit code 0: verified; 5: consistent, but without --trust; 1: broken.
    """
    from mythos.cli.receipts import verify

    return verify(file, trust)


@app.command()
def replay(
    file: File,
    request: Annotated[Path, typer.Option(help="The request as it was sent (JSON).")],
    answer: Annotated[Path | None, typer.Option(help="The text that came back.")] = None,
    family: Annotated[str | None, typer.Option(help="Its file, when it is not a packaged one.")] = None,
    json: Json = False,
) -> int:
    """Answer a request again with the same weights, and say what differs from its receipt."""
    from mythos.cli.receipts import replay

    return replay(file, request, answer, family)


def why(
    receipt: Annotated[str, typer.Argument(metavar="RECEIPT", help="Its id, or a file.")],
    trust: Trust = None,
    json: Json = False,
) -> int:
    """Why was this answer given: from the answer to votes, evidence, policy and log, in ten lines."""
    from mythos.cli.receipts import why

    return why(receipt, trust)
