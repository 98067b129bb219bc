"""The table of `mythos policy` commands."""

from typing import Annotated

import typer

from mythos.cli.naming import DEFAULT_FAMILY
from mythos.cli.options import Family, Json

app = typer.Typer(rich_markup_mode=None, help="Policy packs: list, show, check, compare, activate, try.")

Pack = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A packaged pack, or a TOML file.")]


@app.command("list")
def list_(json: Json = False) -> int:
    """The packaged packs, and which pack is in force here."""
    from mythos.cli.policy import run_list

    return run_list()


@app.command()
def show(pack: Pack, json: Json = False) -> int:
    """What a pack asks for, leaf by leaf."""
    from mythos.cli.policy import run_show

    return run_show(pack)


@app.command()
def lint(pack: Pack, json: Json = False) -> int:
    """What is wrong with a pack. Exit code 1 when it cannot be put in force."""
    from mythos.cli.policy import run_lint

    return run_lint(pack)


@app.command()
def diff(old: Pack, new: Pack, json: Json = False) -> int:
    """Every value that differs, and whether the change tightens or loosens."""
    from mythos.cli.policy import run_diff

    return run_diff(old, new)


@app.command("try")
def try_(
    tier: Annotated[str, typer.Argument(help="A tier with registered weights.")],
    family: Family = DEFAULT_FAMILY,
    packs: Annotated[str, typer.Option(metavar="all|A,B", help="Names or files, comma-separated.")] = "all",
    stage: Annotated[str | None, typer.Option(help="Only this stage. Default: all.")] = None,
    profile: Annotated[str, typer.Option(help="The safeguard profile, by name or name@digest.")] = "none",
    json: Json = False,
) -> int:
    """Would it have shipped? The same evidence under each pack; opens nothing, asks for no votes."""
    from mythos.cli.policy import run_try

    return run_try(tier, family, packs, stage, profile)
