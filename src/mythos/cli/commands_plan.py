"""The table of `mythos plan` commands."""

from pathlib import Path
from typing import Annotated

import typer

from mythos.cli.options import FamilyArgument, Json, tiers_of

app = typer.Typer(rich_markup_mode=None, help="What a model will take and give, before it is made.")

Hardware = Annotated[str, typer.Option(help="The accelerator, as GB300 or H100.")]
Accelerators = Annotated[
    int | None, typer.Option(min=1, help="Default: a power of two that finishes within 90 days.")
]
BudgetOption = Annotated[
    str | None,
    typer.Option(metavar="AMOUNT", help="300M$, 1e26FLOP (they buy tokens) or 90d (accelerators)."),
]
Assume = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=LOW:MIDDLE:HIGH", help="Another range of an assumption. Again for more."),
]
PlanSeed = Annotated[int, typer.Option(min=0, help="Of the draws.")]


@app.command()
def show(
    family: FamilyArgument,
    tier: Annotated[str | None, typer.Option(help="Default: the largest.", autocompletion=tiers_of)] = None,
    hardware: Hardware = "GB300",
    accelerators: Accelerators = None,
    budget: BudgetOption = None,
    assume: Assume = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report, one file that needs no network.")
    ] = None,
    seed: PlanSeed = 0,
    json: Json = False,
) -> int:
    """What training a tier takes: accelerators, layout, days, money, energy, carbon, loss, with intervals."""
    from mythos.cli.plan_show import run_show

    return run_show(family, tier, hardware, accelerators, budget, assume or [], html, seed)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="FAMILY[/TIER][@HARDWARE].")],
    second: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    hardware: Hardware = "GB300",
    accelerators: Accelerators = None,
    budget: BudgetOption = None,
    assume: Assume = None,
    seed: PlanSeed = 0,
    json: Json = False,
) -> int:
    """Two plans side by side, and their ratio under the same draws of what both assume."""
    from mythos.cli.plan_show import run_compare

    return run_compare((first, second), hardware, accelerators, budget, assume or [], seed)


@app.command()
def choose(
    compute: Annotated[str, typer.Argument(metavar="COMPUTE", help="For training, as 1e26FLOP.")],
    law: Annotated[str, typer.Option(help="A published law; an unknown name lists them.")] = "epoch",
    served: Annotated[
        str | None, typer.Option(metavar="TOKENS", help="To be served later, out of the same compute.")
    ] = None,
    unique: Annotated[
        str | None, typer.Option(metavar="TOKENS", help="Different tokens that there are; more are repeats.")
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(metavar="COUNT", help="Most parameters in all: choose how many experts.")
    ] = None,
    ratio: Annotated[float, typer.Option(help="All parameters by active ones.")] = 1.0,
    json: Json = False,
) -> int:
    """How large a model, how many tokens, how sparse, for a compute under a published scaling law."""
    from mythos.cli.plan_show import run_choose

    return run_choose(compute, law, served, unique, parameters, ratio)


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


@app.command()
def serve(
    family: FamilyArgument,
    tier: Annotated[str | None, typer.Option(help="Default: the largest.", autocompletion=tiers_of)] = None,
    over: Annotated[
        str | None, typer.Option(metavar="TIER", help="Also this one, and the premium over it.")
    ] = None,
    hardware: Hardware = "GB300",
    rate: Annotated[float | None, typer.Option(help="Requests a second, Poisson.")] = None,
    traffic: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV: arrival, prompt, answer[, cached].")
    ] = None,
    prompt: Annotated[float, typer.Option(help="Mean tokens of a prompt.")] = 2048,
    answer: Annotated[float, typer.Option(help="Mean tokens of an answer.")] = 512,
    spread: Annotated[float, typer.Option(help="Of the logarithm of both lengths.")] = 0.5,
    hits: Annotated[float, typer.Option(help="Share of prompts that a prefix cache spares.")] = 0.0,
    ttft: Annotated[float, typer.Option(metavar="MS", help="Promised to the first token.")] = 2000,
    tpot: Annotated[float, typer.Option(metavar="MS", help="Promised between tokens after it.")] = 50,
    share: Annotated[float, typer.Option(help="Of requests that the promise holds for.")] = 0.95,
    precision: Annotated[str, typer.Option(help="bf16, fp8, fp4 or int4.")] = "fp8",
    engine: Annotated[str, typer.Option(help="Whose factors to use: vllm, sglang, trtllm.")] = "vllm",
    draft: Annotated[int, typer.Option(help="Tokens that speculation or MTP proposes a step.")] = 0,
    accept: Annotated[float, typer.Option(help="Share of the proposals that hold.")] = 0.0,
    assume: Assume = None,
    seed: PlanSeed = 0,
    json: Json = False,
) -> int:
    """What serving a tier takes: layout, fleet, waits, and what tokens and an answer cost, with intervals."""
    from mythos.cli.plan_serve import run_serve

    return run_serve(
        family,
        tier,
        over,
        hardware,
        rate,
        traffic,
        (prompt, answer, spread, hits),
        (ttft, tpot, share),
        (precision, engine, draft, accept),  # type: ignore[arg-type]
        assume or [],
        seed,
    )


@app.command("validate-serving")
def validate_serving(
    runs: Annotated[Path, typer.Argument(metavar="RUNS.csv", help="Measured runs.")],
    factors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What calibrate-serving wrote, instead of ours.")
    ] = None,
    json: Json = False,
) -> int:
    """Foresee TPOT and TTFT of measured runs from their inputs; score both halves, fitted and held out."""
    from mythos.cli.plan_serving_runs import run_validate_serving

    return run_validate_serving(runs, factors)


@app.command("calibrate-serving")
def calibrate_serving(
    runs: Annotated[Path, typer.Argument(metavar="RUNS.csv", help="Measured runs.")],
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: on stdout.")] = None,
    source: Annotated[str, typer.Option(help="Where the runs come from, to stand in the file.")] = "not said",
) -> int:
    """Fit the factors of serving times to measured runs; held-out configurations are left alone."""
    from mythos.cli.plan_serving_runs import run_calibrate_serving

    return run_calibrate_serving(runs, output, source)


@app.command()
def validate(
    cases: Annotated[Path, typer.Argument(metavar="CASES.json", help="Published runs with their inputs.")],
    efficiencies: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `plan calibrate` wrote, instead of our own.")
    ] = None,
    json: Json = False,
) -> int:
    """Predict published runs from their inputs alone and hold the predictions against what was measured."""
    from mythos.cli.plan_validate import run_validate

    return run_validate(cases, efficiencies)


@app.command()
def calibrate(
    files: Annotated[list[Path], typer.Argument(metavar="CASES.json...", help="Files as `validate` reads.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write there, not to the screen.")] = None,
    json: Json = False,
) -> int:
    """Fit the share of published rates that training steps reach to published runs."""
    from mythos.cli.plan_validate import run_calibrate

    return run_calibrate(files, out)
