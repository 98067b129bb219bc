"""The optimiser's step for nano's experts: torch's Muon, one matrix after another, against ours.

    python bench/muon_experts.py [--family nano --tier capybara] [--rounds 8] [--json]

Arms, taken in turns, on the same made-up gradients: torch.optim.Muon on each expert's matrices (five steps of
Newton-Schulz); all experts of a layer stacked (`mythos.train.muon`, three steps). Told are the median of the
times and of the rounds' ratios, and how far each arm's update is from orthogonal, as the root of the mean of
(singular value - 1)^2 and as the cosine with the polar factor, of the first layer's gate and up projections.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mythos.spec.load import load_family
from mythos.train.muon import move, orthogonal

RATE, DECAY = 0.02, 0.1


def shapes(family: str, tier: str) -> list[tuple[int, int, int]]:
    config = load_family(family).tier(tier).config
    if config.moe is None:
        raise SystemExit(f"{tier} has no experts")
    count, inner, layers = config.moe.routed, config.moe.width, config.layers - len(config.dense_layers)
    return [(count, 2 * inner, config.width), (count, config.width, inner)] * layers


def gradients(sizes: list[tuple[int, int, int]]) -> list[Tensor]:
    """Products of a few dozen outer ones and some noise: singular values that fall, as gradients' do."""
    random = torch.Generator().manual_seed(0)
    found = []
    for count, rows, columns in sizes:
        left, right = (torch.randn(count, n, 64, generator=random) for n in (rows, columns))
        scale_64 = torch.arange(1.0, 65.0) ** -1.0
        noise = torch.randn(count, rows, columns, generator=random)
        found.append((left * scale_64) @ right.mT + 0.05 * noise)
    return found


def by_torch(grads: list[Tensor]) -> Callable[[], None]:
    matrices = [torch.zeros_like(part) for grad in grads for part in grad.unbind()]
    for matrix, part in zip(matrices, [part for grad in grads for part in grad.unbind()], strict=True):
        matrix.grad = part
    muon = torch.optim.Muon(matrices, lr=RATE, weight_decay=DECAY)
    return lambda: muon.step()


def stacked(grads: list[Tensor]) -> Callable[[], None]:
    masters, momenta = ([torch.zeros_like(grad) for grad in grads] for _ in range(2))

    def step() -> None:
        for master, grad, momentum in zip(masters, grads, momenta, strict=True):
            move(master, grad, momentum, RATE, DECAY)

    return step


def five_steps(grad_ERC: Tensor) -> Tensor:
    """What torch's first step adds, each matrix for itself."""
    made = []
    for grad in grad_ERC:
        matrix = torch.zeros_like(grad)
        matrix.grad = grad.clone()
        muon = torch.optim.Muon([matrix], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False)
        muon.step()
        made.append(-matrix / max(1.0, grad.shape[0] / grad.shape[1]) ** 0.5)
    return torch.stack(made)


def from_orthogonal(update_ERC: Tensor, grad_ERC: Tensor) -> tuple[float, float]:
    values = torch.linalg.svdvals(update_ERC.double())
    u, _, vh = torch.linalg.svd(grad_ERC.double(), full_matrices=False)
    cosine = (update_ERC.double() * (u @ vh)).sum() / (update_ERC.double().norm() * (u @ vh).norm())
    return (values - 1).square().mean().sqrt().item(), cosine.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="nano")
    parser.add_argument("--tier", default="capybara")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    grads = gradients(shapes(options.family, options.tier))
    arms = {"torch, one by one": by_torch(grads), "stacked, three steps": stacked(grads)}
    for arm in arms.values():
        arm()
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(options.rounds):
        for name, arm in arms.items():
            began = time.perf_counter()
            arm()
            times[name].append(time.perf_counter() - began)
    plain, ours = times.values()
    error = {
        "torch, one by one": from_orthogonal(five_steps(grads[0][:4]), grads[0][:4]),
        "stacked, three steps": from_orthogonal(orthogonal(grads[0][:4]).float(), grads[0][:4]),
    }
    report = {
        "matrices": sum(map(len, grads)),
        "seconds": {name: statistics.median(took) for name, took in times.items()},
        "ours_by_torch": statistics.median(o / p for o, p in zip(ours, plain, strict=True)),
        "from_orthogonal": {name: {"rms": rms, "cosine": cosine} for name, (rms, cosine) in error.items()},
    }
    if options.json:
        print(json.dumps(report))
        return
    print(f"{report['matrices']} matrices; ours / torch {report['ours_by_torch']:.3f} in the median round")
    for name, took in report["seconds"].items():
        rms, cosine = error[name]
        print(f"{name:22} {took:.3f} s   rms |s - 1| {rms:.3f}, cosine with the polar factor {cosine:.4f}")


if __name__ == "__main__":
    main()
