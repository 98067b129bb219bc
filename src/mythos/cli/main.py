"""The table of commands. A command's module is imported when it runs, so that `--help` is fast."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from mythos.cli import (
    commands_data,
    commands_gate,
    commands_incident,
    commands_ledger,
    commands_plan,
    commands_receipt,
    commands_report,
    commands_vault,
    output,
)
from mythos.cli.cures import CURES
from mythos.cli.naming import DEFAULT_FAMILY
from mythos.cli.options import Family, FamilyArgument, Json, RunningFamily, tiers_of
from mythos.cli.output import CommandError, Exit
from mythos.records.errors import MythosError

STARTED = time.monotonic()

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make, measure, gate and serve your own tiered family of language models.",
)
keys = typer.Typer(rich_markup_mode=None, help="API keys: make, list, revoke.")
app.add_typer(keys, name="key")
app.add_typer(commands_data.app, name="data")
app.add_typer(commands_ledger.app, name="ledger")
app.add_typer(commands_receipt.app, name="receipt")
app.add_typer(commands_plan.app, name="plan")
app.add_typer(commands_vault.app, name="vault")
app.add_typer(commands_vault.publication, name="publication")
app.add_typer(commands_vault.demo, name="demo")
app.add_typer(commands_incident.app, name="incident")
app.add_typer(commands_report.app, name="report")


Port = Annotated[
    int, typer.Option(min=0, max=65535, help="0: 8420, or any free port when that one is taken.")
]
Memory = Annotated[
    float | None,
    typer.Option(
        "--memory-limit", min=0.1, metavar="GB", help="For weights and caches. Default: half of the memory."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse unknown fields instead of ignoring them.")]
Ranks = Annotated[
    int, typer.Option(min=1, max=64, help="Processes over which each tier is split, on this machine.")
]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[float | None, typer.Option(min=0.0, max=2.0, help="Default: the tier's own.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    json: Json = False,
) -> None:
    if version:
        from mythos import __version__

        output.emit({"version": __version__}) if output.json_wanted() else print(f"mythos {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        if output.json_wanted():
            raise CommandError("no command given", "mythos --help", Exit.USAGE)
        output.note(context.get_help())
        raise typer.Exit(Exit.USAGE)


@app.command()
def up(
    family: FamilyArgument = DEFAULT_FAMILY,
    port: Port = 0,
    once: Annotated[
        bool, typer.Option("--once", help="Ask one question over HTTP, print the answer, exit.")
    ] = False,
    strict: Strict = False,
    memory_limit: Memory = None,
    ranks: Ranks = 1,
    json: Json = False,
) -> int:
    """Build what is missing and answer until Ctrl-C.

    Starts engine and server on loopback, mints a key that dies with them, prints address and key.
    """
    from mythos.cli.up import run

    return run(family, port, once, strict, memory_limit, ranks, STARTED)


@app.command()
def serve(
    family: FamilyArgument = DEFAULT_FAMILY,
    host: Annotated[str, typer.Option(help="Only loopback is accepted.")] = "127.0.0.1",
    port: Port = 0,
    strict: Strict = False,
    memory_limit: Memory = None,
    ranks: Ranks = 1,
    json: Json = False,
) -> int:
    """Serve what is built to the keys made by `mythos key new`."""
    from mythos.cli.up import run_serve

    return run_serve(family, host, port, strict, memory_limit, ranks, STARTED)


@app.command()
def console(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: 8430, or any free port when taken.")] = 0,
    json: Json = False,
) -> int:
    """The web console, on loopback, until Ctrl-C; mints a key to sign in with that dies with it."""
    from mythos.cli.console import run

    return run(port)


@app.command()
def build(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A family or a tier. Default: what is fetched and not there.", autocompletion=tiers_of
        ),
    ] = None,
    tier: Annotated[str | None, typer.Option(help="Of the family; default: all of it.")] = None,
    family: Family = DEFAULT_FAMILY,
    budget: Annotated[
        str | None,
        typer.Option(help="Of all training that is asked for: 45m, 2h, 50M-tokens. Default: 45m."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10, help="Train so many times, each with --budget.")] = 1,
    control: Annotated[
        bool,
        typer.Option(
            "--control",
            help="Train also what a tier is held against, on as many tokens: takes as long again.",
        ),
    ] = False,
    json: Json = False,
) -> int:
    """Make the weights of a family or a tier, or make them good again.

    What is trained goes on where it was stopped; what was made from the same inputs is kept.
    """
    from mythos.cli.build import run

    return run(name, tier, family, budget, seeds, control)


@app.command()
def trace(
    family: FamilyArgument,
    mesh: Annotated[
        str, typer.Option(metavar="pp=..,dp=..,ep=..,cp=..,tp=..", help="What is left out is 1.")
    ],
    tier: Annotated[str | None, typer.Option(help="Default: the largest.", autocompletion=tiers_of)] = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Default: 0.")] = None,
    all_distinct: Annotated[
        bool, typer.Option("--all-distinct", help="The first rank of every pipeline rank.")
    ] = False,
    hardware: Annotated[str, typer.Option(help="The accelerator, as GB300 or H100.")] = "GB300",
    sequence: Annotated[int, typer.Option(min=1, help="Tokens of a row.")] = 4096,
    rows: Annotated[int, typer.Option(min=1, help="Of a micro-batch.")] = 1,
    micro_batches: Annotated[
        int | None,
        typer.Option(min=1, help="Of a replica in a step. Default: as many as the pipeline has ranks."),
    ] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Keep nothing inside a block.")] = False,
    muon: Annotated[bool, typer.Option("--muon", help="Muon for the matrices instead of AdamW.")] = False,
    streams: Annotated[int, typer.Option(min=1, help="Of the decode step, on each rank.")] = 64,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the ranks, in one file that needs no network.")
    ] = None,
    json: Json = False,
) -> int:
    """What a rank of a mesh holds, sends and computes in a step: the training code on fake tensors."""
    from mythos.cli.trace import run_trace

    step = (sequence, rows, micro_batches, recompute, "muon" if muon else "adamw")
    return run_trace(family, tier, mesh, rank, all_distinct, hardware, step, streams, html)


@app.command()
def sweep(
    family: FamilyArgument = "nano",
    budgets: Annotated[
        str, typer.Option(metavar="TOKENS,...", help="Of each run; three at least.")
    ] = "500k,1M,2M",
    seeds: Annotated[int, typer.Option(min=1, max=10, help="Runs of each size and budget.")] = 1,
    tier: Annotated[
        str | None, typer.Option(help="To foresee; default: the last that is trained from scratch.")
    ] = None,
    planned: Annotated[
        str | None, typer.Option(metavar="TOKENS", help="Its budget; default: the largest of --budgets.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The runs as CSV; default: in MYTHOS_HOME/runs.")
    ] = None,
    json: Json = False,
) -> int:
    """Train a family's smaller tiers at several budgets, fit a law, and foresee the largest tier.

    The forecast is signed and logged, for `mythos build` to set its outcome beside it.
    """
    from mythos.cli.sweep import run

    return run(family, budgets, seeds, tier, planned, out)


@app.command()
def chat(
    tier: Annotated[
        str | None, typer.Argument(help="Default: the strongest general tier.", autocompletion=tiers_of)
    ] = None,
    stdin: Annotated[str | None, typer.Argument(metavar="-", help="-: all of stdin is one prompt.")] = None,
    family: RunningFamily = None,
    system: Annotated[str, typer.Option(help="System prompt.")] = "",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    json: Json = False,
) -> int:
    """Talk to a tier.

    When stdin is a pipe, each line is one question; with `-` all of it is one prompt.
    """
    from mythos.cli.chat import run

    return run(tier, stdin, family, system, max_tokens, temperature, seed)


@app.command()
def compare(
    prompt: Annotated[str, typer.Argument(help="-: read it from stdin.")],
    tiers: Annotated[str | None, typer.Option(help="Names, with commas. Default: all that exist.")] = None,
    family: RunningFamily = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = None,
    seed: Seed = None,
    json: Json = False,
) -> int:
    """One prompt, every tier, side by side.

    Shows tokens, first-token time, speed and price of each answer.
    """
    from mythos.cli.compare import run

    return run(prompt, tiers, family, max_tokens, temperature, seed)


@app.command()
def models(family: FamilyArgument = DEFAULT_FAMILY, json: Json = False) -> int:
    """List tiers: state, size, context, price, root."""
    from mythos.cli.models import run

    return run(family)


@keys.command("new")
def key_new(
    name: Annotated[str, typer.Argument(help="What you will know it by.")],
    org: Annotated[str | None, typer.Option(help="Another organisation than the operator's.")] = None,
    purpose: Annotated[
        str | None, typer.Option(help="Of another organisation's key: what it is for, for good.")
    ] = None,
    json: Json = False,
) -> int:
    """Make a key and print its secret, this once."""
    from mythos.cli.keys import new

    return new(name, org, purpose)


@keys.command("list")
def key_list(json: Json = False) -> int:
    """All keys, without their secrets."""
    from mythos.cli.keys import listing

    return listing()


@keys.command("revoke")
def key_revoke(key_id: Annotated[str, typer.Argument(metavar="ID")], json: Json = False) -> int:
    """Make a key worthless from now on."""
    from mythos.cli.keys import revoke

    return revoke(key_id)


@app.command()
def env(
    shell: Annotated[str | None, typer.Option(help="bash, fish or powershell. Default: from $SHELL.")] = None,
    json: Json = False,
) -> int:
    """Print exports that point clients here.

    For Claude Code and both SDKs, at the running `mythos up`:  eval "$(mythos env)"
    """
    from mythos.cli.env import run

    return run(shell)


@app.command()
def doctor(family: FamilyArgument = DEFAULT_FAMILY, json: Json = False) -> int:
    """Check machine and installation; name cures."""
    from mythos.cli.doctor import run

    return run(family)


@app.command()
def usage(
    org: Annotated[str | None, typer.Option(help="Only this organisation.")] = None, json: Json = False
) -> int:
    """Who used which tier, how much, at what cost."""
    from mythos.cli.usage import run

    return run(org)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def bench(context: typer.Context) -> int:
    """Measure speed and memory (`mythos bench --help`), or what drafts give (`mythos bench speculation`)."""
    if "--json" in context.args:
        output.use_json(True)
    if context.args[:1] == ["speculation"]:
        from mythos.cli.bench_speculation import app as drafts_app

        name = "mythos bench speculation"
        return int(drafts_app(context.args[1:], prog_name=name, standalone_mode=False) or 0)
    from mythos.cli.bench import app as bench_app

    return int(bench_app(context.args, prog_name="mythos bench", standalone_mode=False) or 0)


# After the commands above, so that --help begins with `up`.
app.command()(commands_receipt.why)
commands_gate.add_to(app)


def run(arguments: list[str]) -> int:
    """Run one command line; every failure ends as an error, a cure and an exit code, never as a traceback."""
    try:
        return int(app(arguments, prog_name="mythos", standalone_mode=False) or 0)
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)
    except typer.Abort:
        return int(Exit.INTERRUPTED)
    except Exception as error:
        if os.environ.get("MYTHOS_TRACEBACK") == "1":
            raise
        # A wrong option may stand before `--json`, whose callback then never ran.
        output.use_json("--json" in arguments)
        if isinstance(error, TyperException):
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "mythos"
            return output.fail(error.format_message().rstrip("."), f"{command} --help", Exit.USAGE)
        if isinstance(error, MythosError):
            cure = error.cure or CURES.get(str(getattr(error, "code", "")), "")
            return output.fail(error.message, cure, output.exit_code(error))
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        cure = "set MYTHOS_TRACEBACK=1 and run it again to see where; `mythos doctor` checks the installation"
        return output.fail(f"unexpected failure: {what}", cure, Exit.FAILED)


def main() -> None:
    sys.exit(run(sys.argv[1:]))
