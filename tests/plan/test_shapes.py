"""Shapes of `config.json` counted: against transformers' own classes, and against published totals."""

import json
from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.model.errors import WeightsError
from mythos.model.hf_config import config_to_hf
from mythos.model.transformer import Transformer
from mythos.records.errors import MythosError
from mythos.spec.config import LinearConfig, MLAConfig, ModelConfig, MoEConfig, untrained_parts
from mythos.spec.counting import (
    active_parameters,
    flops_per_token,
    kv_bytes,
    kv_bytes_per_token,
    layer_kinds,
    layer_matrices,
    layer_parameters,
    mtp_parameters,
    parameters,
    training_flops_per_token,
)
from mythos.spec.hf_config import DEFAULTS, shape_from_hf

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
EXPERTS = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
MLA = {
    **EXPERTS,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_group": 2,
    "topk_group": 1,
}
DSA = {**MLA, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 16}
LINEAR = {
    **EXPERTS,
    "num_experts": 8,
    "shared_expert_intermediate_size": 40,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "smollm3": {"tie_word_embeddings": True},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2": {},
    "qwen3": {"attention_bias": True},
    "qwen3_moe": {**EXPERTS, "num_experts": 8, "mlp_only_layers": [1], "decoder_sparse_step": 2},
    "qwen3_next": LINEAR,
    "qwen3_5_moe_text": LINEAR,
    "minimax_m2": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "glm4_moe": {**EXPERTS, "n_routed_experts": 8, "n_shared_experts": 1, "use_qk_norm": True},
    "gpt_oss": {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 16},
    "deepseek_v3": MLA,
    "deepseek_v32": DSA,
    "glm_moe_dsa": DSA,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_are_those_of_transformers(family: str) -> None:
    data = SIZES | FAMILIES[family]
    theirs = transformers.AutoConfig.for_model(family, **data)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(theirs)
    ours = shape_from_hf(data | {"model_type": family})
    assert parameters(ours) == sum(p.numel() for p in model.parameters())
    assert parameters(shape_from_hf(theirs.to_dict() | {"model_type": family})) == parameters(ours)


LLAMA = {"model_type": "llama", "vocab_size": 128256, "tie_word_embeddings": False, "num_key_value_heads": 8}
DEEPSEEK = {
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "tie_word_embeddings": False,
}
PUBLISHED = {
    "DeepSeek-V3": DEEPSEEK
    | {
        "model_type": "deepseek_v3",
        "vocab_size": 129280,
        "num_attention_heads": 128,
        "n_routed_experts": 256,
        "first_k_dense_replace": 3,
        "num_nextn_predict_layers": 1,
    },
    "Kimi-K2": DEEPSEEK
    | {
        "model_type": "kimi_k2",
        "vocab_size": 163840,
        "num_attention_heads": 64,
        "n_routed_experts": 384,
        "first_k_dense_replace": 1,
    },
    "Llama-3.1-405B": LLAMA
    | {
        "hidden_size": 16384,
        "num_hidden_layers": 126,
        "num_attention_heads": 128,
        "intermediate_size": 53248,
    },
    "Llama-3.1-8B": LLAMA
    | {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 14336},
    "Mixtral-8x7B": {
        "model_type": "mixtral",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 14336,
    },
    "Qwen3-235B-A22B": {
        "model_type": "qwen3_moe",
        "vocab_size": 151936,
        "hidden_size": 4096,
        "num_hidden_layers": 94,
        "num_attention_heads": 64,
        "head_dim": 128,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
    },
    "Qwen2.5-72B": {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "intermediate_size": 29568,
    },
    "gpt-oss-120b": {
        "model_type": "gpt_oss",
        "vocab_size": 201088,
        "hidden_size": 2880,
        "num_hidden_layers": 36,
        "num_attention_heads": 64,
        "intermediate_size": 2880,
        "num_local_experts": 128,
        "sliding_window": 128,
    },
    "SmolLM2-135M": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "tie_word_embeddings": True,
    },
}
# To the unit, from the safetensors index of the hub's files.
TOTALS = {
    "DeepSeek-V3": 671_026_404_352,  # without the 58 x 256 selection biases, which are no parameters here
    "Llama-3.1-405B": 405_853_388_800,
    "Llama-3.1-8B": 8_030_261_248,
    "Mixtral-8x7B": 46_702_792_704,
    "Qwen3-235B-A22B": 235_093_634_560,
    "Qwen2.5-72B": 72_706_203_648,
    "gpt-oss-120b": 116_829_156_672,
    "SmolLM2-135M": 134_515_008,
}


