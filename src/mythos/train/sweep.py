"""A family's ladder at several sizes and token budgets: the runs that a scaling law is fitted to."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mythos.data.corpus import Corpus
from mythos.model.transformer import Transformer
from mythos.plan.ladder import counted
from mythos.plan.scaling import ScalingRun
from mythos.records.clock import Clock
from mythos.records.principal import Principal, require_operator
from mythos.spec.family import Tier
from mythos.store.db import Store
from mythos.store.home import Home, write_private
from mythos.store.weights_key import weights_keyring
from mythos.train.build import alone, log_beginning
from mythos.train.checkpoint import NAME
from mythos.train.ladder import rule_digest
from mythos.train.quality import predict
from mythos.train.recipes import recipe, run_directory, run_facts, train_tier
from mythos.train.run import Training
from mythos.train.settings import Budget
from mythos.train.weights import computing, model_from, plain_tensors, served_tensors

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One run. `params` and `active` as `counted`; `bits` are bits per byte of held-out text, by domain."""

    tier: str
    params: int
    active: int
    tokens: int
    seed: int
    bits: Mapping[str, float]

    @property
    def loss(self) -> float:
        """Bits per byte, the mean over the domains."""
        return sum(self.bits.values()) / len(self.bits)

    def point(self) -> ScalingRun:
        name = f"{self.tier}-{self.tokens}-{self.seed}"
        return ScalingRun(self.params, self.tokens, self.loss, self.active, name)


def sweep(
    home: Home,
    store: Store,
    clock: Clock,
    principal: Principal,
    tiers: Sequence[Tier],
    budgets: Sequence[int],
    seeds: int,
    training: Training,
    progress: Progress,
) -> Iterator[SweepRun]:
    """Trains and measures each tier on each number of tokens with each seed, the shortest runs first.

    `training` gives all but budget and seed. What was measured from the same inputs is kept; a stopped run
    goes on. A run's checkpoint is removed when it is measured: nothing of these weights is served.
    """
    require_operator(principal)
    keyring = weights_keyring(home)
    with alone(home, progress):
        for tokens in sorted(set(budgets)):
            for seed in range(seeds):
                for tier in tiers:
                    budget = Budget(tokens=tokens)
                    one = replace(training, budget=budget, seed=seed)
                    facts = run_facts(tier, {}, one)
                    place = run_directory(home, tier, facts)
                    kept = place / f"measured-{rule_digest(one.material.held_out)[:16]}.json"
                    if not kept.exists():
                        log_beginning(home, store, clock, principal, tier, facts)
                        made = train_tier(home, keyring, tier, {}, one, progress)
                        tensors = plain_tensors(served_tensors(tier, made))
                        model = computing(model_from(tier.config, tensors))
                        found = _bits(model, one.material.held_out, tier.name, progress)
                        write_private(kept, json.dumps(found).encode(), replace=True)
                        shutil.rmtree(place / NAME, ignore_errors=True)
                    step = recipe(tier, seed).step_tokens
                    seen = max(1, round(tokens / step)) * step
                    yield SweepRun(tier.name, *counted(tier), seen, seed, json.loads(kept.read_bytes()))


def runs_csv(runs: Sequence[SweepRun]) -> bytes:
    """The table that `mythos plan fit` reads: its columns, then tier, seed and each domain."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    domains = list(runs[0].bits) if runs else []
    writer.writerow(["run", "params", "active_params", "tokens", "loss", "tier", "seed", *domains])
    for run in runs:
        point, bits = run.point(), [run.bits[name] for name in domains]
        writer.writerow([point.run, run.params, run.active, run.tokens, run.loss, run.tier, run.seed, *bits])
    return out.getvalue().encode()


def read_csv(place: Path) -> list[SweepRun]:
    """What `runs_csv` wrote."""
    known = ("run", "params", "active_params", "tokens", "loss", "tier", "seed")
    rows = list(csv.DictReader(io.StringIO(place.read_text())))
    return [
        SweepRun(
            row["tier"], int(row["params"]), int(row["active_params"]), int(row["tokens"]), int(row["seed"]),
            {name: float(value) for name, value in row.items() if name not in known},
        )
        for row in rows
    ]  # fmt: skip


def _bits(
    model: Transformer, held_out: Mapping[str, Corpus], name: str, progress: Progress
) -> dict[str, float]:
    found = {}
    for done, (domain, corpus) in enumerate(held_out.items()):
        progress(f"measure {name}", done, len(held_out))
        found[domain] = predict(model, corpus).bits_per_byte
    progress(f"measure {name}", len(held_out), len(held_out))
    return found
