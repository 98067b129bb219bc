"""The table of `mythos profile` commands."""

from typing import Annotated

import typer

from mythos.cli.naming import DEFAULT_FAMILY
from mythos.cli.options import Family, Json

app = typer.Typer(rich_markup_mode=None, help="Safeguard profiles: train, list.")


@app.command()
def train(
    tier: Annotated[str, typer.Argument(help="A built tier.")],
    fallback: Annotated[str, typer.Option(help="The tier that answers what is refused.")] = "",
    family: Family = DEFAULT_FAMILY,
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
