"""bf16 weights to compute with, float32 masters to train: AdamW, and Muon for the matrices inside
the blocks.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from mythos.train.muon import move
from mythos.train.settings import TrainError, TrainSettings


class Optimiser:
    """The float32 masters of the parameters that are trained (`requires_grad`) and what moves them.

    Call `collect` after the backward of each batch of a step, and `step` once all are in. AdamW is that of
    Loshchilov and Hutter (arXiv 1711.05101), Muon that of Jordan et al. 2024; both are torch's, but for
    stacked experts (`muon`). TrainError when `expert_rates` are not as many as a layer has experts.
    """

    def __init__(self, model: nn.Module, settings: TrainSettings) -> None:
        self._settings = settings
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.masters = {name: p.detach().to(torch.float32, copy=True) for name, p in self._parameters.items()}
        inside = {
            name: master
            for name, master in self.masters.items()
            if settings.optimiser == "muon" and inside_block(name)
        }
        self._matrices = {name: master for name, master in inside.items() if master.dim() == 2}
        self._momenta = {n: torch.zeros_like(master) for n, master in inside.items() if master.dim() == 3}
        self._adamw = {name: master for name, master in self.masters.items() if name not in inside}
        self._parts = _parts_of_experts(self._adamw, settings.expert_rates)
        groups = [
            {"params": [part for part in self._whole() if part.dim() >= 2], "times": 1.0},
            {"params": [part for part in self._whole() if part.dim() < 2], "times": 1.0, "weight_decay": 0.0},
        ]
        for expert, times in enumerate(settings.expert_rates):
            groups.append({"params": [parts[expert] for parts in self._parts.values()], "times": times})
        decay = settings.weight_decay
        self._adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=decay,
            fused=True,
        )
        matrices = list(self._matrices.values())
        self._muon = torch.optim.Muon(matrices, settings.matrix_rate, decay) if matrices else None

    def _whole(self) -> list[Tensor]:
        """The masters that AdamW moves at one rate."""
        return [master for name, master in self._adamw.items() if name not in self._parts]

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
        settings = self._settings
        for name, parts in self._parts.items():
            grad = self.masters[name].grad
            for expert, part in enumerate(parts):
                part.grad = None if grad is None else grad[expert]
        for optimiser, rate in ((self._adam, settings.learning_rate), (self._muon, settings.matrix_rate)):
            if optimiser is not None:
                for group in optimiser.param_groups:
                    group["lr"] = rate * factor * group.get("times", 1.0)
                optimiser.step()
        for name, momentum in self._momenta.items():
            master = self.masters[name]
            if master.grad is not None:
                move(master, master.grad, momentum, settings.matrix_rate * factor, settings.weight_decay)
        for name, parameter in self._parameters.items():
            parameter.copy_(self.masters[name])

    def state(self, ended: bool = False) -> dict[str, Tensor]:
        """Masters and moments by name: what `restore` needs to go on exactly; masters alone once training has
        `ended`, a third of it all.
        """
        tensors = {f"master.{name}": master for name, master in self.masters.items()}
        if ended:
            return tensors
        tensors |= {f"momentum.{name}": momentum for name, momentum in self._momenta.items()}
        for name, part, owner in self._moved():
            for key, value in owner.state.get(part, {}).items():
                tensors[f"{key}.{name}"] = value
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], ended: bool = False) -> None:
        """Takes up a `state`. KeyError when it belongs to other parameters."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"master.{name}"])
            self._parameters[name].copy_(master)
            if name in self._momenta and not ended:
                self._momenta[name].copy_(tensors[f"momentum.{name}"])
        for name, part, owner in self._moved():
            keys = ("step", "exp_avg", "exp_avg_sq") if owner is self._adam else ("momentum_buffer",)
            found = {key: tensors[f"{key}.{name}"] for key in keys if f"{key}.{name}" in tensors}
            if found:
                owner.state[part] = {key: value.clone() for key, value in found.items()}

    def _moved(self) -> Iterator[tuple[str, Tensor, torch.optim.Optimizer]]:
        """What torch's optimisers move, each under a name of its own."""
        for name, master in self._adamw.items():
            for expert, part in enumerate(self._parts.get(name, ())):
                yield f"{name}.{expert}", part, self._adam
            if name not in self._parts:
                yield name, master, self._adam
        if self._muon is not None:
            for name, master in self._matrices.items():
                yield name, master, self._muon


def _parts_of_experts(
    masters: Mapping[str, Tensor], rates: tuple[float, ...]
) -> dict[str, tuple[Tensor, ...]]:
    """Each stack of experts as one view an expert, for each has a rate of its own; none without `rates`."""
    if not rates:
        return {}
    stacks = {name: master for name, master in masters.items() if master.dim() == 3}
    if any(len(stack) != len(rates) for stack in stacks.values()):
        raise TrainError(f"{len(rates)} rates are given, not one for each expert.", "Correct the settings.")
    return {name: stack.unbind() for name, stack in stacks.items()}


def inside_block(name: str) -> bool:
    """Whether a parameter is a matrix of a block: neither embedding, head, router nor norm."""
    return name.startswith(("layers.", "mtp.")) and name.endswith(
        ("_proj.weight", "experts.gate_up_proj", "experts.down_proj")
    )
