"""Sizes and costs that follow from a ModelConfig alone. Tests hold it against real tensors.

Multi-token prediction modules stand apart (`mtp_parameters`): published totals leave them out.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache

from mythos.spec.config import ModelConfig

FORWARD_AND_BACKWARD = 3  # a product's backward pass is two products of its size


@dataclass(frozen=True, slots=True)
class LayerParameters:
    """Parameters of one layer by what tensor parallelism does to them (Megatron-LM's placement)."""

    attention: int  # matrices split over the tensor-parallel ranks
    mlp: int  # the dense MLP, or the shared experts; split likewise
    replicated: int  # norms, router, latent down-projections
    experts: int  # all routed experts


def layer_parameters(config: ModelConfig, layer: int) -> LayerParameters:
    """Of the layer numbered `layer`; a number past the last is that of a prediction module's layer."""
    attention, replicated = _attention(config, layer)
    replicated += 2 * _norm(config)
    if not is_routed(config, layer):
        mlp = (3 if config.gated else 2) * config.width * config.ffn
        if config.mlp_bias:
            mlp += (2 if config.gated else 1) * config.ffn
            replicated += config.width
        return LayerParameters(attention, mlp, replicated, 0)
    moe = config.moe
    assert moe is not None
    replicated += config.width * moe.routed + moe.routed * moe.expert_bias
    if moe.latent is not None:
        replicated += 2 * config.width * moe.latent
    if moe.shared_gate:
        replicated += config.width
    return LayerParameters(
        attention, 3 * config.width * shared_width(config), replicated, moe.routed * expert_parameters(config)
    )


@dataclass(frozen=True, slots=True)
class LayerMatrices:
    """Multiply-adds of one token in one layer's matrix products, attention's scores and values apart."""

    attention: int  # split over tensor-parallel ranks
    mlp: int  # dense MLP or shared experts; split likewise
    replicated: int  # latent down-projections, gates
    router: int
    experts: int  # the routed experts that the token goes to

    @property
    def total(self) -> int:
        """Without the router, as Megatron-LM counts."""
        return self.attention + self.mlp + self.replicated + self.experts


@cache
def layer_kinds(config: ModelConfig) -> tuple[int, ...]:
    """For each layer and prediction module's layer, the first layer that is like it in every count."""
    first: dict[tuple[bool, bool, bool], int] = {}
    windowed, dense = set(config.windowed), set(config.dense_layers)
    linear = set(config.linear.layers) if config.linear else set()
    return tuple(
        first.setdefault((layer in windowed, layer in dense, layer in linear), layer)
        for layer in range(config.layers + config.mtp)
    )


def layer_matrices(config: ModelConfig, layer: int) -> LayerMatrices:
    """Of the layer numbered `layer`; a number past the last is that of a prediction module's layer."""
    width, replicated = config.width, 0
    if is_linear(config, layer):
        assert config.linear is not None
        part = config.linear
        keys, values = part.key_heads * part.key_dim, part.value_heads * part.value_dim
        attention = width * (2 * keys + 2 * values + 2 * part.value_heads) + values * width
    elif config.mla is not None:
        mla = config.mla
        replicated = width * (mla.kv_rank + mla.rope_dim + mla.q_rank)
        attention = mla.kv_rank * config.heads * (mla.nope_dim + mla.value_dim)
        attention += (mla.q_rank or width) * config.heads * config.head_dim
        attention += config.heads * mla.value_dim * width
        if mla.indexer_heads:
            replicated += mla.q_rank * mla.indexer_heads * mla.indexer_dim
            replicated += width * (mla.indexer_dim + mla.indexer_heads)
    else:
        gate = config.heads if config.attention_gate else 0
        attention = width * (2 * config.heads + 2 * config.kv_heads + gate) * config.head_dim
    if not is_routed(config, layer):
        mlp = (3 if config.gated else 2) * width * config.ffn
        return LayerMatrices(attention, mlp, replicated, 0, 0)
    moe = config.moe
    assert moe is not None
    return LayerMatrices(
        attention=attention,
        mlp=3 * width * shared_width(config),
        replicated=replicated + 2 * width * (moe.latent or 0) + width * moe.shared_gate,
        router=width * moe.routed,
        experts=moe.top_k * 3 * (moe.latent or width) * moe.width,
    )


def is_routed(config: ModelConfig, layer: int) -> bool:
    return config.moe is not None and layer not in config.dense_layers


def shared_width(config: ModelConfig) -> int:
    """Inner width of all shared experts together."""
    moe = config.moe
    if moe is None:
        return 0
    return moe.shared * moe.width if moe.shared_width is None else moe.shared_width


def expert_parameters(config: ModelConfig) -> int:
    """Of one routed expert; 0 without any."""
    moe = config.moe
    if moe is None:
        return 0
    width = moe.latent or config.width
    return 3 * width * moe.width + (2 * moe.width + width) * moe.expert_bias


def parameters(config: ModelConfig) -> int:
    """All trained numbers, the tied embedding once. A router's selection bias is state, not a parameter."""
    return _with_experts(config, 0 if config.moe is None else config.moe.routed)


def active_parameters(config: ModelConfig) -> int:
    """Parameters of the model that one token makes use of: `parameters` less the experts it is not routed to.

    Embedding and head count in full, as in the published "30.5B, 3.3B activated" of Qwen3-30B-A3B. Others
    leave out the input embedding, `vocab` times `width` (gpt-oss).
    """
    return _with_experts(config, 0 if config.moe is None else config.moe.top_k)


def mtp_parameters(config: ModelConfig) -> int:
    """Of all multi-token prediction modules: each a layer, a projection of two vectors to one, three norms.

    Embedding and head are the model's own (DeepSeek-V3, arXiv 2412.19437, section 2.2).
    """
    part = layer_parameters(config, config.layers)
    layer = part.attention + part.mlp + part.replicated + part.experts
    return config.mtp * (layer + 2 * config.width**2 + 3 * _norm(config))


def flops_per_token(config: ModelConfig, context: int) -> int:
    """Forward FLOPs of one token that attends to `context` tokens, itself included: 2 per MAC.

    Matrix products only (projections, router, experts, head, scores and values), as torch's `flop_counter`
    counts them; norms, rotations, activations and the embedding look-up are left out. The mean context over a
    sequence of n tokens is (n + 1) / 2. Layers with a window or an indexer attend to no more than that.
    """
    matrices: int = config.vocab * config.width  # the head to begin with
    core: float = 0
    for layer, count in Counter(layer_kinds(config)[: config.layers]).items():
        part = layer_matrices(config, layer)
        matrices += count * (part.total + part.router)
        core += count * _core(config, layer, context)
    return 2 * matrices + int(core)


def training_flops_per_token(config: ModelConfig, sequence: int) -> float:
    """FLOPs of forward and backward per trained token of causal sequences of `sequence` tokens.

    The convention of Megatron-LM (`num_floating_point_operations`): half of the full attention matrix, logits
    counted (once more for each prediction module), embedding look-up and router free, no recomputation.
    """
    whole = range(config.layers + config.mtp)
    matrices = sum(layer_matrices(config, layer).total for layer in whole)
    matrices += (1 + config.mtp) * config.vocab * config.width + config.mtp * 2 * config.width**2
    core = sum(attention_flops_per_token(config, layer, sequence) for layer in whole)
    return FORWARD_AND_BACKWARD * (2 * matrices + core)


def attention_flops_per_token(config: ModelConfig, layer: int, sequence: int) -> float:
    """Forward FLOPs of scores and values (or of a linear layer's state), per token of a causal sequence."""
    limit = _limit(config, layer)
    context = sequence / 2 if limit is None or limit >= sequence else limit - limit**2 / (2 * sequence)
    return _core(config, layer, context, indexed=sequence / 2)


def kv_bytes_per_token(config: ModelConfig, bytes_per_value: int) -> int:
    """Bytes of cached keys and values that each further token of a long sequence adds over all layers.

    Layers with a window or a state of fixed size add nothing; `kv_bytes` has the whole.
    """
    growing = (layer for layer in range(config.layers) if _kept(config, layer) is None)
    return bytes_per_value * sum(_cached(config, layer) for layer in growing)


def kv_bytes(config: ModelConfig, context: int, bytes_per_value: float, state_bytes: float = 4.0) -> float:
    """Bytes of the cache of one sequence of `context` tokens; `state_bytes` per value of a linear layer."""
    values, states = 0.0, 0.0
    for layer in range(config.layers):
        if is_linear(config, layer):
            assert config.linear is not None
            part = config.linear
            mixed = 2 * part.key_heads * part.key_dim + part.value_heads * part.value_dim
            states += part.value_heads * part.key_dim * part.value_dim + mixed * (part.convolution - 1)
        else:
            kept = _kept(config, layer)
            values += _cached(config, layer) * (context if kept is None else min(context, kept))
    return values * bytes_per_value + states * state_bytes


def is_linear(config: ModelConfig, layer: int) -> bool:
    return config.linear is not None and layer in config.linear.layers


def _with_experts(config: ModelConfig, used: int) -> int:
    embeddings = config.vocab * config.width * (1 if config.tied else 2)
    total = embeddings + config.learned_positions * config.width + _norm(config)
    for layer in range(config.layers):
        part = layer_parameters(config, layer)
        total += part.attention + part.mlp + part.replicated
        if part.experts:
            total += used * expert_parameters(config)
    return total


def _norm(config: ModelConfig) -> int:
    return config.width * (2 if config.layer_norm else 1)


def _attention(config: ModelConfig, layer: int) -> tuple[int, int]:
    """Parameters of attention: split over tensor-parallel ranks, and replicated."""
    width, heads, dim = config.width, config.heads, config.head_dim
    if is_linear(config, layer):
        assert config.linear is not None
        part = config.linear
        keys, values = part.key_heads * part.key_dim, part.value_heads * part.value_dim
        split = width * (2 * keys + 2 * values + 2 * part.value_heads) + values * width
        return split + (2 * keys + values) * part.convolution + 2 * part.value_heads, part.value_dim
    if config.mla is not None:
        mla = config.mla
        down = width * (mla.kv_rank + mla.rope_dim) + mla.kv_rank
        up = mla.kv_rank * heads * (mla.nope_dim + mla.value_dim) + heads * mla.value_dim * width
        if mla.q_rank:
            down += width * mla.q_rank + mla.q_rank
        up += (mla.q_rank or width) * heads * dim
        if mla.indexer_heads:
            down += mla.q_rank * mla.indexer_heads * mla.indexer_dim
            down += width * mla.indexer_dim + 2 * mla.indexer_dim + width * mla.indexer_heads
        return up, down
    split = 2 * width * (heads + config.kv_heads) * dim
    if config.attention_gate:
        split += width * heads * dim
    if config.attention_bias or config.qkv_bias:
        split += (heads + 2 * config.kv_heads) * dim
    replicated = width * config.attention_bias
    if config.qk_norm:
        replicated += (heads + config.kv_heads) * dim if config.wide_qk_norm else 2 * dim
    return split, replicated + heads * config.sinks


def _limit(config: ModelConfig, layer: int) -> int | None:
    """Tokens that a layer attends to at most; None without a limit."""
    if layer in config.windowed:
        return config.window
    if config.mla is not None and config.mla.indexer_heads:
        return config.mla.indexer_top
    return None


def _core(config: ModelConfig, layer: int, context: float, indexed: float | None = None) -> float:
    """Forward FLOPs of one token's attention to `context` tokens, of which the indexer sees `indexed`."""
    if is_linear(config, layer):
        assert config.linear is not None
        part = config.linear  # read, update and query the state: three products of a vector with it
        return 6 * part.value_heads * part.key_dim * part.value_dim
    limit = _limit(config, layer)
    seen = context if limit is None else min(context, limit)
    value_dim = config.head_dim if config.mla is None else config.mla.value_dim
    core = 2 * config.heads * (config.head_dim + value_dim) * seen
    if config.mla is not None and config.mla.indexer_heads:
        seen_by_indexer = context if indexed is None else indexed
        core += 2 * config.mla.indexer_heads * config.mla.indexer_dim * seen_by_indexer
    return core


def _kept(config: ModelConfig, layer: int) -> int | None:
    """Tokens that a layer's cache holds at most; 0 for a state of fixed size, None without a limit."""
    if is_linear(config, layer):
        return 0
    return config.window if layer in config.windowed else None


def _cached(config: ModelConfig, layer: int) -> int:
    """Values that one token adds to a layer's cache."""
    if is_linear(config, layer):
        return 0
    if config.mla is not None:
        return config.mla.kv_rank + config.mla.rope_dim + config.mla.indexer_dim
    return 2 * config.kv_heads * config.head_dim
