"""GGUF: right values in the right rows, and nothing but WeightsError for files that are not sound."""

import dataclasses
import struct
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_gguf import LLAMA, write_gguf

from mythos.data.tokenizer import Tokenizer, TokenizerError
from mythos.model.attention import causal_attend
from mythos.model.errors import WeightsError
from mythos.model.gguf import (
    BLOCKS,
    GGUF,
    chat_template,
    end_token,
    iter_weights,
    model_config,
    parse_gguf,
    read_gguf,
    tokenizer_json,
)
from mythos.model.transformer import Transformer
from mythos.spec.load import load_family

QWEN = dataclasses.replace(LLAMA, qk_norm=True, head_dim=32, tied=False)


@pytest.mark.parametrize("config", [LLAMA, QWEN], ids=["llama", "qwen3"])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_weights_come_back_under_our_names_and_in_our_order(tmp_path, config, kind) -> None:
    written = write_gguf(tmp_path / "tiny.gguf", config, kind)
    gguf = read_gguf(tmp_path / "tiny.gguf")
    assert model_config(gguf) == config
    read = dict(iter_weights(gguf, config))
    assert read.keys() == Transformer(config).state_dict().keys()
    for name, weight in written.items():
        assert read[name].dtype == torch.float32
        tolerance = 0 if kind == "F32" or weight.dim() == 1 else 0.02 * weight.abs().max()
        assert (read[name] - weight).abs().max() <= tolerance, name


def test_blocks_are_those_of_the_library() -> None:
    import gguf

    for number, (name, values, size) in BLOCKS.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (values, size))


def test_the_real_file_is_what_the_family_declares(real_gguf: GGUF, real_tokenizer: Tokenizer) -> None:
    tier = load_family("pocket").tier("opus")
    assert model_config(real_gguf) == tier.config
    assert real_tokenizer.vocab_size == tier.config.vocab
    assert len(real_tokenizer.control_tokens) == 17
    assert end_token(real_gguf) == "<|im_end|>"
    assert "system" in chat_template(real_gguf)


