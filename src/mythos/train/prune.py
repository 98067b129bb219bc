"""Smaller models out of larger ones: layers and inner channels left out by measured importance.

After Minitron (arXiv 2407.14679): importance is measured forward only, on a few rows of text.

Shape letters: T token rows, F inner width
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mythos.model.transformer import Block, Transformer
from mythos.spec.config import ModelConfig
from mythos.train.batch import Batch
from mythos.train.loss import weighted_cross_entropy
from mythos.train.forward import Trainee


@torch.no_grad()
def mean_loss(model: Transformer, batches: Sequence[Batch]) -> float:
    """Nats per counted target."""
    trainee, total, count = Trainee(model, compiled=False, recompute=False), 0.0, 0
    for batch in batches:
        x_TD, _ = trainee.hidden(batch.packed)
        total += weighted_cross_entropy(x_TD, trainee.head_VD, batch.targets_TA, batch.weights_TA).item()
        count += batch.count
    return total / max(1, count)


def layers_to_keep(
    model: Transformer,
    keep: int,
    batches: Sequence[Batch],
    report: Callable[[int, int], None] = lambda *_: None,
) -> list[int]:
    """Indices of the `keep` layers that stay when, again and again, the one whose loss hurts least is left out."""
    layers = list(model.layers)
    left = list(range(len(layers)))
    try:
        while len(left) > keep:
            losses = []
            for layer in left:
                model.layers = torch.nn.ModuleList(layers[index] for index in left if index != layer)
                losses.append(mean_loss(model, batches))
            del left[losses.index(min(losses))]
            report(len(layers) - len(left), len(layers) - keep)
    finally:
        model.layers = torch.nn.ModuleList(layers)
    return left


def without_layers(config: ModelConfig, tensors: dict[str, Tensor], keep: Sequence[int]) -> dict[str, Tensor]:
    """The tensors of a model with only the layers `keep`, renumbered."""
    place = {layer: index for index, layer in enumerate(keep)}
    made = {}
    for name, tensor in tensors.items():
        if not name.startswith("layers."):
            made[name] = tensor
            continue
        _, layer, rest = name.split(".", 2)
        if int(layer) in place:
            made[f"layers.{place[int(layer)]}.{rest}"] = tensor
    return made


@torch.no_grad()
def channel_importance(model: Transformer, batches: Sequence[Batch]) -> list[Tensor]:
    """(F,) of each dense layer: the mean size of what an inner channel adds to the residual."""
    sums = [torch.zeros(block.mlp.down_proj.weight.shape[1]) for block in _dense(model)]

    def watch(index: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sums[index] += inputs[0].float().abs().sum(0)

        return hook

    hooks = [b.mlp.down_proj.register_forward_pre_hook(watch(i)) for i, b in enumerate(_dense(model))]
    try:
        mean_loss(model, batches)
    finally:
        for hook in hooks:
            hook.remove()
    return [s * b.mlp.down_proj.weight.float().norm(dim=0) for s, b in zip(sums, _dense(model), strict=True)]


def without_channels(tensors: dict[str, Tensor], importance: Sequence[Tensor], ffn: int) -> dict[str, Tensor]:
    """The tensors of a model whose dense layers keep their `ffn` most important inner channels."""
    made = dict(tensors)
    for layer, values_F in enumerate(importance):
        kept_F = values_F.topk(ffn).indices.sort().values
        for part, dim in (("gate", 0), ("up", 0), ("down", 1)):
            name = f"layers.{layer}.mlp.{part}_proj.weight"
            made[name] = tensors[name].index_select(dim, kept_F)
    return made
