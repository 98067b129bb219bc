"""The one description of an architecture: frozen, hashable, without torch.

Field names follow the published papers; `mythos.model.checkpoint` maps them to and from the
`config.json` of `transformers`.
"""

from dataclasses import dataclass
from typing import Literal


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


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that fixes the tensors of a model and what they compute."""

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
