"""Smaller models out of larger ones: layers and inner channels left out by measured importance.

After Minitron (arXiv 2407.14679): importance is measured forward only, on a few rows of text.

Shape letters: T token rows, D width, F inner width
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from mythos.model.transformer import Transformer
from mythos.train.attention import packed_attend
from mythos.train.batch import Batch
from mythos.train.forward import Trainee
from mythos.train.loss import weighted_cross_entropy


@torch.no_grad()
def mean_loss(model: Transformer, batches: Sequence[Batch]) -> float:
    """Nats per counted target."""
    trainee = Trainee(model, compiled=False, recompute=False)
    embedded = [trainee.embedded(batch.packed) for batch in batches]
    return _mean_loss(trainee, batches, embedded, range(len(model.layers)))


def _mean_loss(
    trainee: Trainee, batches: Sequence[Batch], inputs: Sequence[Tensor], layers: Iterable[int]
) -> float:
    """Of what comes out when `inputs`, (T, D) for each batch, go through these layers."""
    total, count = 0.0, 0
    for batch, x_TD in zip(batches, inputs, strict=True):
        x_TD = trainee.model.norm(trainee.through(layers, x_TD, batch.packed)[0])
        total += weighted_cross_entropy(x_TD, trainee.head_VD, batch.targets_TA, batch.weights_TA).item()
        count += batch.count
    return total / max(1, count)


@torch.no_grad()
def layers_to_keep(
    model: Transformer,
    keep: int,
    batches: Sequence[Batch],
    report: Callable[[int, int], None] = lambda *_: None,
) -> list[int]:
    """Indices of the `keep` layers that stay when, again and again, the one whose loss hurts least is left
    out. What the layers below it give is computed once for all that might go.
    """
    trainee = Trainee(model, compiled=False, recompute=False)
    left = list(range(len(model.layers)))
    while len(left) > keep:
        losses, below = [], [trainee.embedded(batch.packed) for batch in batches]
        for place, layer in enumerate(left):
            losses.append(_mean_loss(trainee, batches, below, left[place + 1 :]))
            below = [
                trainee.through([layer], x_TD, batch.packed)[0]
                for batch, x_TD in zip(batches, below, strict=True)
            ]
        del left[losses.index(min(losses))]
        report(len(model.layers) - len(left), len(model.layers) - keep)
    return left


def without_layers(tensors: dict[str, Tensor], keep: Sequence[int]) -> dict[str, Tensor]:
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
    """(F,) for each layer, all dense: the mean size of what an inner channel adds to the residual."""
    named = model.named_modules()
    outs = [m for name, m in named if name.endswith("mlp.down_proj") and isinstance(m, torch.nn.Linear)]
    sums = [torch.zeros(out.weight.shape[1]) for out in outs]

    def watch(sum_F: Tensor) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sum_F.add_(inputs[0].float().abs().sum(0))

        return hook

    hooks = [out.register_forward_pre_hook(watch(sum_F)) for out, sum_F in zip(outs, sums, strict=True)]
    try:
        for batch in batches:
            packed = batch.packed  # by the model itself: a Trainee runs all layers through one block's hooks
            attend, first = packed_attend(packed.starts_RL), torch.zeros(1, dtype=torch.long)
            model(packed.tokens_RL.flatten(), packed.positions_RL.flatten(), attend, rows=first)
    finally:
        for hook in hooks:
            hook.remove()
    return [sum_F * out.weight.float().norm(dim=0) for out, sum_F in zip(outs, sums, strict=True)]


def without_channels(tensors: dict[str, Tensor], importance: Sequence[Tensor], ffn: int) -> dict[str, Tensor]:
    """The tensors of a model whose dense layers keep their `ffn` most important inner channels."""
    made = dict(tensors)
    for layer, values_F in enumerate(importance):
        kept_F = values_F.topk(ffn).indices.sort().values
        for part, dim in (("gate", 0), ("up", 0), ("down", 1)):
            name = f"layers.{layer}.mlp.{part}_proj.weight"
            made[name] = tensors[name].index_select(dim, kept_F)
    return made
