"""A case's prediction from its inputs alone: counting, memory, step time, hours, goodput, laws, serving."""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mythos.plan import cases as read
from mythos.plan import laws, run
from mythos.plan.assumed import packaged as packaged_assumptions
from mythos.plan.cases import Case, NoData
from mythos.plan.efficiencies import Efficiencies
from mythos.plan.errors import PlanError
from mythos.plan.hardware import Hardware, peak
from mythos.plan.layout import Layout
from mythos.plan.memory import Kernels, RankMemory, memory
from mythos.plan.predict_serving import predict_serving
from mythos.plan.predict_sums import named, predict_sum
from mythos.plan.scaling import FLOPS_PER_PARAMETER_AND_TOKEN, Law
from mythos.plan.step import Step, leaves_domain, step
from mythos.spec import counting
from mythos.spec.config import ModelConfig

Group = Literal["exact", "dense", "moe", "hours", "memory", "goodput", "serving"]
GIB = float(1 << 30)
# Sequences of a step where the case does not say: this many tokens, as the published runs of their size had.
_BATCH_TOKENS, _LARGE_BATCH_TOKENS, _LARGE = 4 << 20, 16 << 20, 8192
_ROUTED_BATCH_TOKENS, _ROUTED_LARGE = 60 << 20, 1024  # DeepSeek-V3 and Kimi K2
_DUAL_PIPE_HIDES = 0.9  # of dispatch and combine (arXiv 2412.19437, section 3.2.1: nearly all)
_LARGE_BUBBLE = 0.25  # of a step: beyond it, stages are split into chunks
_FAILURES_PER_MILLION_HOURS = 19.7  # Llama 3: 419 in 54 days on 16,384 (arXiv 2407.21783)
_RESTART_MINUTES, _CHECKPOINT_SECONDS = 8.7, 5.0
_UNEMBEDDING_ONLY = {"gpt_oss"}  # cards that leave the input embedding out of active parameters


@dataclass(frozen=True, slots=True)
class Prediction:
    """`group` says which spread of errors its interval has; `detail` which part of the scores it is for."""

    value: float
    group: Group
    detail: str = ""
    low: float | None = None  # where the case's own ranges give the interval
    high: float | None = None
    open: tuple[float, float] = (0.0, 0.0)  # logarithms, down and up, of what the case leaves open


def predict(case: Case, eff: Efficiencies) -> Prediction:
    """NoData, UnknownModel (both MythosError) or PlanError when there can be none."""
    summed = predict_sum(case)
    if summed is not None:
        return Prediction(summed, "exact")
    handler = _HANDLERS.get(case.kind) or (_cache if "kv" in f"{case.kind} {case.metric}".lower() else None)
    if handler is None:
        raise NoData(f"nothing here predicts {case.kind!r:.40}")
    found = handler(case, eff)
    if not math.isfinite(found.value):
        raise NoData("the case's inputs give no finite number")
    return found


# ---- counting


def _parameters(case: Case, eff: Efficiencies) -> Prediction:
    return Prediction(counting.parameters(read.shape(case.inputs)), "exact")


def _active(case: Case, eff: Efficiencies) -> Prediction:
    config = read.shape(case.inputs)
    value = counting.active_parameters(config)
    found = case.inputs.get("hf_config")
    if isinstance(found, Mapping) and found.get("model_type") in _UNEMBEDDING_ONLY and not config.tied:
        value -= config.vocab * config.width
    return Prediction(value, "exact")


def _cache(case: Case, eff: Efficiencies) -> Prediction:
    config = read.shape(case.inputs)
    width = read.number(case.inputs, "bytes_per_value", "kv_bytes", "dtype_bytes") or 2
    return Prediction(width * counting.kv_bytes_per_token(config, 1), "exact")


# ---- training time


