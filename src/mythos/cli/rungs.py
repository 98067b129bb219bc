"""The table that a build ends in: each tier's quality, for each seed, and its gain on the tier before."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mythos.cli.local import Records
from mythos.cli.output import amount, note, table, table_of
from mythos.cli.progress import progress
from mythos.records.principal import OPERATOR
from mythos.spec.counting import active_parameters, parameters
from mythos.spec.family import Family, Tier, TierState

if TYPE_CHECKING:
    from mythos.train.ladder import Quality
    from mythos.train.material import Material

# 97.5% quantiles of Student's t with 1 to 9 degrees of freedom.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
REFUSALS = ("made from", "harmful declined", "fair declined")


@dataclass(frozen=True, slots=True)
class Rung:
    """One tier. `bits`: bits per byte by domain; `gain`: (estimate, low, high) of what is saved against the
    tier before; `right`: which questions of reasoning_gym it answers rightly.
    """

    tier: Tier
    seed: int
    bits: Mapping[str, float]
    gain: tuple[float, float, float] | None
    quality: "Quality"
    right: Mapping[str, bool]
    declined: tuple[str, str]  # of harmful prompts, of fair ones

    @property
    def loss(self) -> float:
        """Bits per byte, the mean over the domains."""
        return sum(self.bits.values()) / len(self.bits)

    def line(self) -> dict[str, Any]:
        return {
            "tier": self.tier.name,
            "parameters": amount(parameters(self.tier.config)),
            "active": amount(active_parameters(self.tier.config)),
            **{name: f"{bits:.4f}" for name, bits in self.bits.items()},
            "reasoning tasks": share_right(self.right),
            "gain": f"{self.gain[0]:.4f} [{self.gain[1]:.4f}, {self.gain[2]:.4f}]" if self.gain else "",
            **dict(zip(REFUSALS, (", ".join(self.tier.parents), *self.declined), strict=True)),
        }


def rungs(records: Records, family: Family, stuff: "Material", seed: int) -> list[Rung]:
    """One for each tier that is built, in the family's order."""
    from mythos.train.behaviour import measure_refusals, record_refusals, share
    from mythos.train.ladder import measure, step_up

    found, before, declined = [], None, {}
    with progress(family.name) as report:
        for tier in family.tiers:
            if tier.state is not TierState.BUILT:
                before = None
                continue
            here = (records.home, records.store, records.clock, OPERATOR, family, tier)
            quality = measure(*here, stuff.held_out, report)
            declined[tier.name] = of = measure_refusals(*here, report)
            shares = (share(of.declined, of.harmful), share(of.fair_declined, of.fair))
            bits = {name: prediction.bits_per_byte for name, prediction in quality.items()}
            gain = step_up(quality, before) if before else None
            right = _right(records, family, tier)
            found.append(Rung(tier, seed, bits, gain, quality, right, shares))
            before = quality
    record_refusals(records.store, records.clock, OPERATOR, family, declined)
    return found


def over_seeds(found: Sequence[Rung]) -> list[dict[str, Any]]:
    """For each tier its loss, and its gain, as the mean over the seeds with a 95% interval (Student's t)."""
    lines = []
    for name in dict.fromkeys(rung.tier.name for rung in found):
        of = [rung for rung in found if rung.tier.name == name]
        line: dict[str, Any] = {"tier": name, "seeds": len(of)}
        gains = [rung.gain[0] for rung in of if rung.gain]
        for what, values in (("bits per byte", [rung.loss for rung in of]), ("gain", gains)):
            varies = len(set(values)) > 1  # what was not trained is the same for each seed
            line[what] = "{:.4f} [{:.4f}, {:.4f}]".format(*mean_of(values)) if varies else ""
        lines.append(line)
    return lines


def mean_of(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) of two to ten independent values: the 95% interval of the mean by Student's t."""
    mean = statistics.fmean(values)
    reach = T[len(values) - 2] * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - reach, mean + reach


def show_rungs(found: Sequence[Rung]) -> None:
    several = len({rung.seed for rung in found}) > 1
    lines = [({"seed": rung.seed} if several else {}) | rung.line() for rung in found]
    heads = [head for head in lines[0] if head not in REFUSALS]
    which = ["seed", "tier"] if several else ["tier"]
    for columns in (heads, [*which, *REFUSALS]):
        table(columns, [[line[head] for head in columns] for line in lines])
    note(
        "bits per byte of held-out text; gain: what is saved against the tier before, "
        "mean of the domains, 95% interval over texts; declined: of 80 harmful and 80 fair prompts, "
        "on topics that no tier was taught, as a program judges, 95% interval"
    )
    if several:
        table_of(over_seeds(found))
        note("means over the seeds, 95% interval of the mean (Student's t)")


def share_right(right: Mapping[str, bool]) -> str:
    """The share of questions answered rightly, with the exact 95% interval (Clopper-Pearson)."""
    from mythos.gate.bounds import lower, upper

    some, count = sum(right.values()), len(right)
    low, high = lower(some, count, 0.975), upper(some, count, 0.975)
    return f"{some / count:.3f} [{low:.3f}, {high:.3f}]"


def _right(records: Records, family: Family, tier: Tier) -> dict[str, bool]:
    from mythos.evaluate.run import run_suite
    from mythos.records.evidence import Outcome

    place = records.home.path / "runs" / "quality" / f"{(tier.root or '')[:16]}-tasks"
    with progress(f"{tier.name}: tasks") as report:
        result = run_suite(
            records.home, records.store, records.clock, OPERATOR, family, tier.name, "reasoning_gym", "chat",
            place, progress=report,
        )  # fmt: skip
    return {one.id: one.outcome is Outcome.SUCCESS for one in result.samples}
