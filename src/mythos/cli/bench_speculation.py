"""`mythos bench speculation`: what drafts give on this machine, with and without in turn, on one tier.

docs/reference/bench.md says what is measured.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mythos.cli import bench_machine as machine
from mythos.cli import local
from mythos.cli.bench import quiet_or_refuse, save
from mythos.cli.bench_measure import summary
from mythos.cli.bench_ours import read_timed
from mythos.cli.bench_prompts import PROMPTS
from mythos.cli.naming import DEFAULT_FAMILY, chosen_tier
from mythos.cli.output import CommandError, Exit, emit, json_wanted, note, show, use_json
from mythos.engine.request import Request, Sampling
from mythos.records.permit import Action, Permit
from mythos.spec.load import load_family

if TYPE_CHECKING:
    from mythos.engine.engine import Engine
    from mythos.engine.speculation import Counts, Speculation

FORMAT = "mythos-bench-speculation/1"
OFF, LOOKUP, DRAFTER = "off", "lookup", "lookup and drafter"

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command()
def speculation(
    family: Annotated[str, typer.Option(help="Packaged, or the path of a file.")] = DEFAULT_FAMILY,
    tier: Annotated[str | None, typer.Option(help="Default: the strongest general tier.")] = None,
    drafter: Annotated[str | None, typer.Option(help="Default: the family file's; none without.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="After one that is not counted.")] = 5,
    tokens: Annotated[int, typer.Option(min=8, help="Of an answer, at most.")] = 192,
    streams: Annotated[int, typer.Option(min=1, help="Answers at once.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 is greedy.")] = 0.0,
    noisy: Annotated[bool, typer.Option("--noisy", help="Go on although others use the processor.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the record to this file too, as JSON.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The record on stdout.", callback=use_json)] = False,
) -> int:
    """Measure what drafts give: acceptance, costs, tokens per second with and without."""
    quiet_or_refuse(foreign(2.0), noisy)
    with opened(family, tier, drafter) as bench:
        sampling = Sampling(temperature, seed=0)
        record = measure(bench, PROMPTS, rounds, tokens, streams, sampling)
    if output is not None:
        save(record, output)
    emit(record) if json_wanted() else show(*report(record))
    return int(Exit.OK)


def foreign(seconds: float) -> float | None:
    """The share of the machine that other processes use; None where that is not known."""
    before = machine.sample(())
    time.sleep(seconds)
    use = machine.use_between(before, machine.sample(()), ())
    return None if use is None else use.foreign


@dataclass(frozen=True, slots=True)
class Bench:
    """An engine to ask, the operator's permits, and how a question becomes tokens."""

    engine: "Engine"
    permit: Permit
    drafter: Permit | None
    prompt: Any  # (text) -> tokens


@contextmanager
def opened(family_name: str, tier_name: str | None, drafter_name: str | None) -> Iterator[Bench]:
    """The engine that serves here, as long as the block runs. CommandError when a tier is not to be had."""
    from mythos.data.chat import encode_chat

    records, family = local.open_records(), load_family(family_name)
    names = local.usable(records, family)
    name = chosen_tier(tier_name, [tier.name for tier in family.tiers], names)
    state, now = local.standing(records, family), records.clock.now()
    permit = local.require(state, name, Action.ANSWER, now)
    second = drafter_name or family.tier(name).drafter
    if second == name:
        raise CommandError(f"{name} cannot draft for itself", "name another --drafter", Exit.USAGE)
    drafter = local.require(state, second, Action.ANSWER, now) if second else None
    service = local.start_service(records, family)
    try:
        loaded = service.engine.loaded(permit)
        if drafter is not None and service.engine.loaded(drafter).tokenizer.digest != loaded.tokenizer.digest:
            raise CommandError(f"{second} has another tokenizer than {name}", "name another --drafter")

        def prompt(text: str) -> list[int]:
            return encode_chat(loaded.tokenizer, loaded.chat_template, [{"role": "user", "content": text}])

        yield Bench(service.engine, permit, drafter, prompt)
    finally:
        service.engine.stop()
        service.close()


@dataclass(slots=True, eq=False)
class Turn:
    """What one arm did with one class of requests in one round."""

    tokens: int = 0  # counted while all streams decode
    seconds: float = 0.0
    answers: list[list[int]] = field(default_factory=list)
    drafts: dict[str, dict[str, Any]] = field(default_factory=dict)