def _training(case: Case, eff: Efficiencies) -> Prediction:
    inputs, metric = case.inputs, case.metric
    if "flops" in metric and "tflops" not in metric:
        sequence = int(read.needed(inputs, "seq_len", "sequence"))
        per_token = counting.training_flops_per_token(read.shape(inputs), sequence)
        return Prediction(per_token * _flop_unit(case.unit), "exact")
    total, seconds = read.number(inputs, "total_training_flops"), read.number(inputs, "total_training_time_s")
    if total and seconds:
        part, count = read.machine(inputs)
        return Prediction(total / seconds / count / peak(part, read.precision(inputs)), "exact")
    config = read.shape(inputs)
    done, layout = trained(config, inputs, eff)
    group: Group = "dense" if config.moe is None else "moe"
    faster, slower = _left_open(config, inputs, eff, done, layout)
    if metric == "iteration_time" or "iteration" in case.unit or "second" in case.unit.split("/")[0]:
        seconds = done.seconds * (1e3 if case.unit.startswith("ms") else 1)
        return Prediction(seconds, group, "time", open=(faster, slower))
    if "token" in metric or "token" in case.unit:
        shared = 1 if "gpu" not in metric and "gpu" not in case.unit.lower() else layout.accelerators
        value = done.tokens_per_second / shared
    elif "tflops" in metric or "TFLOP" in case.unit:
        value = done.flops / done.seconds / layout.accelerators / 1e12
    else:
        value = done.hfu if metric == "hfu" else done.mfu
    return Prediction(value, group, "throughput", open=(slower, faster))


def _flop_unit(unit: str) -> float:
    return {"G": 1e-9, "T": 1e-12}.get(unit[:1], 1.0) if unit[1:].startswith("FLOP") else 1.0


def _hours(case: Case, eff: Efficiencies) -> Prediction:
    """Accelerator-hours: from a stated rate where there is one, else from the predicted step and goodput."""
    inputs = case.inputs
    tokens = read.needed(inputs, "tokens", "training_tokens")
    config = read.shape(inputs)
    sequence = int(read.number(inputs, "seq_len", "sequence") or 4096)
    rate = named(inputs, r"tflops\w*")
    share = named(inputs, r"goodput\w*|effective_training_time\w*|ettr")
    if rate is not None:
        simple = "6" in str(inputs.get("convention", "")) and "attention" not in str(inputs.get("convention"))
        per_token = (
            FLOPS_PER_PARAMETER_AND_TOKEN * counting.active_parameters(config)
            if simple
            else counting.training_flops_per_token(config, sequence)
        )
        return Prediction(tokens * per_token / (rate * 1e12) / (share or 1) / run.HOUR, "exact")
    done, layout = trained(config, inputs, eff)
    share = share or _effective(layout.accelerators)
    hours = tokens / done.tokens_per_second * layout.accelerators / share / run.HOUR * eff.whole_run
    detail = "dense" if config.moe is None else "moe"
    return Prediction(hours, "hours", detail, open=_left_open(config, inputs, eff, done, layout))


def _effective(accelerators: int) -> float:
    between = run.mean_time_between_failures(accelerators, _FAILURES_PER_MILLION_HOURS)
    interval = run.checkpoint_interval(between, _CHECKPOINT_SECONDS)
    return float(run.goodput(between, _CHECKPOINT_SECONDS, _RESTART_MINUTES * 60, interval))


def trained(config: ModelConfig, inputs: Mapping[str, Any], eff: Efficiencies) -> tuple[Step, Layout]:
    """The step that the case describes; what it leaves open is chosen as users do: the fastest that fits."""
    part, count = read.machine(inputs)
    kinds = read.kernels(inputs)
    best: tuple[float, Step, Layout] | None = None
    problem: PlanError | None = None
    for open_layout in _layouts(config, inputs, part, count):
        try:
            layout = _fitting(config, open_layout, part, kinds, read.recompute(inputs))
            done = step(config, layout, part, _recipe(inputs, layout, part, eff), kernels=kinds)
        except PlanError as error:
            problem = error
            continue
        per_accelerator = done.tokens_per_second / layout.accelerators
        if best is None or per_accelerator > best[0]:
            best = (per_accelerator, done, layout)
    if best is None:
        raise problem or NoData("the case's accelerators and batch fit no layout")
    return best[1], best[2]


def _left_open(
    config: ModelConfig, inputs: Mapping[str, Any], eff: Efficiencies, done: Step, layout: Layout
) -> tuple[float, float]:
    """Logarithms of how much less and more time the step takes at the ends of `dispatch`, where the case does
    not say whether its recipe hides the dispatch; (0, 0) where it cannot."""
    part, _ = read.machine(inputs)
    if _dual_pipe(inputs):
        return 0.0, 0.0
    known = next(one for one in packaged_assumptions() if one.name == "dispatch")
    kinds = read.kernels(inputs)
    fast, slow = (
        step(
            config,
            layout,
            part,
            _recipe(inputs, layout, part, replace(eff, overlap_dispatch=end)),
            kernels=kinds,
        ).seconds
        for end in (known.high, known.low)
    )
    return math.log(done.seconds / fast), math.log(slow / done.seconds)


