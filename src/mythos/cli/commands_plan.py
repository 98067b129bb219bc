"""The table of `mythos plan` commands."""

from pathlib import Path
from typing import Annotated

import typer

from mythos.cli.options import Json

app = typer.Typer(rich_markup_mode=None, help="What a model will take and give: fit scaling laws.")


@app.callback()
def plan() -> None:
    """Keeps `fit` a command of its own while the group has no other."""


@app.command()
def fit(
    runs: Annotated[Path, typer.Argument(metavar="RUNS.csv", help="Columns params, tokens, loss.")],
    forecast: Annotated[
        list[str] | None,
        typer.Option(metavar="PARAMS:TOKENS[:ACTIVE]", help="A run to foresee, as 7B:140B. Again for more."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FLOPS[:RATIO]",
            help="Training compute to split best; RATIO: all parameters by active ones.",
        ),
    ] = None,
    series: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="One fit for each value. Again for more.")
    ] = None,
    params: Annotated[
        str, typer.Option(metavar="COLUMN", help="The column that counts parameters.")
    ] = "params",
    seed: Annotated[int, typer.Option(min=0, help="Of the resampling.")] = 0,
    json: Json = False,
) -> int:
    """Fit L(N, D) = E + A/N^alpha + B/D^beta to runs; forecast others, with intervals."""
    from mythos.cli.plan import run_fit

    return run_fit(runs, forecast or [], budget or [], series or [], params, seed)
