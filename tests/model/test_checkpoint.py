"""The transformers layout both ways, and what becomes of malformed checkpoints."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import KINDS, ours, theirs, tokens, transformers

from mythos.model.attention import causal_attend
from mythos.model.checkpoint import (
    config_from_hf,
    config_to_hf,
    iter_tensors,
    load_checkpoint,
    save_checkpoint,
)
from mythos.model.errors import WeightsError
from mythos.model.transformer import Transformer
from mythos.spec.config import ModelConfig, MoEConfig, RopeConfig


def fresh(config: ModelConfig) -> Transformer:
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0), std=0.2)
    return model


SMALL = ModelConfig(vocab=40, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, ffn=48, context=64)


def small(**changes: Any) -> ModelConfig:
    return replace(SMALL, **changes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shard", [1 << 30, 20_000])
def test_round_trip_is_bit_equal_and_loads_in_transformers(kind: str, shard: int, tmp_path: Path) -> None:
    reference = theirs(kind, seed=7)
    model = ours(reference, tmp_path / "theirs")
    save_checkpoint(model, tmp_path / "ours", max_shard_bytes=shard)
    assert (tmp_path / "ours" / "model.safetensors.index.json").exists() == (shard == 20_000)
    again = load_checkpoint(tmp_path / "ours")
    assert again.config == model.config
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    back, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    assert type(back) is type(reference)
    ids = tokens(1, 20)
    with torch.no_grad():
        assert torch.equal(back(ids).logits, reference(ids).logits)
    stored = dict(iter_tensors(tmp_path / "theirs"))
    assert all(torch.equal(tensor, stored[name]) for name, tensor in iter_tensors(tmp_path / "ours"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    save_checkpoint(fresh(small()).to(dtype), tmp_path / "c")
    assert {t.dtype for t in load_checkpoint(tmp_path / "c").state_dict().values()} == {dtype}
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "c").dtype == dtype


def test_stacked_experts_are_read_as_well(tmp_path: Path) -> None:
    """`transformers` holds experts stacked and can store them so; published files hold them one by one."""
    model = ours(theirs("qwen3-moe"), tmp_path)
    file = tmp_path / "model.safetensors"
    stacked = {n: t for n, t in load_file(file).items() if ".experts." not in n}
    for name, tensor in model.state_dict().items():
        if ".experts." in name:
            stacked[f"model.{name}"] = tensor
    save_file(stacked, file, metadata={"format": "pt"})
    again = load_checkpoint(tmp_path)
    assert all(torch.equal(again.state_dict()[n], t) for n, t in model.state_dict().items())
    back, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    ids = tokens(20)
    with torch.no_grad():
        want = back(ids[None]).logits[0]
        torch.testing.assert_close(again(ids, torch.arange(20), causal_attend([20])), want, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        small(),
        small(tied=False, attention_bias=True, norm_eps=1e-6),
        small(qk_norm=True, head_dim=24),
        small(rope=RopeConfig(kind="llama3", factor=8.0, original_context=16, base=5e5)),
        small(rope=RopeConfig(kind="yarn", factor=4.0, original_context=16, truncate=False)),
        small(
            qk_norm=True, rope=RopeConfig(kind="yarn", factor=2.0, original_context=32, attention_factor=1.1)
        ),
        small(qk_norm=True, layers=4, moe=MoEConfig(routed=6, top_k=2, width=16), dense_layers=(0, 2)),
    ],
)
def test_configuration_round_trip_through_transformers(config: ModelConfig) -> None:
    data = config_to_hf(config)
    assert config_from_hf(data) == config
    theirs = transformers.AutoConfig.for_model(**data)
    assert config_from_hf(theirs.to_dict()) == config


def test_published_configurations() -> None:
    """Keys as they stand in the hub's files of 2024 and 2025."""
    llama = {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "tie_word_embeddings": False,
        "pretraining_tp": 1,
        "mlp_bias": False,
    }
    config = config_from_hf(llama)
    assert (config.head_dim, config.qk_norm, config.tied) == (128, False, False)
    assert config.rope == RopeConfig(kind="llama3", base=5e5, factor=8.0, original_context=8192)
    qwen = {
        "model_type": "qwen3_moe",
        "decoder_sparse_step": 2,
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "max_window_layers": 4,
        "mlp_only_layers": [1],
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "vocab_size": 151936,
    }
    config = config_from_hf(qwen)
    assert config.moe == MoEConfig(routed=128, top_k=8, width=768)
    assert config.dense_layers == (0, 1, 2)
    assert config.rope == RopeConfig(base=1e6)


