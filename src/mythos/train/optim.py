"""bf16 weights to compute with, float32 masters to train: AdamW, and Muon for the matrices inside
the blocks.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mythos.train.settings import TrainSettings


class Optimiser:
    """The float32 masters of the parameters that are trained (`requires_grad`) and what moves them.

    Call `collect` after the backward of each batch of a step, and `step` once all are in. AdamW is that of
    Loshchilov and Hutter (arXiv 1711.05101), Muon that of Jordan et al. 2024; both are torch's.
    """

    def __init__(self, model: nn.Module, settings: TrainSettings) -> None:
        self._settings = settings
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.masters = {name: p.detach().to(torch.float32, copy=True) for name, p in self._parameters.items()}
        # Muon takes matrices only: each expert's is one.
        self._matrices = {
            name: list(master.unbind()) if master.dim() == 3 else [master]
            for name, master in self.masters.items()
            if settings.optimiser == "muon" and _inside_block(name)
        }
        others = [(name, master) for name, master in self.masters.items() if name not in self._matrices]
        groups = [
            {"params": [master for _, master in others if master.dim() >= 2]},
            {"params": [master for _, master in others if master.dim() < 2], "weight_decay": 0.0},
        ]
        decay = settings.weight_decay
        self._adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=decay,
            fused=True,
        )
        parts = [part for parts in self._matrices.values() for part in parts]
        self._muon = torch.optim.Muon(parts, lr=settings.matrix_rate, weight_decay=decay) if parts else None

    @torch.no_grad()
    def collect(self) -> None:
        """Adds the parameters' gradients to the masters' and drops them."""
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                continue
            master = self.masters[name]
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad.add_(parameter.grad)
            parameter.grad = None

    @torch.no_grad()
    def step(self, factor: float) -> float:
        """Moves masters and parameters at `factor` times the learning rates; the gradient's norm before
        clipping.

        A gradient that is not finite moves nothing.
        """
        norm = nn.utils.clip_grad_norm_(self.masters.values(), self._settings.clip).item()
        if math.isfinite(norm):
            self._move(factor)
        for master in self.masters.values():
            master.grad = None
        return norm

    def _move(self, factor: float) -> None:
        for name, parts in self._matrices.items():
            grad = self.masters[name].grad
            for index, part in enumerate(parts):
                part.grad = grad if grad is None or part is self.masters[name] else grad[index]
        rates = ((self._adam, self._settings.learning_rate), (self._muon, self._settings.matrix_rate))
        for optimiser, rate in rates:
            if optimiser is not None:
                for group in optimiser.param_groups:
                    group["lr"] = rate * factor
                optimiser.step()
        for name, parameter in self._parameters.items():
            parameter.copy_(self.masters[name])
        for parts in self._matrices.values():
            for part in parts:
                part.grad = None

    def state(self) -> dict[str, Tensor]:
        """Masters and moments by name: what `restore` needs to go on exactly."""
        tensors = {f"master.{name}": master for name, master in self.masters.items()}
        for label, optimiser, tensor in self._owners():
            for key, value in optimiser.state.get(tensor, {}).items():
                tensors[f"{key}.{label}"] = value
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up a `state`. KeyError when it belongs to other parameters."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"master.{name}"])
            self._parameters[name].copy_(master)
        for label, optimiser, tensor in self._owners():
            keys = ("momentum_buffer",) if optimiser is self._muon else ("step", "exp_avg", "exp_avg_sq")
            found = {key: tensors[f"{key}.{label}"] for key in keys if f"{key}.{label}" in tensors}
            if found:
                optimiser.state[tensor] = {key: value.clone() for key, value in found.items()}

    def _owners(self) -> list[tuple[str, torch.optim.Optimizer, Tensor]]:
        owners: list[tuple[str, torch.optim.Optimizer, Tensor]] = []
        for name, master in self.masters.items():
            if name not in self._matrices:
                owners.append((name, self._adam, master))
            elif self._muon is not None:
                parts = enumerate(self._matrices[name])
                owners += [(f"{name}.{index}", self._muon, part) for index, part in parts]
        return owners


def _inside_block(name: str) -> bool:
    """Whether a parameter is a matrix of a block: neither embedding, head, router nor norm."""
    return name.startswith(("layers.", "mtp.")) and name.endswith(
        ("_proj.weight", "experts.gate_up_proj", "experts.down_proj")
    )
