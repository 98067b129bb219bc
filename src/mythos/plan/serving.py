"""What serving takes: time of a decode step and of a prompt, room in the cache, throughput in a closed loop.

A replica is `tp * dp` accelerators that hold the weights once: `dp` groups of `tp` each, every group with
attention weights and the caches of its own sequences; the experts are spread over all of them. A step's time
is a sum of ideal times (bytes by bandwidth, FLOPs by peak, waits per layer), each times a factor of 1 or more
or less that measured runs gave (`mythos.plan.factors`). A sum and not the largest: kernels of one step run
one after another.

TPOT here is the mean time between the tokens of an answer after the first: (time of the last token - time of
the first) / (tokens - 1). The other definition in use, time to the last token / tokens, counts the wait for
the first one too (redhat-performance/configiq #8).

Array names end in shape letters: K the terms of `TERMS`.
"""

import math
from dataclasses import dataclass, fields
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mythos.plan.errors import PlanError
from mythos.plan.hardware import Hardware
from mythos.spec.config import ModelConfig
from mythos.spec.counting import (
    flops_per_token,
    is_routed,
    kv_bytes,
    layer_parameters,
    parameters,
)

Array = NDArray[np.float64]
Precision = Literal["bf16", "fp8", "fp4", "int4"]

TERMS = (
    "layer",  # microseconds, once a layer: launching its kernels
    "reduce",  # microseconds, twice a layer times log2(tp): the wait of an all-reduce
    "sequence",  # microseconds a sequence: scheduling, sampling, text
    "dense",  # seconds to read all weights but the routed experts'
    "experts",  # seconds to read the routed experts that a step's tokens meet
    "cache",  # seconds to read the keys and values of all sequences
    "product",  # seconds of the matrix products of the tokens decoded
    "exchange",  # seconds of their all-reduces and dispatches
    "prompt",  # seconds of the matrix products of the prompt tokens in the step
    "prompt_exchange",  # seconds of their all-reduces and dispatches
)
WAITS = 3  # the first so many of the terms are waits, the others ideal times

# Bytes of one weight: of the routed experts, of all others in a model with experts, of a model without.
# fp4 has a scale byte for 16 values, int4 two bytes for 32; recipes leave attention in 8 or 16 bits.
_WEIGHT_BYTES = {
    "bf16": (2.0, 2.0, 2.0),
    "fp8": (1.0, 1.0, 1.0),
    "fp4": (0.5625, 1.0, 0.5625),
    "int4": (0.5625, 2.0, 0.5625),
}
_KV_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp4": 1.0, "int4": 2.0}
_HEAD_BYTES = 2.0  # embedding and head stay in 16 bits
_ACTIVATION_BYTES = 2.0
RESERVED_BYTES = 3.9e9  # runtime, graphs, communicators (AIC reserves 3.5 GB + 0.34 to 0.41 GB for NCCL)
_FREE_SHARE = 0.95  # of what is left, the share engines give to the cache


@dataclass(frozen=True, slots=True)
class Deployment:
    """How a model is served. PlanError for numbers that cannot be."""

    tp: int = 1  # accelerators that split one group's attention
    dp: int = 1  # groups of a replica (attention data parallelism)
    ep: int = 1  # into how many parts whole experts are dealt; the rest of tp * dp splits each expert
    replicas: int = 1
    precision: Precision = "bf16"
    kv_bytes: float = 0.0  # of one cached value; 0: 2, or 1 where fp8 and fp4 recipes cache in fp8
    engine: str = ""
    version: str = ""
    draft: int = 0  # tokens that speculation or MTP proposes a step
    accept: float = 0.0  # the share of proposals that hold, one by one
    prefill: int = 0  # accelerators of one prefill worker; 0: prompts run in the same steps
    prefill_workers: int = 1

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.type in (int, "int"):
                least = 0 if entry.name in ("draft", "prefill") else 1
                if type(value) is not int or not least <= value <= 1 << 24:
                    raise PlanError(
                        f"The deployment's {entry.name} is {value!r:.40}.",
                        f"A whole number, {least} or more.",
                    )
        if self.precision not in _WEIGHT_BYTES:
            raise PlanError(
                f"No precision is called {self.precision!r:.40}.", f"Known are {', '.join(_WEIGHT_BYTES)}."
            )
        for name, fits, limits in (
            ("accept", 0 <= self.accept < 1, "from 0 to below 1"),
            ("kv_bytes", 0 <= self.kv_bytes <= 8, "from 0 to 8"),
            ("draft", self.draft <= 32, "from 0 to 32"),
        ):
            if not fits:
                raise PlanError(
                    f"The deployment's {name} is {getattr(self, name)}.", f"Give a number {limits}."
                )
        if self.tp * self.dp % self.ep:
            raise PlanError(f"ep is {self.ep}, which does not divide tp * dp.", "Change ep, tp or dp.")

    @property
    def accelerators(self) -> int:
        """Of one replica, prefill workers apart."""
        return self.tp * self.dp

    @property
    def bytes_per_value(self) -> float:
        return self.kv_bytes or _KV_BYTES[self.precision]


