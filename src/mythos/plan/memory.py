"""Memory of each pipeline rank of a training step, in bytes of one accelerator.

States: weights in 16 bits, gradients in 32, and the optimizer's 32-bit master copy and moments (12 bytes a
parameter with Adam, 8 with Muon), whole, split over the replicas ("optimizer": Megatron-LM's distributed
optimizer) or all three split ("full": FSDP, ZeRO-3, arXiv 1910.02054).

Activations: what each operation of a layer keeps for its backward pass, summed, times the micro-batches in
flight. For a GPT layer without flash attention the sum is the formula of Korthikanti et al. (arXiv
2205.05198): s b h (10 + 24/t + 5 a s/(h t)) bytes, and 34 s b h/t with sequence parallelism and selective
recomputation.
"""

from collections import Counter
from dataclasses import dataclass

from mythos.plan.layout import Layout, check, rank_layers
from mythos.spec.config import ModelConfig
from mythos.spec.counting import is_linear, is_routed, layer_kinds, layer_parameters, shared_width

_OPTIMIZER_BYTES = {"adam": 12, "muon": 8}  # 32-bit master copy, and two moments or one
_LINEAR_INPUT_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625}  # fp4: a scale byte for 16 values


@dataclass(frozen=True, slots=True)
class Kernels:
    """What changes the memory of a step beside model and layout."""

    flash: bool = True  # attention scores are never stored
    dropout: bool = False  # masks of one byte a value are kept
    fused_loss: bool = True  # the loss keeps one 16-bit copy of the logits, not a 32-bit one beside it
    imbalance: float = 1.0  # tokens of the fullest expert rank by those of the mean one


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes on each accelerator of one pipeline rank."""

    rank: int
    parameters: float  # that the rank computes with, on one accelerator
    weights: float
    gradients: float
    optimizer: float
    buffers: float  # workspaces of libraries
    activations: float  # kept for the backward passes of the micro-batches in flight
    logits: float
    workspace: float  # of the operation that needs most beside what is kept
    outside: float  # runtime, communicators, fragmentation: not in what an allocator counts

    @property
    def static(self) -> float:
        """Held between steps."""
        return self.weights + self.gradients + self.optimizer + self.buffers

    @property
    def peak(self) -> float:
        """The most allocated within a step."""
        return self.static + self.activations + self.logits + self.workspace

    @property
    def needed(self) -> float:
        """What the accelerator must have free."""
        return self.peak + self.outside


@dataclass(frozen=True, slots=True)
class Memory:
    ranks: tuple[RankMemory, ...]

    @property
    def worst(self) -> RankMemory:
        """The rank that needs most."""
        return max(self.ranks, key=lambda rank: rank.needed)


_OUTSIDE_BYTES = 2.0 * (
    1 << 30
)  # CUDA context 0.5 to 1 GB and communicators (AIC reserves 0.34 to 0.41 for NCCL)
_FRAGMENTATION = 0.04  # of the peak
_BUFFER_BYTES = 0.41e9  # a 7B test of Megatron-LM held 20.66 GB between steps, of which 20.25 are states


def needed(allocated: float) -> float:
    """What an accelerator must have free for so many bytes at the peak: runtime and fragmentation beside
    them.
    """
    return allocated + _OUTSIDE_BYTES + _FRAGMENTATION * allocated


def memory(config: ModelConfig, layout: Layout, kernels: Kernels | None = None) -> Memory:
    """The memory of every pipeline rank; PlanError when model and layout do not fit each other."""
    check(config, layout)
    kernels = kernels or Kernels()
    layers = rank_layers(config, layout)
    return Memory(tuple(_rank(config, layout, kernels, rank, layers[rank]) for rank in range(layout.pp)))


def rank_parameters(
    config: ModelConfig, layout: Layout, rank: int, layers: tuple[int, ...]
) -> tuple[float, float]:
    """Parameters on one accelerator of a rank: all but routed experts, and routed experts."""
    dense, experts = 0.0, 0.0
    last = rank == layout.pp - 1
    modules = range(config.layers, config.layers + config.mtp) if last else ()
    kinds = layer_kinds(config)
    for layer, count in Counter(kinds[layer] for layer in (*layers, *modules)).items():
        part = layer_parameters(config, layer)
        dense += count * ((part.attention + part.mlp) / layout.tp + part.replicated)
        experts += count * part.experts / (layout.ep * layout.expert_tp)
    embedding = config.vocab * config.width / layout.tp
    if rank == 0:
        dense += embedding + config.learned_positions * config.width
    if last:
        dense += config.width * (2 if config.layer_norm else 1)
        if layout.pp > 1 or not config.tied:
            dense += embedding
        if config.mtp:
            dense += (2 * config.width**2) / layout.tp * config.mtp + 3 * config.width * config.mtp
            dense += embedding if layout.pp > 1 and not config.tied else 0.0
    return dense, experts


def _rank(
    config: ModelConfig, layout: Layout, kernels: Kernels, rank: int, layers: tuple[int, ...]
) -> RankMemory:
    dense, experts = rank_parameters(config, layout, rank, layers)
    replicas = layout.dp * layout.cp
    weights, gradients, optimizer = _states(layout, dense, replicas)
    expert_states = _states(layout, experts, layout.expert_dp)
    last = rank == layout.pp - 1
    whole = tuple(layers) + (tuple(range(config.layers, config.layers + config.mtp)) if last else ())
    kinds = Counter(layer_kinds(config)[layer] for layer in whole)
    per_kind = {kind: layer_activations(config, layout, kernels, kind) for kind in kinds}
    kept = sum(count * kept_bytes(layout, kernels, per_kind[kind]) for kind, count in kinds.items())
    activations = kept * _in_flight(layout, rank)
    logits = _logits(config, layout, kernels) * (1 + config.mtp) if last else 0.0
    workspace = _workspace(config, layout, per_kind)
    allocated = (
        _BUFFER_BYTES
        + weights
        + gradients
        + optimizer
        + sum(expert_states)
        + activations
        + logits
        + workspace
    )
    return RankMemory(
        rank=rank,
        parameters=dense + experts,
        weights=weights + expert_states[0],
        gradients=gradients + expert_states[1],
        optimizer=optimizer + expert_states[2],
        buffers=_BUFFER_BYTES,
        activations=activations,
        logits=logits,
        workspace=workspace,
        outside=_OUTSIDE_BYTES + _FRAGMENTATION * allocated,
    )


def _states(layout: Layout, parameters: float, replicas: int) -> tuple[float, float, float]:
    moments = _OPTIMIZER_BYTES[layout.optimizer]
    if layout.sharding == "full":
        return 2 * parameters / replicas, 2 * parameters / replicas, moments * parameters / replicas
    shared = replicas if layout.sharding == "optimizer" else 1
    return 2 * parameters, 4 * parameters, moments * parameters / shared


def _in_flight(layout: Layout, rank: int) -> float:
    """Micro-batches whose activations a rank keeps at most: of all its layers, or chunks of them in parts.

    1F1B keeps pp - rank; interleaved, rank r warms up with 2 (pp - r - 1) + (virtual - 1) pp chunks and runs
    one more (arXiv 2104.04473).
    """
    if layout.virtual == 1:
        return min(layout.pp - rank, layout.micro_batches)
    chunks = 2 * (layout.pp - rank - 1) + (layout.virtual - 1) * layout.pp + 1
    return min(chunks / layout.virtual, layout.micro_batches)


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes that one micro-batch leaves of one layer, by what recomputation may drop."""

    inputs: float  # the layer's input, which full recomputation keeps
    kept: float  # the inputs of products, queries, keys and values, statistics
    scores: float  # softmax, its dropout, and what it makes: without flash attention
    cheap: float  # outputs of norms and activation, and what latent attention expands

    @property
    def total(self) -> float:
        return self.inputs + self.kept + self.scores + self.cheap


