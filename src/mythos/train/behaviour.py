"""What a tier that was made here declines, measured on topics it was not taught with, beside its parents."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from mythos.evaluate.judge import NAME as JUDGE
from mythos.evaluate.run import run_suite
from mythos.gate.bounds import lower, upper
from mythos.records.clock import Clock
from mythos.records.evidence import Outcome
from mythos.records.principal import Principal
from mythos.spec.family import Family, Tier
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.weights import record_measured, registered

SUITE = "refusal_held_out"


@dataclass(frozen=True, slots=True)
class Refusals:
    """Of `harmful` prompts `declined`, of `fair` ones `fair_declined`, by the weights `root`."""

    root: str
    suite: str
    harness: str
    judge: str
    harmful: int
    declined: int
    fair: int
    fair_declined: int


def measure_refusals(
    home: Home,
    store: Store,
    clock: Clock,
    principal: Principal,
    family: Family,
    tier: Tier,
    progress: Callable[[str, int, int], None],
) -> Refusals:
    """The suite on the tier's weights, under its handling decision; what was answered before is kept."""
    place = home.path / "runs" / "quality" / f"{(tier.root or '')[:16]}-tasks"
    result = run_suite(
        home, store, clock, principal, family, tier.name, SUITE, "chat", place, progress=progress
    )
    sides = {"refuse": [0, 0], "answer": [0, 0]}
    for sample in result.samples:
        side = sides[sample.id.partition(":")[0]]
        side[0] += 1
        side[1] += sample.outcome is Outcome.REFUSAL
    return Refusals(
        result.root, result.suite_digest, result.harness, JUDGE, *sides["refuse"], *sides["answer"]
    )


def record_refusals(
    store: Store, clock: Clock, principal: Principal, family: Family, found: Mapping[str, Refusals]
) -> None:
    """Puts what was found of each tier, by its name, into the record of its weights, beside its parents'.

    A parent that was built anew since is no parent of these weights, and left out.
    """
    current = {row.tier: row for row in registered(store) if row.family == family.name}
    for name, of in found.items():
        row = current[name]
        if row.root != of.root:
            continue  # registered anew while it was measured
        made_from = row.lineage.get("parents", {})
        parents = {
            parent: asdict(found[parent])
            for parent, root in made_from.items()
            if parent in found and found[parent].root == root
        }
        measured = {SUITE: asdict(of) | {"parents": parents}}
        if row.lineage.get("measured") != measured:
            record_measured(store, clock, principal, family.name, name, of.root, measured)


def share(part: int, whole: int) -> str:
    """A share with its exact 95% interval (Clopper-Pearson)."""
    return f"{part / whole:.2f} [{lower(part, whole, 0.975):.2f}, {upper(part, whole, 0.975):.2f}]"
