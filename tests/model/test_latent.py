"""Latent attention, prediction modules, experts in a latent width: against `transformers` and plain loops."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_models import LATENT, growing_cache, ours, theirs, tokens, transformers
from torch import Tensor
from transformers.modeling_layers import MtpModel

from mythos.model.attention import causal_attend
from mythos.model.checkpoint import config_from_hf, config_to_hf, load_checkpoint, save_checkpoint
from mythos.model.errors import WeightsError
from mythos.model.layout import copies, place, stored_tensors
from mythos.model.moe import MoE
from mythos.model.transformer import Transformer
from mythos.spec.config import MLAConfig, ModelConfig, MoEConfig, RopeConfig
from mythos.spec.counting import kv_bytes_per_token

BOUND = 1e-5  # in logits of standard deviation over 1
MLA = MLAConfig(kv_rank=32, nope_dim=24, rope_dim=16, value_dim=20, q_rank=48)
MOE = MoEConfig(routed=8, top_k=3, width=24, shared=1, score="sigmoid", bias=True, groups=4, top_groups=2)
SMALL = ModelConfig(
    vocab=96, layers=3, width=64, heads=4, kv_heads=4, head_dim=40, ffn=160, context=128, tied=False, mla=MLA,
    moe=MOE, dense_layers=(0,), mtp=2,
)  # fmt: skip


def fresh(config: ModelConfig) -> Transformer:
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0), std=0.15)
    return model


@pytest.mark.parametrize("kind", LATENT)
def test_absorbed_equals_naive_in_prefill_and_decode(kind: str, tmp_path: Path, record_property) -> None:
    """A cache of latents, filled in pieces and token by token, against one naive pass and `transformers`."""
    reference = theirs(kind, seed=3)
    model = ours(reference, tmp_path)
    ids, cache, got = tokens(30, seed=4), growing_cache(), []
    cached: list[int] = []

    def attend(layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        assert v_TGK is k_TGK
        cached.append(k_TGK.nbytes)
        return cache(layer, q_THK, k_TGK, v_TGK)

    with torch.no_grad():
        want = reference(ids[None]).logits[0]
        naive = model(ids, torch.arange(30), causal_attend([30]))
        whole = model(ids, torch.arange(30), causal_attend([30]), absorbed=True)
        for start, stop in [(0, 17), (17, 18), (18, 19), (19, 26), *((i, i + 1) for i in range(26, 30))]:
            got.append(model(ids[start:stop], torch.arange(start, stop), attend, absorbed=True))
    for other in (naive, whole, torch.cat(got)):
        torch.testing.assert_close(other, want, atol=BOUND, rtol=0)
    record_property("max_difference", (torch.cat(got) - want).abs().max().item())
    assert sum(cached) == 30 * kv_bytes_per_token(model.config, 4)


def test_absorbed_sequences_together_equal_alone(tmp_path: Path) -> None:
    model = ours(theirs("deepseek-v3"), tmp_path)
    parts = [tokens(n, seed=n) for n in (7, 1, 19)]
    positions = torch.cat([torch.arange(len(p)) for p in parts])
    with torch.no_grad():
        for absorbed in (False, True):
            alone = [
                model(p, torch.arange(len(p)), causal_attend([len(p)]), absorbed=absorbed) for p in parts
            ]
            packed = model(torch.cat(parts), positions, causal_attend([7, 1, 19]), absorbed=absorbed)
            torch.testing.assert_close(packed, torch.cat(alone), atol=BOUND, rtol=0)


def test_a_file_of_kimi_k2_is_read_and_written_for_transformers(tmp_path: Path) -> None:
    """Its config.json names an architecture of its own, whose tensors and settings are DeepSeek-V3's."""
    reference = theirs("kimi-k2")
    reference.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    data |= {"model_type": "kimi_k2", "auto_map": {"AutoConfig": "x"}, "aux_loss_alpha": 0.001}
    (tmp_path / "config.json").write_text(json.dumps(data))
    model = load_checkpoint(tmp_path)
    save_checkpoint(model, tmp_path / "ours")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    ids = tokens(1, 20)
    with torch.no_grad():
        assert torch.equal(back(ids).logits, reference(ids).logits)


DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": False, "ep_size": 1,
    "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168, "intermediate_size": 18432,
    "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256,
    "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                     "original_max_position_embeddings": 4096, "type": "yarn"},
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
    "tie_word_embeddings": False, "topk_group": 4, "topk_method": "noaux_tc", "v_head_dim": 128,
    "vocab_size": 129280,
}  # fmt: skip


