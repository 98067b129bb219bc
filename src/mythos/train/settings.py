"""What fixes a training run beside its data and its model, and how the learning rate runs."""

from dataclasses import dataclass
from typing import Literal

from mythos.records.errors import MythosError


class TrainError(MythosError):
    """A training run cannot start or go on."""


DECAY_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """A step takes `accumulate` batches of `rows` rows of `length` tokens. TrainError when that is nothing.

    `learning_rate` is AdamW's; with the optimiser `muon` the matrices inside the blocks have `matrix_rate`
    instead (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) and AdamW keeps the rest.
    `expert_rates` multiplies AdamW's for each of a layer's experts; empty: 1 for all.
    """

    rows: int = 4
    length: int = 512
    accumulate: int = 1
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-4
    matrix_rate: float = 0.02
    expert_rates: tuple[float, ...] = ()
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip: float = 1.0  # largest norm of the whole gradient
    warmup_steps: int = 20
    decay_share: float = DECAY_SHARE  # of all steps, at the end
    balance: Literal["none", "bias", "quantile"] = "none"
    recompute: bool = False  # keep no activations inside a block: less memory, more time
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rows, self.length, self.accumulate) < 1 or self.warmup_steps < 0:
            raise TrainError("A step needs at least one row of one token.", "Correct the settings.")
        if not (self.learning_rate > 0 and self.matrix_rate > 0 and self.clip > 0):
            raise TrainError("Learning rates and the clipping norm are above 0.", "Correct the settings.")
        if self.expert_rates and (self.optimiser == "muon" or min(self.expert_rates) < 0):
            raise TrainError("Rates of experts are AdamW's, from 0 up.", "Correct the settings.")
        if not 0 <= self.decay_share < 1:
            raise TrainError("The share of decaying steps lies between 0 and 1.", "Correct the settings.")

    @property
    def step_rows(self) -> int:
        return self.rows * self.accumulate

    @property
    def step_tokens(self) -> int:
        return self.step_rows * self.length


@dataclass(frozen=True, slots=True)
class Budget:
    """When a run ends: after so many tokens, or so many seconds of training. Exactly one is given."""

    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.tokens, self.seconds) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise TrainError("A budget is a number of tokens or of seconds, above 0.", "Give one of the two.")


WARMUP_SHARE = 0.1  # of a run, at most
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
TOKENS = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def parse_budget(text: str) -> Budget:
    """`90s`, `10m`, `2h`, or tokens: `50M-tokens`, `800k-tokens`. TrainError for anything else."""
    amount, dash, unit = text.partition("-")
    scales = TOKENS if dash else UNITS
    number, scale = (amount[:-1], scales.get(amount[-1:], 0.0)) if amount[-1:].isalpha() else (amount, 1.0)
    try:
        value = float(number) * scale
        if (
            unit not in ("", "tokens")
            or not value > 0
            or value == float("inf")
            or not (dash or scale != 1.0 or amount.endswith("s"))
        ):
            raise ValueError
    except ValueError:
        raise TrainError(f"{text!r:.40} is no budget.", "Write 10m, 2h or 50M-tokens.") from None
    return Budget(tokens=round(value)) if dash else Budget(seconds=value)


def parse_tokens(text: str) -> int:
    """`800k`, `50M`, or either with `-tokens`. TrainError for anything else."""
    try:
        tokens = parse_budget(text if text.endswith("-tokens") else f"{text}-tokens").tokens
    except TrainError:
        raise TrainError(f"{text!r:.40} is no number of tokens.", "Write 800k or 50M.") from None
    assert tokens is not None
    return tokens


def rate_factor(
    step: int, settings: TrainSettings, decay_from: int | None, steps: int | None, share: float = 0.0
) -> float:
    """What the learning rate of step `step` (from 0) is multiplied by: warm-up, stable, decay to 0.

    The warm-up ends after its steps or, in a short run, once `share`, the part of the budget that is spent,
    reaches WARMUP_SHARE.

    WSD (Hu et al. 2024, arXiv 2404.06395) with the decay 1 - sqrt(x) of Hägele et al. 2024 (arXiv
    2405.18392). `decay_from` and `steps` are the first decaying step and the number of steps; None: not
    decaying yet.
    """
    warm = min(1.0, max((step + 1) / (settings.warmup_steps + 1), share / WARMUP_SHARE))
    if decay_from is None or steps is None or step < decay_from:
        return warm
    return warm * (1.0 - ((step - decay_from) / max(1, steps - decay_from)) ** 0.5)
