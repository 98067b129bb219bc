"""A serving case's TPOT, TTFT or throughput from its inputs alone, in milliseconds or tokens per second."""

from mythos.plan import cases as read
from mythos.plan.cases import Case, NoData, UnknownModel
from mythos.plan.efficiencies import Efficiencies, matmul_rate
from mythos.plan.factors import packaged
from mythos.plan.hardware import Hardware
from mythos.plan.published import shape as published_shape
from mythos.plan.scaling import Estimate
from mythos.plan.serving import Deployment, throughput
from mythos.plan.serving import Precision as ServingPrecision
from mythos.plan.serving_predict import predict as predict_times
from mythos.spec.config import ModelConfig
from mythos.spec.counting import active_parameters, flops_per_token, kv_bytes

_ONE_BATCH_SPREAD = 1.4  # judgement
_PRECISIONS: dict[str, ServingPrecision] = {"fp8": "fp8", "fp4": "fp4", "nvfp4": "fp4", "int4": "int4"}


def predict_serving(case: Case, eff: Efficiencies) -> Estimate:
    """With its 80% interval. NoData or UnknownModel when the case gives too little."""
    inputs = case.inputs
    config = _shape(case)
    part, count = read.machine(inputs)
    if not inputs.get("backend") and read.number(inputs, "batch") is not None:
        return _one_batch(case, config, part, eff)
    tp = read.whole(inputs, "tp") or count
    groups = read.whole(inputs, "attention_dp") or 1
    across = tp * groups
    ep = read.whole(inputs, "moe_ep", "ep") or 1
    deployment = Deployment(
        tp=max(tp // groups, 1) if across > count else tp,
        dp=groups,
        ep=ep if config.moe is not None else 1,
        replicas=max(count // min(across, count), 1),
        precision=_precision(case),
        engine=str(inputs.get("backend") or ""),
        version=str(inputs.get("backend_version") or ""),
    )
    clients = read.number(inputs, "concurrency", "batch", "batch_size") or 1.0
    prompt = read.needed(inputs, "isl", "prompt", "prompt_tokens")
    answer = read.number(inputs, "osl", "answer", "output_tokens") or 2.0
    found = predict_times(config, deployment, clients, prompt, answer, part, packaged())
    if case.metric.startswith("ttft") or "prefill" in case.unit:
        return _scaled(found.ttft, 1e3)
    if case.metric.startswith("tpot") or "ms" in case.unit.split():
        return _scaled(found.tpot, 1e3)
    if "token" in case.metric or "token" in case.unit:
        shared = deployment.accelerators * deployment.replicas if "gpu" in case.unit.lower() else 1
        rates = [
            throughput(clients, answer, ttft, tpot) / shared
            for ttft, tpot in (
                (found.ttft.value, found.tpot.value),
                (found.ttft.high, found.tpot.high),
                (found.ttft.low, found.tpot.low),
            )
        ]
        return Estimate(*rates)
    raise NoData(f"nothing here predicts {case.metric!r:.40} of serving")


def _one_batch(case: Case, config: ModelConfig, part: Hardware, eff: Efficiencies) -> Estimate:
    """Of one batch by itself, without an engine: weights and caches read at the rate training reaches."""
    inputs, tp = case.inputs, read.whole(case.inputs, "tp") or 1
    batch, prompt = read.needed(inputs, "batch"), int(read.needed(inputs, "prompt", "isl"))
    width = 1 if _precision(case) in ("fp8", "fp4") else 2
    link, reduces = part.scale_up * eff.scale_up, 2 * config.layers * (tp > 1)
    wait = reduces * eff.collective
    if case.metric.startswith("ttft") or "prefill" in case.unit:
        tokens = batch * prompt
        flops = tokens * flops_per_token(config, prompt // 2)
        moved = reduces * tokens * config.width * 2 * 2 * (tp - 1) / tp
        seconds = flops / tp / matmul_rate(eff, part, "bf16") + moved / link + wait
    else:
        read_bytes = width * active_parameters(config) + batch * kv_bytes(config, prompt, 2)
        seconds = read_bytes / tp / (part.bandwidth * eff.bandwidth) + wait
    low, high = seconds / _ONE_BATCH_SPREAD, seconds * _ONE_BATCH_SPREAD
    return _scaled(Estimate(seconds, low, high), 1e3)


def _shape(case: Case) -> ModelConfig:
    """The case's own, else the published one of that name."""
    try:
        return read.shape(case.inputs)
    except UnknownModel:
        name = case.inputs.get("model_path") or case.inputs.get("model_name")
        found = published_shape(name) if isinstance(name, str) else None
        if found is None:
            raise
        return found


def _precision(case: Case) -> ServingPrecision:
    words = str(case.inputs.get("precision") or "").lower()
    for word, kind in _PRECISIONS.items():
        if word in words:
            return kind
    return "bf16"


def _scaled(found: Estimate, by: float) -> Estimate:
    return Estimate(found.value * by, found.low * by, found.high * by)
