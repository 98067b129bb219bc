"""Safeguards while an answer is made: linear probes on the model's own hidden states.

Shape letters: C categories, D width.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mythos.records.profile import Profile, vector
from mythos.spec.config import ModelConfig


@dataclass(frozen=True, slots=True, eq=False)
class Guard:
    """A profile made ready: shared by all sequences under it."""

    profile: Profile
    weight_CD: Tensor
    bias_C: Tensor
    input_C: Tensor
    output_C: Tensor
    exchange_C: Tensor

    @staticmethod
    def of(profile: Profile, root: str, config: ModelConfig) -> "Guard":
        """PermissionError when the profile is for other weights."""
        if profile.root != root or profile.layer >= config.layers or profile.width != config.width:
            raise PermissionError("the safeguard profile is for other weights")
        parts = profile.classifiers
        return Guard(
            profile,
            torch.tensor([list(vector(c.direction)) for c in parts]),
            torch.tensor([c.bias for c in parts]),
            torch.tensor([c.input for c in parts]),
            torch.tensor([c.output for c in parts]),
            torch.tensor([c.exchange for c in parts]),
        )


@dataclass(slots=True, eq=False)
class Watch:
    """What one sequence's states have scored. `tripped` is (category, score) once a check has failed.

    `cleared` counts the tokens of the answer that may be shown.
    """

    guard: Guard
    seen: int = 0  # tokens of the answer read
    cleared: int = 0
    tripped: tuple[str, float] | None = None
    first_C: Tensor = field(default_factory=lambda: torch.zeros(()))
    sum_C: Tensor = field(default_factory=lambda: torch.zeros(()))
    window_C: Tensor = field(default_factory=lambda: torch.zeros(()))
    pending: int = 0  # tokens in the window

    def prompt(self, state_D: Tensor) -> None:
        """The state that has read the whole prompt: the input check."""
        self.first_C = self._score(state_D)
        self._check(self.first_C, self.guard.input_C)

    def token(self, state_D: Tensor) -> None:
        """The state that has read one more token of the answer; every `check_every` of them are checked."""
        score_C = self._score(state_D)
        self.sum_C = self.sum_C + score_C
        self.window_C = self.window_C + score_C
        self.seen += 1
        self.pending += 1
        if self.pending == self.guard.profile.check_every:
            self.check()
            self.cleared = max(self.cleared, self.seen - self.guard.profile.hold_back)

    def check(self) -> None:
        """The output check on what is in the window, and the exchange check on everything."""
        if self.pending and self.tripped is None:
            self._check(self.window_C / self.pending, self.guard.output_C)
            self._check((self.first_C + self.sum_C / self.seen) / 2, self.guard.exchange_C)
        self.window_C, self.pending = torch.zeros(()), 0

    def _score(self, state_D: Tensor) -> Tensor:
        return torch.mv(self.guard.weight_CD, state_D.float()) + self.guard.bias_C

    def _check(self, score_C: Tensor, threshold_C: Tensor) -> None:
        if self.tripped is not None:
            return
        margin_C = score_C - threshold_C
        strongest = int(margin_C.argmax())  # a NaN counts as the largest
        margin, profile = float(margin_C[strongest]), self.guard.profile
        category = profile.classifiers[strongest].category
        # A score that is no number trips whatever is exempt: unknown means no.
        if not margin < 0 and (margin != margin or category not in profile.exempt):
            self.tripped = category, float(score_C[strongest])


@contextmanager
def states_of(layers: nn.ModuleList, wanted: Iterable[int]) -> Iterator[Mapping[int, Tensor]]:
    """While the block runs, what each wanted layer last put out, (T, D). Without any, nothing is hooked."""
    caught: dict[int, Any] = {}

    def keep(layer: int) -> Any:
        return layers[layer].register_forward_hook(lambda _m, _i, out: caught.__setitem__(layer, out))

    hooks = [keep(layer) for layer in set(wanted)]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()
