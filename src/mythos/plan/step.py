"""Seconds of one training step, part by part: roofline of each kind of operation, communication, bubble.

Each kind of operation of a layer takes the longer of its FLOPs by the reachable matrix rate and its bytes by
the reachable bandwidth; communication its bytes by the reachable link rate, less what hides behind products.
The slowest pipeline rank sets the pace (1F1B, arXiv 2104.04473); (pp - 1) / virtual of its micro-batches are
bubble.
"""

from dataclasses import dataclass

from mythos.plan.efficiencies import DEFAULT, Efficiencies, matmul_rate, packaged
from mythos.plan.hardware import Hardware, peak
from mythos.plan.layout import Layout, check, rank_layers
from mythos.plan.memory import Kernels, rank_parameters
from mythos.spec.config import ModelConfig, MoEConfig
from mythos.spec.counting import (
    attention_flops_per_token,
    is_routed,
    layer_kinds,
    layer_matrices,
    layer_parameters,
    shared_width,
    training_flops_per_token,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of `global_batch` sequences. The parts, in seconds of the slowest rank, sum to `seconds`."""

    seconds: float
    # compute, forward and backward
    matmul: float
    experts: float
    attention: float
    elementwise: float  # norms, activations, casts, permutations: bound by memory bandwidth
    head: float  # logits and loss
    recompute: float
    waiting: float  # of the accelerator for the host
    optimizer: float
    # communication that nothing hides
    tp: float
    ep: float
    cp: float
    pp: float
    dp: float
    bubble: float
    imbalance: float  # what the slowest rank has more than the mean one, and the fullest expert rank
    tokens: int
    flops: float  # model FLOPs of the step: no recomputation
    peak: float  # FLOP/s of all accelerators in the layout's precision
    mfu: float  # against `peak`
    hfu: float  # recomputation counted

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class _Layer:
    """Seconds of one micro-batch in one layer, forward and backward; communication as exposed."""

    matmul: float = 0.0
    experts: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0
    head: float = 0.0
    recompute: float = 0.0
    waiting: float = 0.0
    tp: float = 0.0
    ep: float = 0.0
    cp: float = 0.0

    @property
    def total(self) -> float:
        return sum(getattr(self, name) for name in _PARTS)

    def plus(self, other: "_Layer", times: float = 1.0) -> "_Layer":
        return _Layer(*(getattr(self, name) + times * getattr(other, name) for name in _PARTS))


_PARTS = tuple(_Layer.__dataclass_fields__)
_KERNELS = Kernels()
_PASSES = 3  # forward, and a backward pass of two products
_LOGIT_BYTES = 14  # read and written for each logit by loss and gradient
# Read and written for each parameter: the gradient for its norm, to be scaled and zeroed (20), gradient,
# master copy and two moments by the update (28), the weight from the master copy (6).
_OPTIMIZER_STEP_BYTES = 54
_MUON_PRODUCTS = 5 * 6  # five Newton-Schulz iterations of three products (arXiv 2502.16982), 2 FLOPs a MAC


def step(
    config: ModelConfig,
    layout: Layout,
    part: Hardware,
    efficiencies: Efficiencies | None = None,
    kernels: Kernels | None = None,
) -> Step:
    """The step of `layout` on `part`; PlanError when model, layout and part do not fit each other."""
    check(config, layout)
    eff, ops = efficiencies or packaged(), kernels or Kernels()
    kinds = layer_kinds(config)
    times = {kind: layer_time(config, layout, part, eff, kind, ops.imbalance, ops) for kind in set(kinds)}
    even = {kind: layer_time(config, layout, part, eff, kind, 1.0, ops) for kind in set(kinds)}
    ranks, unbalanced = [], []
    layers = rank_layers(config, layout)
    for rank, own in enumerate(layers):
        last = rank == layout.pp - 1
        whole = (*own, *range(config.layers, config.layers + config.mtp)) if last else own
        found, slower = _Layer(), 0.0
        for kind in set(kinds):
            count = sum(kinds[layer] == kind for layer in whole)
            found = found.plus(even[kind], count)
            slower += count * (times[kind].total - even[kind].total)
        if last:
            found = found.plus(_Layer(head=_head(config, layout, part, eff)), 1 + config.mtp)
        ranks.append(found)
        unbalanced.append(found.total + slower)
    count = layout.micro_batches
    mean = _Layer()
    for found in ranks:
        mean = mean.plus(found, 1 / layout.pp)
    slowest = max(unbalanced)
    own = {name: count * getattr(mean, name) for name in _PARTS}
    hidden = max(range(layout.pp), key=unbalanced.__getitem__)
    dp, optimizer = _end_of_step(config, layout, part, eff, layers[hidden], hidden, ranks[hidden].total)
    parts = own | {
        "optimizer": optimizer,
        "pp": _pipeline(config, layout, part, eff),
        "dp": dp,
        "bubble": (layout.pp - 1) / layout.virtual * slowest,
        "imbalance": count * (slowest - mean.total),
    }
    seconds = sum(parts.values())
    tokens = layout.global_batch * layout.sequence
    flops = tokens * training_flops_per_token(config, layout.sequence)
    whole_peak = layout.accelerators * peak(part, layout.precision)
    again = _recomputed_share(config, layout)
    return Step(
        seconds=seconds,
        **parts,
        tokens=tokens,
        flops=flops,
        peak=whole_peak,
        mfu=flops / seconds / whole_peak,
        hfu=flops * (1 + again) / seconds / whole_peak,
    )


def layer_time(
    config: ModelConfig,
    layout: Layout,
    part: Hardware,
    eff: Efficiencies,
    layer: int,
    imbalance: float = 1.0,
    kernels: Kernels = _KERNELS,
) -> _Layer:
    """Seconds of one micro-batch in the layer numbered `layer`, forward and backward."""
    tokens = layout.micro_batch * layout.sequence / layout.cp
    split = tokens / layout.tp
    around = split if layout.sequence_parallel else tokens
    rate, half_rate = matmul_rate(eff, part, layout.precision), matmul_rate(eff, part, "bf16")
    bandwidth = part.bandwidth * eff.bandwidth
    macs, held = layer_matrices(config, layer), layer_parameters(config, layer)
    routed = is_routed(config, layer)

    products = 2 * _PASSES * (split * (macs.attention + macs.mlp) + around * macs.replicated)
    dense_bytes = _WEIGHT_TRAFFIC * ((held.attention + held.mlp) / layout.tp + held.replicated)
    matmul = max(products / rate, dense_bytes / bandwidth)
    experts = 0.0
    if routed:  # a few rows for each expert: the weights' bytes add to the products' time
        rows = 2 * _PASSES * split * macs.experts / layout.expert_tp * imbalance
        own = held.experts / (layout.ep * layout.expert_tp)
        experts = rows / (rate * eff.grouped) + _WEIGHT_TRAFFIC * own / bandwidth
    core = _PASSES * split * attention_flops_per_token(config, layer, layout.sequence)
    if layer in config.windowed:  # whole tiles are computed, also those that the window cuts
        core *= 1 + _TILE / config.window
    attention = core / (half_rate * eff.attention)
    if not kernels.flash:  # the whole square of scores, written and read by every operation on it
        scores = split * config.heads * layout.sequence
        attention = 2 * core / half_rate + scores * _SCORE_BYTES / bandwidth
    moved = _elementwise_bytes(config, layout, layer, split, around, imbalance)
    if kernels.dropout:
        moved += around * config.width * _DROPOUT_BYTES
    tp = _tensor_parallel(config, layout, part, eff, routed, tokens)
    ep = _expert_parallel(config, layout, part, eff, split, imbalance) if routed else 0.0
    found = _Layer(
        matmul=matmul,
        experts=experts,
        attention=attention,
        elementwise=moved / bandwidth,
        waiting=eff.gap.get(part.name, eff.gap[DEFAULT]) * _kernels(layout, routed),
        tp=tp,
        ep=ep,
        cp=_context_parallel(config, layout, part, eff, layer, split, attention),
    )
    if layout.recompute == "full":
        again = found.matmul + found.experts + found.attention + found.elementwise + found.waiting
        return found.plus(_Layer(recompute=again / _PASSES + (found.tp + found.ep) / 2 + found.cp / 3))
    if layout.recompute == "selective" and not kernels.flash:
        return found.plus(_Layer(recompute=attention / _PASSES))
    if layout.recompute == "selective":
        again = found.elementwise + (matmul if config.mla is not None else 0.0) / 2
        return found.plus(_Layer(recompute=again / _PASSES))
    return found


def _kernels(layout: Layout, routed: bool) -> int:
    """Kernels of one layer, forward and backward: about three for each of four products, six around
    attention, the rest for norms, sums, rotations and activation; routing, permutation, counts; casts."""
    low = layout.precision != "bf16"
    return 36 + 16 * low + (60 + 24 * low if routed else 0)


_TILE = 128
_SCORE_BYTES = 26  # written by the product, scaled and softmaxed, dropped, read by the next; twice backward
_DROPOUT_BYTES = 2 * (2 + 1 + 2)  # two masks, made and applied, and applied again
# Grouped products add no bias. It is spread over the rows, added, and its gradient summed: 20 bytes a value
# of the experts' width for gate and up, in 16 bits; 68 of the model's for down, where it is weighted by the
# router in 32 bits and that weight has a gradient, too (NVIDIA-NeMo/Automodel@36044ad,
# nemo_automodel/components/moe/experts.py, `_apply_bias`).
_BIAS_IN, _BIAS_OUT = 20, 68
_WEIGHT_TRAFFIC = 12  # bytes: a weight read in both passes, its 32-bit gradient read and written


def _elementwise_bytes(
    config: ModelConfig, layout: Layout, layer: int, split: float, around: float, imbalance: float
) -> float:
    """Bytes moved by what is no matrix product, forward and backward, of one micro-batch.

    Two norms (read, write; read twice and write back) and two residual sums: 40 bytes a value of the stream.
    The activation: 16 bytes a value of a gated MLP, 12 of a plain one. Rotations: 8. Below 16 bits, each
    product's operands are read and written twice.
    """
    cast = 0 if layout.precision == "bf16" else 4
    width, dim = config.width, config.head_dim
    moved = around * width * (40 + 2 * cast)
    heads = config.heads + (config.heads if config.mla is not None else config.kv_heads)
    moved += split * heads * dim * (8 + (12 if config.qk_norm else 0) + cast)
    if not is_routed(config, layer):
        return moved + split * config.ffn * ((16 + 3 * cast) if config.gated else (12 + 2 * cast))
    moe = config.moe
    assert moe is not None
    rows = split * moe.top_k * imbalance
    moved += rows * (moe.latent or width) * (16 + 2 * cast)  # permuted, restored, and both backward
    moved += (rows * moe.width / layout.expert_tp + split * shared_width(config)) * (16 + 3 * cast)
    if moe.expert_bias:
        moved += rows * (_BIAS_IN * moe.width / layout.expert_tp + _BIAS_OUT * (moe.latent or width))
    return moved + around * moe.routed * 24


def _head(config: ModelConfig, layout: Layout, part: Hardware, eff: Efficiencies) -> float:
    tokens = layout.micro_batch * layout.sequence / layout.cp
    logits = tokens * config.vocab / layout.tp
    bf16 = matmul_rate(eff, part, "bf16")  # the head stays in 16 bits
    return 2 * _PASSES * logits * config.width / bf16 + logits * _LOGIT_BYTES / (
        part.bandwidth * eff.bandwidth
    )


def _link(part: Hardware, eff: Efficiencies, reach: int, sharing: int = 1) -> float:
    """Bytes per second of one accelerator in a group that spans `reach` neighbours, `sharing` a domain."""
    inside = part.scale_up * eff.scale_up
    return inside if reach <= part.domain else min(inside, part.scale_out * eff.scale_out * sharing)


def _tensor_parallel(
    config: ModelConfig, layout: Layout, part: Hardware, eff: Efficiencies, routed: bool, tokens: float
) -> float:
    """Four gathers and four reductions of the stream a layer; half of them when the MLP is routed."""
    if layout.tp == 1:
        return 0.0
    passes = 8 if not routed or shared_width(config) else 4
    moved = passes * tokens * config.width * 2 * (layout.tp - 1) / layout.tp
    latency = passes * eff.collective * (1 + (layout.tp - 1) / 3)
    return (1 - eff.overlap_tp) * moved / _link(part, eff, layout.tp) + latency


def _expert_parallel(
    config: ModelConfig, layout: Layout, part: Hardware, eff: Efficiencies, split: float, imbalance: float
) -> float:
    """Dispatch and combine, forward and backward. A token goes once to each rank and domain that needs it."""
    moe = config.moe
    if moe is None or layout.ep * layout.expert_tp == 1:
        return 0.0
    group = layout.ep * layout.expert_tp
    near = min(group, part.domain)
    domains = -(-group // near)
    hidden = eff.overlap_dispatch if may_hide_dispatch(layout, part) else eff.overlap_ep
    row = split * (moe.latent or config.width) * 2 * imbalance
    inside = _destinations(moe, group) * (near - 1) / group
    outside = _destinations(moe, domains) * (domains - 1) / domains
    seconds = row * max(inside / (part.scale_up * eff.all_to_all), outside / (part.scale_out * eff.scale_out))
    return (1 - hidden) * 4 * (seconds + eff.collective)


def may_hide_dispatch(layout: Layout, part: Hardware) -> bool:
    """Whether a recipe may run one micro-batch's dispatch behind another's products, and has reason to.

    It needs passes of two micro-batches on a rank at once (interleaving, as Megatron-LM's
    `overlap_moe_expert_parallel_comm` asks for with a pipeline) and what `leaves_domain` says.
    """
    return layout.virtual > 1 and leaves_domain(layout, part)


def leaves_domain(layout: Layout, part: Hardware) -> bool:
    """Dispatch crosses scale-up domains, which is the reason to hide it, and no full recomputation, in which
    it is run again by itself, stands against that."""
    return layout.ep * layout.expert_tp > part.domain and layout.recompute != "full"


def _destinations(moe: MoEConfig, places: int) -> float:
    """How many of `places` equal parts of the experts a token goes to, its experts spread evenly.

    With groups the experts lie in no more than `top_groups` of them.
    """
    if moe.groups == 1:
        return places * (1 - (1 - 1 / places) ** moe.top_k)
    own = places / moe.groups
    if own <= 1:
        return places * (1 - (1 - 1 / places) ** moe.top_groups)
    return moe.top_groups * own * (1 - (1 - 1 / own) ** (moe.top_k / moe.top_groups))


def _context_parallel(
    config: ModelConfig,
    layout: Layout,
    part: Hardware,
    eff: Efficiencies,
    layer: int,
    split: float,
    attention: float,
) -> float:
    """Keys and values of the other ranks, and their gradients, less what hides behind attention."""
    if layout.cp == 1:
        return 0.0
    heads = config.heads if config.mla is not None else config.kv_heads
    moved = 3 * (layout.cp - 1) * split * 2 * 2 * heads * config.head_dim
    seconds = moved / _link(part, eff, layout.tp * layout.cp)
    return max((1 - eff.overlap_dp) * seconds, seconds - attention)


def _pipeline(config: ModelConfig, layout: Layout, part: Hardware, eff: Efficiencies) -> float:
    """What is sent between ranks in both directions, as far as nothing hides it."""
    if layout.pp == 1:
        return 0.0
    tokens = layout.micro_batch * layout.sequence / layout.cp
    moved = 2 * tokens * config.width * 2 / layout.tp * layout.virtual * layout.micro_batches
    return (1 - eff.overlap_pp) * moved / _link(part, eff, layout.accelerators)


def _end_of_step(
    config: ModelConfig,
    layout: Layout,
    part: Hardware,
    eff: Efficiencies,
    layers: tuple[int, ...],
    rank: int,
    micro_batch: float,
) -> tuple[float, float]:
    """Seconds of the gradients' exchange that nothing hides, and of the optimizer."""
    dense, experts = rank_parameters(config, layout, rank, layers)
    replicas, spread = layout.dp * layout.cp, layout.tp * layout.cp * layout.dp
    exchanged = 0.0
    split = layout.ep * layout.expert_tp  # copies of an expert lie that far apart
    for own, copies, apart in ((dense, replicas, layout.tp), (experts, layout.expert_dp, split)):
        if copies > 1:
            link = _link(part, eff, spread, min(max(1, part.domain // apart), copies))
            exchanged += own * (copies - 1) / copies / link
    if layout.sharding == "full":
        seconds = (2 + 2 + 2) * exchanged * layout.micro_batches
        window = micro_batch * layout.micro_batches
    else:
        seconds = (4 + 2) * exchanged  # gradients in 32 bits, weights in 16
        window = micro_batch * (1 + (layout.pp - 1) / layout.virtual)  # with what is idle in the bubble
    dp = max((1 - eff.overlap_dp) * seconds, seconds - window)
    shards = (1, 1) if layout.sharding == "none" else (replicas, layout.expert_dp)
    updated = dense / shards[0] + experts / shards[1]
    optimizer = updated * _OPTIMIZER_STEP_BYTES / (part.bandwidth * eff.bandwidth)
    if layout.optimizer == "muon":
        side = min(config.width, config.moe.width) if config.moe is not None else config.width
        optimizer += updated * _MUON_PRODUCTS * side / matmul_rate(eff, part, "bf16")
    return dp, optimizer


def _recomputed_share(config: ModelConfig, layout: Layout) -> float:
    """FLOPs of recomputation by model FLOPs."""
    if layout.recompute != "full":
        return 0.0
    head = (1 + config.mtp) * 2 * _PASSES * config.vocab * config.width
    return (1 - head / training_flops_per_token(config, layout.sequence)) / _PASSES
