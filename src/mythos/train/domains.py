"""Routers that know the domains before they are trained: which expert a token should go to, read off the
parent's own hidden states.

Experts trained apart on one domain each (Branch-Train-MiX, arXiv 2403.07816) are of use only to tokens of
their domain; behind random routers a merge begins worse than any of them, and a short budget goes into
learning what a linear classifier finds in a minute.

Shape letters: T token rows, D width, E experts
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mythos.model.transformer import Transformer
from mythos.train.attention import packed_attend
from mythos.train.batch import Batch

RIDGE = 0.02  # weight of the squared size of the classifier's matrix
ITERATIONS = 40


@torch.no_grad()
def mlp_inputs(model: Transformer, batch: Batch) -> list[Tensor]:
    """(T, D) float32 for each layer: what its MLP reads of the batch's tokens."""
    found: list[Tensor] = []

    def hook(_module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].float())

    hooks = [layer.mlp.register_forward_pre_hook(hook) for layer in model.layers]  # pyright: ignore
    packed = batch.packed  # by the model itself: a Trainee runs all layers through one block's hooks
    try:
        attend, first = packed_attend(packed.starts_RL), torch.zeros(1, dtype=torch.long)
        model(packed.tokens_RL.flatten(), packed.positions_RL.flatten(), attend, rows=first)
    finally:
        for one in hooks:
            one.remove()
    return found


def domain_routers(model: Transformer, batches: Sequence[Batch]) -> list[Tensor]:
    """(E, D) for each layer: logits by which a token of batch e goes to expert e, by multinomial logistic
    regression on what the dense `model`'s MLPs read.
    """
    states = [mlp_inputs(model, batch) for batch in batches]
    expert_T = torch.cat([torch.full((len(of[0]),), e) for e, of in enumerate(states)])
    return [classifier(torch.cat(layer), expert_T, len(batches)) for layer in zip(*states, strict=True)]


def classifier(x_TD: Tensor, class_T: Tensor, classes: int) -> Tensor:
    """(E, D) weights of a linear classifier without an offset."""
    scale = x_TD.std()
    x_TD = x_TD / scale
    weight_ED = torch.zeros(classes, x_TD.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([weight_ED], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        found = torch.nn.functional.cross_entropy(x_TD @ weight_ED.T, class_T)
        found = found + RIDGE * weight_ED.square().sum()
        found.backward()
        return found

    search.step(loss)  # pyright: ignore[reportArgumentType]
    return (weight_ED / scale).detach()
