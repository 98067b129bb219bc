"""The served form: int8 weights with one scale per output channel, bf16 activations; routers in float32.

Shape letters: T token rows, N output channels, K input channels, V vocabulary.

Each weight row is q * s with q in -127..127 and s a float32 that bf16 holds exactly, because the kernel takes
scales in bf16: what was measured when quantising is then what is multiplied when serving.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mythos.model.errors import WeightsError
from mythos.model.moe import FEW_ROWS, Experts
from mythos.model.transformer import Embedding, Transformer
from mythos.spec.config import ModelConfig

# Up to here a product reads the int8 weight, whose kernel gives a row the same bits beside 0 or 15 others.
# Above, bf16 matrix units win although they read twice the bytes. The number of rows alone decides, so a
# caller that keeps its shapes keeps its bits.
INT8_ROWS = FEW_ROWS

EXPERT_PARTS = ("gate_up_proj", "gate_up_scale", "down_proj", "down_scale")
TILE_ROWS = 16  # rows of a tile of the bf16 kernel
INT8_STEP = 16  # input channels that the int8 kernel reads at once: it reads past the end of any other number
ON_STEP = 1e-3  # of a step: as near to one is on it
_BLOCK = 1 << 18  # values quantised at a time: their temporaries stay in the processor's cache


def quantise(weight_NK: Tensor, random: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """(q_NK int8, scale_N float32), symmetric per output channel; ValueError when a value is not finite.

    The scale is max|w|/127. Clipping outliers for the least squared error was tried and gave a higher
    perplexity (11.088 against 11.065, from 11.051 in float32). Rows of zeros get the scale 1.

    To the nearest step; with `random` up or down with the chances by which the mean is the weight itself
    (stochastic rounding: Gupta et al. 2015, arXiv 1502.02551).
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
        q_NK[start : start + rows] = _rounded(part_NK / scale[:, None], random).clamp_(-127, 127)
    return q_NK, scale_N


def _rounded(steps_NK: Tensor, random: torch.Generator | None) -> Tensor:
    if random is None:
        return steps_NK.round_()
    nearest_NK = steps_NK.round()
    # What came from this form goes back to it: a value on a step, but for float32, and each row's largest,
    # which is 127 steps but for the scale's rounding to bf16.
    stays_NK = ((steps_NK - nearest_NK).abs() < ON_STEP) | (nearest_NK.abs() >= 127)
    chance_NK = torch.rand(steps_NK.shape, generator=random)
    return torch.where(stays_NK, nearest_NK, (steps_NK + chance_NK).floor_())


int8_product = torch._weight_int8pack_mm  # pyright: ignore[reportPrivateImportUsage]