@pytest.mark.parametrize("name", TOTALS)
def test_published_totals_to_the_unit(name: str) -> None:
    assert parameters(shape_from_hf(PUBLISHED[name])) == TOTALS[name]


@pytest.mark.parametrize(
    ("name", "total", "active", "within"),
    [
        ("DeepSeek-V3", 671e9, 37e9, 0.016),  # arXiv 2412.19437
        ("Kimi-K2", 1.04e12, 32.6e9, 0.014),  # the report's total counts more than the tensors of the file
        ("Qwen3-235B-A22B", 235e9, 22e9, 0.01),
        ("Mixtral-8x7B", 46.7e9, 12.9e9, 0.003),
    ],
)
def test_published_active_parameters(name: str, total: float, active: float, within: float) -> None:
    config = shape_from_hf(PUBLISHED[name])
    assert parameters(config) == pytest.approx(total, rel=within)
    assert active_parameters(config) == pytest.approx(active, rel=within)


def test_gpt_oss_leaves_out_the_input_embedding() -> None:
    """5.13B of the model card."""
    config = shape_from_hf(PUBLISHED["gpt-oss-120b"])
    assert active_parameters(config) - config.vocab * config.width == pytest.approx(5.13e9, rel=1e-3)


def test_published_cache_sizes() -> None:
    """Bytes in 16 bits per token (arXiv 2505.09343, table 1)."""
    sizes = {"DeepSeek-V3": 70_272, "Qwen2.5-72B": 327_680, "Llama-3.1-405B": 516_096}
    for name, size in sizes.items():
        assert kv_bytes_per_token(shape_from_hf(PUBLISHED[name]), 2) == size


def test_prediction_module_of_deepseek() -> None:
    """11.5B of its own, beside embedding and head (DeepSeek-V3, README_WEIGHTS.md)."""
    assert mtp_parameters(shape_from_hf(PUBLISHED["DeepSeek-V3"])) == pytest.approx(11.5e9, rel=0.011)


def test_windows_bound_the_cache() -> None:
    config = shape_from_hf(PUBLISHED["gpt-oss-120b"])
    assert config.windowed == tuple(range(0, 36, 2))
    full, window = 18 * 2 * 8 * 64 * 2, 18 * 2 * 8 * 64 * 2
    assert kv_bytes(config, 100, 2) == 100 * (full + window)
    assert kv_bytes(config, 10_000, 2) == 10_000 * full + 128 * window
    assert kv_bytes_per_token(config, 2) == full


def test_training_flops_follow_the_convention() -> None:
    """A dense model by hand: 6 per parameter in a product that acts on the token, and 6 a d s per layer."""
    config = ModelConfig(
        vocab=10, layers=3, width=8, heads=2, kv_heads=1, head_dim=4, ffn=16, context=64, tied=False
    )
    products = 3 * (8 * 2 * 4 * 2 + 2 * 8 * 4 + 3 * 8 * 16) + 8 * 10
    assert training_flops_per_token(config, 64) == 6 * products + 3 * 6 * 2 * 4 * 64


def test_a_window_as_long_as_the_sequence_changes_nothing() -> None:
    config = shape_from_hf(PUBLISHED["gpt-oss-120b"])
    plain = shape_from_hf(PUBLISHED["gpt-oss-120b"] | {"sliding_window": None})
    assert training_flops_per_token(config, 128) == training_flops_per_token(plain, 128)
    assert training_flops_per_token(config, 4096) < training_flops_per_token(plain, 4096)
    assert flops_per_token(config, 100) == flops_per_token(plain, 100)


