"""What a tier that was pruned and distilled has won back, and what it would with a longer budget."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mythos.cli.controls import Interval, spread
from mythos.cli.local import Records
from mythos.cli.output import amount, note, table_of
from mythos.cli.progress import progress
from mythos.cli.rungs import Rung
from mythos.plan.longer import still_won
from mythos.plan.scaling import Estimate
from mythos.records.errors import MythosError
from mythos.records.principal import OPERATOR
from mythos.spec.family import Family, Tier

if TYPE_CHECKING:
    from mythos.train.run import Training

TIMES = (2, 4, 8)  # the budgets that are foreseen, by the one that was spent


@dataclass(frozen=True, slots=True)
class Longer:
    """Foreseen, not measured: `tokens` and `seconds` of training, and what they would come to."""

    times: int
    tokens: int
    seconds: float
    won_back: Interval
    bits: Interval

    def line(self) -> dict[str, Any]:
        return {
            "budget": f"{self.times} times",
            "tokens": amount(self.tokens),
            "training": f"{self.seconds / 3600:.1f} h",
            "won back": spread(self.won_back, 3),
            "bits per byte": spread(self.bits, 3),
        }


@dataclass(frozen=True, slots=True)
class WonBack:
    """Of a distilled tier: what pruning cost against its first parent, in bits per byte, the mean over the
    domains; the share of it that training has won back, with a 95% interval over texts; and what longer
    budgets would win back, or why that is not foreseen.
    """

    tier: str
    seed: int
    cost: float
    closed: Interval
    longer: tuple[Longer, ...] | str

    def line(self) -> dict[str, Any]:
        return {
            "tier": self.tier,
            "seed": self.seed,
            "pruning cost": f"{self.cost:.4f}",
            "won back": spread(self.closed, 3),
        }

    def told(self) -> dict[str, Any]:
        if isinstance(self.longer, str):
            return self.line() | {"longer": [], "not_foreseen": self.longer}
        return self.line() | {"longer": [one.line() for one in self.longer]}


def won_back(
    records: Records, family: Family, trained: "Mapping[str, Training]", found: Sequence[Rung]
) -> list[WonBack]:
    """One for each tier that was pruned and distilled."""
    from mythos.train.build import build_pruned, run_of
    from mythos.train.control import gap_closed
    from mythos.train.ladder import step_up

    of, lines = {one.tier.name: one for one in found}, []
    for name, how in trained.items():
        tier = family.tier(name)
        if tier.made_by.kind != "distil" or name not in of or tier.parents[0] not in of:
            continue
        with progress(f"{name}: pruned") as report:
            here = (records.home, records.store, records.clock, OPERATOR, family, tier, how, report)
            pruned = build_pruned(*here)
        parent = of[tier.parents[0]].quality
        closed, cost = gap_closed(of[name].quality, pruned, parent), step_up(parent, pruned)[0]
        run = run_of(records.home, records.store, family, tier, how)
        longer = _longer(tier, run, closed[0], cost, of[name].loss)
        lines.append(WonBack(name, of[name].seed, cost, closed, longer))
    return lines


def _longer(tier: Tier, run: Path, closed: float, cost: float, loss: float) -> tuple[Longer, ...] | str:
    """What longer runs would come to, from the steps of this one, which won back the share `closed` of the
    `cost` and ended at `loss`, both in bits per byte; or why nothing is foreseen.
    """
    from mythos.train.loop import METRICS
    from mythos.train.stages import stage_shares

    if stage_shares(tier) or dict(tier.made_by.options).get("on_policy"):
        return "what follows its distillation has a loss of another kind"
    if min(closed, cost) <= 0:
        return "training won nothing back"
    try:
        steps = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    except OSError:
        return f"its steps, {run / METRICS}, are gone"
    tokens, losses, rates = ([step[key] for step in steps] for key in ("tokens", "loss", "rate"))
    try:
        more = still_won(tokens, losses, rates, TIMES)
    except MythosError as error:
        return f"{error.message} {error.cure}"
    return tuple(
        Longer(
            times=times,
            tokens=tokens[-1] * times,
            seconds=steps[-1]["seconds"] * times,
            won_back=_ends(share, closed, closed),
            bits=_ends(share, loss, -closed * cost),
        )
        for times, share in zip(TIMES, more, strict=True)
    )


def _ends(share: Estimate, now: float, all_of_it: float) -> Interval:
    """`now`, and `all_of_it` once more by the share: (value, low, high)."""
    value, *ends = (now + all_of_it * one for one in (share.value, share.low, share.high))
    return value, min(ends), max(ends)


def show_won_back(lines: Sequence[WonBack]) -> None:
    if not lines:
        return
    table_of([one.line() for one in lines])
    note(
        "pruning cost: bits per byte against the parent before training, mean of the domains; won back: the "
        "share of it that training made good, 95% interval over texts"
    )
    foreseen = [
        {"tier": one.tier, "seed": one.seed} | longer.line()
        for one in lines
        if not isinstance(one.longer, str)
        for longer in one.longer
    ]
    if foreseen:
        table_of(foreseen, "Forecast of longer budgets")
        note(
            "forecast, not measured: from how the loss of the run above fell, 95% interval over its steps; "
            "another seed, or other text, may lie outside"
        )
    for one in lines:
        if isinstance(one.longer, str):
            note(f"{one.tier}, seed {one.seed}: no forecast of a longer budget: {one.longer}")
