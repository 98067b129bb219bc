"""AdamW and Muon on shards: each rank moves what it has of every parameter.

Shape letters: R rows and C columns of a matrix, n its own rows here
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from mythos.train.muon import MOMENTUM, move
from mythos.train.optim import inside_block
from mythos.train.parallel.collectives import exchanged, gathered
from mythos.train.parallel.model import EXPERTS, RankModel, local_parameters
from mythos.train.parallel.tensor import split_dimension
from mythos.train.settings import TrainError, TrainSettings


class ShardedOptimiser:
    """What moves a rank's shards. The steps are those of `mythos.train.optim.Optimiser`.

    Masters are the shards themselves: float32, gathered in the dtype that is computed with. TrainError for
    `expert_rates`, which it does not know.
    """

    def __init__(self, model: RankModel, settings: TrainSettings) -> None:
        if settings.expert_rates:
            raise TrainError("On a mesh all experts have one rate.", "Leave out expert_rates.")
        self._model, self._settings = model, settings
        self.masters = local_parameters(model)
        inside = {n for n in self.masters if settings.optimiser == "muon" and inside_block(n)}
        self._momenta = {n: torch.zeros_like(self.masters[n]) for n in self.masters if n in inside}
        self._moved = [n for n in self.masters if n not in inside]
        whole = {name: len(model.boxes[name].whole) for name in self._moved}
        groups = [
            {"params": [self.masters[n] for n in self._moved if whole[n] >= 2]},
            {"params": [self.masters[n] for n in self._moved if whole[n] < 2], "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    @torch.no_grad()
    def collect(self) -> Tensor:
        """Takes the gradients over from the model; the sum of the squares of those the rank speaks for.

        Before, those are added up that several ranks have a part of beside FSDP: of what tensor parallelism
        does not split, and of an embedding at both ends of the pipeline.
        """
        mesh, model = self._model.mesh, self._model
        for name, parameter in model.named_parameters():
            grad = parameter.grad
            assert isinstance(grad, DTensor) or grad is None
            self.masters[name].grad = None if grad is None else grad.to_local()
            parameter.grad = None
        shared = [
            self.masters[name].grad
            for name in self.masters
            if mesh.shape.tp > 1 and not name.endswith(EXPERTS) and split_dimension(name) is None
        ]
        for grad in shared:
            if grad is not None and grad.numel():
                dist.all_reduce(grad, group=mesh.groups["tp"])
        if "ends" in mesh.groups and (self._model.config.tied or self._model.config.mtp):
            grad = self.masters["embed.weight"].grad
            assert grad is not None
            dist.all_reduce(grad, group=mesh.groups["ends"])
        total = torch.zeros((), dtype=torch.float32, device=next(iter(self.masters.values())).device)
        for name in self.told():
            grad = self.masters[name].grad
            if grad is not None and grad.numel():
                total += grad.float().square().sum()
        return total

    def told(self) -> list[str]:
        """The parameters that this rank speaks for: of what several ranks have alike, the first one does."""
        mesh, model = self._model.mesh, self._model
        return [
            name
            for name in self.masters
            if (name.endswith(EXPERTS) or split_dimension(name) is not None or mesh.at.tp == 0)
            and not (name == "embed.weight" and model.copied)
        ]

    @torch.no_grad()
    def move(self, factor: float, scale: Tensor) -> None:
        """Moves the masters at `factor` times the learning rates by `scale` times the gradients, and drops
        these.
        """
        settings = self._settings
        for master in self.masters.values():
            if master.grad is not None:
                master.grad.mul_(scale)
        for group in self._adam.param_groups:
            group["lr"] = settings.learning_rate * factor
        self._adam.step()
        rate = settings.matrix_rate * factor
        matrices = []
        for name, momentum in self._momenta.items():
            master, grad = self.masters[name], self.masters[name].grad
            if grad is None:
                continue
            if name.endswith(EXPERTS):
                if master.numel():
                    move(master, grad, momentum, rate, settings.weight_decay)
                continue
            momentum.lerp_(grad, 1 - MOMENTUM)
            matrices.append((name, grad.lerp(momentum, MOMENTUM)))
        for name, update in self._orthogonal(matrices):
            self.masters[name].mul_(1 - rate * settings.weight_decay).add_(update, alpha=rate)
        self.drop()

    def drop(self) -> None:
        """Forgets the gradients."""
        for master in self.masters.values():
            master.grad = None

    def _orthogonal(self, matrices: Sequence[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
        """This rank's rows of what Muon makes of each matrix, of which it gives its own rows.

        As many matrices at a time as FSDP has ranks: each rank puts one together, makes it orthogonal and
        sends the rows back.
        """
        group = self._model.mesh.groups["data"]
        ranks, rank, found = group.size(), dist.get_rank(group), []
        for begin in range(0, len(matrices), ranks):
            part = matrices[begin : begin + ranks]
            rows_out = [update.numel() for _, update in part] + [0] * (ranks - len(part))
            flat = torch.cat([update.flatten() for _, update in part])
            mine = part[rank][0] if rank < len(part) else None
            sizes = [0] * ranks if mine is None else self._rows_of(mine, ranks)
            whole = exchanged(flat, rows_out, sizes, group)
            made = self._whole(mine, whole) if mine is not None else whole
            back = exchanged(made.flatten(), sizes, rows_out, group)
            for (name, update), rows in zip(part, back.split(rows_out[: len(part)]), strict=True):
                found.append((name, rows.view_as(update)))
        return found

    def _rows_of(self, name: str, ranks: int) -> list[int]:
        """Numbers of the matrix `name`, as tensor parallelism leaves it, on each rank of FSDP."""
        rows, columns = self._local_shape(name)
        share = -(-rows // ranks)
        return [max(0, min(share, rows - i * share)) * columns for i in range(ranks)]

    def _local_shape(self, name: str) -> tuple[int, int]:
        shape, tp = list(self._model.boxes[name].whole), self._model.mesh.shape.tp
        dimension = split_dimension(name)
        if dimension is not None:
            shape[dimension] //= tp
        return shape[0], shape[1]

    def _whole(self, name: str, flat: Tensor) -> Tensor:
        """What Muon makes of a matrix that is whole but for tensor parallelism, times -1: all ranks of that
        put it together and each keeps its share.
        """
        local, dimension = flat.view(self._local_shape(name)), split_dimension(name)
        group = self._model.mesh.groups["tp"]
        if dimension is None or group.size() == 1:
            return _muon(local)
        parts = gathered(local[None], group)
        made = _muon(torch.cat(parts.unbind(), dim=dimension))
        return made.chunk(group.size(), dim=dimension)[dist.get_rank(group)].contiguous()

    def state(self) -> dict[str, Tensor]:
        """Masters and moments by name, this rank's shards."""
        tensors = {f"master.{name}": master for name, master in self.masters.items()}
        tensors |= {f"momentum.{name}": momentum for name, momentum in self._momenta.items()}
        for name in self._moved:
            for key in ("exp_avg", "exp_avg_sq"):
                if (value := self._adam.state.get(self.masters[name], {}).get(key)) is not None:
                    tensors[f"{key}.{name}"] = value
        return tensors

    def started(self) -> None:
        """Makes AdamW's moments, zero, so that `state` has them all."""
        for name in self._moved:
            master = self.masters[name]
            self._adam.state[master] = {
                "step": torch.zeros((), dtype=torch.float32, device=master.device),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }

    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Takes up shards that `state` gave, after so many steps."""
        self.started()
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])
        for state in self._adam.state.values():
            state["step"].fill_(steps)


def _muon(update_RC: Tensor) -> Tensor:
    """The step that torch's Muon makes from this update, at rate 1 and without decay."""
    place = torch.zeros_like(update_RC)
    place.grad = update_RC
    torch.optim.Muon([place], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False).step()
    return place
