"""Sizes and costs that follow from a ModelConfig alone. Tests hold it against real tensors."""

from mythos.spec.config import ModelConfig


def parameters(config: ModelConfig) -> int:
    """All trained numbers, the tied embedding once. A router's selection bias is state, not a parameter."""
    experts = 0 if config.moe is None else config.moe.routed
    return _outside_experts(config) + _routed_layers(config) * experts * _expert(config)


def active_parameters(config: ModelConfig) -> int:
    """Parameters of the model that one token makes use of: `parameters` less the experts it is not routed to.

    Embedding and head count in full, as in the published "30.5B, 3.3B activated" of Qwen3-30B-A3B.
    """
    experts = 0 if config.moe is None else config.moe.top_k
    return _outside_experts(config) + _routed_layers(config) * experts * _expert(config)


def flops_per_token(config: ModelConfig, context: int) -> int:
    """Forward FLOPs of one token that attends to `context` tokens, itself included: 2 per MAC.

    Matrix products only (projections, router, experts, head, scores and values), as torch's `flop_counter`
    counts them; norms, rotations, activations and the embedding look-up are left out. The mean context over a
    sequence of n tokens is (n + 1) / 2.
    """
    matrices = active_parameters(config) - _norms_and_biases(config)
    if not config.tied:
        matrices -= config.vocab * config.width  # the look-up; the head stays
    attention = 2 * config.layers * config.heads * config.head_dim * context
    return 2 * (matrices + attention)


def kv_bytes_per_token(config: ModelConfig, bytes_per_value: int) -> int:
    """Bytes of cached keys and values that one token adds over all layers."""
    return 2 * config.layers * config.kv_heads * config.head_dim * bytes_per_value


def _routed_layers(config: ModelConfig) -> int:
    return 0 if config.moe is None else config.layers - len(config.dense_layers)


def _expert(config: ModelConfig) -> int:
    """Parameters of one expert."""
    return 0 if config.moe is None else 3 * config.width * config.moe.width


def _outside_experts(config: ModelConfig) -> int:
    """Every parameter but the routed experts'."""
    embeddings = config.vocab * config.width * (1 if config.tied else 2)
    attention = 2 * config.width * (config.heads + config.kv_heads) * config.head_dim
    routed_layers = _routed_layers(config)
    feed_forward = (config.layers - routed_layers) * 3 * config.width * config.ffn
    if config.moe is not None:
        feed_forward += routed_layers * (
            config.width * config.moe.routed + config.moe.shared * _expert(config)
        )
    return embeddings + config.layers * attention + feed_forward + _norms_and_biases(config)


def _norms_and_biases(config: ModelConfig) -> int:
    per_layer = 2 * config.width
    if config.qk_norm:
        per_layer += 2 * config.head_dim
    if config.attention_bias:
        per_layer += (config.heads + 2 * config.kv_heads) * config.head_dim + config.width
    return config.layers * per_layer + config.width