def weight_bytes(config: ModelConfig, deployment: Deployment) -> tuple[float, float]:
    """Bytes of (all routed experts, everything else) of the model, once."""
    experts, dense, alone = _WEIGHT_BYTES[deployment.precision]
    routed, rest, head = _weights(config)
    return routed * experts, rest * (dense if config.moe else alone) + head * _HEAD_BYTES


@cache
def _weights(config: ModelConfig) -> tuple[int, int, int]:
    """Parameters of routed experts, of layers without them, of embedding and head."""
    routed = 0
    for layer in range(config.layers):
        if is_routed(config, layer):
            routed += layer_parameters(config, layer).experts
    head = config.vocab * config.width * (1 if config.tied else 2)
    return routed, parameters(config) - routed - head, head


def bytes_per_accelerator(config: ModelConfig, deployment: Deployment) -> float:
    """Weights on each accelerator of a replica."""
    experts, rest = weight_bytes(config, deployment)
    return experts / deployment.accelerators + rest / deployment.tp


def largest_batch(config: ModelConfig, deployment: Deployment, context: float, part: Hardware) -> int:
    """Sequences of `context` tokens whose caches fit beside the weights of one replica; 0 when none does.

    A latent cache (MLA) is whole on every accelerator of a group; others are split by key-value heads.
    """
    room = part.usable_bytes - RESERVED_BYTES - bytes_per_accelerator(config, deployment)
    one = kv_bytes(config, math.ceil(context), deployment.bytes_per_value) / _cache_split(config, deployment)
    return deployment.dp * max(int(room * _FREE_SHARE / one), 0)


def cache_tokens(config: ModelConfig, deployment: Deployment, context: float, part: Hardware) -> int:
    """Tokens that the caches of one replica hold in sequences of about `context`; 0 when not even one."""
    return int(largest_batch(config, deployment, context, part) * context)


def _cache_split(config: ModelConfig, deployment: Deployment) -> int:
    return 1 if config.mla is not None else min(deployment.tp, config.kv_heads)


def step_terms(
    config: ModelConfig,
    deployment: Deployment,
    batch: float,
    context: float,
    part: Hardware,
    prompt_tokens: float = 0.0,
    prompt_context: float = 0.0,
) -> Array:
    """The terms (K) of one step of a replica with `batch` sequences of `context` tokens in decoding and
    `prompt_tokens` of prompts that are `prompt_context` tokens long. With speculation, each sequence has
    `draft + 1` tokens in the step."""
    size, tp, dp, layers = deployment.accelerators, deployment.tp, deployment.dp, config.layers
    tokens = batch * (deployment.draft + 1)
    of_group = max(batch / dp, 1.0) if batch else 0.0
    peak = peak_of(part, deployment.precision)
    link = part.scale_up if size <= part.domain else part.scale_out
    experts, rest = weight_bytes(config, deployment)
    rest -= config.vocab * config.width * _HEAD_BYTES * (not config.tied)  # the look-up reads a few rows
    met = experts * met_share(
        config, tokens or prompt_tokens
    )  # prompts come many at once: few steps meet all
    read = kv_bytes(config, max(math.ceil(context), 1), deployment.bytes_per_value)
    head = 2.0 * config.vocab * config.width
    prompt_flops = flops_per_token(config, math.ceil(prompt_context / 2)) - head if prompt_tokens else 0.0
    sent = _exchanged_bytes(config, deployment)
    return np.array(
        [
            1e-6 * layers,
            2e-6 * layers * math.log2(tp),
            1e-6 * batch,
            rest / tp / part.bandwidth,
            met / size / part.bandwidth,
            of_group * read / _cache_split(config, deployment) / part.bandwidth,
            tokens * flops_per_token(config, math.ceil(context)) / size / peak,
            tokens / dp * sent / link,
            prompt_tokens * prompt_flops / size / peak,
            prompt_tokens / dp * sent / link,
        ]
    )