def _recipe(inputs: Mapping[str, Any], layout: Layout, part: Hardware, eff: Efficiencies) -> Efficiencies:
    """With DualPipe nearly all of the dispatch is hidden; where the case leaves the pipeline's schedule open,
    as much as `dispatch` says."""
    if _dual_pipe(inputs):
        return replace(eff, overlap_ep=_DUAL_PIPE_HIDES, overlap_dispatch=_DUAL_PIPE_HIDES)
    given = inputs.get("layout")
    stated = isinstance(given, Mapping) and ("vp" in given or "virtual" in given)
    if not stated and layout.pp > 1 and leaves_domain(layout, part):
        return replace(eff, overlap_ep=eff.overlap_dispatch)
    return eff


def _dual_pipe(inputs: Mapping[str, Any]) -> bool:
    return "dualpipe" in str(inputs).lower()


def _layouts(config: ModelConfig, inputs: Mapping[str, Any], part: Hardware, count: int) -> list[Layout]:
    """The layout of the case, or the usual ones where it gives none; chunks where it leaves them open."""
    given = inputs.get("layout")
    sequence = int(read.needed(inputs, "seq_len", "sequence"))
    if isinstance(given, Mapping) and given:
        if "vp" in given or "virtual" in given or int(given.get("pp") or 1) == 1:
            return [_layout(config, inputs, count, sequence)]
        chunks = [v for v in (1, 2, 3, 4, 6, 8) if int(given["pp"]) * v <= config.layers + 2]
        return [_layout(config, {**inputs, "virtual": v}, count, sequence) for v in chunks]
    found = []
    experts = (1, 8, 16, 32, 64) if config.moe is not None else (1,)
    for tp, pp, ep, micro in itertools.product((1, 2, 4, 8), (1, 2, 4, 8, 16), experts, (1, 2, 4)):
        dp = count // (tp * pp)
        if dp == 0 or tp > part.domain or not _splits(config.layers, pp):
            continue
        mapping = {"tp": tp, "pp": pp, "ep": ep, "vp": 1, "dp": dp}
        try:
            layout = _layout(config, {**inputs, "layout": mapping, "micro_batch": micro}, count, sequence)
        except PlanError:
            continue
        found.append(layout)
        if (pp - 1) / layout.micro_batches > _LARGE_BUBBLE:
            found += [replace(layout, virtual=v) for v in (2, 4) if _splits(config.layers, pp * v)]
    return found


def _splits(layers: int, stages: int) -> bool:
    """Whether a recipe would make so many stages: equal ones, or, of layers that no pipeline divides, uneven
    ones (61 layers of DeepSeek-V3 are run in 16 ranks)."""
    return layers % stages == 0 or (layers % 2 == 1 and stages <= layers)


