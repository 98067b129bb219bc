"""Arguments and options that several tables of commands share."""

from typing import Annotated

import typer

from mythos.cli import output
from mythos.cli.naming import DEFAULT_FAMILY
from mythos.records.errors import MythosError

Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON object on stdout; messages on stderr.", callback=output.use_json),
]


def families(incomplete: str) -> list[str]:
    """For shell completion: the packaged families."""
    from mythos.spec.load import packaged_families

    return [name for name in packaged_families() if name.startswith(incomplete)]


def tiers_of(context: typer.Context, incomplete: str) -> list[str]:
    """For shell completion: the tiers of the family on the line."""
    from mythos.spec.load import load_family

    try:
        family = load_family(context.params.get("family") or DEFAULT_FAMILY)
    except MythosError:
        return []
    return [tier.name for tier in family.tiers if tier.name.startswith(incomplete)]


_FAMILY = "A packaged family, or the path of a family file."
FamilyArgument = Annotated[str, typer.Argument(help=_FAMILY, autocompletion=families)]
Family = Annotated[str, typer.Option(help=_FAMILY, autocompletion=families)]
RunningFamily = Annotated[
    str | None,
    typer.Option(help="Default: that of the running `mythos up`, or pocket.", autocompletion=families),
]
