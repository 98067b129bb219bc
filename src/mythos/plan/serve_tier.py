"""The plan of serving one tier: layout, fleet, money and energy, each with its 80% interval.

Layouts are compared by a closed form (the most sequences that keep the promise, with their share of prompts
in every step), and the best of them simulated. Three speeds of the engine (its middle and the ends of its
interval) say how the fleet hangs on the largest uncertainty; the draws lie between them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mythos.plan.assumed import packaged as assumptions
from mythos.plan.assumed import prices
from mythos.plan.errors import PlanError
from mythos.plan.factors import Factors
from mythos.plan.fleet import (
    ROUGH_REQUESTS,
    Promise,
    Traffic,
    Waits,
    engine,
    highest_rate,
    prompt_share,
    replicas_for,
    slower,
    token_costs,
)
from mythos.plan.hardware import Hardware
from mythos.plan.serving import Deployment, Precision, largest_batch, step_terms, tokens_per_step
from mythos.plan.serving_predict import case_of
from mythos.plan.simulate import Requests
from mythos.plan.uncertain import Answer, Assumption, answers, changed
from mythos.spec.config import ModelConfig

Array = NDArray[np.float64]

MOST_REPLICAS = 1 << 24
TRIED = 3  # layouts that are simulated
MARGIN = Assumption(
    name="margin",
    low=0.3,
    value=0.5,
    high=0.7,
    unit="share of a price that is not the fleet's cost",
    source="judgement: idle hours, staff, research, profit",
    dated="2026-11-26",
    form="plain",
    least=0.0,
    most=0.95,
)
_POINTS = 40  # batches looked at for a layout


@dataclass(frozen=True, slots=True)
class ServePlan:
    """`answers` by name, in the units of `UNITS`. `waits` are at the promised share, at the middle speed."""

    deployment: Deployment
    part: Hardware
    traffic: Traffic
    promise: Promise
    waits: Waits
    rate_of_replica: float
    share: float  # of the time, for prompts
    known: str  # how well the factors know the case
    speeds: tuple[float, ...]  # times the predicted step, rising
    counts: tuple[float, ...]  # replicas that are needed at each of them
    answers: dict[str, Answer]
    assumptions: tuple[Assumption, ...]


UNITS = {
    "replicas": "",
    "accelerators": "",
    "dollars_per_hour": "$ an hour",
    "input_cost": "$ per million prompt tokens",
    "output_cost": "$ per million answer tokens",
    "input_price": "$ per million prompt tokens",
    "output_price": "$ per million answer tokens",
    "answer_price": "$ an answer",
    "watt_hours": "Wh an answer",
}


def serve_tier(
    config: ModelConfig,
    part: Hardware,
    traffic: Traffic,
    promise: Promise,
    factors: Factors,
    *,
    precision: Precision = "fp8",
    engine_name: str = "",
    draft: int = 0,
    accept: float = 0.0,
    deployment: Deployment | None = None,
    requests: Requests | None = None,
    assume: Mapping[str, tuple[float, float, float]] | None = None,
    seed: int = 0,
) -> ServePlan:
    """The cheapest layout that keeps the promise, and its fleet. `requests` are served as they are, instead
    of a Poisson stream of `traffic`. PlanError in one sentence when no layout can."""
    base = Deployment(precision=precision, engine=engine_name, draft=draft, accept=accept)
    options = [deployment] if deployment else layouts(config, part, base)
    ranked = sorted(
        (
            (rate, one)
            for one in options
            if (rate := _rough(config, one, part, traffic, promise, factors)) > 0
        ),
        key=lambda pair: _fleet(traffic.rate, pair[0] * pair[1].accelerators, pair[1]),
    )
    if not ranked and deployment is None:
        raise PlanError(
            f"No layout on {part.name} has {promise.tpot * 1e3:.3g} ms between tokens in {precision}.",
            "Promise less, or choose another accelerator, precision or speculation.",
        )
    best: tuple[tuple[int, float], Deployment] | None = None
    for one in [one for _, one in ranked[:TRIED]] or options:
        rate, _ = _one(config, one, part, traffic, promise, factors, seed)
        if rate > 0 and (best is None or _fleet(traffic.rate, rate, one) < best[0]):
            best = (_fleet(traffic.rate, rate, one), one)
    if best is None:
        raise PlanError(
            f"No layout on {part.name} gives {promise.share:.0%} a first token in {promise.ttft:.3g} s.",
            "Promise less, or choose another accelerator or precision.",
        )
    return _plan(config, best[1], part, traffic, promise, factors, requests, assume or {}, seed)


def _fleet(rate: float, of_replica: float, one: Deployment) -> tuple[int, float]:
    """Accelerators of whole replicas for `rate`; where alike, what one accelerator could do counts."""
    return _whole(rate / of_replica) * one.accelerators, -of_replica / one.accelerators


def _whole(replicas: float) -> int:
    return max(math.ceil(replicas - 1e-9), 1)


def layouts(config: ModelConfig, part: Hardware, base: Deployment) -> list[Deployment]:
    """Replicas within one scale-up domain that hold the weights: attention split over tp or in groups, and
    experts dealt out or split."""
    found = []
    size = 1
    while size <= min(part.domain, 64):
        tp = 1
        while tp <= size:
            splits = config.heads % tp == 0 and (config.kv_heads % tp == 0 or tp % config.kv_heads == 0)
            dealt = {1, size} if config.moe is not None and config.moe.routed % size == 0 else {1}
            if splits and (tp == size or config.moe is not None):
                found += [replace(base, tp=tp, dp=size // tp, ep=ep) for ep in sorted(dealt)]
            tp *= 2
        size *= 2
    return found


def _rough(
    config: ModelConfig, one: Deployment, part: Hardware, traffic: Traffic, promise: Promise, factors: Factors
) -> float:
    """Answers per second and accelerator at the largest batch that keeps the promise in the mean; 0 if none
    does."""
    room = largest_batch(config, one, traffic.prompt + traffic.answer, part)
    if room < 1:
        return 0.0
    factors_K = factors.tpot.factors(case_of(config, one, part))
    speed = tokens_per_step(one.draft, one.accept)
    context, fresh = traffic.prompt + traffic.answer / 2, traffic.prompt * (1 - traffic.hits)
    best = 0.0
    for batch in np.unique(np.rint(np.geomspace(1, room, _POINTS))):
        shared = fresh / traffic.answer * batch * speed
        step = float(step_terms(config, one, batch, context, part, shared, traffic.prompt) @ factors_K)
        if step / speed <= promise.tpot:
            best = max(best, batch * speed / step / traffic.answer / one.accelerators)
    return best


def _one(
    config: ModelConfig,
    one: Deployment,
    part: Hardware,
    traffic: Traffic,
    promise: Promise,
    factors: Factors,
    seed: int,
) -> tuple[float, Waits]:
    factors_K = factors.tpot.factors(case_of(config, one, part))
    made = engine(config, one, part, factors_K, traffic.prompt, traffic.answer)
    return highest_rate(made, traffic, promise, count=ROUGH_REQUESTS, seed=seed)


def _plan(
    config: ModelConfig,
    one: Deployment,
    part: Hardware,
    traffic: Traffic,
    promise: Promise,
    factors: Factors,
    requests: Requests | None,
    assume: Mapping[str, tuple[float, float, float]],
    seed: int,
) -> ServePlan:
    case = case_of(config, one, part)
    low, high = factors.tpot.interval(case)
    made = engine(config, one, part, factors.tpot.factors(case), traffic.prompt, traffic.answer)
    speeds = (low, 1.0, high)
    counts, found, rate = [], None, 0.0
    for factor in speeds:
        run = slower(made, factor)
        if requests is not None:
            count, seen = replicas_for(run, requests, promise)
            here = traffic.rate / count
        else:
            here, seen = highest_rate(run, traffic, promise, seed=seed)
            if not here:
                raise PlanError(
                    f"At {factor:.2f} times the expected step time no rate keeps the promise.",
                    "Promise less: the interval of the step time reaches that far.",
                )
            count = traffic.rate / here
        counts.append(float(count))
        if factor == 1.0:
            found, rate = seen, here
    assert found is not None
    if counts[-1] > MOST_REPLICAS:
        raise PlanError(
            f"That traffic would take {counts[-1]:.3g} replicas.", f"Plan for at most {MOST_REPLICAS:,}."
        )
    share = prompt_share(made, traffic, found.running)
    known = changed((*_uncertain(part, low, high), MARGIN), assume)

    plan = ServePlan(
        deployment=replace(one, replicas=_whole(counts[1])),
        part=part,
        traffic=traffic,
        promise=promise,
        waits=found,
        rate_of_replica=rate,
        share=share,
        known=factors.tpot.class_of(case),
        speeds=speeds,
        counts=tuple(counts),
        answers={},
        assumptions=known,
    )
    return replace(plan, answers=answers(lambda inputs: outcome(plan, inputs), known, seed=seed))


def outcome(plan: ServePlan, inputs: Mapping[str, Array]) -> dict[str, Array | float]:
    """Every answer from one value, or one array of draws, of each assumption."""
    logs = np.interp(np.log(inputs["step_time"]), np.log(plan.speeds), np.log(plan.counts))
    replicas = np.maximum(np.ceil(np.exp(logs) - 1e-9), 1.0)
    size = replicas * plan.deployment.accelerators
    out: dict[str, Array | float] = {"replicas": replicas, "accelerators": size}
    money = "own" if "own" in inputs else "rent"
    if money in inputs:
        out |= _money(size * inputs[money], inputs["margin"], plan.traffic, plan.share)
    if plan.part.all_in_kw:
        watts = size * plan.part.all_in_kw * 1e3 * inputs["load"]
        out["watt_hours"] = watts / 3600 / plan.traffic.rate
    return out


def premium(plan: ServePlan, other: ServePlan, seed: int = 0) -> Answer:
    """How many times what an answer of `other` costs an answer of `plan` costs, on one accelerator, under the
    same draws of its price; the two step times err apart. PlanError on different or unpriced accelerators."""
    if plan.part != other.part or "answer_price" not in plan.answers or "answer_price" not in other.answers:
        raise PlanError(
            f"{plan.part.name} and {other.part.name} have no common price.", "Plan both on one priced part."
        )
    theirs = [replace(one, name="other_step_time") for one in other.assumptions if one.name == "step_time"]

    def model(inputs: Mapping[str, Array]) -> dict[str, Array | float]:
        mine = outcome(plan, inputs)["answer_price"]
        return {
            "premium": mine
            / outcome(other, {**inputs, "step_time": inputs["other_step_time"]})["answer_price"]
        }

    return answers(model, (*plan.assumptions, *theirs), seed=seed)["premium"]


def _money(hourly: Array, margin: Array, traffic: Traffic, share: float) -> dict[str, Array | float]:
    inward, outward = token_costs(1.0, traffic, share)
    second = hourly / 3600
    price = 1 / (1 - margin)
    return {
        "dollars_per_hour": hourly,
        "input_cost": second * inward,
        "output_cost": second * outward,
        "input_price": second * inward * price,
        "output_price": second * outward * price,
        "answer_price": second * price / traffic.rate,
    }


def _uncertain(part: Hardware, low: float, high: float) -> tuple[Assumption, ...]:
    """The engine's step time by its prediction, prices and load. Owned accelerators where their cost is
    known, else rented ones."""
    speed = Assumption(
        name="step_time",
        low=min(low, 1.0),
        value=1.0,
        high=max(high, 1.0),
        unit="times the predicted time of a step",
        source="the interval of the factors for a case known this well (serving_factors.json)",
        dated="",
    )
    seen = {one.name: one for one in prices(part)}
    money = [seen[name] for name in ("own", "rent") if name in seen][:1]
    load = [one for one in assumptions() if one.name == "load"]
    return (speed, *money, *load)