def _layout(config: ModelConfig, inputs: Mapping[str, Any], count: int, sequence: int) -> Layout:
    tp, pp, cp = (read.whole(inputs, name) or 1 for name in ("tp", "pp", "cp"))
    ep, expert_tp = read.whole(inputs, "ep") or 1, read.whole(inputs, "etp", "expert_tp") or 1
    dp = read.whole(inputs, "dp") or max(1, count // (tp * pp * cp))
    micro = read.whole(inputs, "micro_batch", "mbs") or 1
    batch = read.whole(inputs, "global_batch", "gbs")
    micro_batches = read.whole(inputs, "microbatches", "micro_batches")
    if batch is None and micro_batches is not None:
        batch = micro_batches * micro * dp
    if batch is None:
        wanted = _LARGE_BATCH_TOKENS if count >= _LARGE else _BATCH_TOKENS
        if config.moe is not None and count >= _ROUTED_LARGE:
            wanted = _ROUTED_BATCH_TOKENS
        batch = max(round(wanted / sequence / (micro * dp)), 1) * micro * dp
    return Layout(
        tp=tp,
        pp=pp,
        ep=ep if config.moe is not None else 1,
        dp=dp,
        cp=cp,
        virtual=read.whole(inputs, "vp", "virtual") or 1 if pp > 1 else 1,
        expert_tp=expert_tp if config.moe is not None else 1,
        micro_batch=micro,
        global_batch=batch,
        sequence=sequence,
        recompute=read.recompute(inputs) or "none",
        precision=read.precision(inputs),
        optimizer=read.optimizer(inputs),
        sharding=read.sharding(inputs),
        sequence_parallel=read.splits_sequence(inputs),
    )


def _fitting(
    config: ModelConfig, layout: Layout, part: Hardware, kinds: Kernels, stated: str | None
) -> Layout:
    """With the least recomputation that fits, where the case does not state it."""
    if stated is not None:
        return layout
    for recompute in ("none", "selective"):
        tried = replace(layout, recompute=recompute)
        if memory(config, tried, kinds).worst.needed <= part.usable_bytes:
            return tried
    return replace(layout, recompute="full")


# ---- memory


def _memory(case: Case, eff: Efficiencies) -> Prediction:
    inputs, metric = case.inputs, case.metric or "peak"
    config = read.shape(inputs)
    sequence = int(read.needed(inputs, "seq_len", "sequence"))
    count = read.machine(inputs)[1] if "hardware" in inputs else 1
    layout = _layout(config, {"microbatches": 1 << 20, **inputs}, count, sequence)
    kinds = read.kernels(inputs)
    if metric in ("activation", "activations", "states"):
        layers_only = "no embeddings" in str(inputs.get("optimizer", ""))
        return Prediction(
            _first_rank(config, layout, kinds, metric, layers_only) / _bytes(case.unit), "exact"
        )
    ranks = memory(config, layout, kinds).ranks
    attribute = "static" if metric == "static" else "peak"
    worst = max(getattr(rank, attribute) for rank in ranks)
    return Prediction(worst / _bytes(case.unit), "memory", attribute)


def _first_rank(config: ModelConfig, layout: Layout, kinds: Kernels, metric: str, layers_only: bool) -> float:
    """Of the first pipeline rank, where most micro-batches are in flight; layers alone for activations."""
    first: RankMemory = memory(config, layout, kinds).ranks[0]
    if metric != "states":
        return first.activations
    if layers_only:
        first = memory(replace(config, vocab=1, learned_positions=0), layout, kinds).ranks[0]
    return first.static - first.buffers


def _bytes(unit: str) -> float:
    for name, size in (("GiB", GIB), ("MiB", 1 << 20), ("GB", 1e9), ("MB", 1e6)):
        if name in unit:
            return float(size)
    return 1.0


# ---- the run


def _goodput(case: Case, eff: Efficiencies) -> Prediction:
    inputs = case.inputs
    rate = read.number(inputs, "failures_per_million_gpu_hours")
    if case.metric.startswith(("mtbf", "mtti")):
        gpus = read.needed(inputs, "gpus", "accelerators")
        if rate is None:
            nodes = read.needed(inputs, "failures_per_1000_node_days")
            rate = nodes / 1000 / 24 / (read.number(inputs, "gpus_per_node") or 8) * 1e6
        return Prediction(float(run.mean_time_between_failures(gpus, rate)) / run.HOUR, "exact")
    hours = read.number(inputs, "mtti_hours", "mtbf_hours")
    if hours is None:
        gpus = read.needed(inputs, "gpus", "accelerators")
        if rate is None:
            raise NoData("the case gives no failure rate")
        hours = float(run.mean_time_between_failures(gpus, rate)) / run.HOUR
    between = hours * run.HOUR
    checkpoint = read.number(inputs, "checkpoint_seconds", "checkpoint_s")
    if case.metric.startswith(("checkpoint_interval", "young", "daly", "interval")):
        cost = read.needed(inputs, "checkpoint_seconds", "checkpoint_s")
        minutes = 60.0 if "min" in case.unit else run.HOUR if "hour" in case.unit else 1.0
        return Prediction(math.sqrt(2 * cost * between) / minutes, "exact")
    restart = _range(inputs, "detect_and_restart_minutes", "restart_minutes")
    interval = _range(inputs, "checkpoint_interval_minutes", "interval_minutes")
    cost = _CHECKPOINT_SECONDS if checkpoint is None else checkpoint
    if "async" in str(inputs.get("checkpoint", "")):
        cost = 0.0
    low, middle, high = (
        float(run.goodput(between, cost, 60 * restart[end], 60 * interval[end])) for end in (2, 1, 0)
    )
    return Prediction(middle, "goodput", low=low, high=high)


def _range(inputs: Mapping[str, Any], *names: str) -> tuple[float, float, float]:
    """Low end, geometric mean and high end of a range of the case; the low and high thirds of its log."""
    for name in names:
        ends = inputs.get(f"{name}_range")
        if isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends):
            low, high = float(ends[0]), float(ends[1])
            return low, math.sqrt(low * high), high
        value = read.number(inputs, name)
        if value is not None:
            return value, value, value
    raise NoData(f"the case gives no {names[0]}")


