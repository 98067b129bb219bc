"""A tier beside what it is held against: the same tokens without what makes the tier what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mythos.cli.local import Records
from mythos.cli.output import amount, note, table_of
from mythos.cli.progress import progress
from mythos.cli.rungs import Rung, mean_of, share_right
from mythos.records.principal import OPERATOR
from mythos.spec.family import Family

if TYPE_CHECKING:
    from mythos.train.control import Measured
    from mythos.train.run import Training

Interval = tuple[float, float, float]
AGAINST = {"experts": "{parent} trained on", "distil": "the same shape from scratch"}


@dataclass(frozen=True, slots=True)
class Beside:
    """`gains`: bits per byte that the tier saves against its control, of each domain and as their mean;
    `more`: the share of questions that it answers rightly beyond the control's. Each with a 95% interval.
    """

    tier: str
    seed: int
    against: str
    tokens: int
    gains: Mapping[str, Interval]
    right: tuple[str, str]
    more: Interval

    def line(self) -> dict[str, Any]:
        return {
            "tier": self.tier,
            "seed": self.seed,
            "against": self.against,
            "tokens": amount(self.tokens),
            **{name: spread(gain) for name, gain in self.gains.items()},
            "reasoning tasks": " / ".join(self.right),
            "more": spread(self.more, 3),
        }


def beside_controls(
    records: Records, family: Family, trained: "Mapping[str, Training]", found: Sequence[Rung]
) -> list[Beside]:
    """One for each tier that was trained and has a rival, which is trained too where it is not yet."""
    from mythos.evaluate.run import load_suite
    from mythos.train.build import build_control

    lines = []
    for name, how in trained.items():
        tier = family.tier(name)
        with progress(f"{name}: control") as report:
            suite = load_suite(records.home, "reasoning_gym", report)
            measured = build_control(
                records.home, records.store, records.clock, OPERATOR, family, tier, how, suite, report
            )
        if measured is not None:
            of = {one.tier.name: one for one in found}
            lines.append(_held(of[name], tier.parents[0], measured))
    return lines


def _held(rung: Rung, parent: str, measured: "Measured") -> Beside:
    from mythos.train.control import more_right
    from mythos.train.ladder import step_up

    of, than = rung.quality, measured.quality
    gains = {name: step_up({name: of[name]}, {name: than[name]}) for name in of}
    tier = rung.tier
    return Beside(
        tier.name,
        rung.seed,
        AGAINST[tier.made_by.kind].format(parent=parent),
        measured.tokens,
        gains | {"mean": step_up(of, than)},
        (share_right(rung.right), share_right(measured.right)),
        more_right(rung.right, measured.right),
    )


def show_beside(held: Sequence[Beside]) -> None:
    if not held:
        return
    table_of([one.line() for one in held])
    note(
        "bits per byte that the tier saves against its control on the same held-out texts, 95% interval over "
        "texts; questions of reasoning_gym answered rightly by both, and by how much more, 95% interval over "
        "questions"
    )
    for name in dict.fromkeys(one.tier for one in held):
        of = [one for one in held if one.tier == name]
        if len(of) > 1:
            means = {domain: mean_of([one.gains[domain][0] for one in of]) for domain in of[0].gains}
            means["more"] = mean_of([one.more[0] for one in of])
            said = ", ".join(f"{domain} {spread(found)}" for domain, found in means.items())
            note(f"{name}, mean of {len(of)} seeds with its 95% interval (Student's t): {said}")


def spread(found: Interval, digits: int = 4) -> str:
    return "{0:.{d}f} [{1:.{d}f}, {2:.{d}f}]".format(*found, d=digits)
