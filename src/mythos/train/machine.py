"""What this machine can do at most, measured: the yardstick of a training step."""

import statistics
import time

import torch

SIZE = 2048


def matmul_peak() -> float:
    """FLOP/s of bf16 products of 2,048 x 2,048 matrices on the threads in use; the median of five,
    2 per MAC.
    """
    a, b = (torch.randn(SIZE, SIZE).bfloat16() for _ in range(2))
    times = []
    for _ in range(6):
        began = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - began)
    return 2 * SIZE**3 / statistics.median(times[1:])
