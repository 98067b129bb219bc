"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) for the experts of a layer at once.

torch's takes one matrix after another, in five steps each, which for 128 experts costs more than the rest of
the step. Here all experts of a layer are one batched product, and three steps of other polynomials do.

Shape letters: E experts, matrices of R rows and C columns, M the smaller of the two, K the larger
"""

import torch
from torch import Tensor

MOMENTUM = 0.95  # with Nesterov's look ahead, as torch.optim.Muon
# The odd polynomials of degree 5 whose composition is nearest to 1 on [0.003, 1], each the minimax one for
# what the one before leaves (Polar Express, Amsel et al. 2025, arXiv 2505.16932): singular values in that
# interval end within 1 +- 0.65, smaller ones at 119 times what they were.
STEPS = ((8.3837, -24.7659, 18.3571), (4.0434, -3.0114, 0.5695), (3.5056, -2.6267, 0.5257))


def orthogonal(x_ERC: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """(E, R, C) in `dtype`: each matrix with its singular values moved towards 1, its singular vectors kept.

    A step is X <- aX + b(XX')X + c(XX')(XX')X (Newton-Schulz). The first divides by the Schatten-4 norm,
    the root of |XX'|: never below the largest singular value, and for a flat spectrum M^(1/4) times less
    than the Frobenius norm, which torch divides by, so that singular values begin further up. Zero matrices
    stay zero.
    """
    wide = x_ERC.shape[1] <= x_ERC.shape[2]
    norm_E11 = x_ERC.norm(dim=(1, 2), keepdim=True).clamp(min=1e-30)  # small numbers have no square in bf16
    x_EMK = (x_ERC / norm_E11).to(dtype)
    x_EMK = x_EMK if wide else x_EMK.mT
    for number, (a, b, c) in enumerate(STEPS):
        gram_EMM = x_EMK @ x_EMK.mT
        if number == 0:
            size_E11 = gram_EMM.norm(dim=(1, 2), keepdim=True, dtype=norm_E11.dtype).clamp(min=1e-30)
            x_EMK, gram_EMM = (x_EMK / size_E11.sqrt()).to(dtype), (gram_EMM / size_E11).to(dtype)
        poly_EMM = torch.baddbmm(gram_EMM, gram_EMM, gram_EMM, beta=b, alpha=c)
        x_EMK = torch.baddbmm(x_EMK, poly_EMM, x_EMK, beta=a)
    return x_EMK if wide else x_EMK.mT


@torch.no_grad()
def move(master_ERC: Tensor, grad_ERC: Tensor, momentum_ERC: Tensor, rate: float, decay: float) -> None:
    """One step of Muon: moves `master_ERC` and `momentum_ERC`, both fp32, in place.

    The rate is adjusted to the shape by sqrt(max(1, R / C)), weight decay is decoupled, as torch.optim.Muon
    does by default.
    """
    momentum_ERC.lerp_(grad_ERC, 1 - MOMENTUM)
    update_ERC = orthogonal(grad_ERC.lerp(momentum_ERC, MOMENTUM))
    adjusted = rate * max(1.0, master_ERC.shape[1] / master_ERC.shape[2]) ** 0.5
    master_ERC.mul_(1 - rate * decay).add_(update_ERC, alpha=-adjusted)
