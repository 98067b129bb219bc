"""Reading GGUF, the file format of llama.cpp: a source to convert from, never a served form.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
The header is parsed here, with every count and length held against the bytes that are left, because a
file from elsewhere is not to be trusted; the `gguf` package turns quantised blocks into float32.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mythos.model.errors import WeightsError
from mythos.spec.config import ModelConfig, RopeConfig

CURE = "Fetch the file again; when the same error returns, convert from another file of the model."

SAFETENSORS = "Take the model's safetensors instead."

MAX_KEYS = 4096
MAX_TENSORS = 1 << 20
MAX_ARRAY = 1 << 22  # entries of one metadata array; the largest vocabularies have 262,144
MAX_NAME = 1024  # bytes of a key or of a tensor's name

SCALARS = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
BOOL, STRING, ARRAY = 7, 8, 9

# Block formats by their number in the file: name, values per block, bytes per block.
BLOCKS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}

# Tensor names of a block in the file -> in `Transformer`.
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# The word splitting that belongs to each `tokenizer.ggml.pre`: (normaliser, first pre-tokeniser, whether the
# byte-level step applies GPT-2's own regular expression).
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {
    "smollm": (None, {"type": "Digits", "individual_digits": True}, True),
    "qwen2": (
        {"type": "NFC"},
        {"type": "Split", "pattern": {"Regex": QWEN_WORDS}, "behavior": "Isolated", "invert": False},
        False,
    ),
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies. `shape` is row-major as torch has it: [out, in] for a linear layer."""

    shape: tuple[int, ...]
    kind: int  # key of BLOCKS
    start: int  # byte offset in the file
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class GGUF:
    """A checked header over the mapped file. Metadata arrays are numpy arrays, or lists of str."""

    name: str
    data: np.ndarray  # uint8, the whole file
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]


class _Cursor:
    """Reads little-endian values from `data`, refusing to pass its end."""

    def __init__(self, data: np.ndarray, name: str) -> None:
        self.data, self.name, self.at = data, name, 0

    def fail(self, what: str) -> WeightsError:
        return WeightsError(f"{self.name}: {what} (at byte {self.at} of {self.data.size}).", CURE)

    def take(self, size: int) -> memoryview:
        if size > self.data.size - self.at:
            raise self.fail(f"the file ends inside a value of {size} bytes")
        view = self.data.data[self.at : self.at + size]
        self.at += size
        return view

    def uint32(self) -> int:
        return struct.unpack("<I", self.take(4))[0]

    def uint64(self) -> int:
        return struct.unpack("<Q", self.take(8))[0]

    def count(self, what: str, limit: int, smallest: int) -> int:
        """A count of things of at least `smallest` bytes each, so it cannot exceed what is left."""
        count = self.uint64()
        if count > min(limit, (self.data.size - self.at) // smallest):
            raise self.fail(f"impossible {what} {count}")
        return count

    def string(self, what: str, limit: int | None = None) -> str:
        size = self.count(f"length of {what}", self.data.size if limit is None else limit, 1)
        try:
            return str(self.take(size), "utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not UTF-8") from None

    def value(self, key: str) -> Any:
        kind = self.uint32()
        if kind == STRING:
            return self.string(key)
        if kind in SCALARS:
            value = self.numbers(kind, 1)[0].item()
            return bool(value) if kind == BOOL else value
        if kind != ARRAY:
            raise self.fail(f"unknown value type {kind} of {key}")
        kind = self.uint32()
        if kind == STRING:
            return [self.string(key) for _ in range(self.count(f"entries of {key}", MAX_ARRAY, 8))]
        if kind not in SCALARS:
            raise self.fail(f"arrays of type {kind} ({key}) are not read")
        return self.numbers(
            kind, self.count(f"entries of {key}", MAX_ARRAY, np.dtype(SCALARS[kind]).itemsize)
        )

    def numbers(self, kind: int, count: int) -> np.ndarray:
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype=dtype)


def read_gguf(path: Path) -> GGUF:
    """Map the file at `path` and check its header; WeightsError for anything but a sound GGUF file."""
    try:
        if path.stat().st_size < 24:
            raise WeightsError(f"{path.name}: too short to be a GGUF file.", CURE)
        data = np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}).", CURE) from None
    return parse_gguf(data, path.name)


