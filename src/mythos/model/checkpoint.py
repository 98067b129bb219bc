"""Checkpoints in the layout of `transformers`, both ways: config.json and safetensors, whole or in shards.

Reading trusts nothing: names, shapes and sizes are checked in the headers before any tensor is read, and what
does not fit is a WeightsError. Changed bits inside a tensor are not seen here: the weights root sees them.
"""

import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mythos.model.errors import WeightsError
from mythos.model.fp8 import FP8, SCALE, Block, block_of, dequantise_blocks, scale_shape
from mythos.model.hf_config import config_from_hf, config_to_hf
from mythos.model.layout import copies, place, rows, stored_tensors
from mythos.model.transformer import Transformer
from mythos.model.weights_dir import sync
from mythos.spec.counting import parameters

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_JSON_LIMIT = 1 << 26  # bytes; the index of a 10T model in per-expert tensors stays below
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
_DOWNLOAD_AGAIN = "Fetch or copy the checkpoint again."
_NOT_QUANTISED = "Read are F32, F16, BF16 and F64: take the checkpoint that is not quantised."


def iter_tensors(path: Path | str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under its stored name, one at a time in memory, shard after shard."""
    for file, names in _shards(Path(path)):
        with _open(file) as handle:
            for name in names:
                yield name, handle.get_tensor(name).clone()  # else it would hang on the mapped file


def _tensors(path: Path, scales: bool) -> Iterator[tuple[str, Tensor]]:
    """`iter_tensors` of the scales of FP8 weights, or of all else."""
    for file, names in _shards(path):
        with _open(file) as handle:
            for name in names:
                if name.endswith(SCALE) == scales:
                    yield name, handle.get_tensor(name).clone()


def load_checkpoint(path: Path | str) -> Transformer:
    """The model of a checkpoint directory, in the dtype it is stored in; FP8 in blocks becomes bf16.

    Without prediction modules when it holds none, whatever config.json says: `transformers` leaves them out.
    """
    path = Path(path)
    data = _read_json(path / CONFIG)
    block = block_of(data)
    config = config_from_hf({key: value for key, value in data.items() if key != "quantization_config"})
    headers = _headers(path, block)
    if not any(place(stored, config.layers).name.startswith("mtp.") for stored in headers):
        config = replace(config, mtp=0)
    if config.layers > len(headers):
        raise WeightsError(
            f"config.json names {config.layers} layers, the checkpoint holds {len(headers)} tensors.",
            _DOWNLOAD_AGAIN,
        )
    if parameters(config) >= 1 << 48:
        raise WeightsError("config.json describes a model of over 280 trillion parameters.", _DOWNLOAD_AGAIN)
    with torch.device("meta"):
        model = Transformer(config)
    expected = model.state_dict()
    _check_headers(headers, expected, copies(model), config.layers)
    state: dict[str, Tensor] = {}
    scales = {} if block is None else dict(_tensors(path, scales=True))
    for stored, tensor in _tensors(path, scales=False):
        if block and tensor.dtype == torch.float8_e4m3fn:
            tensor = dequantise_blocks(tensor, scales[stored + SCALE], block)
        where = place(stored, config.layers)
        if where.expert is None:
            state[where.name] = tensor
        else:
            if where.name not in state:
                state[where.name] = torch.empty(expected[where.name].shape, dtype=tensor.dtype)
            rows(state[where.name], where).copy_(tensor)
    for name, of in copies(model).items():
        copy, original = state.get(name), state[of]
        if copy is not None and (copy.dtype != original.dtype or not torch.equal(copy, original)):
            if name == "lm_head.weight":
                raise WeightsError(
                    "config.json ties the head to the embedding, but the checkpoint holds another head.",
                    "Set tie_word_embeddings to false in config.json.",
                )
            raise WeightsError(
                f"The checkpoint's {name} differs from its {of}; prediction modules share it here.",
                "Take a checkpoint without prediction modules.",
            )
    model.load_state_dict({name: state[name] for name in expected}, assign=True)
    return model


def _check_headers(
    headers: dict[str, tuple[tuple[int, ...], torch.dtype]],
    expected: dict[str, Tensor],
    spare: dict[str, str],
    layers: int,
) -> None:
    """Every tensor of the model exactly once, in its shape, experts of a layer in one dtype.

    Files may also carry copies (`spare`), old ones rotary frequencies.
    """
    held: Counter[str] = Counter()  # numbers
    dtypes: dict[str, torch.dtype] = {}
    for stored, (shape, dtype) in headers.items():
        if stored.endswith("rotary_emb.inv_freq"):
            continue
        where = place(stored, layers)
        wanted = expected.get(spare.get(where.name, where.name))
        if wanted is None or (where.expert is not None and where.expert >= wanted.shape[0]):
            raise WeightsError(f"config.json has no place for the tensor {stored}.", _DOWNLOAD_AGAIN)
        fitting = tuple((wanted if where.expert is None else rows(wanted, where)).shape)
        if shape != fitting:
            raise WeightsError(f"{stored} has shape {shape} instead of {fitting}.", _DOWNLOAD_AGAIN)
        if dtypes.setdefault(where.name, dtype) != dtype:
            raise WeightsError(f"{where.name} is stored in several dtypes.", _DOWNLOAD_AGAIN)
        held[where.name] += math.prod(shape)
    for name, wanted in expected.items():
        if held[name] != wanted.numel():
            fault = "is not all there" if held[name] < wanted.numel() else "is there twice"
            raise WeightsError(f"The checkpoint is not whole: {name} {fault}.", _DOWNLOAD_AGAIN)


def _headers(path: Path, block: Block | None) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor by its stored name, from the headers alone.

    With `block`, weights in FP8 count as the bf16 they become, and their scales are checked and left out.
    """
    headers: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    scales: dict[str, tuple[int, ...]] = {}
    small: dict[str, tuple[int, ...]] = {}
    for file, names in _shards(path):
        with _open(file) as handle:
            for name in names:
                part = handle.get_slice(name)
                shape, kind = tuple(part.get_shape()), part.get_dtype()
                if block is not None and name.endswith(SCALE):
                    scales[name.removesuffix(SCALE)] = shape
                    continue
                if block is not None and kind == FP8 and len(shape) == 2:
                    small[name], kind = scale_shape(shape, block), "BF16"
                dtype = _DTYPES.get(kind)
                if dtype is None:
                    raise WeightsError(f"{name} is stored as {kind}.", _NOT_QUANTISED)
                headers[name] = (shape, dtype)
    if small != scales:
        name = min(name for name in small | scales if small.get(name) != scales.get(name))
        raise WeightsError(f"{name} and its scales do not fit each other.", _DOWNLOAD_AGAIN)
    return headers


def _shards(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """The files of a checkpoint and the tensors to take from each; an index may name no file elsewhere."""
    if (path / SINGLE).exists() or not (path / INDEX).exists():
        yield path / SINGLE, _names(path / SINGLE)
        return
    names_of: dict[str, list[str]] = {}
    weight_map = _read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise WeightsError(f"{path / INDEX} has no weight_map.", _DOWNLOAD_AGAIN)
    for name, file in weight_map.items():
        if not isinstance(file, str) or not re.fullmatch(r"[\w][\w.-]*\.safetensors", file):
            raise WeightsError(
                f"The index names a file outside the checkpoint: {file!r:.80}.", "Do not use it."
            )
        names_of.setdefault(file, []).append(name)
    for file, names in names_of.items():
        there = set(_names(path / file))
        if lacking := [name for name in names if name not in there]:
            raise WeightsError(f"{path / file} lacks {lacking[0]}.", _DOWNLOAD_AGAIN)
        yield path / file, names


def _names(file: Path) -> list[str]:
    with _open(file) as handle:
        return list(handle.keys())


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    """The file opened by safetensors; whatever a bad file can cause becomes a WeightsError."""
    if not file.is_file():
        raise WeightsError(f"{file} is missing.", _DOWNLOAD_AGAIN)
    try:
        with safe_open(file, framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise WeightsError(f"{file} cannot be read: {error}.", _DOWNLOAD_AGAIN) from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _JSON_LIMIT:
            raise WeightsError(f"{file} is over {_JSON_LIMIT >> 20} MiB.", _DOWNLOAD_AGAIN)
        data = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise WeightsError(f"{file} is missing.", _DOWNLOAD_AGAIN) from error
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file} cannot be read: {error}.", _DOWNLOAD_AGAIN) from error
    if not isinstance(data, dict):
        raise WeightsError(f"{file} holds no JSON object.", _DOWNLOAD_AGAIN)
    return data


def save_checkpoint(model: Transformer, path: Path | str, max_shard_bytes: int = 2 << 30) -> None:
    """Writes a directory that `AutoModelForCausalLM.from_pretrained` loads; it appears whole or not at all.

    One shard at a time is copied in memory. The tokenizer is not written.
    """
    path = Path(path).absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise WeightsError(f"{path} exists already.", "Name another directory or remove it.")
    tensors = list(stored_tensors(model))
    for name, tensor in tensors:
        if tensor.dtype not in _DTYPES.values() or tensor.is_meta:
            raise WeightsError(
                f"{name} is quantised or not loaded.", "Save the model before it is quantised."
            )
    data = config_to_hf(model.config) | {"dtype": str(tensors[0][1].dtype).removeprefix("torch.")}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write_shards(tensors, partial, max_shard_bytes)
        (partial / CONFIG).write_text(json.dumps(data, indent=2) + "\n")
        for file in (*partial.iterdir(), partial):
            sync(file)
        partial.rename(path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path} cannot be written: {error}.", "Free space or name another directory."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_shards(tensors: list[tuple[str, Tensor]], directory: Path, max_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors:
        if shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        own = {name: tensor.detach().cpu().clone() for name, tensor in shard.items()}  # experts share memory
        save_file(own, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(t.nbytes for _, t in tensors)}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")
