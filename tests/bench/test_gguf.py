"""The same weights in another form: how near they are, and what is kept."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from mythos.cli.bench_gguf import FILE_TYPE, FORMS, convert, converted, weight_bytes

ROWS, WIDTH, VOCABULARY = 8, 96, 40
Type = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the packaged one: Q4_1 matrices, a tied Q8_0 head, norms in float32, and a tokenizer."""
    draw = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("gguf") / "source.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_file_type(3)
    writer.add_block_count(1)
    writer.add_rope_freq_base(10000.5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{n}" for n in range(VOCABULARY - 1)] + ["é"])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["t 1", "t 2"])
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    writer.add_chat_template("{{ messages }}")
    embedding = draw.standard_normal((VOCABULARY, WIDTH), np.float32)
    writer.add_tensor("token_embd.weight", quantize(embedding, Type.Q8_0), raw_dtype=Type.Q8_0)
    for name, scale in (("blk.0.attn_q.weight", 1.0), ("blk.0.ffn_up.weight", 1e-2)):
        matrix = draw.standard_normal((ROWS, WIDTH), np.float32) * np.float32(scale)
        matrix[0, :32] = 0  # a whole block of nothing
        writer.add_tensor(name, quantize(matrix, Type.Q4_1), raw_dtype=Type.Q4_1)
    matrix = draw.standard_normal((ROWS, WIDTH), np.float32)
    writer.add_tensor("blk.0.attn_k.weight", matrix.astype(np.float16))
    writer.add_tensor("blk.0.attn_norm.weight", draw.standard_normal(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def values(tensor: Any) -> np.ndarray:
    return dequantize(tensor.data, tensor.tensor_type)


@pytest.mark.parametrize(("form", "wanted", "codes"), [("q4_0", Type.Q4_0, 8), ("q8_0", Type.Q8_0, 127)])
def test_values_stay_within_half_a_step(
    source: Path, tmp_path: Path, form: str, wanted: Type, codes: int
) -> None:
    convert(source, form, tmp_path / "made.gguf")
    before, after = tensors(source), tensors(tmp_path / "made.gguf")
    assert list(before) == list(after)
    for name in ("blk.0.attn_q.weight", "blk.0.ffn_up.weight", "blk.0.attn_k.weight"):
        assert after[name].tensor_type == wanted
        assert list(after[name].shape) == list(before[name].shape)
        old, new = (values(each[name]).reshape(-1, 32) for each in (before, after))
        extreme = np.take_along_axis(old, abs(old).argmax(axis=1, keepdims=True), axis=1)
        step = abs(extreme) / codes
        # The scale is stored as float16, relative error 2^-11, and is multiplied by at most `codes`.
        allowed = step * (0.5 + codes * 2.0**-11) + 1e-7
        error = abs(new - old)
        if form == "q4_0":  # codes go from -8 to 7: at the end opposite to the extreme, a step is missing
            clipped = -old * np.sign(extreme) > 7.5 * step
            assert clipped.any()
            allowed = np.where(clipped, allowed + step / 2, allowed)
        assert (error <= allowed).all()
        assert (new[np.all(old == 0, axis=1)] == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_head_norms_metadata_and_tokenizer_are_kept(source: Path, tmp_path: Path, form: str) -> None:
    convert(source, form, tmp_path / "made.gguf")
    before, after = tensors(source), tensors(tmp_path / "made.gguf")
    for name in ("token_embd.weight", "blk.0.attn_norm.weight"):
        assert after[name].tensor_type == before[name].tensor_type
        assert after[name].data.tobytes() == before[name].data.tobytes()
    fields = [
        {name: (f.types, f.contents()) for name, f in gguf.GGUFReader(path).fields.items()}
        for path in (source, tmp_path / "made.gguf")
    ]
    assert len(fields[0]["tokenizer.ggml.tokens"][1]) == VOCABULARY
    assert fields[1].pop(FILE_TYPE)[1] == FORMS[form][1] != fields[0].pop(FILE_TYPE)[1]
    assert fields[0] == fields[1]


def test_the_same_source_gives_the_same_bytes_once(source: Path, tmp_path: Path) -> None:
    made = converted(source, "q4_0", tmp_path / "a")
    first = made.read_bytes()
    stamp = made.stat().st_mtime_ns
    assert converted(source, "q4_0", tmp_path / "a") == made
    assert made.stat().st_mtime_ns == stamp
    assert converted(source, "q4_0", tmp_path / "b").read_bytes() == first
    other = tmp_path / "other.gguf"
    other.write_bytes(source.read_bytes() + b"\0")
    assert converted(other, "q4_0", tmp_path / "a") != made
    assert sorted(tmp_path.joinpath("a").iterdir()) == sorted(
        {made, converted(other, "q4_0", tmp_path / "a")}
    )


def test_weight_bytes_follow_the_form(source: Path, tmp_path: Path) -> None:
    matrices, head, norm = 3 * ROWS * WIDTH // 32, VOCABULARY * WIDTH // 32 * 34, WIDTH * 4
    for form, block in (("q4_0", 18), ("q8_0", 34)):
        convert(source, form, tmp_path / form)
        assert weight_bytes(tmp_path / form) == matrices * block + head + norm
