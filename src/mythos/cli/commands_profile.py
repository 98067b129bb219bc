"""The table of `mythos profile` commands."""

from typing import Annotated

import typer

from mythos.cli import output
from mythos.cli.naming import DEFAULT_FAMILY

app = typer.Typer(rich_markup_mode=None, help="Safeguard profiles: train, list.")

Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON object on stdout; messages on stderr.", callback=output.use_json),
]


@app.command()
def train(
    tier: Annotated[str, typer.Argument(help="A built tier.")],
    fallback: Annotated[str, typer.Option(help="The tier that answers what is refused.")] = "",
    family: Annotated[str, typer.Option(help="A packaged family, or a family file.")] = DEFAULT_FAMILY,
    json: Json = False,
) -> int:
    """Make the profiles `guarded` and `trusted-cyber` from a tier's own hidden states. Minutes."""
    from mythos.cli.profiles import train as run

    return run(family, tier, fallback)


@app.command("list")
def list_(json: Json = False) -> int:
    """The profiles stored here."""
    from mythos.cli.profiles import list_ as run

    return run()
