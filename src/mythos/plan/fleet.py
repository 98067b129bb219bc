"""How many accelerators answer a stream of requests in time, and what a token and an answer cost.

One replica is simulated (`mythos.plan.simulate`) at rising rates until the waits of its users pass what was
promised; a fleet is as many replicas as the whole rate needs. The engine's step times come from
`mythos.plan.serving`, so its errors are those of the factors used there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mythos.plan.errors import PlanError
from mythos.plan.hardware import Hardware
from mythos.plan.serving import TERMS, Deployment, largest_batch, step_terms, tokens_per_step
from mythos.plan.simulate import Engine, Requests, Simulated, poisson, quantiles, simulate
from mythos.spec.config import ModelConfig
from mythos.spec.counting import kv_bytes

Array = NDArray[np.float64]

MOST_SLOTS = 1024
CHUNK = 8192
REQUESTS = 6000  # of one trial of a rate
ROUGH_REQUESTS = 1500  # the same while layouts are compared
_WARM = 0.1  # share of requests at the start whose waits do not count: the replica was empty
_TRIALS = 12  # halvings of the range of rates
_GRID = 24


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests a second and their mean lengths in tokens. `spread`, `hits` as in `simulate.poisson`."""

    rate: float
    prompt: float
    answer: float
    spread: float = 0.0
    hits: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rate", "prompt", "answer"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise PlanError(f"The traffic's {name} is {value}.", "Give a finite number above 0.")
        if not 0 <= self.spread <= 3:
            raise PlanError(f"The traffic's spread is {self.spread}.", "Give a number from 0 to 3.")
        if not 0 <= self.hits < 1:
            raise PlanError(f"The traffic's share of hits is {self.hits}.", "Give one from 0 to below 1.")


