"""The shape of a model from the `config.json` of `transformers`: its tensors, as far as counting goes.

What else decides what a model computes (rotary embedding, activation) is read by `mythos.model.hf_config`,
which also refuses what no tensors exist for.
"""

from collections.abc import Mapping
from typing import Any

from mythos.records.errors import MythosError
from mythos.spec.config import LinearConfig, MLAConfig, ModelConfig, MoEConfig

_DOWNLOAD_AGAIN = "Fetch or copy the checkpoint again."
_WRAPPERS = ("text_config", "language_config")  # where multimodal models keep the language model's settings

# What `transformers` assumes for a setting that config.json leaves out.
_GQA = {"max_position_embeddings": 32768}
_QWEN_MOE = {**_GQA, "num_key_value_heads": 4, "moe_intermediate_size": 768, "num_experts_per_tok": 8}
_LINEAR = {
    "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "num_key_value_heads": 2, "head_dim": 256,
}  # fmt: skip
_MLA = {
    "max_position_embeddings": 4096, "n_shared_experts": 1, "num_experts_per_tok": 8, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "moe_intermediate_size": 2048,
}  # fmt: skip
_DEEPSEEK_V3 = {
    **_MLA, "q_lora_rank": 1536, "n_routed_experts": 256, "n_group": 8, "topk_group": 4,
    "first_k_dense_replace": 3, "norm_topk_prob": True, "routed_scaling_factor": 2.5,
}  # fmt: skip
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": _GQA,
    "smollm3": {**_GQA, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "mixtral": {**_GQA, "num_local_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 8},
    "qwen2": {**_GQA, "num_key_value_heads": 32},
    "qwen3": {**_GQA, "head_dim": 128, "num_key_value_heads": 32},
    "qwen3_moe": {**_QWEN_MOE, "num_experts": 128},
    "qwen3_next": {**_GQA, **_LINEAR, "num_experts_per_tok": 10},
    "qwen3_5_moe": {**_GQA, **_LINEAR, "num_experts_per_tok": 8},
    "qwen3_5_moe_text": {**_GQA, **_LINEAR, "num_experts_per_tok": 8},
    "minimax_m2": {**_GQA, "head_dim": 128, "num_key_value_heads": 8, "num_experts_per_tok": 8},
    "glm4_moe": {**_GQA, "head_dim": 128, "n_shared_experts": 1, "num_experts_per_tok": 8,
                 "first_k_dense_replace": 1},
    "gpt_oss": {"max_position_embeddings": 131072, "head_dim": 64, "num_key_value_heads": 8,
                "num_experts_per_tok": 4, "attention_bias": True},
    "deepseek_v2": _MLA,
    "deepseek_v3": _DEEPSEEK_V3,
    "deepseek_v32": {**_DEEPSEEK_V3, "index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048},
    "glm_moe_dsa": {**_MLA, "first_k_dense_replace": 3, "index_n_heads": 32, "index_head_dim": 128,
                    "index_topk": 2048},
    "kimi_k2": _DEEPSEEK_V3,
    "kimi_k25": _MLA,
}  # fmt: skip
_MLA_FAMILIES = {name for name in DEFAULTS if name.startswith(("deepseek", "kimi")) or name == "glm_moe_dsa"}
_QK_NORM = {"qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text", "minimax_m2"}
_GATED_ATTENTION = {"qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"}
_ALWAYS_WINDOWED = {"mistral", "mixtral", "gpt_oss"}  # others need `use_sliding_window`
_DENSE = {"llama", "mistral", "smollm3", "qwen2", "qwen3"}


def shape_from_hf(data: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a `transformers` config.json, its rotary embedding left at the default.

    MythosError for an architecture that is not known or a setting that makes no sense.
    """
    if "model_type" in data and data["model_type"] not in DEFAULTS:
        data = next((data[key] for key in _WRAPPERS if isinstance(data.get(key), Mapping)), data)
    family = data.get("model_type")
    if not isinstance(family, str) or family not in DEFAULTS:
        raise MythosError(
            f"config.json describes an unknown architecture: model_type {family!r:.60}.",
            f"Known are {', '.join(DEFAULTS)}.",
        )
    data = with_defaults(data, family)
    width, heads = integer(data, "hidden_size"), integer(data, "num_attention_heads")
    layers = integer(data, "num_hidden_layers", most=1 << 16)
    moe = None if family in _DENSE else _moe(data, family)
    mla = _mla(data) if family in _MLA_FAMILIES else None
    head_dim = integer(data, "head_dim", width // max(heads, 1))
    if mla is not None:
        head_dim = mla.nope_dim + mla.rope_dim
    window, windowed = _windows(data, layers)
    bias = flag(data, "attention_bias")
    try:
        return ModelConfig(
            vocab=integer(data, "vocab_size"),
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=heads if mla is not None else integer(data, "num_key_value_heads", heads),
            head_dim=head_dim,
            ffn=integer(data, "intermediate_size", moe.width if moe is not None else None),
            context=integer(data, "max_position_embeddings"),
            tied=flag(data, "tie_word_embeddings"),
            qk_norm=family in _QK_NORM or (family == "glm4_moe" and flag(data, "use_qk_norm")),
            norm_eps=number(data, "rms_norm_eps", 1e-6),
            moe=moe,
            dense_layers=() if moe is None else _dense_layers(data, layers),
            attention_bias=bias and family != "glm4_moe",
            mla=mla,
            linear=_linear(data, layers) if family in _GATED_ATTENTION else None,
            window=window,
            windowed=windowed,
            sinks=family == "gpt_oss",
            qkv_bias=family == "qwen2" or (family == "glm4_moe" and bias),
            attention_gate=family in _GATED_ATTENTION,
            wide_qk_norm=family == "minimax_m2",
            mtp=integer(data, "num_nextn_predict_layers", 0, most=64),
            mlp_bias=flag(data, "mlp_bias"),
        )
    except ValueError as error:
        raise MythosError(f"config.json describes no possible model: {error}.", _DOWNLOAD_AGAIN) from error


def with_defaults(data: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The settings with what `transformers` assumes for those left out or null."""
    given = {key: value for key, value in data.items() if value is not None}
    if "q_lora_rank" in data:  # null is a value of its own here: one full matrix
        given["q_lora_rank"] = data["q_lora_rank"] or 0
    return DEFAULTS[family] | given


def _moe(data: Mapping[str, Any], family: str) -> MoEConfig:
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    width = "moe_intermediate_size" if "moe_intermediate_size" in data else "intermediate_size"
    fixed = integer(data, "shared_expert_intermediate_size", 0)
    sigmoid = family in _MLA_FAMILIES - {"deepseek_v2"} or family in ("minimax_m2", "glm4_moe")
    try:
        return MoEConfig(
            routed=integer(data, next((name for name in names if name in data), names[0])),
            top_k=integer(data, "num_experts_per_tok"),
            width=integer(data, width),
            shared=1 if fixed else integer(data, "n_shared_experts", 0),
            score="sigmoid" if sigmoid else "softmax",
            renormalise=flag(data, "norm_topk_prob", family in ("mixtral", "gpt_oss", "minimax_m2")),
            scale=number(data, "routed_scaling_factor", 1.0),
            bias=sigmoid,
            groups=integer(data, "n_group", 1) or 1,
            top_groups=integer(data, "topk_group", 1) or 1,
            shared_width=fixed or None,
            shared_gate=bool(fixed),
            expert_bias=family == "gpt_oss",
        )
    except ValueError as error:
        raise MythosError(f"config.json describes no possible experts: {error}.", _DOWNLOAD_AGAIN) from error


def _mla(data: Mapping[str, Any]) -> MLAConfig:
    try:
        return MLAConfig(
            kv_rank=integer(data, "kv_lora_rank"),
            nope_dim=integer(data, "qk_nope_head_dim"),
            rope_dim=integer(data, "qk_rope_head_dim"),
            value_dim=integer(data, "v_head_dim"),
            q_rank=integer(data, "q_lora_rank", 0),
            indexer_heads=integer(data, "index_n_heads", 0),
            indexer_dim=integer(data, "index_head_dim", 0),
            indexer_top=integer(data, "index_topk", 0),
        )
    except ValueError as error:
        raise MythosError(
            f"config.json describes no possible attention: {error}.", _DOWNLOAD_AGAIN
        ) from error


def _linear(data: Mapping[str, Any], layers: int) -> LinearConfig | None:
    kinds = _layer_types(data, layers)
    interval = integer(data, "full_attention_interval", 4)
    if not kinds:
        kinds = [
            "full_attention" if (n + 1) % max(interval, 1) == 0 else "linear_attention" for n in range(layers)
        ]
    chosen = tuple(layer for layer, kind in enumerate(kinds) if kind == "linear_attention")
    if not chosen:
        return None
    return LinearConfig(
        chosen,
        key_heads=integer(data, "linear_num_key_heads"),
        value_heads=integer(data, "linear_num_value_heads"),
        key_dim=integer(data, "linear_key_head_dim"),
        value_dim=integer(data, "linear_value_head_dim"),
        convolution=integer(data, "linear_conv_kernel_dim"),
    )


def _windows(data: Mapping[str, Any], layers: int) -> tuple[int, tuple[int, ...]]:
    """The window, and the layers that have it: those that `layer_types` names, else all (Mistral)."""
    window = integer(data, "sliding_window", 0)
    if not window or not flag(data, "use_sliding_window", data["model_type"] in _ALWAYS_WINDOWED):
        return 0, ()
    kinds = _layer_types(data, layers)
    if kinds:
        chosen = tuple(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention")
    elif data["model_type"] == "gpt_oss":  # every other layer, the first included
        chosen = tuple(range(0, layers, 2))
    else:
        chosen = tuple(range(integer(data, "max_window_layers", 0), layers))
    return (window, chosen) if chosen else (0, ())


def _layer_types(data: Mapping[str, Any], layers: int) -> list[Any]:
    kinds = data.get("layer_types", [])
    if not isinstance(kinds, list) or (kinds and len(kinds) != layers):
        raise MythosError("config.json does not give each layer one kind of attention.", _DOWNLOAD_AGAIN)
    return kinds


def _dense_layers(data: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    step, named = integer(data, "decoder_sparse_step", 1), data.get("mlp_only_layers", [])
    first, frequency = integer(data, "first_k_dense_replace", 0), integer(data, "moe_layer_freq", 1)
    if step < 1 or frequency < 1 or not isinstance(named, list):
        raise MythosError("config.json does not say which layers have experts.", _DOWNLOAD_AGAIN)
    return tuple(
        layer
        for layer in range(layers)
        if layer in named or (layer + 1) % step or layer < first or layer % frequency
    )


def integer(data: Mapping[str, Any], key: str, default: int | None = None, most: int = 1 << 31) -> int:
    value = data.get(key, default)
    if type(value) is not int or not 0 <= value <= most:
        raise MythosError(f"config.json has no usable {key}: {value!r:.40}.", _DOWNLOAD_AGAIN)
    return value


def number(data: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = data.get(key, default)
    if type(value) not in (int, float) or not abs(value) < 1e30:  # NaN fails too
        raise MythosError(f"config.json has no usable {key}: {value!r:.40}.", _DOWNLOAD_AGAIN)
    return float(value)


def flag(data: Mapping[str, Any], key: str, default: bool = False) -> bool:
    value = data.get(key, default)
    if type(value) is not bool:
        raise MythosError(f"config.json has no usable {key}: {value!r:.40}.", _DOWNLOAD_AGAIN)
    return value
