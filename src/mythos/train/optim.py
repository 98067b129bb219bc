"""bf16 weights to compute with, float32 masters to train: AdamW, and Muon for the matrices inside
the blocks.

Shape letters: N numbers of a chunk
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from mythos.train.muon import move
from mythos.train.settings import TrainError, TrainSettings

CHUNK = 1 << 20  # numbers that AdamW moves at a time: their gradient in float32 does not leave the cache


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
        self._momenta = {name: torch.zeros_like(master) for name, master in inside.items()}
        self._moments = {
            name: (torch.zeros_like(master), torch.zeros_like(master))
            for name, master in self.masters.items()
            if name not in inside
        }
        _check_rates(self.masters, settings.expert_rates)
        matrices = list(self._matrices.values())
        decay = settings.weight_decay
        self._muon = torch.optim.Muon(matrices, settings.matrix_rate, decay) if matrices else None
        if self._muon is not None:
            for name, master in self._matrices.items():
                self._muon.state[master]["momentum_buffer"] = self._momenta[name]  # is moved in place
        self._gradients: dict[str, Tensor] = {}
        self._chunk = torch.empty(CHUNK)
        self._steps = torch.zeros(())

    @torch.no_grad()
    def collect(self) -> None:
        """Takes the parameters' gradients: those of a step's first batch as they are, later ones are added to
        them in float32.
        """
        for name, parameter in self._parameters.items():
            grad, before = parameter.grad, self._gradients.get(name)
            if grad is not None:
                self._gradients[name] = grad if before is None else before.float().add_(grad)
            parameter.grad = None

    @torch.no_grad()
    def step(self, factor: float) -> float:
        """Moves masters and parameters at `factor` times the learning rates; the gradient's norm before
        clipping.

        A gradient that is not finite moves nothing.
        """
        norm = self._norm()
        if math.isfinite(norm):
            self._move(factor, min(1.0, self._settings.clip / (norm + 1e-6)))
        self._gradients.clear()
        return norm

    def _norm(self) -> float:
        """Of all gradients together, in float32."""
        chunks = (c_N for grad in self._gradients.values() for c_N in grad.contiguous().view(-1).split(CHUNK))
        squares = [torch.dot(grad_N, grad_N) for grad_N in map(self._widened, chunks)]
        return torch.stack(squares).sum().sqrt().item()

    def _widened(self, grad_N: Tensor) -> Tensor:
        """A chunk in float32, until the next one: fresh memory for each would cost more than its use."""
        return self._chunk[: len(grad_N)].copy_(grad_N)

    def _move(self, factor: float, scale: float) -> None:
        """By `scale` times the gradients."""
        settings = self._settings
        self._steps += 1
        for name, grad in self._gradients.items():
            if name in self._moments:
                self._adamw(name, grad, settings.learning_rate * factor, scale)
            elif name not in self._matrices:
                grad = grad.float() * scale
                rate = settings.matrix_rate * factor
                move(self.masters[name], grad, self._momenta[name], rate, settings.weight_decay)
                self._parameters[name].copy_(self.masters[name])
        if self._muon is None:
            return
        self._muon.param_groups[0]["lr"] = settings.matrix_rate * factor
        for name, master in self._matrices.items():
            master.grad = self._gradients[name].float() * scale if name in self._gradients else None
        self._muon.step()
        for name, master in self._matrices.items():
            self._parameters[name].copy_(master)
            master.grad = None

    def _adamw(self, name: str, grad: Tensor, rate: float, scale: float) -> None:
        """Moves a master and its parameter in one way through memory, a chunk after the other: a tier of
        experts has several GB of them, and float32 copies of all gradients would be fresh memory each step.
        """
        whole = (self.masters[name], grad.contiguous(), *self._moments[name], self._parameters[name])
        rates = self._settings.expert_rates
        if grad.dim() == 3 and rates:  # a stack of experts, each with a rate of its own
            parts = [(*part, rate * times) for *part, times in zip(*whole, rates, strict=True)]
        else:
            parts = [(*whole, rate)]
        for *tensors, own_rate in parts:
            for master_N, grad_N, mean_N, square_N, parameter_N in zip(
                *(tensor.view(-1).split(CHUNK) for tensor in tensors), strict=True
            ):
                adamw(
                    [master_N],
                    [self._widened(grad_N).mul_(scale)],
                    [mean_N],
                    [square_N],
                    [],
                    [self._steps - 1],  # counts up what it is given
                    fused=True,
                    amsgrad=False,
                    beta1=self._settings.betas[0],
                    beta2=self._settings.betas[1],
                    lr=own_rate,
                    weight_decay=self._settings.weight_decay if grad.dim() > 1 else 0.0,
                    eps=1e-8,
                    maximize=False,
                )
                parameter_N.copy_(master_N)

    def state(self, ended: bool = False) -> dict[str, Tensor]:
        """Masters and moments by name: what `restore` needs to go on exactly; masters alone once training has
        `ended`, a third of it all.
        """
        tensors = {f"master.{name}": master for name, master in self.masters.items()}
        if ended:
            return tensors
        tensors["steps"] = self._steps
        for name, (mean, square) in self._moments.items():
            tensors |= {f"exp_avg.{name}": mean, f"exp_avg_sq.{name}": square}
        return tensors | {f"momentum.{name}": momentum for name, momentum in self._momenta.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], ended: bool = False) -> None:
        """Takes up a `state`. KeyError when it belongs to other parameters."""
        for key, tensor in self.state(ended).items():
            tensor.copy_(tensors[key])
        for name, parameter in self._parameters.items():
            parameter.copy_(self.masters[name])


def _check_rates(masters: Mapping[str, Tensor], rates: tuple[float, ...]) -> None:
    stacks = [master for master in masters.values() if master.dim() == 3]
    if rates and any(len(stack) != len(rates) for stack in stacks):
        raise TrainError(f"{len(rates)} rates are given, not one for each expert.", "Correct the settings.")


def inside_block(name: str) -> bool:
    """Whether a parameter is a matrix of a block: neither embedding, head, router nor norm."""
    return name.startswith(("layers.", "mtp.")) and name.endswith(
        ("_proj.weight", "experts.gate_up_proj", "experts.down_proj")
    )
