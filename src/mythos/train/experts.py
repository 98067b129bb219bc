"""A dense model becomes one with routed experts that computes the same (upcycling, arXiv 2212.05055).

Every expert is the dense MLP, bit for bit in its served form, and the chosen experts' weights sum to one; so
the answer does not depend on the router, whose small random weights only spread the tokens over the experts.

Shape letters: E experts, F inner width, D width.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mythos.spec.config import ModelConfig, MoEConfig

ROUTER_STD = 0.02


def expanded_config(dense: ModelConfig, moe: MoEConfig | None) -> ModelConfig | None:
    """`dense` with the experts of `moe` in every layer; None when they cannot hold its MLPs and agree."""
    if moe is None or dense.moe is not None or moe.width != dense.ffn:
        return None
    if moe.shared or not moe.renormalise or moe.scale != 1.0:
        return None
    return replace(dense, moe=moe)


def expand(tensors: Mapping[str, Tensor], config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """The served tensors of `config` (see `expanded_config`) from those of the dense model."""
    assert config.moe is not None
    experts, generator = config.moe.routed, torch.Generator().manual_seed(seed)
    made = {name: tensor for name, tensor in tensors.items() if ".mlp." not in name}
    for layer in range(config.layers):
        mlp = f"layers.{layer}.mlp"
        router_ED = torch.randn(experts, config.width, generator=generator) * ROUTER_STD
        made[f"{mlp}.gate.weight"] = router_ED
        if config.moe.bias:
            made[f"{mlp}.gate.e_score_correction_bias"] = torch.zeros(experts)
        for kind in ("weight", "scale"):
            gate, up, down = (tensors[f"{mlp}.{part}_proj.{kind}"] for part in ("gate", "up", "down"))
            suffix = "proj" if kind == "weight" else "scale"
            made[f"{mlp}.experts.gate_up_{suffix}"] = torch.stack([torch.cat((gate, up))] * experts)
            made[f"{mlp}.experts.down_{suffix}"] = torch.stack([down] * experts)
    return made
