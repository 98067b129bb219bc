"""config.json of `transformers` to a ModelConfig that can be built, and back."""

from dataclasses import replace
from typing import Any

from mythos.model.errors import WeightsError
from mythos.records.errors import MythosError
from mythos.spec.config import MLAConfig, ModelConfig, MoEConfig, RopeConfig, untrained_parts
from mythos.spec.hf_config import flag, integer, number, shape_from_hf, with_defaults

_DOWNLOAD_AGAIN = "Fetch or copy the checkpoint again."
_BUILT = ("llama", "qwen3", "qwen3_moe", "deepseek_v3", "kimi_k2")
_COVERED = f"Covered are {', '.join(_BUILT)}, without sliding window or quantisation."
# Settings that change what is computed, each with the one value that there is code for.
_FIXED = {"hidden_act": "silu", "mlp_bias": False, "use_sliding_window": False, "partial_rotary_factor": 1.0}
_FIXED_DEEPSEEK = {
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "rope_interleave": True, "moe_layer_freq": 1
}  # fmt: skip


def config_from_hf(data: dict[str, Any]) -> ModelConfig:
    """The ModelConfig of a `transformers` config.json; WeightsError when it is not covered."""
    family = data.get("model_type")
    if family not in _BUILT:
        raise WeightsError(f"config.json describes an unknown architecture: model_type {family!r}.", _COVERED)
    data = with_defaults(data, family)
    _refuse_other_settings(data)
    try:
        shape = shape_from_hf(data)
        return replace(shape, rope=_rope_from_hf(data, latent=shape.mla is not None))
    except WeightsError:
        raise
    except MythosError as error:
        raise WeightsError(error.message, error.cure) from error
    except ValueError as error:
        raise WeightsError(f"config.json describes no possible model: {error}.", _DOWNLOAD_AGAIN) from error


def _refuse_other_settings(data: dict[str, Any]) -> None:
    """Settings that change what is computed, in a way this class has no code for."""
    latent = data["model_type"] in ("deepseek_v3", "kimi_k2")
    fixed: dict[str, Any] = _FIXED | (_FIXED_DEEPSEEK if latent else {})
    if latent:  # each head has keys of its own, made from one latent
        fixed["num_key_value_heads"] = data.get("num_attention_heads")
    for key, value in fixed.items():
        if data.get(key, value) != value:
            raise WeightsError(f"config.json sets {key} to {data[key]!r}, which is not supported.", _COVERED)
    if "quantization_config" in data:
        raise WeightsError("The checkpoint is quantised, which is not supported.", _COVERED)
    kinds = data.get("layer_types", [])
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise WeightsError("config.json asks for layers without full attention.", _COVERED)


def _rope_from_hf(data: dict[str, Any], latent: bool) -> RopeConfig:
    """`rope_parameters` (transformers 5), or `rope_theta` with `rope_scaling` (before).

    Only latent attention also scales its scores (`mscale_all_dim`).
    """
    scaling = data.get("rope_parameters", data.get("rope_scaling", {}))
    if not isinstance(scaling, dict):
        raise WeightsError("config.json has rotary settings that are no object.", _DOWNLOAD_AGAIN)
    scaling = {key: value for key, value in scaling.items() if value is not None}
    base = number(scaling, "rope_theta", number(data, "rope_theta", 10_000.0))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return RopeConfig(base=base)
    if kind not in ("llama3", "yarn"):
        raise WeightsError(
            f"config.json asks for rotary scaling {kind!r}.", "Covered are default, llama3 and yarn."
        )
    scaled = not latent and ("mscale" in scaling or "mscale_all_dim" in scaling)
    if scaled or scaling.get("partial_rotary_factor", 1.0) != 1.0:
        raise WeightsError("config.json scales rotary embeddings as only other architectures do.", _COVERED)
    context = integer(data, "max_position_embeddings")
    original = integer(data, "original_max_position_embeddings", 0) or integer(
        scaling, "original_max_position_embeddings", context
    )
    factor = number(scaling, "factor", context / max(original, 1))
    if kind == "llama3":
        return RopeConfig(
            kind="llama3",
            base=base,
            factor=factor,
            original_context=original,
            low_freq_factor=number(scaling, "low_freq_factor"),
            high_freq_factor=number(scaling, "high_freq_factor"),
        )
    return RopeConfig(
        kind="yarn",
        base=base,
        factor=factor,
        original_context=original,
        beta_fast=number(scaling, "beta_fast", 32.0),
        beta_slow=number(scaling, "beta_slow", 1.0),
        attention_factor=number(scaling, "attention_factor") if "attention_factor" in scaling else None,
        truncate=flag(scaling, "truncate", True),
        mscale=number(scaling, "mscale", 0.0),
        mscale_all_dim=number(scaling, "mscale_all_dim", 0.0),
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The config.json with which `transformers` builds this model; WeightsError when it has no class for it.

    The rotary keys are those of the published files, which every version reads.
    """
    if missing := untrained_parts(config):
        raise WeightsError(f"No tensors exist for {', '.join(missing)}.", "Leave these settings out.")
    moe, rope = config.moe, config.rope
    if config.mla is not None:
        family, name = "deepseek_v3", "DeepseekV3ForCausalLM"
        _refuse_other_experts(config)
    elif config.mtp:
        raise WeightsError(
            "transformers has prediction modules only in models with latent attention.", "Leave out mtp."
        )
    elif moe is None:
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
    if config.mla is not None and moe is not None:
        data |= _deepseek_to_hf(config, config.mla, moe)
    elif moe is not None:
        data |= {
            "num_experts": moe.routed,
            "num_experts_per_tok": moe.top_k,
            "moe_intermediate_size": moe.width,
            "norm_topk_prob": moe.renormalise,
            "decoder_sparse_step": 1,
            "mlp_only_layers": list(config.dense_layers),
        }
    return data


def _refuse_other_experts(config: ModelConfig) -> None:
    """`transformers` has latent attention with DeepSeek-V3's experts only."""
    moe, first = config.moe, len(config.dense_layers)
    plain = moe is not None and moe.score == "sigmoid" and moe.bias and moe.shared and moe.latent is None
    if not plain or config.dense_layers != tuple(range(first)) or first == config.layers:
        raise WeightsError(
            "transformers has no model with this attention and these experts.",
            "Exported with latent attention are experts chosen by biased sigmoid scores, beside shared ones, "
            "in all layers but the first.",
        )


def _deepseek_to_hf(config: ModelConfig, mla: MLAConfig, moe: MoEConfig) -> dict[str, Any]:
    return {
        "head_dim": mla.rope_dim,  # what `transformers` calls so here
        "q_lora_rank": mla.q_rank or None,
        "kv_lora_rank": mla.kv_rank,
        "qk_nope_head_dim": mla.nope_dim,
        "qk_rope_head_dim": mla.rope_dim,
        "v_head_dim": mla.value_dim,
        "num_key_value_heads": config.heads,
        "n_routed_experts": moe.routed,
        "n_shared_experts": moe.shared,
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.width,
        "n_group": moe.groups,
        "topk_group": moe.top_groups,
        "norm_topk_prob": moe.renormalise,
        "routed_scaling_factor": moe.scale,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "first_k_dense_replace": len(config.dense_layers),
        "moe_layer_freq": 1,
        "num_nextn_predict_layers": config.mtp,
    }


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
    if rope.mscale or rope.mscale_all_dim:
        scaling |= {"mscale": rope.mscale, "mscale_all_dim": rope.mscale_all_dim}
    return scaling if rope.attention_factor is None else scaling | {"attention_factor": rope.attention_factor}