@dataclass(frozen=True, slots=True)
class Promise:
    """`share` of requests have their first token within `ttft` seconds, and `share` of answers a mean time
    between tokens of at most `tpot`."""

    ttft: float
    tpot: float
    share: float = 0.95

    def __post_init__(self) -> None:
        for name in ("ttft", "tpot"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise PlanError(f"The promised {name} is {1e3 * value:g} ms.", "Give a time above 0.")
        if not 0 < self.share < 1:
            raise PlanError(f"The promise is for a share of {self.share}.", "Give one between 0 and 1.")


@dataclass(frozen=True, slots=True)
class Waits:
    """At the promised share."""

    ttft: float
    tpot: float
    running: float  # sequences decoding at once, in the mean
    preempted: float  # pre-emptions by request

    def keeps(self, promise: Promise) -> bool:
        return self.ttft <= promise.ttft and not self.tpot > promise.tpot


def engine(
    config: ModelConfig,
    deployment: Deployment,
    part: Hardware,
    factors_K: Array,
    prompt: float,
    answer: float,
    chunk: int = CHUNK,
) -> Engine:
    """One replica as the simulation wants it, for requests of about that size. PlanError when the weights
    leave no room for one of them."""
    context = prompt + answer / 2
    room = largest_batch(config, deployment, prompt + answer, part)
    if room < 1:
        raise PlanError(
            f"{deployment.accelerators} {part.name} hold no request of {prompt + answer:.0f} tokens beside"
            f" the {deployment.precision} weights.",
            "Use more accelerators, a smaller precision or shorter requests.",
        )
    slots = min(room, MOST_SLOTS)
    cache = TERMS.index("cache")
    grid = np.unique(np.rint(np.geomspace(1, slots, _GRID)))
    whole = np.array([step_terms(config, deployment, b, context, part) @ factors_K for b in grid])
    # what a cached token adds; the rest of the cache's term (states, windows) belongs to the sequence
    groups = deployment.dp * _split(config, deployment)
    growing = (
        kv_bytes(config, math.ceil(2 * context), deployment.bytes_per_value)
        - kv_bytes(config, math.ceil(context), deployment.bytes_per_value)
    ) / math.ceil(context)
    per_cached = growing / groups / part.bandwidth * float(factors_K[cache])
    base = np.maximum(whole - per_cached * grid * context, 1e-6)
    prompts_only = step_terms(config, deployment, 0, 1, part, chunk, prompt) @ factors_K
    per_prompt = (
        float(step_terms(config, deployment, 0, 1, part, chunk, prompt)[-2:] @ factors_K[-2:]) / chunk
    )
    table = np.interp(np.arange(1, slots + 1), grid, base)
    tokens = max(room * (prompt + answer), prompt + answer)
    return Engine(
        base=(max(float(prompts_only) - per_prompt * chunk, 1e-6), *table.tolist()),
        per_cached=per_cached,
        per_prompt=per_prompt,
        cache_tokens=int(tokens),
        chunk=max(chunk, slots + 1),
        tokens_per_step=tokens_per_step(deployment.draft, deployment.accept),
    )


def _split(config: ModelConfig, deployment: Deployment) -> int:
    return 1 if config.mla is not None else min(deployment.tp, config.kv_heads)


def slower(one: Engine, factor: float) -> Engine:
    """The same engine with every time multiplied."""
    return replace(
        one,
        base=tuple(time * factor for time in one.base),
        per_cached=one.per_cached * factor,
        per_prompt=one.per_prompt * factor,
    )


def waits(done: Simulated, share: float) -> Waits:
    """What users saw, without the first requests, which found the replica empty."""
    skip = int(len(done.first) * _WARM)
    return Waits(
        ttft=quantiles(done.ttft[skip:], [share])[0],
        tpot=quantiles(done.tpot[skip:], [share])[0],
        running=done.mean_running,
        preempted=done.preempted / len(done.first),
    )


def highest_rate(
    one: Engine, traffic: Traffic, promise: Promise, *, count: int = REQUESTS, seed: int = 0
) -> tuple[float, Waits]:
    """Requests a second of one replica that keep the promise, to about a percent, and the waits there. 0 when
    not even a lonely request is in time."""

    def tried(rate: float) -> Waits:
        asked = poisson(
            rate,
            count,
            traffic.prompt,
            traffic.answer,
            spread=traffic.spread,
            hits=traffic.hits,
            seed=seed,
        )
        fitting = np.minimum(asked.prompts + asked.answers, one.cache_tokens) - asked.answers
        prompts = np.maximum(fitting, 1)
        asked = replace(asked, prompts=prompts, computed=np.minimum(asked.computed, prompts))
        return waits(simulate(one, asked), promise.share)

    slowest = one.base[1] * traffic.answer + one.per_prompt * traffic.prompt + one.base[0]
    low, high = 0.02 / slowest, one.slots / (one.base[1] * traffic.answer / one.tokens_per_step)
    best = tried(low)
    if not best.keeps(promise):
        return 0.0, best
    top = tried(high)
    if top.keeps(promise):
        return high, top
    for _ in range(_TRIALS):
        if high / low < 1.01:
            break
        middle = math.sqrt(low * high)
        found = tried(middle)
        if found.keeps(promise):
            low, best = middle, found
        else:
            high = middle
    return low, best


def replicas_for(one: Engine, asked: Requests, promise: Promise, most: int = 1 << 20) -> tuple[int, Waits]:
    """The fewest replicas that keep the promise for exactly these requests, dealt out in turn. PlanError when
    not even `most` do."""

    def tried(replicas: int) -> Waits:
        # the replicas are alike: a few of them stand for all
        shown = [
            simulate(one, _share(asked, start, replicas))
            for start in range(min(replicas, 3, len(asked.arrivals)))
        ]
        ttft = np.concatenate([done.ttft for done in shown])
        tpot = np.concatenate([done.tpot for done in shown])
        return Waits(
            quantiles(ttft, [promise.share])[0],
            quantiles(tpot, [promise.share])[0],
            float(np.mean([done.mean_running for done in shown])),
            sum(done.preempted for done in shown) / len(ttft),
        )

    return _fewest(tried, promise, min(most, len(asked.arrivals)))


def _share(asked: Requests, start: int, step: int) -> Requests:
    return Requests(
        asked.arrivals[start::step],
        asked.prompts[start::step],
        asked.answers[start::step],
        asked.computed[start::step],
    )


def _fewest(tried: Callable[[int], Waits], promise: Promise, most: int) -> tuple[int, Waits]:
    high, found = 1, tried(1)
    while not found.keeps(promise):
        if high >= most:
            raise PlanError(
                f"A request by itself waits {found.ttft:.3g} s for its first token and {found.tpot:.3g} s for"
                " each other.",
                "Promise less, use more accelerators in a replica or a smaller precision.",
            )
        high = min(high * 2, most)
        found = tried(high)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        other = tried(middle)
        if other.keeps(promise):
            high, found = middle, other
        else:
            low = middle
    return high, found


def prompt_share(one: Engine, traffic: Traffic, running: float) -> float:
    """Of the engine's time, the share that prompts take; the rest goes to answers."""
    prompts = traffic.prompt * (1 - traffic.hits) * one.per_prompt
    batch = min(max(running, 1.0), one.slots)
    step = float(np.interp(batch, np.arange(one.slots + 1), one.base))
    step += one.per_cached * batch * (traffic.prompt + traffic.answer / 2)
    return prompts / (prompts + traffic.answer / one.tokens_per_step * step / batch)


def token_costs(dollars_per_second: float, traffic: Traffic, share: float) -> tuple[float, float]:
    """Dollars per million prompt tokens and per million answer tokens of a fleet that costs so much, when
    `share` of its time goes to prompts. Prompt tokens count whether a prefix cache spared them or not."""
    return (
        1e6 * dollars_per_second * share / (traffic.rate * traffic.prompt),
        1e6 * dollars_per_second * (1 - share) / (traffic.rate * traffic.answer),
    )


def answer_price(input_price: float, output_price: float, prompt: float, answer: float) -> float:
    """Of one answer, from prices per million tokens."""
    return (input_price * prompt + output_price * answer) / 1e6


def nodes(input_rate: float, output_rate: float, prefill_rate: float, decode_rate: float) -> float:
    """Nodes of a fleet whose prompts and answers run apart: in / prefill + out / decode, in tokens a second
    of all traffic and of one node. DeepSeek's day (608e9 in, 168e9 out; 73.7k, 14.8k a node) gives 226.9."""
    for name, value in (("prefill_rate", prefill_rate), ("decode_rate", decode_rate)):
        if not (math.isfinite(value) and value > 0):
            raise PlanError(f"{name} is {value}.", "Tokens a second of one node, above 0.")
    return input_rate / prefill_rate + output_rate / decode_rate