def _exchanged_bytes(config: ModelConfig, deployment: Deployment) -> float:
    """Bytes that an accelerator sends for one token of its group: two all-reduces a layer over tp; with
    experts dealt out, the token to each of its experts elsewhere and back (16 bits)."""
    wide = config.width * _ACTIVATION_BYTES
    share = (deployment.tp - 1) / deployment.tp
    sent = 2 * config.layers * 2 * wide * share
    if config.moe is not None and deployment.ep > 1:
        routed = config.layers - len(config.dense_layers)
        elsewhere = (deployment.ep - 1) / deployment.ep
        sent += routed * 2 * wide * config.moe.top_k * elsewhere / deployment.tp
    return sent


def met_share(config: ModelConfig, tokens: float) -> float:
    """Of the routed experts, the share that `tokens` tokens meet when each picks at random: 1-(1-k/E)^T."""
    if config.moe is None:
        return 0.0
    return 1 - (1 - config.moe.top_k / config.moe.routed) ** tokens


def peak_of(part: Hardware, precision: str) -> float:
    """FLOP/s of a recipe's products: of 16 bits where the part lacks its units or only weights are small."""
    rate = {"fp8": part.fp8, "fp4": part.fp4}.get(precision)
    return rate or part.bf16


def decode_step(
    config: ModelConfig,
    deployment: Deployment,
    batch: float,
    context: float,
    part: Hardware,
    factors_K: Array,
) -> float:
    """Seconds of a step in which a replica decodes `batch` sequences of `context` tokens, no prompt."""
    _check(batch=batch, context=context)
    return float(step_terms(config, deployment, batch, context, part) @ factors_K)


def for_prompts(deployment: Deployment) -> Deployment:
    """Where a prompt runs: on a prefill worker, whose accelerators split it, or in the replica's steps."""
    if not deployment.prefill:
        return deployment
    return Deployment(tp=deployment.prefill, precision=deployment.precision, kv_bytes=deployment.kv_bytes)


def prefill(
    config: ModelConfig,
    deployment: Deployment,
    tokens: float,
    part: Hardware,
    factors_K: Array,
    cached: float = 0.0,
) -> float:
    """Seconds that a prompt of `tokens` tokens takes by itself, of which a prefix cache spares `cached`."""
    _check(tokens=tokens)
    if not 0 <= cached < tokens:
        raise PlanError(f"{cached} of {tokens} tokens are cached.", "From 0 to fewer than the prompt has.")
    where = for_prompts(deployment)
    # FLOPs of the tokens left, whose mean context is that of the prompt's end
    terms = step_terms(config, where, 0, 1, part, tokens - cached, tokens + cached)
    return float(terms @ factors_K)


def closed_loop_terms(
    config: ModelConfig,
    deployment: Deployment,
    concurrency: float,
    prompt: float,
    answer: float,
    part: Hardware,
) -> Array:
    """The terms (K) of the mean step while `concurrency` clients, spread over the replicas, each wait for an
    answer of `answer` tokens to a prompt of `prompt` and send the next at once.

    Each sequence then brings `prompt / answer` prompt tokens a step where prompts share the steps. No more
    sequences run at once than the cache holds.
    """
    _check(concurrency=concurrency, prompt=prompt, answer=answer)
    context = prompt + answer / 2
    batch = concurrency / deployment.replicas
    room = largest_batch(config, deployment, context, part)
    if room:
        batch = min(batch, room)
    share = 0.0 if deployment.prefill else prompt / answer * batch
    return step_terms(config, deployment, max(batch, 1.0), context, part, share, prompt)


def tpot(
    config: ModelConfig,
    deployment: Deployment,
    concurrency: float,
    prompt: float,
    answer: float,
    part: Hardware,
    factors_K: Array,
) -> float:
    """Seconds between tokens in the closed loop of `closed_loop_terms`."""
    terms = closed_loop_terms(config, deployment, concurrency, prompt, answer, part)
    return float(terms @ factors_K) / tokens_per_step(deployment.draft, deployment.accept)


def throughput(concurrency: float, answer: float, ttft: float, tpot_seconds: float) -> float:
    """Answer tokens per second of `concurrency` clients without a pause: C n / (TTFT + TPOT (n - 1))."""
    _check(concurrency=concurrency, answer=answer, ttft=ttft, tpot=tpot_seconds)
    return concurrency * answer / (ttft + tpot_seconds * (answer - 1))


def tokens_per_step(draft: int, accept: float) -> float:
    """Expected tokens of a step with `draft` proposals of which each holds with probability `accept` if all
    before it did: (1 - p^(n+1)) / (1 - p) (Leviathan et al., arXiv 2211.17192, eq. 1)."""
    return (1 - accept ** (draft + 1)) / (1 - accept)


def _check(**numbers: float) -> None:
    for name, value in numbers.items():
        if not (math.isfinite(value) and value > 0):
            raise PlanError(f"{name} is {value}.", "It must be a finite number above 0.")