def test_latent_experts_work_in_their_own_width() -> None:
    """Kimi-K3's form: half the width, at the cost of a projection each way."""
    experts = MoEConfig(routed=8, top_k=2, width=16, latent=16)
    plain = ModelConfig(
        vocab=10, layers=1, width=32, heads=2, kv_heads=2, head_dim=16, ffn=8, context=8, moe=experts
    )
    part = layer_parameters(plain, 0)
    assert part.experts == 8 * 3 * 16 * 16
    assert layer_matrices(plain, 0).replicated == 2 * 32 * 16


def test_every_layer_counts_as_its_kind() -> None:
    for data in PUBLISHED.values():
        config = shape_from_hf(data)
        kinds = layer_kinds(config)
        assert len(kinds) == config.layers + config.mtp
        for layer, kind in enumerate(kinds):
            assert layer_parameters(config, layer) == layer_parameters(config, kind)
            assert layer_matrices(config, layer) == layer_matrices(config, kind)


# ---- what cannot be built, and nonsense

PLAIN = {
    "vocab": 16,
    "layers": 2,
    "width": 8,
    "heads": 2,
    "kv_heads": 2,
    "head_dim": 4,
    "ffn": 8,
    "context": 8,
}
MLA_PART = MLAConfig(kv_rank=4, nope_dim=2, rope_dim=2, value_dim=4)
UNBUILT: list[dict[str, object]] = [
    {"mla": replace(MLA_PART, q_rank=4, indexer_heads=1, indexer_dim=2, indexer_top=2)},
    {"mla": MLA_PART, "attention_bias": True},
    {"mla": MLA_PART, "qk_norm": True},
    {"linear": LinearConfig((0,), 1, 1, 4, 4)},
    {"window": 4, "windowed": (0,)},
    {"sinks": True},
    {"qkv_bias": True},
    {"attention_gate": True},
    {"qk_norm": True, "wide_qk_norm": True},
    {"gated": False},
    {"layer_norm": True},
    {"mlp_bias": True},
    {"learned_positions": 8},
    {"moe": MoEConfig(4, 2, 8, shared=1, shared_width=8)},
    {"moe": MoEConfig(4, 2, 8, shared=1, shared_gate=True)},
    {"moe": MoEConfig(4, 2, 8, expert_bias=True)},
]


@pytest.mark.parametrize("parts", UNBUILT, ids=lambda parts: "-".join(parts))
def test_the_model_refuses_what_it_has_no_tensors_for(parts: dict[str, object]) -> None:
    config = ModelConfig(**(PLAIN | parts))  # type: ignore[arg-type]
    (name,) = untrained_parts(config)
    with pytest.raises(WeightsError, match=rf"No tensors exist for {name}.*\."):
        Transformer(config)
    with pytest.raises(WeightsError, match="No tensors exist"):
        config_to_hf(config)


@pytest.mark.parametrize(
    "parts",
    [
        {"window": 4},
        {"windowed": (0,)},
        {"window": 4, "windowed": (2,)},
        {"mla": MLA_PART, "head_dim": 8},
        {"mtp": -1},
        {"qkv_bias": True, "attention_bias": True},
        {"wide_qk_norm": True},
    ],
)
def test_parts_that_contradict_each_other(parts: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        ModelConfig(**(PLAIN | parts))  # type: ignore[arg-type]


VALUES = st.none() | st.booleans() | st.integers(-3, 1 << 40) | st.floats() | st.text(max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(DEFAULTS)),
    st.dictionaries(st.sampled_from([*SIZES, *DSA, *LINEAR, "sliding_window"]), VALUES, max_size=6),
)
def test_any_config_json_gives_a_shape_or_one_error(family: str, data: dict[str, object]) -> None:
    whole = json.loads(json.dumps(SIZES | FAMILIES.get(family, {}) | data | {"model_type": family}))
    try:
        config = shape_from_hf(whole)
    except MythosError as error:
        assert error.message.endswith(".")
    else:
        if config.layers < 1000:
            assert parameters(config) > 0


def test_an_unknown_architecture_names_the_known() -> None:
    with pytest.raises(MythosError, match="Known are llama") as caught:
        shape_from_hf({"model_type": "rwkv"})
    assert "rwkv" in caught.value.message
