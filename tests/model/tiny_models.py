"""Tiny random models of `transformers`, the oracle of these tests; nothing is downloaded."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from mythos.model.attention import Attend
from mythos.model.checkpoint import load_checkpoint
from mythos.model.transformer import Transformer

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

_SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
}
_EXPERTS = {"head_dim": 32, "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": True}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 20,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "pad_token_id": None,
}
SETTINGS: dict[str, tuple[str, dict]] = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "num_key_value_heads": 4}),
    "llama-llama3": ("Llama", {"rope_parameters": _LLAMA3}),
    "llama-yarn": ("Llama", {"rope_parameters": _YARN}),
    "llama-yarn-options": (
        "Llama",
        {
            "rope_parameters": _YARN
            | {"truncate": False, "attention_factor": 1.3, "beta_fast": 16.0, "beta_slow": 2.0}
        },
    ),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3-yarn": ("Qwen3", {"head_dim": 32, "rope_parameters": _YARN}),
    "qwen3-moe": ("Qwen3Moe", _EXPERTS | {"moe_intermediate_size": 48}),
    "qwen3-moe-some-dense": (  # 20 is no multiple of 8: the loop instead of the grouped kernel
        "Qwen3Moe",
        _EXPERTS | {"moe_intermediate_size": 20, "mlp_only_layers": [1], "norm_topk_prob": False},
    ),
    "deepseek-v3": (
        "DeepseekV3",
        _LATENT | {"rope_parameters": _YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}},
    ),
    "deepseek-v3-options": (
        "DeepseekV3",
        _LATENT
        | {
            "q_lora_rank": None,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.7,
            "tie_word_embeddings": True,
        }
        | {"rope_parameters": _YARN | {"mscale": 0.7, "mscale_all_dim": 1.2}},
    ),
    "kimi-k2": ("DeepseekV3", _LATENT | {"n_group": 1, "topk_group": 1, "n_shared_experts": 1}),
}
LATENT = ["deepseek-v3", "deepseek-v3-options", "kimi-k2"]
KINDS = list(SETTINGS)


def theirs(kind: str, seed: int = 0) -> Any:
    """Weights large enough that logits spread over several units and every layer matters."""
    name, settings = SETTINGS[kind]
    config = getattr(transformers, f"{name}Config")(**(_SIZES | settings), attn_implementation="eager")
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.13 if kind in LATENT else 0.15)
            if parameter.dim() == 1:
                parameter.add_(1.0)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("e_score_correction_bias"):
                buffer.normal_(0.0, 0.1)
    return model


def ours(model: Any, directory: Path) -> Transformer:
    model.save_pretrained(directory)
    return load_checkpoint(directory)


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, _SIZES["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


def growing_cache() -> Attend:
    """Attention of one sequence to everything it has fed so far: decode, or prefill in pieces."""
    keys: dict[int, Tensor] = {}
    values: dict[int, Tensor] = {}

    def attend(layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        keys[layer] = torch.cat([keys[layer], k_TGK]) if layer in keys else k_TGK
        values[layer] = torch.cat([values[layer], v_TGK]) if layer in values else v_TGK
        group = q_THK.shape[1] // k_TGK.shape[1]
        k_SHK, v_SHK = (t[layer].repeat_interleave(group, dim=1) for t in (keys, values))
        scores_HTS = torch.bmm(q_THK.transpose(0, 1), k_SHK.permute(1, 2, 0)) * q_THK.shape[-1] ** -0.5
        past = len(k_SHK) - len(q_THK)
        hidden_TS = torch.ones(scores_HTS.shape[1:], dtype=torch.bool).triu(past + 1)
        weights_HTS = scores_HTS.masked_fill(hidden_TS, float("-inf")).softmax(-1)
        return torch.bmm(weights_HTS, v_SHK.transpose(0, 1)).transpose(0, 1)

    return attend
