"""The machine a training runs on: what it can do at most, measured, and its memory."""

import ctypes
import gc
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


def give_back_memory() -> None:
    """Hands memory that nothing uses any more back to the system.

    The C library of Linux keeps what a training freed in small pieces, many times what comes after it needs;
    others have no such call and nothing to do.
    """
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
