"""The one description of an architecture: frozen, hashable, without torch.

Field names follow the published papers; `mythos.model.checkpoint` maps them to and from the
`config.json` of `transformers`.
"""

from dataclasses import dataclass
from typing import Literal


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864) and its two long-context forms.

    `llama3` rescales low frequencies (Llama 3.1 model card); `yarn` is arXiv 2309.00071.
    """

    kind: Literal["plain", "llama3", "yarn"] = "plain"
    base: float = 10_000.0
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None: 0.1 ln(factor) + 1
    truncate: bool = True  # yarn: round the correction range to whole dimensions
    mscale: float = 0.0  # yarn, latent attention only: weights of ln(factor), 0 when there are none
    mscale_all_dim: float = 0.0

    def __post_init__(self) -> None:
        _require(self.base > 1.0, "the rotary base must be above 1")
        if self.kind != "plain":
            _require(self.factor >= 1.0, "the rotary factor must be at least 1")
            _require(self.original_context > 0, "a scaled rotary embedding needs its original context")
            _require(
                self.high_freq_factor > self.low_freq_factor > 0.0,
                "rotary frequency factors are out of order",
            )
            _require(self.beta_fast >= self.beta_slow > 0.0, "yarn's beta_fast must not be below beta_slow")
        scales = (self.mscale, self.mscale_all_dim)
        _require(min(scales) >= 0.0, "mscale must not be negative")
        _require(max(scales) == 0.0 or self.kind == "yarn", "mscale is a part of yarn")


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """Routed experts of one layer (DeepSeekMoE, arXiv 2401.06066; V3 router, arXiv 2412.19437)."""

    routed: int
    top_k: int
    width: int
    shared: int = 0  # number of always-on experts, each of `width`
    score: Literal["softmax", "sigmoid"] = "softmax"
    renormalise: bool = True  # selected scores sum to one
    scale: float = 1.0  # applied to the routed sum
    bias: bool = False  # selection bias, never part of the weight
    groups: int = 1
    top_groups: int = 1
    shared_width: int | None = None  # all shared experts together; None: `shared` times `width`
    shared_gate: bool = False  # a sigmoid gate on the shared experts (Qwen3-Next)
    latent: int | None = None  # width of the space the routed experts work in; None: the model's
    expert_bias: bool = False  # biases in experts and router (gpt-oss)

    def __post_init__(self) -> None:
        _require(self.latent is None or self.latent >= 1, "the latent width must be positive")
        _require(
            self.shared_width is None or (self.shared_width >= 1 and self.shared > 0),
            "shared_width needs shared experts and must be positive",
        )
        _require(1 <= self.top_k <= self.routed, "top_k must lie between 1 and the number of routed experts")
        _require(self.width >= 1 and self.shared >= 0, "expert sizes must be positive")
        _require(1 <= self.top_groups <= self.groups, "top_groups must lie between 1 and groups")
        _require(self.routed % self.groups == 0, "groups must divide the routed experts")
        size = self.routed // self.groups
        _require(self.top_k <= size * self.top_groups, "the chosen groups hold fewer than top_k experts")
        _require(self.groups == 1 or not self.bias or size >= 2, "a biased group needs two experts")


@dataclass(frozen=True, slots=True)
class MLAConfig:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), with V3.2's indexer if any.

    Cached are `kv_rank + rope_dim` values a token and layer. A query and key have `nope_dim + rope_dim`
    dimensions, a value `value_dim`.
    """

    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    q_rank: int = 0  # 0: queries are made by one full matrix
    indexer_heads: int = 0  # 0: every token attends to all before it (else DeepSeek sparse attention)
    indexer_dim: int = 0
    indexer_top: int = 0  # tokens that the indexer lets a query attend to

    def __post_init__(self) -> None:
        _require(
            min(self.kv_rank, self.nope_dim, self.value_dim) >= 1, "latent attention sizes must be positive"
        )
        _require(self.rope_dim >= 2 and self.rope_dim % 2 == 0, "rope_dim must be even and positive")
        _require(self.q_rank >= 0, "q_rank must not be negative")
        indexer = (self.indexer_heads, self.indexer_dim, self.indexer_top)
        _require(
            max(indexer) == 0 or (min(indexer) >= 1 and self.q_rank > 0), "an indexer needs all its sizes"
        )


