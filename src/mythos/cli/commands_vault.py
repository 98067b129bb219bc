"""The table of `mythos vault`, `mythos publication` and `mythos demo`."""

from pathlib import Path
from typing import Annotated

import typer

from mythos.cli.options import Json
from mythos.records.asset import AssetAction, Kind, Retention
from mythos.records.release import Choice

app = typer.Typer(rich_markup_mode=None, help="Assets, private by default: put, share, find, import, audit.")
demo = typer.Typer(rich_markup_mode=None, help="Shows what a leak is, on this machine.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The asset's address.")]
KindOption = Annotated[Kind, typer.Option(help="What it is.")]


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="The file to keep; - for stdin.", allow_dash=True)],
    title: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    kind: KindOption = Kind.DOCUMENT,
    retention: Annotated[
        Retention | None, typer.Option(help="How long it must be kept. Default: as its kind asks.")
    ] = None,
    replace: Annotated[str | None, typer.Option(metavar="ID", help="A new version of this asset.")] = None,
    json: Json = False,
) -> int:
    """Keep a file: sealed, yours, readable to nobody else."""
    from mythos.cli.vault import run_add

    return run_add(file, title, kind, retention, replace)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    after: Annotated[str, typer.Option(metavar="ID", help="From behind this one.")] = "",
    kind: Annotated[Kind | None, typer.Option(help="Only of this kind.")] = None,
    json: Json = False,
) -> int:
    """What you may read, newest first."""
    from mythos.cli.vault import run_list

    return run_list(limit, after, kind)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="Whole words; all of them must be there.")],
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    json: Json = False,
) -> int:
    """Find words in titles and texts of what you may read."""
    from mythos.cli.vault import run_search

    return run_search(query, limit)


@app.command()
def show(asset: Id, json: Json = False) -> int:
    """One asset: who can read it, why, since when, and its holds."""
    from mythos.cli.vault import run_show

    return run_show(asset)


@app.command()
def get(
    asset: Id,
    out: Annotated[Path, typer.Option(help="Write it here; - for stdout.", allow_dash=True)],
    version: Annotated[int | None, typer.Option(min=1, help="Default: the newest.")] = None,
    json: Json = False,
) -> int:
    """Write an asset's content to a file (0600)."""
    from mythos.cli.vault import run_get

    return run_get(asset, out, version)


@app.command()
def share(
    asset: Id,
    org: Annotated[str, typer.Option(help="The organisation.")],
    days: Annotated[float, typer.Option(help="How long.", min=0.0)],
    principal: Annotated[str, typer.Option(metavar="KEY_ID", help="Only this key of it.")] = "",
    write: Annotated[bool, typer.Option("--write", help="New versions too.")] = False,
    parent: Annotated[str, typer.Option(metavar="SHARE", help="For a contractor: what it hangs on.")] = "",
    json: Json = False,
) -> int:
    """Let an organisation read an asset for a time."""
    from mythos.cli.vault import run_share

    actions = (AssetAction.READ, AssetAction.WRITE) if write else (AssetAction.READ,)
    return run_share(asset, org, days, principal, actions, parent)


@app.command()
def revoke(
    share: Annotated[str, typer.Argument(metavar="SHARE|ID", help="A share; or an asset, for all of its.")],
    json: Json = False,
) -> int:
    """End a share, with what hangs on it, at once."""
    from mythos.cli.vault import run_revoke

    return run_revoke(share)


@app.command()
def hold(
    asset: Annotated[str, typer.Argument(metavar="ID|HOLD")],
    reason: Annotated[str, typer.Option(help="Why, for the record; it is sealed.")] = "",
    release: Annotated[bool, typer.Option("--release", help="End this hold.")] = False,
    json: Json = False,
) -> int:
    """Put a legal hold on an asset, or end one: nobody deletes it meanwhile."""
    from mythos.cli.vault import run_hold

    return run_hold(asset, reason, release)


@app.command()
def delete(asset: Id, json: Json = False) -> int:
    """Destroy an asset's keys and contents, when its time is over and no hold is on it."""
    from mythos.cli.vault import run_delete

    return run_delete(asset)


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="FOLDER|s3://BUCKET/PREFIX", help="All in it becomes private assets.")
    ],
    endpoint: Annotated[
        str, typer.Option(metavar="URL", help="Of an S3-compatible store. Default: Amazon's.")
    ] = "",
    kind: Annotated[Kind | None, typer.Option(help="Of all. Default: by each file's name.")] = None,
    json: Json = False,
) -> int:
    """Take in a folder or a bucket, and tell what of it others could read. Goes on where it was stopped."""
    from mythos.cli.vault_import import run_import

    return run_import(source, endpoint, kind)


