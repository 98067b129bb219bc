"""The table of `mythos data` commands."""

from pathlib import Path
from typing import Annotated

import typer

from mythos.cli.naming import DEFAULT_FAMILY
from mythos.cli.options import Family, Json, tiers_of

app = typer.Typer(rich_markup_mode=None, help="Text for training: list sources, build corpora, show them.")


@app.command("list")
def list_(json: Json = False) -> int:
    """Sources with pin, licence and use; domains, mixes, and what is built here."""
    from mythos.cli.data import run_list

    return run_list()


@app.command()
def build(
    domains: Annotated[
        list[str],
        typer.Argument(metavar="DOMAIN...", help="coding, reasoning, defence, general; or a new name."),
    ],
    own: Annotated[
        Path | None, typer.Option("--from", metavar="PATH", help="Your own file or folder, under a new name.")
    ] = None,
    family: Family = DEFAULT_FAMILY,
    tier: Annotated[
        str | None,
        typer.Option(
            help="Whose tokenizer. Default: the family's first built tier.", autocompletion=tiers_of
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A tokenizer.json instead, with plain ChatML turns.")
    ] = None,
    json: Json = False,
) -> int:
    """Read, filter, tokenise and store corpora: one for training, one held out. Minutes."""
    from mythos.cli.data import run_build

    return run_build(domains, own, family, tier, tokenizer)


@app.command()
def show(
    corpus: Annotated[
        str, typer.Argument(metavar="DOMAIN|PATH", help="A corpus built here, or a directory.")
    ],
    verify: Annotated[bool, typer.Option("--verify", help="Read and check every byte.")] = False,
    json: Json = False,
) -> int:
    """What a corpus is made of: sources, counts, what was left out and why."""
    from mythos.cli.data import run_show

    return run_show(corpus, verify)