def parse_gguf(data: np.ndarray, name: str) -> GGUF:
    """The header of a whole GGUF file in `data` (uint8). Nothing is copied but metadata strings."""
    cursor = _Cursor(data, name)
    if bytes(cursor.take(4)) != b"GGUF":
        raise cursor.fail("not a GGUF file (no magic)")
    version = cursor.uint32()
    if version not in (2, 3):
        raise cursor.fail(f"GGUF version {version} is not read (2 and 3 are)")
    tensor_count = cursor.count("number of tensors", MAX_TENSORS, 24)
    key_count = cursor.count("number of keys", MAX_KEYS, 13)

    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.string("a key", MAX_NAME)
        if key in metadata:
            raise cursor.fail(f"key {key!r} occurs twice")
        metadata[key] = cursor.value(key)

    placed: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        tensor = cursor.string("a tensor's name", MAX_NAME)
        dims = cursor.uint32()
        if not 1 <= dims <= 4:
            raise cursor.fail(f"tensor {tensor!r} has {dims} dimensions")
        shape = tuple(reversed([cursor.uint64() for _ in range(dims)]))  # the file lists the fastest first
        kind, offset = cursor.uint32(), cursor.uint64()
        if tensor in placed:
            raise cursor.fail(f"tensor {tensor!r} occurs twice")
        placed[tensor] = (shape, kind, offset)

    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment not in {1 << power for power in range(3, 21)}:
        raise cursor.fail(f"alignment {alignment!r} is not a sensible power of two")
    base = -(-cursor.at // alignment) * alignment
    tensors = {tensor: _locate(cursor, tensor, base, *facts) for tensor, facts in placed.items()}
    _refuse_overlap(cursor, tensors)
    return GGUF(name, data, MappingProxyType(metadata), MappingProxyType(tensors))


def _locate(
    cursor: _Cursor, tensor: str, base: int, shape: tuple[int, ...], kind: int, offset: int
) -> TensorInfo:
    if kind not in BLOCKS:
        readable = ", ".join(block[0] for block in BLOCKS.values())
        raise cursor.fail(
            f"tensor {tensor!r} has the block format {kind}, which is not read ({readable} are)"
        )
    _, values, size = BLOCKS[kind]
    if shape[-1] % values or 0 in shape:
        raise cursor.fail(f"tensor {tensor!r} has the shape {shape}, no multiple of its block of {values}")
    total = math.prod(shape) // values * size
    if base + offset + total > cursor.data.size:
        raise cursor.fail(f"tensor {tensor!r} lies outside the file: truncated, or a damaged header")
    return TensorInfo(shape, kind, base + offset, total)


def _refuse_overlap(cursor: _Cursor, tensors: Mapping[str, TensorInfo]) -> None:
    # Tensors that share bytes could make a small file demand a huge conversion.
    end = 0
    for tensor, info in sorted(tensors.items(), key=lambda item: item[1].start):
        if info.start < end:
            raise cursor.fail(f"tensor {tensor!r} overlaps another")
        end = info.start + info.size


def model_config(gguf: GGUF) -> ModelConfig:
    """The configuration that the metadata states, checked against the tensors' shapes."""
    arch = _get(gguf, "general.architecture", str)
    if arch not in ("llama", "qwen3"):
        raise WeightsError(
            f"{gguf.name}: the architecture {arch!r} is not converted (llama and qwen3 are).",
            SAFETENSORS,
        )
    if _get(gguf, f"{arch}.expert_count", int, 0):
        raise WeightsError(f"{gguf.name}: expert layers are not read from GGUF.", SAFETENSORS)
    scaling = _get(gguf, f"{arch}.rope.scaling.type", str, "none")
    if scaling != "none" or "rope_freqs.weight" in gguf.tensors:
        raise WeightsError(f"{gguf.name}: scaled rotary frequencies are not read.", SAFETENSORS)
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise WeightsError(f"{gguf.name}: there is no token embedding.", CURE)

    heads = _get(gguf, f"{arch}.attention.head_count", int)
    width = _get(gguf, f"{arch}.embedding_length", int)
    layers = _get(gguf, f"{arch}.block_count", int)
    # Bounds before anything is derived: a layer has nine tensors at least, a head some rows.
    if not (1 <= layers <= len(gguf.tensors) // 9 and 1 <= heads <= width <= gguf.data.size):
        raise WeightsError(
            f"{gguf.name}: {layers} layers, {heads} heads and width {width} do not fit its tensors.", CURE
        )
    try:
        config = _config(gguf, arch, width, heads, layers)
    except ValueError as error:
        raise WeightsError(
            f"{gguf.name}: its configuration describes no possible model: {error}.", CURE
        ) from None
    if _get(gguf, f"{arch}.rope.dimension_count", int, config.head_dim) != config.head_dim:
        raise WeightsError(f"{gguf.name}: partly rotated heads are not read.", SAFETENSORS)
    if not (config.norm_eps < 1 and config.rope.base < 1e12 and config.context < 1 << 31):
        raise WeightsError(f"{gguf.name}: the configuration has values outside any sensible range.", CURE)
    _check_shapes(gguf, config)
    return config


def _config(gguf: GGUF, arch: str, width: int, heads: int, layers: int) -> ModelConfig:
    return ModelConfig(
        vocab=gguf.tensors["token_embd.weight"].shape[0],
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=_get(gguf, f"{arch}.attention.head_count_kv", int, heads),
        head_dim=_get(gguf, f"{arch}.attention.key_length", int, width // heads),
        ffn=_get(gguf, f"{arch}.feed_forward_length", int),
        context=_get(gguf, f"{arch}.context_length", int),
        tied="output.weight" not in gguf.tensors,
        qk_norm=arch == "qwen3",
        # The file holds a float32; its shortest decimal form is the number that was meant.
        norm_eps=float(str(np.float32(_get(gguf, f"{arch}.attention.layer_norm_rms_epsilon", float)))),
        rope=RopeConfig(base=float(str(np.float32(_get(gguf, f"{arch}.rope.freq_base", float, 10_000.0))))),
    )


def _get(gguf: GGUF, key: str, kind: type, default: Any = None) -> Any:
    value = gguf.metadata.get(key, default)
    # bool is an int to Python and not to us
    if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
        found = "missing" if value is None else "of another type"
        raise WeightsError(f"{gguf.name}: the key {key!r} is {found}.", CURE)
    return value


def _expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config.vocab, config.width),
        "output_norm.weight": (config.width,),
    }
    if not config.tied:
        shapes["output.weight"] = (config.vocab, config.width)
    for layer in range(config.layers):
        block = {
            "attn_norm": (config.width,),
            "attn_q": (queries, config.width),
            "attn_k": (keys, config.width),
            "attn_v": (keys, config.width),
            "attn_output": (config.width, queries),
            "ffn_norm": (config.width,),
            "ffn_gate": (config.ffn, config.width),
            "ffn_up": (config.ffn, config.width),
            "ffn_down": (config.width, config.ffn),
        }
        if config.qk_norm:
            block |= {"attn_q_norm": (config.head_dim,), "attn_k_norm": (config.head_dim,)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes


def _check_shapes(gguf: GGUF, config: ModelConfig) -> None:
    expected = _expected_shapes(config)
    for name, shape in expected.items():
        if name not in gguf.tensors:
            raise WeightsError(f"{gguf.name}: the tensor {name!r} is missing.", CURE)
        if gguf.tensors[name].shape != shape:
            found = gguf.tensors[name].shape
            raise WeightsError(
                f"{gguf.name}: the tensor {name!r} is {found}, its configuration says {shape}.", CURE
            )
    for name in gguf.tensors:
        if name not in expected:
            raise WeightsError(f"{gguf.name}: the tensor {name!r} has no place in this architecture.", CURE)


def iter_weights(gguf: GGUF, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in float32 under its name in `Transformer`, Q and K rows in rotate-half order."""
    permuted = _get(gguf, "general.architecture", str) == "llama"
    for name, info in gguf.tensors.items():
        weight = _dequantise(gguf, name, info)
        if permuted and name.endswith((".attn_q.weight", ".attn_k.weight")):
            weight = rotate_half_order(weight, config.head_dim)
        yield parameter_name(name), weight


def parameter_name(name: str) -> str:
    """blk.3.attn_q.weight -> layers.3.self_attn.q_proj.weight"""
    outer = {
        "token_embd.weight": "embed.weight",
        "output_norm.weight": "norm.weight",
        "output.weight": "lm_head.weight",
    }
    if name in outer:
        return outer[name]
    _, layer, part, _ = name.split(".")
    return f"layers.{layer}.{LAYER_NAMES[part]}.weight"


def rotate_half_order(weight_NK: Tensor, head_dim: int) -> Tensor:
    """Undo llama.cpp's row order of Q and K, which pairs rotary dimensions (0,1), (2,3), ...

    Our rotary embedding pairs (0, d/2), (1, d/2+1), ... as `transformers` does. Rows of the wrong order
    give a model that still makes words: only its perplexity shows it.
    """
    rows, columns = weight_NK.shape
    pairs = weight_NK.view(rows // head_dim, head_dim // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def _dequantise(gguf: GGUF, name: str, info: TensorInfo) -> Tensor:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    _, values, size = BLOCKS[info.kind]
    raw = gguf.data[info.start : info.start + info.size]
    # The package works on 16 rows at a time, slow for short ones; any number of blocks may form a row.
    blocks = info.size // size
    per_row = math.gcd(blocks, 256)
    if values > 1:
        raw = raw.reshape(blocks // per_row, per_row * size)
    with np.errstate(all="ignore"):  # damaged blocks overflow; the check below names the tensor
        weight = dequantize(raw, GGMLQuantizationType(info.kind))
    weight = torch.from_numpy(np.require(weight, np.float32, "W").reshape(info.shape))
    if not torch.isfinite(weight).all():
        raise WeightsError(f"{gguf.name}: the tensor {name!r} holds values that are not finite.", CURE)
    return weight


def tokenizer_json(gguf: GGUF) -> bytes:
    """The byte-level BPE tokenizer of the file in the JSON form of the `tokenizers` library."""
    kind, pre = _get(gguf, "tokenizer.ggml.model", str), _get(gguf, "tokenizer.ggml.pre", str)
    if kind != "gpt2" or pre not in PRE_TOKENIZERS:
        raise WeightsError(
            f"{gguf.name}: the tokenizer {kind!r} with word splitting {pre!r} is not converted.",
            "Take the model's own tokenizer.json.",
        )
    tokens = _get(gguf, "tokenizer.ggml.tokens", list)
    merges = _get(gguf, "tokenizer.ggml.merges", list)
    kinds = gguf.metadata.get("tokenizer.ggml.token_type")
    vocab = {token: index for index, token in enumerate(tokens)}
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None or len(vocab) != len(tokens) or len(tokens) != embedding.shape[0]:
        raise WeightsError(f"{gguf.name}: its {len(tokens)} tokens do not fit its embedding.", CURE)
    if not isinstance(kinds, np.ndarray) or kinds.dtype != np.int32 or len(kinds) != len(tokens):
        raise WeightsError(f"{gguf.name}: the kinds of its tokens are missing.", CURE)
    pairs = [merge.split(" ") for merge in merges if isinstance(merge, str)]
    for pair in pairs:
        if len(pair) != 2 or not (pair[0] in vocab and pair[1] in vocab and "".join(pair) in vocab):
            raise WeightsError(f"{gguf.name}: the merge {' '.join(pair)!r} has no tokens.", CURE)

    control, user_defined = 3, 4
    added = [
        {
            "id": index,
            "content": tokens[index],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": bool(kinds[index] == control),
        }
        for index in np.flatnonzero((kinds == control) | (kinds == user_defined)).tolist()
    ]
    normaliser, words, gpt2_words = PRE_TOKENIZERS[pre]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": gpt2_words,
    }
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normaliser,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, byte_level]},
        "post_processor": None,
        "decoder": byte_level | {"use_regex": True},
        # No unknown token: a byte without a token is dropped, never turned into a control token.
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": pairs,
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def end_token(gguf: GGUF) -> str:
    """The text of the token that ends a turn."""
    tokens, index = _get(gguf, "tokenizer.ggml.tokens", list), _get(gguf, "tokenizer.ggml.eos_token_id", int)
    if index >= len(tokens):
        raise WeightsError(f"{gguf.name}: the end token {index} is no token.", CURE)
    return tokens[index]


def chat_template(gguf: GGUF) -> str:
    """The Jinja template that turns messages into a prompt."""
    return _get(gguf, "tokenizer.chat_template", str)