@dataclass(frozen=True, slots=True)
class LinearConfig:
    """Gated delta-net layers (arXiv 2412.06464), as in Qwen3-Next: a state of fixed size, no cache."""

    layers: tuple[int, ...]
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    convolution: int = 4

    def __post_init__(self) -> None:
        sizes = (self.key_heads, self.value_heads, self.key_dim, self.value_dim, self.convolution)
        _require(min(sizes) >= 1, "linear attention sizes must be positive")
        _require(len(set(self.layers)) == len(self.layers), "linear layers names a layer twice")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that fixes the tensors of a model and what they compute. ValueError when that is nothing."""

    vocab: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int  # width of a dense MLP
    context: int
    tied: bool = True
    qk_norm: bool = False
    norm_eps: float = 1e-5
    rope: RopeConfig = RopeConfig()
    moe: MoEConfig | None = None
    dense_layers: tuple[int, ...] = ()  # layers that stay dense when `moe` is set
    attention_bias: bool = False
    mla: MLAConfig | None = None  # then head_dim is that of queries and keys
    mtp: int = 0  # multi-token prediction modules (DeepSeek-V3, arXiv 2412.19437, section 2.2)
    # What follows is counted and planned but has no tensors yet: `untrained_parts` names what is in use.
    linear: LinearConfig | None = None
    window: int = 0  # tokens that a layer of `windowed` attends to, itself included
    windowed: tuple[int, ...] = ()
    sinks: bool = False  # one learned logit a head in the softmax (gpt-oss)
    qkv_bias: bool = False  # on query, key and value only (Qwen2)
    attention_gate: bool = False  # the query projection also makes an output gate (Qwen3-Next)
    wide_qk_norm: bool = False  # QK-norm over all heads together (MiniMax-M2)
    gated: bool = True  # False: a dense MLP of two matrices (GPT)
    layer_norm: bool = False  # LayerNorm with a bias instead of RMSNorm
    mlp_bias: bool = False
    learned_positions: int = 0  # rows of a learned position embedding

    def __post_init__(self) -> None:
        _require(bool(self.window) == bool(self.windowed), "window and windowed need each other")
        _require(self.window >= 0, "window must not be negative")
        _require(min(self.mtp, self.learned_positions) >= 0, "mtp and learned_positions must not be negative")
        _require(not (self.qkv_bias and self.attention_bias), "qkv_bias is part of attention_bias")
        _require(not self.wide_qk_norm or self.qk_norm, "wide_qk_norm is a form of qk_norm")
        for layer in (*self.windowed, *(self.linear.layers if self.linear else ())):
            _require(0 <= layer < self.layers, "windowed or linear layers name a missing layer")
        if self.mla is not None:
            _require(
                self.head_dim == self.mla.nope_dim + self.mla.rope_dim, "head_dim must be nope_dim + rope_dim"
            )
        _require(
            self.mla is not None or self.rope.mscale == self.rope.mscale_all_dim == 0.0,
            "mscale needs latent attention",
        )
        sizes = (self.vocab, self.layers, self.width, self.heads, self.kv_heads, self.head_dim, self.ffn)
        _require(min(*sizes, self.context) >= 1, "sizes must be positive")
        _require(self.heads % self.kv_heads == 0, "kv_heads must divide heads")
        _require(self.head_dim % 2 == 0, "head_dim must be even")
        _require(self.norm_eps > 0.0, "norm_eps must be positive")
        _require(self.moe is not None or not self.dense_layers, "dense_layers needs routed experts elsewhere")
        _require(len(set(self.dense_layers)) == len(self.dense_layers), "dense_layers names a layer twice")
        _require(
            all(0 <= layer < self.layers for layer in self.dense_layers), "dense_layers names a missing layer"
        )


def untrained_parts(config: ModelConfig) -> tuple[str, ...]:
    """Names of the fields in use that can be counted but that no model here has tensors for."""
    moe, mla = config.moe, config.mla
    used = {
        "mla.indexer_heads": mla is not None and mla.indexer_heads > 0,
        "mla with attention_bias": mla is not None and config.attention_bias,
        "mla with qk_norm": mla is not None and config.qk_norm,
        "linear": config.linear is not None,
        "window": config.window > 0,
        "sinks": config.sinks,
        "qkv_bias": config.qkv_bias,
        "attention_gate": config.attention_gate,
        "wide_qk_norm": config.wide_qk_norm,
        "gated": not config.gated,
        "layer_norm": config.layer_norm,
        "mlp_bias": config.mlp_bias,
        "learned_positions": config.learned_positions > 0,
        "moe.shared_width": moe is not None and moe.shared_width is not None,
        "moe.shared_gate": moe is not None and moe.shared_gate,
        "moe.expert_bias": moe is not None and moe.expert_bias,
    }
    return tuple(name for name, is_used in used.items() if is_used)