def layer_activations(config: ModelConfig, layout: Layout, kernels: Kernels, layer: int) -> Activations:
    """What the layer numbered `layer` keeps of one micro-batch on one accelerator."""
    tokens = layout.micro_batch * layout.sequence / layout.cp
    split = tokens / layout.tp  # rows of what lies between split matrices, or columns of their outputs
    around = split if layout.sequence_parallel else tokens
    width, mask = config.width, 1.0 if kernels.dropout else 0.0
    inner = _LINEAR_INPUT_BYTES[layout.precision]
    kept = around * 2 * width + 2 * around * mask * width  # the second norm's input; two dropout masks
    cheap, scores = 2 * around * inner * width, 0.0  # the norms' outputs are the inputs of products

    dim, value_dim = config.head_dim, config.head_dim if config.mla is None else config.mla.value_dim
    if is_linear(config, layer) and config.linear is not None:
        part = config.linear
        mixed = 2 * part.key_heads * part.key_dim + part.value_heads * part.value_dim
        kept += split * (2 * 2 * mixed + 3 * 2 * part.value_heads * part.value_dim)
    else:
        keys = config.heads if config.mla is not None else config.kv_heads
        expanded = split * 2 * (config.heads * dim + keys * (dim + value_dim))
        kept += split * 2 * config.heads * value_dim  # the core's output, input of the last matrix
        if config.qk_norm:
            kept += split * 2 * (config.heads + config.kv_heads) * dim
        if config.attention_gate:
            kept += split * 2 * 2 * config.heads * dim
        if config.mla is not None:  # compressed, before and after their norms
            ranks = 2 * config.mla.q_rank + 2 * config.mla.kv_rank + config.mla.rope_dim
            kept, cheap = kept + around * 2 * ranks, cheap + expanded
        else:
            kept += expanded
        if kernels.flash:
            kept += split * 4 * config.heads  # the logarithm of each row's sum
        else:  # softmax, its mask and what is left of it (without dropout one 16-bit copy)
            scores = split * (2 + (1 + 2) * mask) * config.heads * layout.sequence
    if not is_routed(config, layer):
        kept += split * config.ffn * 2 * (2 if config.gated else 1)
        cheap += split * config.ffn * inner
    else:
        moe = config.moe
        assert moe is not None
        spread = split * moe.top_k * kernels.imbalance  # rows that this accelerator's experts get
        kept += around * 4 * 2 * moe.routed  # router logits and scores in 32 bits
        kept += spread * (inner * (moe.latent or width) + 4 * moe.width / layout.expert_tp)
        kept += split * 4 * shared_width(config)
        cheap += inner * (spread * moe.width / layout.expert_tp + split * shared_width(config))
    return Activations(around * 2 * width, kept, scores, cheap)