def test_rows_of_q_and_k_must_be_put_in_order(real_gguf: GGUF, real_tokenizer: Tokenizer) -> None:
    """The wrong row order still makes words: only perplexity tells."""
    config = model_config(real_gguf)
    model = Transformer(config)
    model.load_state_dict(dict(iter_weights(real_gguf, config)))
    from pydoc_data.topics import topics

    ids = torch.tensor(real_tokenizer.encode(topics["lambda"] + topics["if"] + topics["while"])[:256])

    def perplexity() -> float:
        with torch.inference_mode():
            logits = model(ids, torch.arange(len(ids)), causal_attend([len(ids)]))
        return F.cross_entropy(logits[:-1], ids[1:]).exp().item()

    right = perplexity()
    for name, weight in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            pairs = weight.data.view(-1, 2, config.head_dim // 2, config.width)
            weight.data = pairs.transpose(1, 2).reshape(weight.shape)
    wrong = perplexity()
    print(f"perplexity of 256 tokens: {right:.1f} in the right row order, {wrong:.1f} in llama.cpp's")
    assert right < 25 < 100 < wrong


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path.read_bytes()


def read_all(data: bytes) -> None:
    """All that building a tier asks of a file."""
    gguf = parse_gguf(np.frombuffer(data, dtype=np.uint8), "file.gguf")
    config = model_config(gguf)
    for _ in iter_weights(gguf, config):
        pass
    Tokenizer.from_bytes(tokenizer_json(gguf))
    chat_template(gguf)
    end_token(gguf)


def header_size(data: bytes) -> int:
    return len(data) - sum(
        info.size for info in parse_gguf(np.frombuffer(data, np.uint8), "f").tensors.values()
    )


HUGE = [0, 1, 0xFF, 2**16, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
POSITION = st.floats(0, 1, exclude_max=True)


@settings(max_examples=150, deadline=None)
@given(
    flips=st.lists(st.tuples(POSITION, st.integers(0, 255)), max_size=3),
    words=st.lists(st.tuples(POSITION, st.sampled_from(HUGE)), max_size=2),
    cut=st.one_of(st.none(), POSITION),
)
@example(flips=[], words=[], cut=0.0)
@example(flips=[], words=[(0.0, 2**64 - 1)], cut=None)
def test_mutated_headers_are_refused_or_read(sound: bytes, flips, words, cut) -> None:
    data, header = bytearray(sound), header_size(sound)
    for at, value in words:
        start = int(at * (header - 8))
        data[start : start + 8] = struct.pack("<Q", value)
    for at, value in flips:
        data[int(at * header)] = value
    if cut is not None:
        data = data[: int(cut * len(data))]
    tracemalloc.start()
    try:
        read_all(bytes(data))
    except WeightsError as error:
        assert error.cure
    except TokenizerError:
        pass  # the tokenizer library's own checks
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20 * len(sound)


def replaced(key: str, value: bytes) -> Callable[[bytes], bytes]:
    """Overwrites the bytes of the value behind `key` (after its 4-byte type)."""

    def change(data: bytes) -> bytes:
        at = data.index(key.encode()) + len(key) + 4
        return data[:at] + value + data[at + len(value) :]

    return change


def moved_tensor(data: bytes) -> bytes:
    """Makes the second tensor lie on the first."""
    name = b"blk.0.attn_q.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8 + 4
    return data[:at] + struct.pack("<Q", 0) + data[at + 8 :]


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "ends inside"),
    "no magic": (lambda data: b"GGML" + data[4:], "no magic"),
    "big-endian": (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], "version"),
    "version 1": (lambda data: data[:4] + struct.pack("<I", 1) + data[8:], "version 1"),
    "absurd tensor count": (
        lambda data: data[:8] + struct.pack("<Q", 2**60) + data[16:],
        "number of tensors",
    ),
    "absurd key count": (lambda data: data[:16] + struct.pack("<Q", 2**60) + data[24:], "number of keys"),
    "absurd key length": (lambda data: data[:24] + struct.pack("<Q", 2**60) + data[32:], "length of a key"),
    "absurd array": (replaced("tokenizer.ggml.tokens", struct.pack("<IQ", 8, 2**50)), "entries of"),
    "nested array": (replaced("tokenizer.ggml.tokens", struct.pack("<IQ", 9, 1)), "arrays of type 9"),
    "absurd layers": (replaced("llama.block_count", struct.pack("<I", 2**32 - 1)), "do not fit"),
    "more layers": (replaced("llama.block_count", struct.pack("<I", 1)), "no place"),
    "no heads": (replaced("llama.attention.head_count", struct.pack("<I", 0)), "0 heads"),
    "wrong width": (replaced("llama.embedding_length", struct.pack("<I", 32)), "configuration says"),
    "unknown architecture": (lambda data: data.replace(b"llama", b"lhama"), "lhama"),
    "unknown splitting": (lambda data: data.replace(b"smollm", b"smallm"), "smallm"),
    "other shape": (replaced("blk.0.ffn_up.weight", struct.pack("<Q", 32)), "configuration says"),
    "overlap": (moved_tensor, "overlaps"),
    "truncated": (lambda data: data[:-1], "outside the file"),
    "not a number": (lambda data: data[:-64] + b"\xff" * 64, "not finite"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_named(sound: bytes, case: str) -> None:
    change, message = DAMAGED[case]
    with pytest.raises(WeightsError, match=message) as error:
        read_all(change(sound))
    assert error.value.cure
    read_all(sound)  # control


def test_a_missing_file_is_a_weights_error(tmp_path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        read_gguf(tmp_path / "none.gguf")
    (tmp_path / "short.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match="too short"):
        read_gguf(tmp_path / "short.gguf")
