"""The plan of one tier: how many tokens on how many accelerators in which layout, and what that takes.

A budget of money or compute buys tokens, one of days buys accelerators. Without one, tokens are those that
the family file states for a tier that is only planned, else those that its size is best for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mythos.plan.assumed import packaged, prices, step_error
from mythos.plan.budget import Budget
from mythos.plan.efficiencies import packaged as efficiencies
from mythos.plan.errors import PlanError
from mythos.plan.hardware import Hardware, hardware
from mythos.plan.laws import EPOCH, EPOCH_CENTRE, effective_tokens
from mythos.plan.run import HOUR, plan_run
from mythos.plan.search import Search, search
from mythos.plan.step import may_hide_dispatch, step
from mythos.plan.uncertain import DRAWS, Answer, Array, Assumption, answers, changed
from mythos.spec.config import ModelConfig
from mythos.spec.counting import active_parameters, parameters, training_flops_per_token
from mythos.spec.family import Tier

DEFAULT_PART = "GB300"
DAYS = 90.0  # a run without a budget of days takes at most about so many
SEQUENCE = 4096  # tokens, unless the model holds fewer
GUESSED_MFU = 0.3  # to begin with; the search knows better
MOST_SEARCHES = 8
FEWEST, MOST = 8, 1 << 20  # accelerators that are chosen by themselves
TOKENS = (1e6, 1e16)
_SHARES = 5  # of the dispatch, at which a step is computed


@dataclass(frozen=True, slots=True)
class TierPlan:
    family: str
    tier: str
    config: ModelConfig
    part: Hardware
    accelerators: int
    parameters: int
    active: int
    tokens: float
    tokens_from: str  # who says how many
    flops_per_token: float  # forward and backward, without recomputation
    search: Search
    answers: dict[str, Answer]  # by name; UNITS has them all
    assumptions: tuple[Assumption, ...]

    @property
    def flops(self) -> float:
        return self.tokens * self.flops_per_token

    @property
    def ratio(self) -> float:
        return self.parameters / self.active


UNITS = {
    "step_seconds": "s",
    "mfu": "of peak",
    "goodput": "of wall time",
    "checkpoint_minutes": "min",
    "interruptions": "",
    "spares": "accelerators",
    "days": "days",
    "accelerator_hours": "h",
    "rented": "$",
    "owned": "$",
    "programme": "$",
    "mwh": "MWh",
    "tonnes": "t CO2e",
    "loss": "nats per token",
}


def plan_tier(
    tier: Tier,
    *,
    part_name: str = DEFAULT_PART,
    accelerators: int | None = None,
    budget: Budget | None = None,
    assume: Mapping[str, tuple[float, float, float]] | None = None,
    explain: bool = True,
    seed: int = 0,
) -> TierPlan:
    """The plan of `tier` on `accelerators` (or as many as finish in time) of the part called so.

    MythosError in one sentence when that cannot be. The same arguments give the same plan.
    """
    part = hardware(part_name)
    known = changed((step_error(tier.config), *packaged(), *prices(part)), assume or {})
    if (
        budget is not None
        and budget.kind == "dollars"
        and not any(one.name in ("rent", "own") for one in known)
    ):
        raise PlanError(f"No price of {part.name} is known.", "Give a budget of FLOPs or days.")
    per_token = training_flops_per_token(tier.config, _sequence(tier.config))
    tokens, source = _tokens(tier, per_token, budget)
    days = budget.amount if budget is not None and budget.kind == "days" else DAYS

    def answered(many: int, found: Search, tokens: float, draws: int = DRAWS) -> dict[str, Answer]:
        def model(inputs: Mapping[str, Array]) -> dict[str, Array | float]:
            return outcome(tier.config, part, many, tokens, found, inputs)

        return answers(model, known, draws=draws, seed=seed)

    many = accelerators or _first_guess(tier.config, part, tokens * per_token, days)
    found = None
    for _ in range(MOST_SEARCHES):
        try:
            found = _search(tier.config, part, many, tokens * per_token, explain)
        except PlanError:
            if accelerators is not None or many >= MOST:
                raise
            many *= 2
            continue
        rough = answered(many, found, tokens, 100)
        if bought := _bought(budget, rough, accelerators is not None):
            tokens, source = _bounded(tokens * bought[0]), bought[1]
            rough = answered(many, found, tokens, 100)
        over = rough["days"].value / days
        if accelerators is not None or over <= 1 or many >= MOST:
            break
        many = min(MOST, many << math.ceil(math.log2(over)))
    if found is None:
        raise PlanError(f"No number of {part.name} up to {MOST:,} holds {tier.name}.", "Choose another part.")
    batch = batch_sequences(tokens * per_token, many, _sequence(tier.config))
    if batch != found.best.layout.global_batch:  # a budget of money has bought other tokens since
        found = _search(tier.config, part, many, tokens * per_token, explain)
    told = answered(many, found, tokens)
    if bought := _bought(budget, told, accelerators is not None):
        tokens = _bounded(tokens * bought[0])
        told = answered(many, found, tokens)
    return TierPlan(
        family=tier.family,
        tier=tier.name,
        config=tier.config,
        part=part,
        accelerators=many,
        parameters=parameters(tier.config),
        active=active_parameters(tier.config),
        tokens=tokens,
        tokens_from=source,
        flops_per_token=per_token,
        search=found,
        answers=told,
        assumptions=known,
    )


def _bought(budget: Budget | None, told: Mapping[str, Answer], fixed: bool) -> tuple[float, str] | None:
    """By how much more tokens use the budget up, when it is tokens that it buys: hours rise as they do."""
    if budget is not None and budget.kind == "dollars":
        price = "rented" if "rented" in told else "owned"
        return budget.amount / told[price].value, f"the budget of money, {price}"
    if budget is not None and budget.kind == "days" and fixed:
        return budget.amount / told["days"].value, "the budget of days, on the accelerators given"
    return None


def batch_sequences(flops: float, accelerators: int, sequence: int) -> int:
    """Sequences in a step: DeepSeek's 0.2920 C^0.3271 tokens (arXiv 2401.02954), rounded to what divides
    well."""
    odd = accelerators >> ((accelerators & -accelerators).bit_length() - 1)
    wanted = 0.2920 * flops**0.3271 / sequence / odd
    return odd << max(0, min(20, round(math.log2(max(wanted, 1.0)))))


def _search(config: ModelConfig, part: Hardware, many: int, flops: float, explain: bool) -> Search:
    sequence = _sequence(config)
    return search(config, part, many, batch_sequences(flops, many, sequence), sequence, explain=explain)


def _sequence(config: ModelConfig) -> int:
    """Tokens of a training sequence."""
    return min(SEQUENCE, config.context)


def _tokens(tier: Tier, per_token: float, budget: Budget | None) -> tuple[float, str]:
    if budget is not None and budget.kind == "flops":
        return _bounded(budget.amount / per_token), "the budget of compute"
    stated = dict(tier.made_by.options).get("tokens")
    if budget is not None and budget.kind == "dollars":
        return float(stated or 1e12), "the budget of money"
    if stated:
        return float(stated), "the family file"
    active = active_parameters(tier.config)
    best = (EPOCH.beta * EPOCH.b / (EPOCH.alpha * EPOCH.a)) ** (1 / EPOCH.beta) * active ** (
        EPOCH.alpha / EPOCH.beta
    )
    return best, "what its active parameters are best for under Epoch's law; the family file states none"


def _bounded(tokens: float) -> float:
    low, high = TOKENS
    if not low <= tokens <= high:
        raise PlanError(
            f"The budget would buy {tokens:.3g} tokens of training.", f"Plan for {low:g} to {high:g} tokens."
        )
    return tokens


def _first_guess(config: ModelConfig, part: Hardware, flops: float, days: float) -> int:
    """A power of two that would do at the guessed share of peak, and whose memory could hold the states."""
    rate = (part.fp8 or part.bf16) * GUESSED_MFU
    by_time = flops / rate / (days * 24 * HOUR)
    by_memory = 8 * parameters(config) / part.usable_bytes
    wanted = max(by_time, by_memory, FEWEST)
    return 1 << min(MOST.bit_length() - 1, math.ceil(math.log2(wanted) - 1e-9))


def outcome(
    config: ModelConfig,
    part: Hardware,
    accelerators: int,
    tokens: float,
    found: Search,
    inputs: Mapping[str, Array],
) -> dict[str, Array | float]:
    """Every answer from one value, or one array of draws, of each assumption."""
    best = found.best.step
    seconds = _step_seconds(config, part, found, inputs["dispatch"]) * inputs["step"]
    run = plan_run(
        tokens / best.tokens * seconds * inputs["rerun"],
        accelerators,
        min(part.domain, 8),
        failures=inputs["failures"],
        checkpoint=inputs["checkpoint"],
        restart=inputs["restart"] * 60,
        repair=inputs["repair"] * HOUR,
        all_in_kw=part.all_in_kw or 0.0,
        load=inputs["load"],
    )
    out: dict[str, Array | float] = {
        "step_seconds": seconds,
        "mfu": best.mfu * best.seconds / seconds,
        "goodput": run.goodput,
        "checkpoint_minutes": run.interval / 60,
        "interruptions": run.interruptions,
        "spares": run.spares,
        "days": run.seconds / (24 * HOUR),
        "accelerator_hours": run.accelerator_hours,
        "loss": loss(active_parameters(config), parameters(config), tokens, inputs),
    }
    if "rent" in inputs:
        out["rented"] = run.accelerator_hours * inputs["rent"]
        out["programme"] = out["rented"] * inputs["research"]
    if "own" in inputs:
        out["owned"] = run.accelerator_hours * inputs["own"]
    if part.all_in_kw:
        out["mwh"] = run.kwh / 1000
        out["tonnes"] = run.kwh * inputs["carbon"] / 1000
    return out


def _step_seconds(config: ModelConfig, part: Hardware, found: Search, hidden: Array) -> Array | float:
    """Of the best layout, when so much of the dispatch is hidden; one number where a recipe hides none."""
    best = found.best
    if not may_hide_dispatch(best.layout, part):
        return best.step.seconds
    shares = np.linspace(0, 1, _SHARES)
    eff = efficiencies()
    times = [
        step(config, best.layout, part, replace(eff, overlap_dispatch=float(share))).seconds
        for share in shares
    ]
    return np.interp(hidden, shares, times)


def loss(active: float, total: float, tokens: float, inputs: Mapping[str, Array]) -> Array:
    """Nats per token under Epoch's refit, its exponents turned around the runs that it was fitted to; a
    sparse model counts as a dense one of active x (total / active)^g parameters."""
    size = active * (total / active) ** inputs["sparsity"]
    near_size, near_tokens = EPOCH_CENTRE
    by_size = EPOCH.a * near_size**-EPOCH.alpha * (size / near_size) ** -inputs["size_exponent"]
    worth = effective_tokens(tokens, inputs["unique"] * 1e12)
    by_data = EPOCH.b * near_tokens**-EPOCH.beta * (worth / near_tokens) ** -inputs["data_exponent"]
    return inputs["floor"] + by_size + by_data


def moving(plan: TierPlan, name: str, most: int = 8) -> Sequence[tuple[str, float, float]]:
    """What moves an answer: input, and the answer at its low and its high end, most first."""
    effects = plan.answers[name].effects
    return [(one.name, one.at_low, one.at_high) for one in effects[:most] if one.swing > 0]
