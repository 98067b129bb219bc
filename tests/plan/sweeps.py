"""Training runs made from a known law."""

import random
from collections.abc import Sequence

from mythos.plan.scaling import Law, ScalingRun

EPOCH = Law(e=1.8169, a=482.0, alpha=0.3478, b=2085.4, beta=0.3658)  # Besiroglu et al. 2024, arXiv 2404.10102
SIZES = (1e7, 4e7, 1.6e8, 6.4e8)
MULTIPLES = (5, 20, 80, 320)


def sweep(
    law: Law,
    sizes: Sequence[float] = SIZES,
    multiples: Sequence[float] = MULTIPLES,
    ratios: Sequence[float] = (1.0,),
    noise: float = 0.0,
    seed: int = 0,
) -> list[ScalingRun]:
    """Every size, token multiple and ratio of all to active parameters; losses with log-normal `noise`."""
    dice = random.Random(seed)
    return [
        ScalingRun(
            params=size * ratio,
            tokens=size * multiple,
            loss=law.loss(size, size * multiple, ratio) * dice.lognormvariate(0, noise),
            active=None if ratio == 1 else size,
        )
        for size in sizes
        for multiple in multiples
        for ratio in ratios
    ]