def measure(
    bench: Bench,
    prompts: dict[str, tuple[str, ...]],
    rounds: int,
    tokens: int,
    streams: int,
    sampling: Sampling,
) -> dict[str, Any]:
    """Every class of requests by every arm, in turn, `rounds` times after a warm-up; gives the record.

    CommandError when an arm's answers differ from those without drafts: then no figure means anything.
    """
    arms = [OFF, LOOKUP] + [DRAFTER] * (bench.drafter is not None)
    turns: dict[tuple[str, str], list[Turn]] = {(asked, arm): [] for asked in prompts for arm in arms}
    for number in range(rounds + 1):
        for asked, texts in prompts.items():
            note(f"round {number} of {rounds}, {asked}" if number else f"warm-up, {asked}")
            order = arms[number % len(arms) :] + arms[: number % len(arms)]
            made = {arm: _turn(bench, arm, texts, tokens, streams, sampling) for arm in order}
            for arm in arms:
                if made[arm].answers != made[OFF].answers:
                    raise CommandError(f"the answers with {arm} differ from those without", "report this")
                if number:
                    turns[asked, arm].append(made[arm])
    learnt = bench.engine.speculation(bench.permit)
    assert learnt is not None
    return {
        "format": FORMAT,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine.describe(),
        "tier": bench.permit.tier,
        "root": bench.permit.root,
        "drafter": bench.drafter.tier if bench.drafter else None,
        "backend": bench.engine.loaded(bench.permit).backend,
        "rounds": rounds,
        "streams": streams,
        "temperature": sampling.temperature,
        "classes": {asked: _of_class(asked, arms, turns) for asked in prompts},
        "costs": costs(learnt, bench.drafter is not None),
    }


def _turn(
    bench: Bench, arm: str, texts: Sequence[str], tokens: int, streams: int, sampling: Sampling
) -> Turn:
    turn, before = Turn(), _counts(bench)
    drafter = bench.drafter if arm == DRAFTER else None
    asked = [Request(tuple(bench.prompt(text)), tokens, sampling, speculate=arm != OFF) for text in texts]
    for at in range(0, len(asked), streams):
        read = asyncio.run(_answers(bench, asked[at : at + streams], drafter))
        turn.answers += [[token for token, _ in one] for one in read]
        times = [[moment for _, moment in one] for one in read if one]
        if not times:
            continue
        # As in `decode_speed`: from when all streams have begun to when the first has ended.
        begin, end = max(each[0] for each in times), min(each[-1] for each in times)
        if end > begin:
            turn.tokens += sum(begin < t <= end for each in times for t in each)
            turn.seconds += end - begin
    for kind, counts in _counts(bench).items():
        old = before.get(kind)
        drafted = [n - (old.drafted[i] if old else 0) for i, n in enumerate(counts.drafted)]
        held = [n - (old.held[i] if old else 0) for i, n in enumerate(counts.held)]
        passes = counts.passes - (old.passes if old else 0)
        turn.drafts[kind] = {"passes": passes, "drafted": drafted, "held": held}
    return turn


def _counts(bench: Bench) -> dict[str, "Counts"]:
    bench.engine.loaded(bench.permit)  # taken in between two steps: all that was begun has been counted
    learnt = bench.engine.speculation(bench.permit)
    return deepcopy(learnt.counts) if learnt else {}


async def _answers(
    bench: Bench, requests: Sequence[Request], drafter: Permit | None
) -> list[list[tuple[int, float]]]:
    """Each answer's tokens with the moments, in seconds, at which the engine gave them."""

    running = [bench.engine.submit(bench.permit, request, drafter) for request in requests]
    read = await asyncio.gather(*(read_timed(generation) for generation in running))
    for _, done in read:
        if done.error is not None:
            raise CommandError(f"the engine failed: {done.error}")
    return [tokens for tokens, _ in read]


