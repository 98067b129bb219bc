"""The one training loop: rows in, weights out; resumes bit for bit from its last checkpoint."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from mythos.model.transformer import Transformer
from mythos.records.keyring import Keyring
from mythos.spec.counting import flops_per_token
from mythos.store.home import private_directory
from mythos.train.balance import load, rebalance, routers
from mythos.train.batch import Batch, Batches, further
from mythos.train.checkpoint import Checkpoint, save
from mythos.train.checkpoint import load as load_checkpoint
from mythos.train.forward import Routed, Trainee
from mythos.train.loss import weighted_cross_entropy
from mythos.train.machine import matmul_peak
from mythos.train.optim import Optimiser
from mythos.train.preference import preference_loss
from mythos.train.reverse_kl import reverse_kl
from mythos.train.settings import Budget, TrainError, TrainSettings, rate_factor
from mythos.train.weights import computing

METRICS = "metrics.jsonl"
CHECKPOINT_SECONDS = 300.0
FORM = 3  # of a checkpoint's tensors: one of another form belongs to another version
# Weight of the mean loss of prediction modules beside the model's own (arXiv 2412.19437, section 4.2).
MTP_WEIGHT = 0.3
PATIENCE = 10  # steps in a row whose gradient is not finite before the run is given up


@dataclass(frozen=True, slots=True)
class Metrics:
    """One step, as it stands in the metrics file. `loss` is in nats per counted target, or per pair."""

    step: int
    tokens: int
    loss: float
    rate: float  # the factor on the learning rates
    gradient_norm: float
    tokens_per_second: float
    peak_share: float  # of this machine's measured bf16 matrix products
    seconds: float  # of training, without pauses and compiling
    seconds_left: float
    expert_load: float | None  # the busiest expert's load over the mean, worst layer


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run ended with: the trained parameters and the buffers, float32, under the model's names."""

    tensors: Mapping[str, Tensor]
    steps: int
    tokens: int
    seconds: float
    loss: float  # mean of the last tenth of the steps; 0 when the metrics file is gone


@dataclass(slots=True)
class _State:
    """What a checkpoint holds beside tensors. `steps` is None while a budget of seconds runs its
    stable part.
    """

    step: int = 0
    timed: int = 0  # steps that `seconds` counts
    seconds: float = 0.0
    decay_from: int | None = None
    steps: int | None = None


