"""A dense model becomes one with routed experts that computes the same (upcycling, arXiv 2212.05055).

Untrained, every expert is the dense MLP, bit for bit in its served form, and the chosen experts' weights sum
to one; so the answer does not depend on the router, whose small random weights only spread the tokens.

Shape letters: E experts, F inner width, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mythos.spec.config import ModelConfig, MoEConfig

ROUTER_STD = 0.02


def expanded_config(dense: ModelConfig, moe: MoEConfig | None) -> ModelConfig | None:
    """`dense` with the experts of `moe` in every layer; None when they cannot hold its MLPs and agree."""
    if moe is None or dense.moe is not None or moe.width != dense.ffn:
        return None
    if moe.shared or not moe.renormalise or moe.scale != 1.0 or moe.latent is not None or dense.mtp:
        return None
    return replace(dense, moe=moe)


def expand(
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    sources: Sequence[Mapping[str, Tensor]] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The tensors of `config` (see `expanded_config`) from those of the dense model, served or float32.

    `sources` are the models whose MLPs the experts are, one each, by default the dense model itself in every
    place; all that lies outside the MLPs is the dense model's.
    """
    assert config.moe is not None
    sources = [tensors] * config.moe.routed if sources is None else sources
    assert len(sources) == config.moe.routed
    generator = torch.Generator().manual_seed(seed)
    made = {name: tensor for name, tensor in tensors.items() if ".mlp." not in name}
    kinds = ("weight", "scale") if "layers.0.mlp.down_proj.scale" in tensors else ("weight",)
    for layer in range(config.layers):
        mlp = f"layers.{layer}.mlp"
        router_ED = torch.randn(config.moe.routed, config.width, generator=generator) * ROUTER_STD
        made[f"{mlp}.gate.weight"] = router_ED
        if config.moe.bias:
            made[f"{mlp}.gate.e_score_correction_bias"] = torch.zeros(config.moe.routed)
        for kind in kinds:
            gate, up, down = (
                [of[f"{mlp}.{part}_proj.{kind}"] for of in sources] for part in ("gate", "up", "down")
            )
            suffix = "proj" if kind == "weight" else "scale"
            pairs = [torch.cat(pair) for pair in zip(gate, up, strict=True)]
            made[f"{mlp}.experts.gate_up_{suffix}"] = torch.stack(pairs)
            made[f"{mlp}.experts.down_{suffix}"] = torch.stack(down)
    return made
