"""Between weights as they are served and weights in training.

Tensors are named as in `Transformer.state_dict`; the served form is int8 with scales (`mythos.model.quant`).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mythos.model.quant import dequantise, scale_name, served_form
from mythos.model.transformer import Transformer
from mythos.spec.config import ModelConfig
from mythos.spec.family import Tier

Rounding = Literal["nearest", "stochastic"]
ROUNDING_SEED = 0  # not that of the run: one seed's noise is in all that is compared


def plain_tensors(served: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float32 tensors that are exactly what the served ones multiply with."""
    scales = {scale_name(name) for name, tensor in served.items() if tensor.dtype == torch.int8}
    plain = {}
    for name, tensor in served.items():
        if tensor.dtype == torch.int8:
            flat_NK, scale_N = tensor.flatten(0, -2), served[scale_name(name)].flatten()
            plain[name] = dequantise(flat_NK, scale_N).view(tensor.shape)
        elif name not in scales:
            plain[name] = tensor.float()
    return plain


def model_from(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Transformer:
    """A float32 model over copies of `tensors`. RuntimeError when they are not those of `config`."""
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(
        {name: t.detach().to(torch.float32, copy=True) for name, t in tensors.items()}, assign=True
    )
    return model


def fresh_model(config: ModelConfig, seed: int) -> Transformer:
    """A float32 model with weights to train from scratch."""
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


def rounding(tier: Tier) -> Rounding:
    """How the weights of a trained tier are rounded to int8.

    One made from a parent starts on int8 steps, and a short training moves most weights by less than half of
    one: to the nearest they all would be the parent's again. At random, what was learnt is kept on average;
    the noise is twice as large, so weights from scratch are rounded to the nearest.
    """
    return "stochastic" if tier.parents else "nearest"


def served_tensors(tier: Tier, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The served form of a tier's float32 tensors; the same for the same tensors in any order."""
    random = torch.Generator().manual_seed(ROUNDING_SEED) if rounding(tier) == "stochastic" else None
    made: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items()):
        made |= served_form(name, tensor, random)
    return made


def computing(model: Transformer) -> Transformer:
    """Puts a float32 model in place into the dtypes it computes in while it is trained: bf16, routers in
    float32.
    """
    for name, parameter in model.named_parameters():
        if not name.endswith("mlp.gate.weight"):
            parameter.data = parameter.data.bfloat16()
    return model.train()