def test_published_settings_of_deepseek_v3() -> None:
    """Keys as they stand in the hub's file, its quantisation left out."""
    config = config_from_hf(DEEPSEEK_V3)
    assert config.mla == MLAConfig(kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128, q_rank=1536)
    assert (config.mtp, config.dense_layers, config.head_dim) == (1, (0, 1, 2), 192)
    assert config.rope == RopeConfig(
        kind="yarn", base=1e4, factor=40.0, original_context=4096, mscale=1.0, mscale_all_dim=1.0
    )
    assert config.moe == MoEConfig(
        256, 8, 2048, shared=1, score="sigmoid", scale=2.5, bias=True, groups=8, top_groups=4
    )


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, mla=replace(MLA, q_rank=0), mtp=0, tied=True),
        replace(
            SMALL, rope=RopeConfig("yarn", factor=4.0, original_context=32, mscale=1.0, mscale_all_dim=0.5)
        ),
        replace(
            SMALL, dense_layers=(), moe=replace(MOE, groups=1, top_groups=1, renormalise=False, scale=2.0)
        ),
    ],
)
def test_configuration_round_trip_through_transformers(config: ModelConfig) -> None:
    data = config_to_hf(config)
    assert config_from_hf(data) == config
    assert config_from_hf(transformers.AutoConfig.for_model(**data).to_dict()) == config


@pytest.mark.parametrize(
    "key,value",
    [
        ("scoring_func", "softmax"),
        ("topk_method", "greedy"),
        ("rope_interleave", False),
        ("moe_layer_freq", 2),
        ("num_key_value_heads", 64),
        ("attention_bias", True),
        ("quantization_config", {"quant_method": "fp8"}),
        ("v_head_dim", 0),
        ("n_group", 7),
    ],
)
def test_other_settings_are_refused(key: str, value: object) -> None:
    with pytest.raises(WeightsError) as caught:
        Transformer(config_from_hf(DEEPSEEK_V3 | {key: value}))
    assert caught.value.cure


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, moe=replace(MOE, latent=32)),
        replace(SMALL, moe=replace(MOE, shared=0)),
        replace(SMALL, moe=replace(MOE, score="softmax")),
        replace(SMALL, dense_layers=(1,)),
        replace(SMALL, dense_layers=(0, 1, 2)),
        replace(SMALL, moe=None, dense_layers=()),
        replace(SMALL, mla=None),
    ],
)
def test_what_transformers_cannot_build_is_not_written(config: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        save_checkpoint(fresh(config), tmp_path / "c")
    assert caught.value.cure and not list(tmp_path.iterdir())


def test_stored_names_lead_back() -> None:
    with torch.device("meta"):
        model = Transformer(SMALL)
    held = model.state_dict().keys() | {name for name in copies(model) if name.startswith("mtp.")}
    stored = [name for name, _ in stored_tensors(model)]
    assert len(set(stored)) == len(stored)
    assert {place(name, SMALL.layers).name for name in stored} == held
    assert "model.layers.3.shared_head.head.weight" in stored
    assert "model.layers.4.mlp.experts.7.up_proj.weight" in stored
    assert "model.layers.0.self_attn.kv_a_proj_with_mqa.weight" in stored


def test_prediction_modules_equal_those_of_transformers(tmp_path: Path, record_property) -> None:
    """Written by us, read there: main model and modules, each module on what the one before it made.

    `transformers` knows the modules by DeepSeek-V3's own numbers of layers, so it is told ours.
    """
    model = fresh(SMALL)
    save_checkpoint(model, tmp_path / "c")
    main = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "c", attn_implementation="eager")
    main._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{layer}\." for layer in (3, 4)]
    modules = MtpModel.from_pretrained(main)
    ids, positions = tokens(22, seed=5), torch.arange(20)
    seen = []
    model.norm.register_forward_hook(lambda _m, _x, out: seen.append(out))
    with torch.no_grad():
        model(ids[:20], positions, causal_attend([20]))
        got, want = seen[0], main.model(ids[None, :20]).last_hidden_state
        for depth in range(2):
            later = ids[depth + 1 : depth + 21]
            got = model.ahead(depth, got, later, positions, causal_attend([20]))
            want = modules.forward_layer(depth, want, positions[None], None, input_ids=later[None])
            logits, theirs_logits = (F.linear(x, main.lm_head.weight) for x in (got, want[0]))
            record_property(f"max_difference_{depth}", (logits - theirs_logits).abs().max().item())
            torch.testing.assert_close(logits, theirs_logits, atol=BOUND, rtol=0)
    again = load_checkpoint(tmp_path / "c")
    assert again.config == SMALL
    assert all(torch.equal(again.state_dict()[name], t) for name, t in model.state_dict().items())


