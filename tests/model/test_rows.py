"""What a row computes must not depend on the rows beside it: the engine's exact mode rests on it.

Held here: norms, rotation, activation times gate, residual, as used between the quantised products, at the
widths of the shipped models. Not held, and therefore not asserted, is `torch.nn.functional.linear`: on x86
with AVX-512 and AMX an fp32 row changes in any batch of two or more, a bf16 row only at some sizes (in
1536 -> 576 from three rows on, in 576 -> 576 and 576 -> 1536 not). The fp32 router of a mixture shares this.

Elementwise fp32 loops compute `silu` otherwise in the tail that fills no vector. Tails come where a thread's
share of the elements ends, so the inner width must be a multiple of 32 x threads: 1536 is for 1, 2, 3, 4, 6,
8, 12 and 16 threads; with 7, rows were seen to differ in the last bit. In bf16 none did.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mythos.model.attention import RMSNorm
from mythos.model.rope import rope_frequencies, rotate, rotations
from mythos.spec.config import RopeConfig

BATCHES = [*range(2, 34), 64, 255, 512]
WIDTHS = [64, 576, 1536, 2048]
DTYPES = [torch.float32, torch.bfloat16]


def assert_rows_stand_alone(compute: Callable[..., Tensor], *inputs: Tensor) -> None:
    """`compute` on a row alone gives the bits it gives within a batch, wherever the row stands in it."""
    alone = torch.cat([compute(*(t[row : row + 1] for t in inputs)) for row in range(len(inputs[0]))])
    for rows in BATCHES:
        for first in (0, 1, 7):
            together = compute(*(t[first : first + rows] for t in inputs))
            assert torch.equal(together, alone[first : first + rows]), f"{rows} rows from {first}"


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm(dtype: torch.dtype, width: int) -> None:
    norm = RMSNorm(width, 1e-5)
    with torch.no_grad():
        norm.weight.normal_()
        assert_rows_stand_alone(norm, torch.randn(520, width, dtype=dtype) * 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_norm_of_heads_and_rotation(dtype: torch.dtype, head_dim: int) -> None:
    norm = RMSNorm(head_dim, 1e-6)
    frequencies_R, scale = rope_frequencies(
        RopeConfig(kind="yarn", factor=4.0, original_context=512), head_dim
    )

    def turn(x_THK: Tensor, positions_T: Tensor) -> Tensor:
        return rotate(norm(x_THK), rotations(positions_T, frequencies_R, scale))

    positions_T = torch.randint(0, 8192, (520,))
    with torch.no_grad():
        assert_rows_stand_alone(turn, torch.randn(520, 9, head_dim, dtype=dtype), positions_T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_gate_and_residual(dtype: torch.dtype, width: int) -> None:
    gate, up, x = (torch.randn(520, width, dtype=dtype) * 5 for _ in range(3))
    assert_rows_stand_alone(lambda g, u, r: r + F.silu(g) * u, gate, up, x)


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 8])
def test_thread_counts_whose_shares_are_whole_vectors(threads: int) -> None:
    before = torch.get_num_threads()
    gate, norm = torch.randn(520, 1536) * 5, RMSNorm(1536, 1e-5)
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            assert_rows_stand_alone(lambda g: F.silu(norm(g)) * g, gate)
    finally:
        torch.set_num_threads(before)
