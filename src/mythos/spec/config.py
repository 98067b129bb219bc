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

    def __post_init__(self) -> None:
        _require(1 <= self.top_k <= self.routed, "top_k must lie between 1 and the number of routed experts")
        _require(self.width >= 1 and self.shared >= 0, "expert sizes must be positive")
        _require(1 <= self.top_groups <= self.groups, "top_groups must lie between 1 and groups")
        _require(self.routed % self.groups == 0, "groups must divide the routed experts")
        size = self.routed // self.groups
        _require(self.top_k <= size * self.top_groups, "the chosen groups hold fewer than top_k experts")
        _require(self.groups == 1 or not self.bias or size >= 2, "a biased group needs two experts")


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

    def __post_init__(self) -> None:
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
