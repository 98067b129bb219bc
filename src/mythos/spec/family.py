"""A family file: the tiers, how each is made, priced and served. Names and order come from here only."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from mythos.spec.config import ModelConfig


class TierState(StrEnum):
    DECLARED = "declared"
    BUILDING = "building"
    BUILT = "built"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Price:
    """Price in units of `currency` per million tokens."""

    input: float
    output: float
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class MadeBy:
    """How a tier's weights come to be. `kind` is a key of `spec.load.OPTIONS`; `source` is what it names.

    A tier that is trained may have a share of its own budget for each of STAGES among its options.
    """

    kind: str
    source: str = ""
    options: tuple[tuple[str, str | int | float], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """How a training step of a tier is cut, where the family says so. ValueError when that is nothing."""

    rows: int | None = None  # of a batch; None: 16 from scratch, else 4
    accumulate: int = 1  # batches of a step
    recompute: bool = False  # keep no activations inside a block: less memory, more time
    balance: Literal["quantile", "bias"] = "quantile"  # of experts with a selection bias

    def __post_init__(self) -> None:
        if (self.rows is not None and self.rows < 1) or self.accumulate < 1:
            raise ValueError("a step takes at least one batch of one row")


TRAINED = ("pretrain", "continue", "distil")  # kinds that need a budget; `experts` may have one
STAGES = ("sft", "dpo")  # what may follow, in this order: conversations, pairs of answers


@dataclass(frozen=True, slots=True)
class Tier:
    """One rung of a family. `root` is None until weights are registered (state BUILT)."""

    name: str
    family: str
    description: str
    config: ModelConfig
    made_by: MadeBy
    parents: tuple[str, ...]
    price: Price
    sampling: SamplingDefaults
    context: int  # tokens served, prompt and answer together
    max_output: int
    train: Step = Step()
    drafter: str = ""  # the tier that drafts for this one; "": none does
    root: str | None = None
    state: TierState = TierState.DECLARED


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    description: str
    licence: str
    tiers: tuple[Tier, ...]  # cheapest first

    def tier(self, name: str) -> Tier:
        """The tier called `name`; KeyError when the family has none."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise KeyError(name)
