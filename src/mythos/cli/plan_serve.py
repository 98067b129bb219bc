"""`mythos plan serve`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mythos.cli.output import CommandError, Exit, emit, json_wanted, note, table
from mythos.plan import factors as files
from mythos.plan.assumed import given
from mythos.plan.fleet import Promise, Traffic
from mythos.plan.hardware import Hardware, hardware
from mythos.plan.serve_tier import UNITS, ServePlan, premium, serve_tier
from mythos.plan.serving import Precision, bytes_per_accelerator, largest_batch
from mythos.plan.simulate import Requests
from mythos.plan.traffic import read_traffic
from mythos.plan.uncertain import Answer
from mythos.spec.family import Tier
from mythos.spec.load import load_family


def run_serve(
    family_name: str,
    tier_name: str | None,
    over: str | None,
    part_name: str,
    rate: float | None,
    file: Path | None,
    lengths: tuple[float, float, float, float],  # prompt, answer, spread, hits
    promised: tuple[float, float, float],  # ttft and tpot in milliseconds, share
    recipe: tuple[Precision, str, int, float],  # precision, engine, draft, accept
    assume: list[str],
    seed: int,
) -> int:
    if (rate is None) == (file is None):
        problem = "there is no traffic" if rate is None else "there are --rate and --traffic"
        raise CommandError(problem, "give one of --rate and --traffic", Exit.USAGE)
    family = load_family(family_name)
    part = hardware(part_name)
    requests: Requests | None = None
    if file is not None:
        requests, traffic = read_traffic(file)
    else:
        traffic = Traffic(rate or 0.0, *lengths)
    promise = Promise(promised[0] / 1e3, promised[1] / 1e3, promised[2])
    changes = dict(map(given, assume))

    def planned(tier: Tier) -> ServePlan:
        return serve_tier(
            tier.config,
            part,
            traffic,
            promise,
            files.packaged(),
            precision=recipe[0],
            engine_name=recipe[1],
            draft=recipe[2],
            accept=recipe[3],
            requests=requests,
            assume=changes,
            seed=seed,
        )

    tiers = [_tier(family.tiers, name) for name in (tier_name, over) if name is not None]
    if tier_name is None:
        tiers.insert(0, family.tiers[-1])
    plans = [planned(tier) for tier in tiers]
    more = premium(plans[0], plans[1], seed) if len(plans) > 1 else None
    if json_wanted():
        emit(_plain(tiers, plans, more))
    else:
        _show(tiers, plans, more, part)
    return 0


def _tier(tiers: tuple[Tier, ...], name: str) -> Tier:
    found = next((tier for tier in tiers if tier.name == name), None)
    if found is None:
        known = ", ".join(tier.name for tier in tiers)
        raise CommandError(f"no tier is called {name}", f"one of: {known}", Exit.USAGE)
    return found


def _plain(tiers: list[Tier], plans: list[ServePlan], more: Answer | None) -> dict[str, Any]:
    found = []
    for tier, plan in zip(tiers, plans, strict=True):
        found.append(
            {
                "tier": tier.name,
                "hardware": plan.part.name,
                "deployment": asdict(plan.deployment),
                "traffic": asdict(plan.traffic),
                "promise": asdict(plan.promise),
                "waits": asdict(plan.waits),
                "rate_of_replica": plan.rate_of_replica,
                "share_of_prompts": plan.share,
                "known": plan.known,
                "answers": {
                    name: {
                        "value": a.value,
                        "low": a.low,
                        "high": a.high,
                        "moved_by": a.moved_by,
                        "unit": UNITS[name],
                    }
                    for name, a in plan.answers.items()
                },
            }
        )
    told = {} if more is None else {"premium": {"value": more.value, "low": more.low, "high": more.high}}
    return {"plans": found, **told}


def _show(tiers: list[Tier], plans: list[ServePlan], more: Answer | None, part: Hardware) -> None:
    for tier, plan in zip(tiers, plans, strict=True):
        d, w = plan.deployment, plan.waits
        groups = f", {d.dp} groups of attention" if d.dp > 1 else ""
        dealt = f", experts dealt out {d.ep} ways" if d.ep > 1 else ""
        guess = f", {d.draft} tokens proposed of which {d.accept:.0%} hold" if d.draft else ""
        context = plan.traffic.prompt + plan.traffic.answer
        held = bytes_per_accelerator(tier.config, d)
        room = largest_batch(tier.config, d, context, part)
        table(
            ["", "middle", "80% interval", "unit", "moved most by"],
            [_row(name, answer) for name, answer in plan.answers.items()],
            f"{tier.name}: {plan.traffic.rate:.4g} requests a second of {plan.traffic.prompt:.0f} + "
            f"{plan.traffic.answer:.0f} tokens on {part.name} in {d.precision}",
        )
        note(
            f"a replica: {d.accelerators} {part.name}{groups}{dealt}{guess};"
            f" {held / 1e9:.0f} GB of weights on each"
        )
        note(
            f"room for {room} sequences; {w.running:.0f} run at once; prompts take"
            f" {plan.share:.0%} of the time"
        )
        note(
            f"simulated: {plan.rate_of_replica:.4g} requests a second a replica, of which"
            f" {plan.promise.share:.0%} wait at most {w.ttft * 1e3:.0f} ms for their first token and"
            f" {w.tpot * 1e3:.1f} ms between tokens after it"
        )
        note(
            f"factors: {plan.known}; nobody measured this"
            if plan.known.endswith("new")
            else f"factors: {plan.known}"
        )
    if more is not None:
        note(
            f"an answer of {tiers[0].name} costs {more.value:.2f} times one of {tiers[1].name}"
            f" ({more.low:.2f} to {more.high:.2f}), most by {more.moved_by}"
        )


def _row(name: str, answer: Answer) -> tuple[str, str, str, str, str]:
    return (
        name.replace("_", " "),
        _number(answer.value),
        f"{_number(answer.low)} to {_number(answer.high)}",
        UNITS[name],
        answer.moved_by,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
