"""TPOT and TTFT of a deployment under a closed loop of clients, each with its 80% interval.

TTFT has no point that deserves trust: it is the wait behind other prompts, which depends on how an engine
orders them. Its interval is what runs of its kind had.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mythos.plan.factors import Case, Factors, Law
from mythos.plan.hardware import Hardware
from mythos.plan.published import known_as
from mythos.plan.scaling import Estimate
from mythos.plan.serving import (
    WAITS,
    Deployment,
    closed_loop_terms,
    for_prompts,
    step_terms,
    tokens_per_step,
)
from mythos.plan.serving_runs import ServingRun
from mythos.spec.config import ModelConfig

Array = NDArray[np.float64]

TTFT_TERMS = (
    "fixed",  # 10 milliseconds
    "clients",  # a millisecond for every client of a prefill worker
    "own",  # the prompt's ideal time: matrix products and exchange
    "queue",  # that, for every client of a prefill worker
    "step",  # the ideal time of a decode step, which a prompt waits for
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds."""

    ttft: Estimate
    tpot: Estimate


def case_of(config: ModelConfig, deployment: Deployment, part: Hardware, guessed: bool = False) -> Case:
    """What the levels of the factors are asked for. `guessed`: the layout is not known but supposed."""
    kind = "guessed" if guessed else "disaggregated" if deployment.prefill else "aggregated"
    return Case(
        engine=deployment.engine,
        part=part.name,
        model=known_as(config),
        precision=deployment.precision,
        version=deployment.version,
        kind=kind,
    )


def ttft_terms(
    config: ModelConfig,
    deployment: Deployment,
    concurrency: float,
    prompt: float,
    answer: float,
    part: Hardware,
) -> Array:
    """The terms of `TTFT_TERMS`, in seconds."""
    workers = deployment.prefill_workers if deployment.prefill else deployment.replicas
    own = float(step_terms(config, for_prompts(deployment), 0, 1, part, prompt, prompt)[-2:].sum())
    clients = max(concurrency / workers, 1.0)
    step = closed_loop_terms(config, deployment, concurrency, prompt, answer, part)[WAITS:-2].sum()
    return np.array([1e-2, 1e-3 * clients, own, own * clients, float(step)])


def predict(
    config: ModelConfig,
    deployment: Deployment,
    concurrency: float,
    prompt: float,
    answer: float,
    part: Hardware,
    factors: Factors,
    guessed: bool = False,
) -> Prediction:
    """Both times in the closed loop of `closed_loop_terms`, with their 80% intervals."""
    case = case_of(config, deployment, part, guessed)
    step = closed_loop_terms(config, deployment, concurrency, prompt, answer, part)
    first = ttft_terms(config, deployment, concurrency, prompt, answer, part)
    speed = tokens_per_step(deployment.draft, deployment.accept)
    return Prediction(
        ttft=_estimate(factors.ttft, first, case, 1.0), tpot=_estimate(factors.tpot, step, case, speed)
    )


def predict_run(run: ServingRun, factors: Factors) -> Prediction | None:
    """From the row's inputs alone; None when its model, accelerator or precision is not known."""
    if run.config is None or run.part is None or run.unknown:
        return None
    return predict(
        run.config,
        run.deployment,
        run.concurrency,
        run.prompt,
        run.answer,
        run.part,
        factors,
        run.guessed,
    )


def _estimate(law: Law, terms_K: Array, case: Case, speed: float) -> Estimate:
    value = float(terms_K @ law.factors(case)) / speed
    low, high = law.interval(case)
    return Estimate(value, value * low, value * high)
