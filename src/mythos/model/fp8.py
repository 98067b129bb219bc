"""Reading weights stored in FP8 with a scale per block, as DeepSeek-V3 and Kimi K2 are published
(arXiv 2412.19437, section 3.3.2). Nothing here is written or served in that form.

Shape letters: N output channels, K input channels, n and k blocks along them
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mythos.model.errors import WeightsError

SCALE = "_scale_inv"  # behind the name of a weight; what its stored values are multiplied by
FP8 = "F8_E4M3"  # as safetensors calls it
CURE = "Read is fp8 (e4m3) with a weight_block_size: take the checkpoint that is not quantised."

Block = tuple[int, int]


def block_of(data: Mapping[str, Any]) -> Block | None:
    """The block size that a config.json names, None without quantisation; WeightsError for any other."""
    told = data.get("quantization_config")
    if told is None:
        return None
    size = told.get("weight_block_size") if isinstance(told, Mapping) else None
    known = (
        isinstance(told, Mapping) and told.get("quant_method") == "fp8" and told.get("fmt", "e4m3") == "e4m3"
    )
    if not known or not isinstance(size, list) or len(size) != 2:
        raise WeightsError("The checkpoint is quantised in a way that is not supported.", CURE)
    if not all(type(part) is int and 1 <= part <= 1 << 16 for part in size):
        raise WeightsError("The checkpoint names no usable weight_block_size.", CURE)
    return size[0], size[1]


def scale_shape(shape: tuple[int, ...], block: Block) -> tuple[int, ...]:
    """(n, k) of a weight's scales: a block for every begun one."""
    return tuple(-(-size // part) for size, part in zip(shape, block, strict=True))


def dequantise_blocks(weight_NK: Tensor, scale_nk: Tensor, block: Block) -> Tensor:
    """bf16: each value times the scale of its block, multiplied in float32."""
    rows, columns = weight_NK.shape
    scale_nK = scale_nk.float().repeat_interleave(block[1], dim=1)[:, :columns]
    made_NK = torch.empty(rows, columns, dtype=torch.bfloat16)
    for index, scale_K in enumerate(scale_nK):  # a row of blocks at a time: no float32 copy of the whole
        part = slice(index * block[0], (index + 1) * block[0])
        made_NK[part] = weight_NK[part].float() * scale_K
    return made_NK
