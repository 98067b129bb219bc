"""What AdamW costs in a training step of a tier: ours beside torch's, on the same bf16 gradients.

    python bench/optimiser_step.py [--tier capybara] [--rounds 8] [--json]

Ours goes through memory once for the norm and once for all else. The peer is what one writes with torch
alone: float32 copies of the gradients, `clip_grad_norm_`, the fused AdamW, and masters copied back into the
bf16 weights. Rounds in turns; the ratios' median is told.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from mythos.spec.load import load_family
from mythos.train.optim import Optimiser
from mythos.train.settings import TrainSettings
from mythos.train.weights import computing, fresh_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tier", default="capybara")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = fresh_model(load_family("pocket").tier(options.tier).config, 0)
    settings = TrainSettings()
    ours = Optimiser(model, settings)
    theirs = {name: nn.Parameter(master.clone()) for name, master in ours.masters.items()}
    adamw = torch.optim.AdamW(theirs.values(), lr=settings.learning_rate, betas=settings.betas, fused=True)
    parameters = dict(computing(model).named_parameters())
    random = torch.Generator().manual_seed(0)
    grads = {name: torch.randn(p.shape, generator=random).to(p.dtype) for name, p in parameters.items()}

    def our_step() -> None:
        for name, parameter in parameters.items():
            parameter.grad = grads[name]
        ours.collect()
        ours.step(1.0)

    @torch.no_grad()
    def torch_step() -> None:
        for name, master in theirs.items():
            master.grad = grads[name].to(torch.float32, copy=True)
        nn.utils.clip_grad_norm_(theirs.values(), settings.clip)
        adamw.step()
        for name, master in theirs.items():
            parameters[name].copy_(master)
            master.grad = None

    arms: dict[str, Callable[[], None]] = {"ours": our_step, "torch": torch_step}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for round_ in range(options.rounds + 1):
        for name, arm in arms.items():
            began = time.perf_counter()
            arm()
            if round_:  # the first makes the moments
                times[name].append(time.perf_counter() - began)
    ratio = statistics.median(t / o for o, t in zip(times["ours"], times["torch"], strict=True))
    numbers = sum(parameter.numel() for parameter in parameters.values())
    if options.json:
        print(json.dumps({"parameters": numbers, "seconds": times, "ratio": ratio}))
        return
    print(f"{options.tier}: {numbers / 1e6:.1f}M parameters, {torch.get_num_threads()} threads")
    for name, taken in times.items():
        print(
            f"{name:6} {statistics.median(taken) * 1e3:6.0f} ms "
            f"({min(taken) * 1e3:.0f} to {max(taken) * 1e3:.0f})"
        )
    print(f"torch / ours {ratio:.3f}")


if __name__ == "__main__":
    main()