def train(
    run: Path,
    keyring: Keyring,
    model: Transformer,
    batches: Batches,
    settings: TrainSettings,
    budget: Budget,
    inputs: Mapping[str, Any],
    report: Callable[[Metrics], None] = lambda _: None,
    pause: Callable[[], float] = lambda: 0.0,
    compiled: bool = True,
) -> Trained:
    """Trains `model` (float32; put into training form in place) in the directory `run`, from its checkpoint
    if any.

    Only parameters that require a gradient are trained. `inputs` says what the run is made of (data, parents,
    code): a checkpoint of other inputs, settings or budget is a TrainError. `pause` is called between
    batches, waits as long as the machine is needed elsewhere, and returns the seconds it took. The same
    inputs, settings, budget of tokens, torch, machine and `compiled` give the same bits, however often the
    run is stopped.
    """
    private_directory(run)
    facts = {"inputs": inputs, "settings": asdict(settings), "budget": asdict(budget), "form": FORM}
    facts = json.loads(json.dumps(facts))  # as it is read back: no tuples
    optimiser, state = Optimiser(model, settings), _State()  # masters first: what is computed with is rounded
    computing(model)
    if found := load_checkpoint(run, keyring):
        _check_same(run, found.facts, facts)
        state = _State(**found.facts["state"])
        optimiser.restore(found.tensors, ended=state.step == state.steps)
        for name, buffer in model.named_buffers():
            buffer.copy_(found.tensors[f"buffer.{name}"])
    elif budget.tokens is not None:
        state.steps = max(1, round(budget.tokens / settings.step_tokens))
        state.decay_from = state.steps - round(state.steps * settings.decay_share)
    losses = _resume_metrics(run / METRICS, state.step)
    trainee = Trainee(model, compiled, settings.recompute, settings.balance == "quantile")
    flops = 3 * flops_per_token(model.config, (settings.length + 1) // 2) * settings.step_tokens
    if not trainee.head_VD.requires_grad:  # it has two products, not three
        flops -= 2 * trainee.head_VD.numel() * settings.step_tokens
    peak, saved, spoiled, fresh = matmul_peak(), time.monotonic(), 0, True
    with _written(run) as out:
        while state.steps is None or state.step < state.steps:
            began = time.monotonic()
            first, waited = state.step * settings.step_rows, pause()
            parts = [batches(first + i * settings.rows, settings.rows) for i in range(settings.accumulate)]
            loss, routed, paused = _gradient(trainee, optimiser, parts, pause, compiled)
            share = _spent(state, budget)
            factor = rate_factor(state.step, settings, state.decay_from, state.steps, share)
            norm = optimiser.step(factor)
            busiest = _rebalance(model, routed, settings) if math.isfinite(norm) else None
            took = time.monotonic() - began - paused - waited
            state.step += 1
            if not (compiled and fresh):  # a process's first step compiles: that is no training
                state.seconds += took
                state.timed += 1
            fresh = False
            spoiled = 0 if math.isfinite(norm) and math.isfinite(loss) else spoiled + 1
            if spoiled >= PATIENCE:
                raise TrainError(
                    f"{run.name}: the gradient was not finite for {PATIENCE} steps, "
                    f"from step {state.step - PATIENCE + 1} on.",
                    "Lower the learning rate, or look for damaged data in the rows of these steps.",
                )
            _plan_end(state, settings, budget)
            metrics = Metrics(
                step=state.step,
                tokens=state.step * settings.step_tokens,
                loss=loss,
                rate=factor,
                gradient_norm=norm,
                tokens_per_second=settings.step_tokens / took,
                peak_share=flops / took / peak,
                seconds=state.seconds,
                seconds_left=_seconds_left(state, budget),
                expert_load=busiest,
            )
            losses.append(loss)
            out.write(json.dumps(asdict(metrics)) + "\n")
            report(metrics)
            ended = state.step == state.steps
            if time.monotonic() - saved > CHECKPOINT_SECONDS or ended:
                out.flush()
                os.fsync(out.fileno())
                buffers = {f"buffer.{name}": buffer for name, buffer in model.named_buffers()}
                tensors = optimiser.state(ended) | buffers
                save(run, keyring, Checkpoint(facts | {"state": asdict(state)}, tensors))
                saved = time.monotonic()
    tensors = optimiser.masters | dict(model.named_buffers())
    tail = losses[-max(1, len(losses) // 10) :]
    return Trained(
        tensors, state.step, state.step * settings.step_tokens, state.seconds, sum(tail) / max(1, len(tail))
    )


@contextmanager
def _written(run: Path) -> Iterator[TextIO]:
    """The metrics file, to be written on; TrainError when the file system refuses."""
    try:
        with (run / METRICS).open("a") as out:
            yield out
    except OSError as error:
        raise TrainError(
            f"{run / METRICS} cannot be written ({error.strerror}).",
            "Free some disk space; the run goes on from its last checkpoint.",
        ) from None


def _gradient(
    trainee: Trainee,
    optimiser: Optimiser,
    parts: Sequence[Batch],
    pause: Callable[[], float],
    compiled: bool,
) -> tuple[float, list[list[Routed]], float]:
    """Puts the gradient of a step into the optimiser: its loss, what routers did in each batch,
    seconds paused.
    """
    count, total, routed, paused = max(1, sum(part.count for part in parts)), 0.0, [], 0.0
    for part in parts:
        paused += pause()
        x_TD, of = trainee.hidden(part.packed)
        head_VD, targets_TA, weights_TA = trainee.head_VD, part.targets_TA, part.weights_TA
        if part.teachers:
            loss = reverse_kl(x_TD, head_VD, part.teachers, weights_TA[:, 0]) / count
        elif part.preference is None:
            loss = weighted_cross_entropy(x_TD, head_VD, targets_TA, weights_TA / count, compiled)
        else:
            loss = preference_loss(x_TD, head_VD, part, compiled) / count
        total += loss.item()
        predicted, of_ahead = trainee.ahead(part.packed, x_TD)
        if part.preference is None:  # prediction modules learn from text, not from pairs
            for places, y_TD in enumerate(predicted, 1):
                later = further(part, places)
                extra = weighted_cross_entropy(y_TD, head_VD, later.targets_TA, later.weights_TA, compiled)
                loss = loss + MTP_WEIGHT / len(predicted) / count * extra
        loss.backward()
        optimiser.collect()
        routed.append(of + of_ahead)
    return total, routed, paused


def _rebalance(model: Transformer, routed: list[list[Routed]], settings: TrainSettings) -> float | None:
    """Moves the selection biases; the busiest expert's load over the mean in this step, in the
    worst layer.
    """
    if not routed[0]:
        return None
    worst = 0.0
    for router, *batches in zip(routers(model), *routed, strict=True):
        scores_TE = torch.cat([of.scores_TE for of in batches])
        bias_E = torch.stack([of.bias_E for of in batches]).mean(0)
        load_E = load(router, scores_TE, bias_E).float()
        worst = max(worst, (load_E.max() / load_E.mean()).item())
        if settings.balance != "none":
            rebalance(router, scores_TE, bias_E, settings.balance)
    return worst


def _plan_end(state: _State, settings: TrainSettings, budget: Budget) -> None:
    """Begins the decay of a budget of seconds when what is left of it is as long as the decay has to be, and
    of one of a few steps at once. The last step follows the pace of all steps so far, also while decaying: a
    machine that becomes faster or slower spends the budget, no less and no more.
    """
    if budget.seconds is None or not state.timed:
        return
    left = (budget.seconds - state.seconds) * state.timed / state.seconds
    if state.decay_from is None:
        if max(1, round(state.step * settings.decay_share / (1 - settings.decay_share))) < left:
            return
        state.decay_from = state.step
    state.steps = state.step + max(0, round(left))


def _spent(state: _State, budget: Budget) -> float:
    """The part of the budget that is spent once the step is done that begins now."""
    if budget.seconds is not None:
        return state.seconds / budget.seconds
    assert state.steps is not None
    return (state.step + 1) / state.steps


def _seconds_left(state: _State, budget: Budget) -> float:
    if state.steps is not None:
        return state.seconds / max(1, state.timed) * (state.steps - state.step)
    assert budget.seconds is not None
    return max(0.0, budget.seconds - state.seconds)


def _check_same(run: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for key, value in wanted.items():
        if found.get(key) != value:
            raise TrainError(
                f"The checkpoint in {run} is of a run with other {key}.",
                "Give the run a directory of its own, or remove that one.",
            )


def _resume_metrics(path: Path, step: int) -> list[float]:
    """Drops what the file tells of steps after the checkpoint; the losses up to it."""
    kept = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break  # the line that a killed process was writing
            if row["step"] > step:
                break
            kept.append((line, row["loss"]))
        draft = path.with_suffix(".draft")
        draft.write_text("".join(line + "\n" for line, _ in kept))
        os.replace(draft, path)
    return [loss for _, loss in kept]