def dequantise(q_NK: Tensor, scale_N: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """q * s in float32, then rounded to `dtype`."""
    return (q_NK.float() * scale_N[:, None]).to(dtype)


CURE = "Build the tier again: mythos build TIER."


class Int8Linear(nn.Module):
    """y = x @ (q * s)^T + b in bf16. Inference only; a bf16 copy is made when many rows first come."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    scale_bf16: Tensor

    def __init__(self, q_NK: Tensor, scale_N: Tensor, bias_N: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", q_NK)
        self.register_buffer("scale", scale_N)
        self.register_buffer("bias", bias_N)
        self.register_buffer("scale_bf16", scale_N.bfloat16(), persistent=False)
        self._wide: Tensor | None = None

    @property
    def weight_bf16(self) -> Tensor:
        if self._wide is None:
            self._wide = dequantise(self.weight, self.scale, torch.bfloat16)
        return self._wide

    def forward(self, x_TK: Tensor) -> Tensor:
        bias_N = None if self.bias is None else self.bias.bfloat16()
        if x_TK.shape[0] > INT8_ROWS:
            return F.linear(x_TK, self.weight_bf16, bias_N)
        y_TN = int8_product(x_TK, self.weight, self.scale_bf16)
        return y_TN if bias_N is None else y_TN + bias_N


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
        parts = [int8_product(x, self.weight, self.scale_bf16) for x in x_TK.split(INT8_ROWS)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class Int8Experts(nn.Module):
    """Routed experts over int8 weights, a scale per expert and output channel. Inference only.

    For few rows the int8 kernel, which gives a row the same bits in any company. For many, an expert's matrix
    in bf16, made and dropped again: a copy of all of them would treble the memory. Rows are filled up to
    whole tiles: below that the bf16 kernel has other bits. So with equal experts a token gets the bits of
    the dense layer. Shape letters: S rows of an expert, A experts per token, F inner width, D width
    """

    gate_up_proj: Tensor
    gate_up_scale: Tensor
    down_proj: Tensor
    down_scale: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name in EXPERT_PARTS:
            self.register_buffer(name, tensors[name])
        self.scales = tensors["gate_up_scale"].bfloat16(), tensors["down_scale"].bfloat16()

    def forward(self, x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor) -> Tensor:
        return weighed(self.outputs(x_TD, ids_TA), weights_TA)

    def outputs(self, x_TD: Tensor, ids_TA: Tensor) -> Tensor:
        """What each chosen expert gives, (T, A, D); zeros for an id that is none of the experts here, which
        another process has.
        """
        ids_N = ids_TA.flatten()  # N = T * A
        y_ND = x_TD.new_zeros(len(ids_N), x_TD.shape[1])
        few = len(x_TD) <= INT8_ROWS
        for expert in ids_N.unique().tolist():
            if not 0 <= expert < len(self.gate_up_proj):
                continue
            slots_S = (ids_N == expert).nonzero().squeeze(1)
            rows_SD = x_TD[slots_S // ids_TA.shape[1]]
            gate_SF, up_SF = self._product(rows_SD, 0, expert, few).chunk(2, dim=-1)
            y_ND[slots_S] = self._product(F.silu(gate_SF) * up_SF, 1, expert, few)
        return y_ND.unflatten(0, ids_TA.shape)

    def _product(self, x_SK: Tensor, which: int, expert: int, few: bool) -> Tensor:
        q_NK, scale_N = (self.down_proj if which else self.gate_up_proj)[expert], self.scales[which][expert]
        if few:
            return int8_product(x_SK, q_NK, scale_N)
        padded_SK = F.pad(x_SK, (0, 0, 0, -len(x_SK) % TILE_ROWS))
        return F.linear(padded_SK, torch.mul(q_NK, scale_N[:, None]))[: len(x_SK)]


def weighed(y_TAD: Tensor, weights_TA: Tensor) -> Tensor:
    """(T, D): the sum in float32, in the order of the slots whatever the number of rows."""
    weighed_TAD = y_TAD * weights_TA[..., None]
    total_TD = weighed_TAD[:, 0]
    for slot in range(1, weights_TA.shape[1]):
        total_TD = total_TD + weighed_TAD[:, slot]
    return total_TD.to(y_TAD.dtype)


def is_quantised(name: str, tensor: Tensor) -> bool:
    """Whether the weight called `name` is stored in int8: every matrix and stack of them but routers."""
    return tensor.dim() == 3 or (
        tensor.dim() == 2 and name.endswith(("_proj.weight", "embed.weight", "lm_head.weight"))
    )


def scale_name(name: str) -> str:
    """What the scales of the weight called `name` are called; those of stacked experts have no `.weight`."""
    return (name.removesuffix("weight") if name.endswith("weight") else name.removesuffix("proj")) + "scale"


def served_form(name: str, weight: Tensor, random: torch.Generator | None = None) -> dict[str, Tensor]:
    """What is stored for `weight`: int8 and its scale, rounded as `quantise` does it, else float32."""
    if is_quantised(name, weight):
        q_NK, scale_N = quantise(weight.flatten(0, -2), random)
        return {name: q_NK.view(weight.shape), scale_name(name): scale_N.view(weight.shape[:-1])}
    return {name: weight.float()}


def to_int8(model: Transformer) -> Transformer:
    """Puts `model` into its served form, in place: int8 linear layers, embedding and experts."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        tensors |= served_form(name, tensor)
    return assign(model, tensors)


def load_served(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Transformer:
    """A Transformer over stored tensors: built without memory of its own, int8 where there is a scale.

    The model keeps references to `tensors`. WeightsError when they do not fit `config` (see `check_served`).
    """
    check_served(config, tensors)
    with torch.device("meta"):
        model = Transformer(config)
    return assign(model, tensors)


def check_served(config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    """WeightsError unless `tensors` are exactly those of `config`, in their served dtypes and shapes."""
    if config.layers > len(tensors):
        raise WeightsError(f"{len(tensors)} tensors are too few for {config.layers} layers.", CURE)
    wanted = served_shapes(config)
    for name, tensor in wanted.items():
        found = tensors.get(name)
        if found is None:
            raise WeightsError(f"The tensor {name!r} is missing.", CURE)
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            facts = [f"{t.dtype} {tuple(t.shape)}".removeprefix("torch.") for t in (found, tensor)]
            raise WeightsError(f"The tensor {name!r} is {facts[0]}; {facts[1]} is wanted.", CURE)
    if extra := sorted(set(tensors) - set(wanted)):
        raise WeightsError(f"The tensor {extra[0]!r} has no place in this model.", CURE)


def served_shapes(config: ModelConfig) -> dict[str, Tensor]:
    """The served tensors of `config`, on `meta`; WeightsError when they cannot be served in int8."""
    with torch.device("meta"):
        wanted: dict[str, Tensor] = {}
        for name, tensor in Transformer(config).state_dict().items():
            if is_quantised(name, tensor):
                if (inputs := tensor.shape[-1]) % INT8_STEP:
                    raise WeightsError(
                        f"{name} has {inputs} input channels; in int8 they are multiples of {INT8_STEP}.",
                        "Choose other sizes in the family file.",
                    )
                wanted[name] = tensor.to(torch.int8)
                wanted[scale_name(name)] = tensor[..., 0].float()
            else:
                wanted[name] = tensor.float()
    return wanted


def assign(model: Transformer, tensors: Mapping[str, Tensor]) -> Transformer:
    """Puts stored tensors into `model`, int8 modules in the place of those that have a scale."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Experts):
            served = Int8Experts({part: tensors[f"{name}.{part}"] for part in EXPERT_PARTS})
        elif f"{name}.scale" not in tensors:
            continue
        elif isinstance(module, Embedding):
            served = Int8Embedding(tensors[f"{name}.weight"], tensors[f"{name}.scale"])
        else:
            bias = tensors.get(f"{name}.bias")
            served = Int8Linear(tensors[f"{name}.weight"], tensors[f"{name}.scale"], bias)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, served)
    model.load_state_dict(dict(tensors), assign=True)
    return model.eval().requires_grad_(False)
