"""The served form: int8 weights with one scale per output channel, bf16 activations.

Shape letters: T token rows, N output channels, K input channels, V vocabulary.

Each weight row is q * s with q in -127..127 and s a float32 that bf16 holds exactly, because the kernel takes
scales in bf16: what was measured when quantising is then what is multiplied when serving.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mythos.model.errors import WeightsError
from mythos.model.transformer import Embedding, Transformer
from mythos.spec.config import ModelConfig

# Up to here a product reads the int8 weight, whose kernel gives a row the same bits beside 0 or 15 others.
# Above, bf16 matrix units win although they read twice the bytes. The number of rows alone decides, so a
# caller that keeps its shapes keeps its bits.
INT8_ROWS = 16

_BLOCK = 1 << 18  # values quantised at a time: their temporaries stay in the processor's cache


def quantise(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """(q_NK int8, scale_N float32), symmetric per output channel; ValueError when a value is not finite.

    The scale is max|w|/127. Clipping outliers for the least squared error was tried and gave a higher
    perplexity (11.088 against 11.065, from 11.051 in float32). Rows of zeros get the scale 1.
    """
    q_NK = torch.empty(weight_NK.shape, dtype=torch.int8)
    scale_N = torch.empty(weight_NK.shape[0])
    rows = max(1, _BLOCK // weight_NK.shape[1])
    for start in range(0, weight_NK.shape[0], rows):
        part_NK = weight_NK[start : start + rows].float()
        scale = (part_NK.abs().amax(dim=1) / 127).bfloat16().float()
        if not torch.isfinite(scale).all():
            raise ValueError("a weight to be quantised is not finite")
        scale = torch.where(scale > 0, scale, 1.0)
        scale_N[start : start + rows] = scale
        q_NK[start : start + rows] = (part_NK / scale[:, None]).round_().clamp_(-127, 127)
    return q_NK, scale_N


_int8_product = torch._weight_int8pack_mm  # pyright: ignore[reportPrivateImportUsage]


def dequantise(q_NK: Tensor, scale_N: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """q * s in float32, then rounded to `dtype`."""
    return (q_NK.float() * scale_N[:, None]).to(dtype)


class Int8Linear(nn.Module):
    """y = x @ (q * s)^T in bf16. Inference only; holds the int8 weight and a bf16 copy for many rows."""

    weight: Tensor
    scale: Tensor
    weight_bf16: Tensor
    scale_bf16: Tensor

    def __init__(self, q_NK: Tensor, scale_N: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", q_NK)
        self.register_buffer("scale", scale_N)
        self.register_buffer("scale_bf16", scale_N.bfloat16(), persistent=False)
        self.register_buffer("weight_bf16", dequantise(q_NK, scale_N, torch.bfloat16), persistent=False)

    def forward(self, x_TK: Tensor) -> Tensor:
        if x_TK.shape[0] <= INT8_ROWS:
            return _int8_product(x_TK, self.weight, self.scale_bf16)
        return F.linear(x_TK, self.weight_bf16)


class Int8Embedding(nn.Module):
    """Token vectors in bf16 gathered from int8 rows, and the tied head over the same rows."""

    weight: Tensor
    scale: Tensor
    scale_bf16: Tensor

    def __init__(self, q_VK: Tensor, scale_V: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", q_VK)
        self.register_buffer("scale", scale_V)
        self.register_buffer("scale_bf16", scale_V.bfloat16(), persistent=False)

    def forward(self, tokens_T: Tensor) -> Tensor:
        return dequantise(self.weight[tokens_T], self.scale[tokens_T], torch.bfloat16)

    def head(self, x_TK: Tensor) -> Tensor:
        """Logits (T, V) in bf16, INT8_ROWS rows at a time: few rows need logits, so no bf16 copy is kept."""
        parts = [_int8_product(x, self.weight, self.scale_bf16) for x in x_TK.split(INT8_ROWS)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def is_quantised(name: str, tensor: Tensor) -> bool:
    """Whether the weight called `name` is stored in int8: every matrix but routers and stacked experts."""
    return tensor.dim() == 2 and name.endswith(("_proj.weight", "embed.weight", "lm_head.weight"))


def to_int8(model: Transformer) -> Transformer:
    """Replaces the linear layers and the embedding of `model` in place by their int8 forms.

    Norms stay float32; stacked experts and routers stay as they are (bf16 when served).
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if is_quantised(name, tensor):
            tensors[name], tensors[name.removesuffix("weight") + "scale"] = quantise(tensor)
    _replace_modules(model, tensors)
    return model


def load_served(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Transformer:
    """A Transformer over stored tensors: built without memory of its own, int8 where there is a scale.

    The model keeps references to `tensors`. WeightsError when names, shapes or dtypes do not fit `config`.
    """
    with torch.device("meta"):
        model = Transformer(config)
    check_served(model, tensors)
    _replace_modules(model, tensors)
    plain = {}
    for name, tensor in tensors.items():
        if tensor.dtype != torch.int8 and not name.endswith(".scale"):
            plain[name] = tensor if tensor.dim() < 2 else tensor.bfloat16()
    model.load_state_dict(plain, strict=False, assign=True)
    left = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    assert not left, left
    return model.eval().requires_grad_(False)


def check_served(model: Transformer, tensors: Mapping[str, Tensor]) -> None:
    """WeightsError unless `tensors` are exactly those of `model`, each in its served dtype and shape."""
    cure = "Build the tier again: mythos build."
    wanted = model.state_dict()
    names = set(wanted)
    for name, tensor in wanted.items():
        found = tensors.get(name)
        if found is None or found.shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)} is wanted"
            state = "missing" if found is None else f"of shape {tuple(found.shape)}"
            raise WeightsError(f"The tensor {name!r} is {state}; {shapes}.", cure)
        quantised = is_quantised(name, tensor)
        if quantised:
            scale_name = name.removesuffix("weight") + "scale"
            names.add(scale_name)
            scale = tensors.get(scale_name)
            if scale is None or scale.dtype != torch.float32 or scale.shape != tensor.shape[:1]:
                raise WeightsError(f"The tensor {name!r} has no fitting scale.", cure)
        if (found.dtype == torch.int8) != quantised or not (quantised or found.dtype.is_floating_point):
            raise WeightsError(f"The tensor {name!r} is {found.dtype}, not its served form.", cure)
    if extra := sorted(set(tensors) - names):
        raise WeightsError(f"The tensor {extra[0]!r} has no place in this model.", cure)


def _replace_modules(model: Transformer, tensors: Mapping[str, Tensor]) -> None:
    for name, module in list(model.named_modules()):
        weight, scale = tensors.get(f"{name}.weight"), tensors.get(f"{name}.scale")
        if weight is None or scale is None:
            continue
        kind = Int8Embedding if isinstance(module, Embedding) else Int8Linear
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, kind(weight, scale))
