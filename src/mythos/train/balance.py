"""Keeping the load of routed experts even without a loss for it: the selection bias moves, nothing else.

Shape letters: T token rows, E experts
"""

from typing import Literal

import torch
from torch import Tensor

from mythos.model.moe import Router
from mythos.model.transformer import Transformer

BIAS_RATE = 1e-3  # arXiv 2412.19437, section 4.2
QUANTILE_SWEEPS = 4
QUANTILE_SHARE = 0.5  # of the way to the newest bias, each step


def routers(model: Transformer) -> list[Router]:
    """The routers of a model, in the order of its layers."""
    return [module for module in model.modules() if isinstance(module, Router)]


@torch.no_grad()
def load(router: Router, scores_TE: Tensor, bias_E: Tensor | None = None) -> Tensor:
    """(E,) how many tokens the router sends to each expert under `bias_E`, by default its own."""
    return router.choose(scores_TE, bias_E).flatten().bincount(minlength=scores_TE.shape[1])


@torch.no_grad()
def quantile_bias(router: Router, scores_TE: Tensor) -> Tensor:
    """(E,) the bias under which these tokens load the experts evenly, sought from the router's present one.

    The dual of the balanced assignment, by turns: what a score has to exceed to be chosen by its token, then
    the bias with which an expert exceeds that for its share of the tokens. No rate to set (Kimi K3, arXiv
    2607.24653).
    """
    bias_E = router.e_score_correction_bias
    bias_E = torch.zeros_like(scores_TE[0]) if bias_E is None else bias_E
    share = router.moe.top_k / router.moe.routed
    for _ in range(QUANTILE_SWEEPS):
        best = (scores_TE + bias_E).topk(router.moe.top_k + 1, -1).values
        border_T1 = (best[:, -1:] + best[:, -2:-1]) / 2
        bias_E = -torch.quantile(scores_TE - border_T1, 1 - share, dim=0)
        bias_E = bias_E - bias_E.mean()
    return bias_E


@torch.no_grad()
def rebalance(router: Router, scores_TE: Tensor, bias_E: Tensor, how: Literal["bias", "quantile"]) -> None:
    """Moves the router's own selection bias, which it will serve with, after a step.

    `bias`: a fixed step up for experts below the mean load of these scores, down for those above it
    (arXiv 2408.15664). `quantile`: a part of the way to `bias_E`, which balanced this very batch; so the step
    itself is balanced without delay, and the bias that stays is a running mean.
    """
    own_E = router.e_score_correction_bias
    assert own_E is not None
    if how == "bias":
        load_E = load(router, scores_TE).float()
        own_E += BIAS_RATE * torch.sign(load_E.mean() - load_E)
    else:
        own_E.lerp_(bias_E, QUANTILE_SHARE)
