"""Muon for stacked experts, held against exact arithmetic and torch's; its numbers are found again."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from mythos.train.muon import STEPS, move, orthogonal


def exact(x_ERC: torch.Tensor) -> torch.Tensor:
    """The same by singular values in float64."""
    u, s, vh = torch.linalg.svd(x_ERC.double(), full_matrices=False)
    s = s / s.pow(4).sum(-1, keepdim=True).pow(0.25)
    for a, b, c in STEPS:
        s = a * s + b * s**3 + c * s**5
    return (u * s[:, None]) @ vh


@given(
    st.sampled_from([(3, 48, 32), (3, 32, 48), (2, 40, 40), (1, 8, 96)]),
    st.integers(0, 1000),
    st.floats(-8, 4),
    st.floats(0, 2),
)
@settings(max_examples=30, deadline=None)
def test_it_is_the_composed_polynomial(
    shape: tuple[int, int, int], seed: int, size: float, decay: float
) -> None:
    """Whatever the scale of a gradient and however its singular values fall. In bf16 it goes nearly there:
    the polynomials are steep, so singular values come out a little elsewhere.
    """
    count, rows, columns = shape
    random = torch.Generator().manual_seed(seed)
    rank = min(rows, columns)
    u = torch.linalg.qr(torch.randn(count, rows, rank, generator=random)).Q
    v = torch.linalg.qr(torch.randn(count, columns, rank, generator=random)).Q
    x_ERC = ((u * torch.arange(1.0, rank + 1) ** -decay) @ v.mT * 10.0**size).double()
    want = exact(x_ERC)
    torch.testing.assert_close(orthogonal(x_ERC, torch.float64), want, rtol=1e-6, atol=1e-8)
    found = orthogonal(x_ERC.float()).double()
    assert torch.nn.functional.cosine_similarity(found.flatten(), want.flatten(), dim=0) > 0.9


def test_an_expert_without_a_gradient_stays() -> None:
    x_ERC = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(0))
    x_ERC[1] = 0
    found = orthogonal(x_ERC)
    assert (found[1] == 0).all() and torch.isfinite(found).all()
    alone = orthogonal(x_ERC[:1])
    torch.testing.assert_close(found[:1], alone, rtol=0.05, atol=0.02)  # the others play no part


def test_a_step_goes_where_the_plain_one_goes() -> None:
    """Momentum and decay are those of torch.optim.Muon, which takes each expert for itself; the direction
    nearly.
    """
    random = torch.Generator().manual_seed(1)
    start = torch.randn(4, 64, 32, generator=random)
    ours, plain = start.clone(), [start[index].clone() for index in range(4)]
    peer, momentum = torch.optim.Muon(plain, lr=0.02, weight_decay=0.1), torch.zeros_like(start)
    for _ in range(3):
        grad = torch.randn(4, 64, 32, generator=random)
        move(ours, grad, momentum, 0.02, 0.1)
        for index, matrix in enumerate(plain):
            matrix.grad = grad[index]
        peer.step()
    for index, matrix in enumerate(plain):
        torch.testing.assert_close(momentum[index], peer.state[matrix]["momentum_buffer"])
        kept = start[index] * (1 - 0.02 * 0.1) ** 3
        here, there = (ours[index] - kept).flatten(), (matrix - kept).flatten()
        assert torch.nn.functional.cosine_similarity(here, there, dim=0) > 0.9
        assert 0.7 < (here.norm() / there.norm()).item() < 1.5


def minimax(low: float, high: float) -> tuple[np.ndarray, float]:
    """The odd polynomial of degree 5 nearest to 1 on [low, high], and how far it is: a linear programme."""
    x = np.geomspace(low, high, 1500)
    powers, ones = np.stack([x, x**3, x**5], 1), np.ones((len(x), 1))
    limits = np.concatenate([np.ones(len(x)), -np.ones(len(x))])
    rows = np.block([[powers, -ones], [-powers, -ones]])
    found = linprog([0, 0, 0, 1], rows, limits, bounds=[(None, None)] * 3 + [(0, None)])
    return found.x[:3], float(found.x[3])


def test_the_coefficients_are_the_best_ones() -> None:
    low, high, slope, far = 0.003, 1.0, 1.0, 1.0
    for step in STEPS:
        best, far = minimax(low, high)
        assert step == pytest.approx(tuple(best), rel=2e-3)
        low, high, slope = 1 - far, 1 + far, slope * step[0]
    assert far == pytest.approx(0.65, abs=0.005) and slope == pytest.approx(119, abs=0.5)