def test_a_checkpoint_without_its_prediction_modules_is_read_without_them(tmp_path: Path) -> None:
    """`transformers` keeps their number in config.json and leaves their tensors out."""
    save_checkpoint(fresh(SMALL), tmp_path / "c")
    main = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "c")
    main.save_pretrained(tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["num_nextn_predict_layers"] == 2
    assert load_checkpoint(tmp_path / "theirs").config == replace(SMALL, mtp=0)


@pytest.mark.parametrize("change", ["missing", "other embedding", "beyond"])
def test_spoiled_prediction_modules_are_refused(change: str, tmp_path: Path) -> None:
    save_checkpoint(fresh(SMALL), tmp_path / "c")
    file = tmp_path / "c" / "model.safetensors"
    stored = load_file(file)
    if change == "missing":
        del stored["model.layers.4.eh_proj.weight"]
    elif change == "other embedding":
        stored["model.layers.3.embed_tokens.weight"] += 1
    else:
        stored["model.layers.5.eh_proj.weight"] = stored["model.layers.4.eh_proj.weight"].clone()
    save_file(stored, file, metadata={"format": "pt"})
    fault = {"missing": "not whole", "other embedding": "differs", "beyond": "no place"}[change]
    with pytest.raises(WeightsError, match=fault):
        load_checkpoint(tmp_path / "c")


def stored_in_fp8(directory: Path, block: int) -> dict[str, Tensor]:
    """Puts the matrices of a checkpoint into FP8 blocks, as published; what they then say, by name."""
    file = directory / "model.safetensors"
    stored, exact = load_file(file), {}
    for name, weight_NK in list(stored.items()):
        if not name.endswith("_proj.weight") and "with_mqa" not in name:
            continue
        rows, columns = weight_NK.shape
        scale = torch.empty(-(-rows // block), -(-columns // block))
        small, exact[name] = (
            torch.empty_like(weight_NK, dtype=torch.float8_e4m3fn),
            torch.empty_like(weight_NK),
        )
        for n in range(scale.shape[0]):
            for k in range(scale.shape[1]):
                at = slice(n * block, (n + 1) * block), slice(k * block, (k + 1) * block)
                scale[n, k] = weight_NK[at].abs().max() / 448
                small[at] = (weight_NK[at] / scale[n, k]).to(torch.float8_e4m3fn)
                exact[name][at] = small[at].float() * scale[n, k]
        stored[name], stored[f"{name}_scale_inv"] = small, scale
    save_file(stored, file, metadata={"format": "pt"})
    data = json.loads((directory / "config.json").read_text())
    told = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [block] * 2,
    }
    (directory / "config.json").write_text(json.dumps(data | {"quantization_config": told}))
    return exact


def test_weights_in_fp8_blocks_are_read_as_bf16(tmp_path: Path) -> None:
    save_checkpoint(fresh(SMALL), tmp_path / "c")
    exact = stored_in_fp8(tmp_path / "c", 16)
    model = load_checkpoint(tmp_path / "c")
    assert len(exact) > 100
    read = dict(stored_tensors(model))
    for name, weight_NK in exact.items():
        assert torch.equal(read[name], weight_NK.bfloat16()), name
    save_checkpoint(model, tmp_path / "again")
    assert load_checkpoint(tmp_path / "again").config == SMALL


@pytest.mark.parametrize(
    "change", ["scale missing", "scale of another shape", "scale of nothing", "not told"]
)
def test_fp8_without_fitting_scales_is_refused(change: str, tmp_path: Path) -> None:
    save_checkpoint(fresh(SMALL), tmp_path / "c")
    stored_in_fp8(tmp_path / "c", 16)
    file, config = tmp_path / "c" / "model.safetensors", tmp_path / "c" / "config.json"
    stored, name = load_file(file), "model.layers.0.mlp.up_proj.weight_scale_inv"
    if change == "scale missing":
        del stored[name]
    elif change == "scale of another shape":
        stored[name] = stored[name][:-1].clone()
    elif change == "scale of nothing":
        stored["model.norm.weight_scale_inv"] = stored[name].clone()
    else:
        config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": None}))
    save_file(stored, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(tmp_path / "c")
    assert caught.value.cure


@pytest.mark.parametrize("latent", [16, 12])  # grouped kernel, loop
def test_experts_in_a_latent_width_equal_the_plain_loop(latent: int) -> None:
    torch.manual_seed(0)
    block = MoE(32, MoEConfig(routed=6, top_k=2, width=24, shared=1, latent=latent))
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x_TD = torch.randn(9, 32)
    ids_TA, weights_TA = block.gate(x_TD)
    down, up = (block.get_parameter(f"{name}.weight") for name in ("fc1_latent_proj", "fc2_latent_proj"))
    assert block.shared_experts is not None
    want = block.shared_experts(x_TD)
    for token in range(9):
        sum_D = torch.zeros(latent)
        for expert, weight in zip(ids_TA[token].tolist(), weights_TA[token], strict=True):
            gate, inner = (block.experts.gate_up_proj[expert] @ (down @ x_TD[token])).chunk(2)
            sum_D = sum_D + weight * (block.experts.down_proj[expert] @ (F.silu(gate) * inner))
        want[token] = want[token] + up @ sum_D
    torch.testing.assert_close(block(x_TD), want, atol=1e-4, rtol=1e-5)
