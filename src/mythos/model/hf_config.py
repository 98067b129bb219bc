"""config.json of `transformers` to ModelConfig and back. The one place that knows families."""

from typing import Any

from mythos.model.errors import WeightsError
from mythos.spec.config import ModelConfig, MoEConfig, RopeConfig

_DOWNLOAD_AGAIN = "Fetch or copy the checkpoint again."
_COVERED = "Covered are llama, qwen3 and qwen3_moe without sliding window or quantisation."

# What `transformers` assumes for a setting that config.json leaves out.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "qwen3": {"max_position_embeddings": 32768, "head_dim": 128, "num_key_value_heads": 32},
    "qwen3_moe": {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
    },
}


def config_from_hf(data: dict[str, Any]) -> ModelConfig:
    """The ModelConfig of a `transformers` config.json; WeightsError when it is not covered."""
    family = data.get("model_type")
    if not isinstance(family, str) or family not in _DEFAULTS:
        raise WeightsError(f"config.json describes an unknown architecture: model_type {family!r}.", _COVERED)
    data = _DEFAULTS[family] | {key: value for key, value in data.items() if value is not None}
    _refuse_other_settings(data)
    width, heads = _integer(data, "hidden_size"), _integer(data, "num_attention_heads")
    layers = _integer(data, "num_hidden_layers", most=1 << 16)
    try:
        return ModelConfig(
            vocab=_integer(data, "vocab_size"),
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=_integer(data, "num_key_value_heads", heads),
            head_dim=_integer(data, "head_dim", width // max(heads, 1)),
            ffn=_integer(data, "intermediate_size"),
            context=_integer(data, "max_position_embeddings"),
            tied=_flag(data, "tie_word_embeddings"),
            qk_norm=family != "llama",
            norm_eps=_number(data, "rms_norm_eps", 1e-6),
            rope=_rope_from_hf(data),
            moe=_moe_from_hf(data) if family == "qwen3_moe" else None,
            dense_layers=_dense_layers(data, layers) if family == "qwen3_moe" else (),
            attention_bias=_flag(data, "attention_bias"),
        )
    except ValueError as error:
        raise WeightsError(f"config.json describes no possible model: {error}.", _DOWNLOAD_AGAIN) from error


def _refuse_other_settings(data: dict[str, Any]) -> None:
    """Settings that change what is computed, in a way this class has no code for."""
    fixed = {
        "hidden_act": "silu",
        "mlp_bias": False,
        "use_sliding_window": False,
        "partial_rotary_factor": 1.0,
    }
    for key, value in fixed.items():
        if data.get(key, value) != value:
            raise WeightsError(f"config.json sets {key} to {data[key]!r}, which is not supported.", _COVERED)
    if "quantization_config" in data:
        raise WeightsError("The checkpoint is quantised, which is not supported.", _COVERED)
    kinds = data.get("layer_types", [])
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise WeightsError("config.json asks for layers without full attention.", _COVERED)


def _rope_from_hf(data: dict[str, Any]) -> RopeConfig:
    """`rope_parameters` (transformers 5), or `rope_theta` with `rope_scaling` (before)."""
    scaling = data.get("rope_parameters", data.get("rope_scaling", {}))
    if not isinstance(scaling, dict):
        raise WeightsError("config.json has rotary settings that are no object.", _DOWNLOAD_AGAIN)
    scaling = {key: value for key, value in scaling.items() if value is not None}
    base = _number(scaling, "rope_theta", _number(data, "rope_theta", 10_000.0))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return RopeConfig(base=base)
    if kind not in ("llama3", "yarn"):
        raise WeightsError(
            f"config.json asks for rotary scaling {kind!r}.", "Covered are default, llama3 and yarn."
        )
    if "mscale" in scaling or "mscale_all_dim" in scaling or scaling.get("partial_rotary_factor", 1.0) != 1.0:
        raise WeightsError("config.json scales rotary embeddings as only other architectures do.", _COVERED)
    context = _integer(data, "max_position_embeddings")
    original = _integer(data, "original_max_position_embeddings", 0) or _integer(
        scaling, "original_max_position_embeddings", context
    )
    factor = _number(scaling, "factor", context / max(original, 1))
    if kind == "llama3":
        return RopeConfig(
            kind="llama3",
            base=base,
            factor=factor,
            original_context=original,
            low_freq_factor=_number(scaling, "low_freq_factor"),
            high_freq_factor=_number(scaling, "high_freq_factor"),
        )
    return RopeConfig(
        kind="yarn",
        base=base,
        factor=factor,
        original_context=original,
        beta_fast=_number(scaling, "beta_fast", 32.0),
        beta_slow=_number(scaling, "beta_slow", 1.0),
        attention_factor=_number(scaling, "attention_factor") if "attention_factor" in scaling else None,
        truncate=_flag(scaling, "truncate", True),
    )


def _moe_from_hf(data: dict[str, Any]) -> MoEConfig:
    return MoEConfig(
        routed=_integer(data, "num_local_experts" if "num_local_experts" in data else "num_experts"),
        top_k=_integer(data, "num_experts_per_tok"),
        width=_integer(data, "moe_intermediate_size"),
        renormalise=_flag(data, "norm_topk_prob"),
    )


def _dense_layers(data: dict[str, Any], layers: int) -> tuple[int, ...]:
    step, named = _integer(data, "decoder_sparse_step", 1), data.get("mlp_only_layers", [])
    if step < 1 or not isinstance(named, list):
        raise WeightsError("config.json does not say which layers have experts.", _DOWNLOAD_AGAIN)
    return tuple(layer for layer in range(layers) if layer in named or (layer + 1) % step)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The config.json with which `transformers` builds this model; WeightsError when it has no class for it.

    The rotary keys are those of the published files, which every version reads.
    """
    moe, rope = config.moe, config.rope
    if moe is None:
        family, name = ("qwen3", "Qwen3ForCausalLM") if config.qk_norm else ("llama", "LlamaForCausalLM")
    else:
        family, name = "qwen3_moe", "Qwen3MoeForCausalLM"
        plain = MoEConfig(moe.routed, moe.top_k, moe.width, renormalise=moe.renormalise)
        if moe != plain or not config.qk_norm:
            raise WeightsError(
                "transformers has no model with this attention and these experts.",
                "Exported are experts chosen by softmax, ungrouped, unscaled, none shared, under QK-norm.",
            )
    if family == "llama" and config.width % config.heads:
        raise WeightsError(
            "transformers builds no Llama whose width is not a multiple of its heads.",
            "Choose another head count.",
        )
    data: dict[str, Any] = {
        "architectures": [name],
        "model_type": family,
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context,
        "tie_word_embeddings": config.tied,
        "attention_bias": config.attention_bias,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "rope_theta": rope.base,
        "rope_scaling": _rope_to_hf(rope),
        "bos_token_id": None,  # the tokenizer's affair; without these lines the class would assume 1 and 2
        "eos_token_id": None,
    }
    if moe is not None:
        data |= {
            "num_experts": moe.routed,
            "num_experts_per_tok": moe.top_k,
            "moe_intermediate_size": moe.width,
            "norm_topk_prob": moe.renormalise,
            "decoder_sparse_step": 1,
            "mlp_only_layers": list(config.dense_layers),
        }
    return data


def _rope_to_hf(rope: RopeConfig) -> dict[str, Any] | None:
    if rope.kind == "plain":
        return None
    scaling: dict[str, Any] = {
        "rope_type": rope.kind,
        "factor": rope.factor,
        "original_max_position_embeddings": rope.original_context,
    }
    if rope.kind == "llama3":
        return scaling | {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    scaling |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow, "truncate": rope.truncate}
    return scaling if rope.attention_factor is None else scaling | {"attention_factor": rope.attention_factor}


def _integer(data: dict[str, Any], key: str, default: int | None = None, most: int = 1 << 31) -> int:
    value = data.get(key, default)
    if type(value) is not int or not 0 <= value <= most:
        raise WeightsError(f"config.json has no usable {key}: {value!r:.40}.", _DOWNLOAD_AGAIN)
    return value


def _number(data: dict[str, Any], key: str, default: float | None = None) -> float:
    value = data.get(key, default)
    if type(value) not in (int, float) or not abs(value) < 1e30:  # NaN fails too
        raise WeightsError(f"config.json has no usable {key}: {value!r:.40}.", _DOWNLOAD_AGAIN)
    return float(value)


def _flag(data: dict[str, Any], key: str, default: bool = False) -> bool:
    value = data.get(key, default)
    if type(value) is not bool:
        raise WeightsError(f"config.json has no usable {key}: {value!r:.40}.", _DOWNLOAD_AGAIN)
    return value