def _of_class(asked: str, arms: Sequence[str], turns: dict[tuple[str, str], list[Turn]]) -> dict[str, Any]:
    speeds = {arm: [t.tokens / t.seconds if t.seconds else 0.0 for t in turns[asked, arm]] for arm in arms}
    found: dict[str, Any] = {}
    for arm in arms:
        ratios = [one / off for one, off in zip(speeds[arm], speeds[OFF], strict=True) if off]
        found[arm] = {
            "tokens_per_second": summary(speeds[arm]),
            "times_off": summary(ratios) if ratios and arm != OFF else None,
            "drafts": _summed([turn.drafts for turn in turns[asked, arm]]) if arm != OFF else {},
        }
    return found


def _summed(drafts: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Per kind: passes, and by place in the draft how many tokens were checked and the share that held."""
    found: dict[str, Any] = {}
    for kind in sorted({kind for one in drafts for kind in one}):
        parts = [one[kind] for one in drafts if kind in one]
        drafted = [sum(column) for column in zip(*(part["drafted"] for part in parts), strict=True)]
        held = [sum(column) for column in zip(*(part["held"] for part in parts), strict=True)]
        if not sum(drafted):
            continue
        found[kind] = {
            "passes": sum(part["passes"] for part in parts),
            "drafted": drafted,
            "held": held,
            "acceptance": [h / d if d else None for h, d in zip(held, drafted, strict=True)],
        }
    return found


def costs(learnt: "Speculation", with_drafter: bool) -> list[dict[str, Any]]:
    """By the draft's length: what checking adds to a pass of one row, and the acceptance from which it pays.

    The times are those that the engine itself goes by. `measured` False: that number of rows never ran.
    """
    from mythos.engine.speculation import DEEPEST, break_even

    alone = learnt.costs.seconds(1)
    draft = learnt.drafter_seconds / alone if with_drafter else None
    rows = []
    for depth in range(1, DEEPEST + 1):
        check = learnt.costs.seconds(1 + depth) / alone - 1
        row = {
            "depth": depth,
            "measured": 1 + depth in learnt.costs.known,
            "check": check,
            "lookup_pays_from": _finite(break_even(depth, 0.0, max(0.0, check))),
        }
        if draft is not None:
            row |= {"draft": draft, "drafter_pays_from": _finite(break_even(depth, draft, max(0.0, check)))}
        rows.append(row)
    return rows


def _finite(value: float) -> float | None:
    return None if value == float("inf") else value


def report(record: dict[str, Any]) -> list[Any]:
    from rich.table import Table

    about = record["machine"]
    head = (
        f"{about['processor']}, {about['cores']} cores; {record['tier']} on {record['backend']}, drafter "
        f"{record['drafter'] or 'none'}, {record['streams']} at once, temperature {record['temperature']:g}, "
        f"{record['rounds']} rounds after a warm-up; all answers are the same as without drafts"
    )
    speeds = Table(title="tokens per second, median (lowest - highest)", title_justify="left")
    for name in (
        "",
        "drafts",
        "tokens/s",
        "times as fast as without",
        "share that held, by place in the draft",
    ):
        speeds.add_column(name)
    for asked, arms in record["classes"].items():
        for arm, found in arms.items():
            held = "; ".join(f"{kind} {_shares(one)}" for kind, one in found["drafts"].items())
            ratio = _span(found["times_off"]) if found["times_off"] else ""
            speeds.add_row(asked, arm, _span(found["tokens_per_second"]), ratio, held)
    table = Table(title="costs, over those of a pass of one row", title_justify="left")
    for name in (
        "tokens of a draft",
        "checking adds",
        "lookup pays from",
        "a draft's token",
        "drafter pays from",
    ):
        table.add_column(name, justify="right")
    for row in record["costs"]:
        check = f"{row['check']:.2f}" + ("" if row["measured"] else " (not measured)")
        lookup, drafter = (_share(row.get(f"{kind}_pays_from")) for kind in ("lookup", "drafter"))
        cells = (f"{row['draft']:.2f}", drafter) if "draft" in row else ("", "")
        table.add_row(str(row["depth"]), check, lookup, *cells)
    return [head, speeds, table]


def _span(values: dict[str, Any]) -> str:
    return f"{values['median']:.3g} ({values['min']:.3g} - {values['max']:.3g})"


def _share(value: float | None) -> str:
    return "never" if value is None else f"{value:.0%}"


def _shares(one: dict[str, Any]) -> str:
    return " ".join(f"{value:.0%}" for value in one["acceptance"] if value is not None)
