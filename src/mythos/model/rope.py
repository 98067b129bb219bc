"""Rotary position embedding in the rotate-half form, its frequencies computed in fp32 from the configuration.

Shape letters: T token rows, H heads, K head width, R = K / 2 rotated pairs.

The frequencies are neither parameters nor buffers: a buffer would follow `model.to(bfloat16)` and stay
rounded for good.
"""

import math

import torch
from torch import Tensor

from mythos.spec.config import RopeConfig


def rope_frequencies(rope: RopeConfig, head_dim: int) -> tuple[Tensor, float]:
    """Angle per position of each pair (R, fp32 radians) and the factor on cosine and sine (1 unless yarn)."""
    exponents_R = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    plain_R = 1.0 / rope.base**exponents_R
    if rope.kind == "plain":
        return plain_R, 1.0
    if rope.kind == "llama3":
        return _llama3(rope, plain_R), 1.0
    scale = rope.attention_factor
    if scale is None:
        if rope.mscale and rope.mscale_all_dim:
            scale = _mscale(rope, rope.mscale) / _mscale(rope, rope.mscale_all_dim)
        else:
            scale = _mscale(rope, 1.0)
    return _yarn(rope, plain_R, head_dim), scale


def score_factor(rope: RopeConfig) -> float:
    """What scores are multiplied by beside 1 / sqrt(head_dim): 1 without `mscale_all_dim` (DeepSeek-V2's
    published code, `yarn_get_mscale` squared).
    """
    return _mscale(rope, rope.mscale_all_dim) ** 2 if rope.mscale_all_dim else 1.0


def _mscale(rope: RopeConfig, weight: float) -> float:
    return 0.1 * weight * math.log(rope.factor) + 1.0 if rope.factor > 1.0 else 1.0


def _llama3(rope: RopeConfig, plain_R: Tensor) -> Tensor:
    """Long wavelengths are stretched by `factor`, short ones kept, those between blended (Llama 3.1)."""
    turns_R = rope.original_context * plain_R / (2 * math.pi)  # full turns within the original context
    keep_R = (turns_R - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    keep_R = keep_R.clamp(0.0, 1.0)
    return (1.0 - keep_R) * plain_R / rope.factor + keep_R * plain_R


def _yarn(rope: RopeConfig, plain_R: Tensor, head_dim: int) -> Tensor:
    """NTK-by-parts interpolation (arXiv 2309.00071, section 3.2)."""

    def pair_turning(turns: float) -> float:  # index of the pair that turns so often in the context
        wavelength = rope.original_context / (turns * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(rope.base))

    low, high = pair_turning(rope.beta_fast), pair_turning(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    pairs_R = torch.arange(head_dim // 2, dtype=torch.float32, device="cpu")
    stretch_R = ((pairs_R - low) / max(high - low, 0.001)).clamp(0.0, 1.0)
    return stretch_R * plain_R / rope.factor + (1.0 - stretch_R) * plain_R


def rotations(positions_T: Tensor, frequencies_R: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, each (T, 1, R) fp32."""
    angles_T1R = (positions_T.float()[:, None] * frequencies_R.to(positions_T.device))[:, None, :]
    return angles_T1R.cos() * scale, angles_T1R.sin() * scale


def rotate(x_THK: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turns pair (r, r + R) of every head by its angle; computed in fp32, returned in x's dtype."""
    cos_T1R, sin_T1R = rotation
    a_THR, b_THR = x_THK.float().chunk(2, dim=-1)
    turned = (a_THR * cos_T1R - b_THR * sin_T1R, b_THR * cos_T1R + a_THR * sin_T1R)
    return torch.cat(turned, dim=-1).to(x_THK.dtype)