@pytest.mark.parametrize(
    "config",
    [
        small(moe=MoEConfig(routed=4, top_k=2, width=8)),
        small(qk_norm=True, moe=MoEConfig(routed=4, top_k=2, width=8, shared=1)),
        small(qk_norm=True, moe=MoEConfig(routed=4, top_k=2, width=8, score="sigmoid", bias=True)),
        small(qk_norm=True, moe=MoEConfig(routed=4, top_k=2, width=8, groups=2, top_groups=1)),
        small(width=36, heads=8, kv_heads=8, head_dim=8),
    ],
)
def test_what_transformers_cannot_build_is_not_written(config: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        save_checkpoint(fresh(config), tmp_path / "c")
    assert caught.value.cure
    assert not list(tmp_path.iterdir())


def test_saving_never_overwrites_and_leaves_nothing_half(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "precious").write_text("x")
    with pytest.raises(WeightsError, match="exists already"):
        save_checkpoint(fresh(small()), tmp_path / "c")
    (tmp_path / "file").write_text("x")
    with pytest.raises(WeightsError, match="cannot be written"):
        save_checkpoint(fresh(small()), tmp_path / "file" / "c")
    with torch.device("meta"):
        unloaded = Transformer(small())
    with pytest.raises(WeightsError, match="not loaded"):
        save_checkpoint(unloaded, tmp_path / "d")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "file"]
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["precious"]


def test_a_second_head_beside_a_tied_one(tmp_path: Path) -> None:
    model = fresh(small())
    save_checkpoint(model, tmp_path / "c")
    file = tmp_path / "c" / "model.safetensors"
    stored = load_file(file)
    save_file(stored | {"lm_head.weight": stored["model.embed_tokens.weight"].clone()}, file)
    assert load_checkpoint(tmp_path / "c").config == model.config
    save_file(stored | {"lm_head.weight": stored["model.embed_tokens.weight"] + 1}, file)
    with pytest.raises(WeightsError, match="another head"):
        load_checkpoint(tmp_path / "c")


# Malformed checkpoints. Each case spoils a good one, sharded, with experts.


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("good") / "c"
    config = small(qk_norm=True, moe=MoEConfig(routed=3, top_k=2, width=16))
    save_checkpoint(fresh(config), directory, max_shard_bytes=16_000)
    return {file.name: file.read_bytes() for file in directory.iterdir()}


INDEX = "model.safetensors.index.json"


def first_shard(files: dict[str, bytes]) -> str:
    return min(name for name in files if name.endswith(".safetensors"))


def edit_json(files: dict[str, bytes], name: str, change: Callable[[dict], None]) -> None:
    data = json.loads(files[name])
    change(data)
    files[name] = json.dumps(data).encode()


def edit_header(files: dict[str, bytes], change: Callable[[dict], None]) -> None:
    raw = files[first_shard(files)]
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    files[first_shard(files)] = struct.pack("<Q", len(text)) + text + raw[8 + size :]


def cut(files: dict[str, bytes], size: int) -> None:
    files[first_shard(files)] = files[first_shard(files)][:size]


def set_length(files: dict[str, bytes], length: int) -> None:
    files[first_shard(files)] = struct.pack("<Q", length) + files[first_shard(files)][8:]


def rename_in_map(files: dict[str, bytes], target: str) -> None:
    edit_json(files, INDEX, lambda d: d["weight_map"].update({"model.norm.weight": target}))


def widen(header: dict) -> None:
    header["model.embed_tokens.weight"]["shape"] = [20, 64]  # the same bytes in another shape


def config_key(key: str, value: object) -> Callable[[dict[str, bytes]], None]:
    return lambda files: edit_json(files, "config.json", lambda d: d.update({key: value}))


