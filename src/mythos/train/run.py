"""A tier's run: its directory and what all trainings in it share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mythos.model.transformer import Transformer
from mythos.records.keyring import Keyring
from mythos.train.batch import Batches
from mythos.train.loop import Metrics, train
from mythos.train.machine import give_back_memory
from mythos.train.material import Material
from mythos.train.settings import Budget, TrainSettings


@dataclass(frozen=True, slots=True)
class Training:
    """What training a tier takes beside its declaration. `pause`, `compiled`: see
    `mythos.train.loop.train`.
    """

    material: Material
    budget: Budget
    report: Callable[[Metrics], None] = lambda _: None
    pause: Callable[[], float] = lambda: 0.0
    compiled: bool = True
    seed: int = 0  # of fresh weights and of the order of the text


@dataclass(frozen=True, slots=True)
class Run:
    """A directory and all that its trainings share."""

    place: Path
    keyring: Keyring
    settings: TrainSettings
    training: Training
    facts: Mapping[str, Any]

    def train(
        self, model: Transformer, batches: Batches, part: str = "", share: float = 1.0
    ) -> dict[str, Tensor]:
        """What training `model` changes, with this share of the budget, in the subdirectory `part`."""
        whole = self.training.budget
        budget = Budget(
            None if whole.tokens is None else max(1, round(whole.tokens * share)),
            None if whole.seconds is None else whole.seconds * share,
        )
        trained = train(
            self.place / part, self.keyring, model, batches, self.settings, budget, self.facts,
            self.training.report, self.training.pause, self.training.compiled,
        )  # fmt: skip
        give_back_memory()  # what is next may be a model to measure or a rival to train
        return dict(trained.tensors)