# ---- scaling laws


def _law(case: Case, eff: Efficiencies) -> Prediction:
    """A law whose coefficients the case states: "X=a*C^b" in words, or E, A, B, alpha, beta as `params`."""
    inputs, metric = case.inputs, case.metric.lower()
    compute = read.number(inputs, "C", "flops", "compute")
    params = inputs.get("params")
    if isinstance(params, Mapping):
        return Prediction(_parametric(case, params, compute), "exact")
    if compute is None:
        raise NoData("the case gives no compute")
    found = re.findall(r"([A-Za-z_]+)\s*=\s*([\d.eE+-]+)\s*\*\s*C\^\(?(-?[\d.]+)", str(inputs.get("law", "")))
    meanings = {"lr": ("eta", "lr"), "batch": ("b",), "m": ("m",), "d": ("d",), "n": ("n",), "tokens": ("d",)}
    names = next((known for prefix, known in meanings.items() if metric.startswith(prefix)), (metric,))
    for name, factor, exponent in found:
        if name.lower() in names:
            return Prediction(float(factor) * compute ** float(exponent), "exact")
    raise NoData("the case states no law that can be read")


def _parametric(case: Case, params: Mapping[str, Any], compute: float | None) -> float:
    inputs, metric = case.inputs, case.metric.lower()
    values = {str(key): float(value) for key, value in params.items() if isinstance(value, int | float)}
    logs = "a" in values and "A" not in values and values["a"] < 50  # written as logarithms

    def coefficient(small: str) -> float:
        value = values.get(small.upper(), values.get(small))
        if value is None:
            raise NoData(f"the case's law has no {small}")
        return math.exp(value) if logs else value

    law = Law(coefficient("e"), coefficient("a"), values["alpha"], coefficient("b"), values["beta"])
    unique = read.number(inputs, "U", "unique_tokens")
    if metric == "loss":
        n, d = read.needed(inputs, "N", "parameters"), read.needed(inputs, "D", "tokens")
        if unique is not None:
            d = _repeated(d, unique, values.get("rd_star", laws.REPEATED_TOKENS))
            best = float(laws.optimal_parameters(law, unique))
            n = _repeated(n, best, values.get("rn_star", laws.REPEATED_PARAMETERS))
        return law.loss(n, d)
    if compute is None:
        raise NoData("the case gives no compute")
    both = law.alpha + law.beta
    lean = (law.alpha * law.a / (law.beta * law.b)) ** (1 / both)
    product = compute / FLOPS_PER_PARAMETER_AND_TOKEN
    best_n = lean * product ** (law.beta / both)
    if metric.startswith(("d", "tokens_per", "ratio")):
        tokens = product / best_n
        return tokens if metric.startswith("d") else tokens / best_n
    return best_n


def _repeated(amount: float, once: float, constant: float) -> float:
    """U + U R (1 - e^(-(D/U - 1)/R)) of what exceeds `once` (arXiv 2305.16264)."""
    if amount <= once:
        return amount
    return once + once * constant * -math.expm1(-(amount / once - 1) / constant)


def _serving(case: Case, eff: Efficiencies) -> Prediction:
    found = predict_serving(case, eff)
    first = "ttft" if case.metric.startswith("ttft") else "tpot" if case.metric.startswith("tpot") else ""
    return Prediction(found.value, "serving", first, found.low, found.high)


_HANDLERS = {
    "param_count": _parameters,
    "active_param_count": _active,
    "kv_bytes_per_token": _cache,
    "kv_cache": _cache,
    "train_mfu": _training,
    "train_gpu_hours": _hours,
    "memory_per_gpu": _memory,
    "goodput": _goodput,
    "serving_tokens_per_s": _serving,
    "chinchilla_fit": _law,
}