SPOILED: dict[str, Callable[[dict[str, bytes]], object]] = {
    "empty shard": lambda f: cut(f, 0),
    "seven bytes": lambda f: cut(f, 7),
    "header cut": lambda f: cut(f, 60),
    "data cut": lambda f: cut(f, len(f[first_shard(f)]) - 1),
    "data too long": lambda f: f.update({first_shard(f): f[first_shard(f)] + b"\0"}),
    "header length 0": lambda f: set_length(f, 0),
    "header length 1 GB": lambda f: set_length(f, 10**9),
    "header length 2^64-1": lambda f: set_length(f, 2**64 - 1),
    "header no JSON": lambda f: f.update({first_shard(f): struct.pack("<Q", 4) + b"{{{{"}),
    "header nested": lambda f: f.update({first_shard(f): struct.pack("<Q", 90_000) + b"[" * 90_000}),
    "wrong shape": lambda f: edit_header(f, widen),
    "shape overflows": lambda f: edit_header(
        f, lambda h: h["model.embed_tokens.weight"].update({"shape": [2**62, 2**62]})
    ),
    "offsets swapped": lambda f: edit_header(
        f, lambda h: h["model.embed_tokens.weight"]["data_offsets"].reverse()
    ),
    "unknown dtype": lambda f: edit_header(
        f, lambda h: h["model.embed_tokens.weight"].update({"dtype": "X"})
    ),
    "quantised dtype": lambda f: edit_header(
        f, lambda h: h["model.embed_tokens.weight"].update({"dtype": "I32"})
    ),
    "tensor renamed": lambda f: edit_header(
        f, lambda h: h.update({"model.embedding": h.pop("model.embed_tokens.weight")})
    ),
    "shard missing": lambda f: f.pop(first_shard(f)),
    "index missing": lambda f: f.pop(INDEX),
    "tensor missing": lambda f: edit_json(f, INDEX, lambda d: d["weight_map"].pop("model.norm.weight")),
    "expert missing": lambda f: edit_json(
        f, INDEX, lambda d: d["weight_map"].pop("model.layers.1.mlp.experts.2.up_proj.weight")
    ),
    "tensor in no shard": lambda f: edit_json(
        f, INDEX, lambda d: d["weight_map"].update({"model.layers.0.extra": first_shard(f)})
    ),
    "index up": lambda f: rename_in_map(f, "../model.safetensors"),
    "index absolute": lambda f: rename_in_map(f, "/etc/passwd"),
    "index below": lambda f: rename_in_map(f, "a/model.safetensors"),
    "index hidden": lambda f: rename_in_map(f, ".safetensors"),
    "index newline": lambda f: rename_in_map(f, "a.safetensors\n"),
    "index not text": lambda f: edit_json(f, INDEX, lambda d: d["weight_map"].update({"x": 1})),
    "index a list": lambda f: f.update({INDEX: b"[]"}),
    "index without map": lambda f: f.update({INDEX: b"{}"}),
    "index nested": lambda f: f.update({INDEX: b"[" * 100_000}),
    "config missing": lambda f: f.pop("config.json"),
    "config not text": lambda f: f.update({"config.json": b"\xff\xfe{"}),
    "config nested": lambda f: f.update({"config.json": b'{"a":' * 100_000}),
    "config huge integer": lambda f: f.update({"config.json": b'{"model_type":' + b"9" * 9999 + b"}"}),
    "unknown architecture": config_key("model_type", "mamba"),
    "architecture a list": config_key("model_type", ["llama"]),
    "other activation": config_key("hidden_act", "gelu"),
    "sliding window": config_key("use_sliding_window", True),
    "sliding layers": config_key("layer_types", ["sliding_attention"]),
    "quantised": config_key("quantization_config", {"quant_method": "fp8"}),
    "dynamic rope": config_key("rope_scaling", {"rope_type": "dynamic", "factor": 2.0}),
    "rope a string": config_key("rope_scaling", "yarn"),
    "rope half told": config_key("rope_scaling", {"rope_type": "llama3"}),
    "rope factor NaN": config_key("rope_scaling", {"rope_type": "yarn", "factor": float("nan")}),
    "rope base 0": config_key("rope_theta", 0),
    "no width": config_key("hidden_size", None),
    "width a string": config_key("hidden_size", "32"),
    "width true": config_key("hidden_size", True),
    "width negative": config_key("hidden_size", -32),
    "heads 0": config_key("num_attention_heads", 0),
    "kv heads 3": config_key("num_key_value_heads", 3),
    "odd head": config_key("head_dim", 7),
    "too many experts per token": config_key("num_experts_per_tok", 4),
    "more layers than tensors": config_key("num_hidden_layers", 60_000),
    "a billion layers": config_key("num_hidden_layers", 10**9),
    "one layer more": config_key("num_hidden_layers", 3),
    "one layer less": config_key("num_hidden_layers", 1),
    "one expert more": config_key("num_experts", 4),
    "one expert less": config_key("num_experts", 2),
    "beyond all memory": config_key("vocab_size", 2**31),
    "more than a machine can count": config_key("intermediate_size", 2**62),
    "dense layer 9": config_key("mlp_only_layers", "12"),
    "step 0": config_key("decoder_sparse_step", 0),
}


@pytest.mark.parametrize("case", list(SPOILED))
def test_a_spoiled_checkpoint_is_told(case: str, good: dict[str, bytes], tmp_path: Path) -> None:
    files = dict(good)
    SPOILED[case](files)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(tmp_path)
    assert caught.value.message and caught.value.cure


def test_the_unspoiled_checkpoint_loads(good: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in good.items():
        (tmp_path / name).write_bytes(content)
    load_checkpoint(tmp_path)


def test_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nothing", tmp_path / "file", tmp_path):
        with pytest.raises(WeightsError):
            load_checkpoint(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_load_or_are_told(good: dict[str, bytes], tmp_path: Path, data: st.DataObject) -> None:
    """Anywhere in any file: the only exception is WeightsError."""
    name = data.draw(st.sampled_from(sorted(good)))
    raw = bytearray(good[name])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw), 3000) - 1))] = data.draw(st.integers(0, 255))
    for file, content in good.items():
        (tmp_path / file).write_bytes(raw if file == name else content)
    try:
        model = load_checkpoint(tmp_path)
    except WeightsError:
        return
    assert model.norm.weight.shape == (model.config.width,)