@app.command()
def limit(
    principal: Annotated[str, typer.Argument(metavar="KEY_ID")],
    org: Annotated[str, typer.Option(help="Its organisation.")],
    reads: Annotated[int, typer.Option(min=0, help="In 24 hours.")],
    gigabytes: Annotated[float, typer.Option(min=0.0, help="In 24 hours.")],
    json: Json = False,
) -> int:
    """How much one key may read in a day."""
    from mythos.cli.vault import run_limit

    return run_limit(principal, org, reads, gigabytes)


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0, json: Json = False
) -> int:
    """Answer on loopback to the keys of `mythos key new`, until Ctrl-C."""
    from mythos.cli.vault import run_serve

    return run_serve(port)


@app.command()
def audit(
    base_url: Annotated[
        str | None, typer.Argument(help="Another store, on loopback. Default: what runs of this deployment.")
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option("--path", help="Of that store: a path that is private. Again for more."),
    ] = None,
    json: Json = False,
) -> int:
    """Look at every listener as an outsider does, and tell what answers, names or differs."""
    from mythos.cli.vault_audit import run_audit

    return run_audit(base_url, path or [])


@demo.command()
def leak(
    drafts: Annotated[int, typer.Option(min=1, max=20_000, help="How many are made.")] = 3000,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch copyparty (1.3 MB, pinned) as the ordinary store.")
    ] = False,
    json: Json = False,
) -> int:
    """The same drafts in a store that is public by default and in the vault, the same crawler on both."""
    from mythos.cli.leak import run_leak

    return run_leak(drafts, fetch)


publication = typer.Typer(
    rich_markup_mode=None, help="Make a public object of an asset: ask, vote, open, withdraw."
)
Request = Annotated[str, typer.Argument(metavar="REQUEST")]
As = Annotated[str, typer.Option("--as", metavar="PERSON[:ROLE]", help="Who signs.")]


@publication.command("request")
def publication_request(
    asset: Id,
    why: Annotated[str, typer.Option(help="For those who vote; it is sealed.")],
    who: As,
    starts: Annotated[str, typer.Option("--from", metavar="TIME", help="The embargo. Default: now.")] = "",
    ends: Annotated[str, typer.Option("--until", metavar="TIME", help="Default: without end.")] = "",
    json: Json = False,
) -> int:
    """Ask that the newest version of an asset of yours be public for a time."""
    from mythos.cli.publications import run_request

    return run_request(asset, starts, ends, why, who)


@publication.command("vote")
def publication_vote(
    request: Request, who: As, choice: Annotated[Choice, typer.Option()] = Choice.APPROVE, json: Json = False
) -> int:
    """Say yes, or no for good, to a request of somebody else's."""
    from mythos.cli.publications import run_vote

    return run_vote(request, choice, who)


@publication.command("read")
def publication_read(
    request: Request, out: Annotated[Path, typer.Option(help="Write it here.")], json: Json = False
) -> int:
    """Write the very bytes that are voted on to a file."""
    from mythos.cli.publications import run_read

    return run_read(request, out)


@publication.command("open")
def publication_open(request: Request, json: Json = False) -> int:
    """Decide on a request with its votes: it becomes public by itself when its time comes."""
    from mythos.cli.publications import run_open

    return run_open(request)


@publication.command("withdraw")
def publication_withdraw(
    request: Request,
    who: As,
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    json: Json = False,
) -> int:
    """End it, at once and for good."""
    from mythos.cli.publications import run_withdraw

    return run_withdraw(request, reason, who)


@publication.command("list")
def publication_list(json: Json = False) -> int:
    """Every request: its votes, its time, how it stands."""
    from mythos.cli.publications import run_list

    return run_list()


@publication.command("serve")
def publication_serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0, json: Json = False
) -> int:
    """Answer on loopback with what is public now, without keys, until Ctrl-C."""
    from mythos.cli.publications import run_serve

    return run_serve(port)