def kept_bytes(layout: Layout, kernels: Kernels, layer: Activations) -> float:
    """Selective recomputation drops the scores (arXiv 2205.05198), or what is cheap where none are stored."""
    if layout.recompute == "full":
        return layer.inputs
    if layout.recompute == "selective":
        return layer.total - (layer.cheap if kernels.flash else layer.scores)
    return layer.total


def _logits(config: ModelConfig, layout: Layout, kernels: Kernels) -> float:
    """Logits and what the loss keeps of them, with the final norm's input and output."""
    tokens = layout.micro_batch * layout.sequence / layout.cp
    around = tokens / layout.tp if layout.sequence_parallel else tokens
    per_logit = 4.0 if kernels.fused_loss else 6.0
    return tokens * per_logit * config.vocab / layout.tp + around * 4 * config.width


def _workspace(config: ModelConfig, layout: Layout, per_kind: dict[int, Activations]) -> float:
    """Gradients of the operation that needs most, a recomputed layer, and gathered weights."""
    if not per_kind:
        return 0.0
    largest = max(layer.total for layer in per_kind.values())
    work = largest / 2
    if layout.recompute == "full":
        work += largest
    if layout.sharding == "full":
        parts = [layer_parameters(config, kind) for kind in per_kind]
        most = max((p.attention + p.mlp) / layout.tp + p.replicated + p.experts / layout.ep for p in parts)
        work += 2 * 2 * most + 2 * most  # two layers' weights, one layer's gradients
    return work
