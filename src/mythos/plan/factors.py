"""Factors on the ideal times of serving, from `serving_factors.json`: dated, with what they were fitted on.

A factor is the product of a common one and of those of every level that knows the case: its engine, its
accelerator, both together, the model on the engine, that in its precision, the engine's version, whether
prompts share the steps. A case that a level does not know takes 1 from it, so an unknown engine on a known
accelerator still has an answer, with a wider interval.

Array names end in shape letters: K the terms of a sum of times.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mythos.plan.errors import PlanError, reason
from mythos.records.errors import MythosError
from mythos.records.table import from_table

Array = NDArray[np.float64]

FORMAT = "mythos-serving-factors/1"


@dataclass(frozen=True, slots=True)
class Case:
    """What a deployment is to the levels. Words as in the runs; "" where nothing is known."""

    engine: str = ""
    part: str = ""
    model: str = ""
    precision: str = ""
    version: str = ""
    kind: str = ""  # aggregated, disaggregated, guessed

    def key(self, level: str) -> str:
        """The case in the eyes of a level such as "engine|part"; "" when a part of it is not known."""
        words = [getattr(self, name) for name in level.split("|")]
        return "|".join(words) if all(words) else ""


@dataclass(frozen=True, slots=True)
class Level:
    """`blocks` says for each term which of a key's values holds for it; values are natural logarithms."""

    name: str
    blocks: tuple[int, ...]
    values: dict[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Law:
    """A time as a sum of terms: `common` are logarithms of their factors, before the levels'."""

    terms: tuple[str, ...]
    common: tuple[float, ...]
    levels: tuple[Level, ...]
    intervals: dict[str, tuple[float, ...]]  # by `class_of`: logarithms of measured by predicted, 10% and 90%

    def factors(self, case: Case) -> Array:
        """Of each term (K)."""
        found = np.array(self.common)
        for level in self.levels:
            values = level.values.get(case.key(level.name))
            if values is not None:
                found = found + np.array(values)[list(level.blocks)]
        return np.exp(found)

    def interval(self, case: Case) -> tuple[float, float]:
        """What a prediction is multiplied with for the ends of its 80% interval."""
        low, high = self.intervals[self.class_of(case)]
        return math.exp(low), math.exp(high)

    def class_of(self, case: Case) -> str:
        """How well the case is known: the kind, then "model" (on this engine, and the engine on this part),
        "engine" (on this part) or "new"."""
        known = {level.name: case.key(level.name) in level.values for level in self.levels}
        if known.get("engine|part") and known.get("engine|model"):
            return f"{case.kind}, model"
        return f"{case.kind}, engine" if known.get("engine|part") else f"{case.kind}, new"


@dataclass(frozen=True, slots=True)
class Factors:
    format: str
    dated: str
    provenance: str
    command: str
    tpot: Law
    ttft: Law


@cache
def packaged() -> Factors:
    """The factors that come with this package."""
    return parse((files("mythos.plan") / "serving_factors.json").read_text(), "serving_factors.json")


def load(path: Path) -> Factors:
    """The factors of a file that `mythos plan calibrate-serving` wrote; PlanError when it is none."""
    try:
        return parse(path.read_text(), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} cannot be read ({reason(error)}).", "Check its path.") from None


def parse(text: str, where: str) -> Factors:
    try:
        found = from_table(Factors, json.loads(text), where)
    except (ValueError, MythosError) as error:
        raise PlanError(f"{where} holds no factors: {error}", "Write it with calibrate-serving.") from None
    if found.format != FORMAT:
        raise PlanError(f"{where} has the format {found.format!r:.60}.", f"This version reads {FORMAT}.")
    for law in (found.tpot, found.ttft):
        _check(law, where)
    return found


def _check(law: Law, where: str) -> None:
    count = len(law.terms)
    widths = [len(level.blocks) == count and _fits(level) for level in law.levels]
    if len(law.common) != count or not all(widths) or any(len(v) != 2 for v in law.intervals.values()):
        raise PlanError(f"{where} has factors of different lengths.", "Write it with calibrate-serving.")


def _fits(level: Level) -> bool:
    width = max(level.blocks) + 1
    return min(level.blocks) >= 0 and all(len(values) == width for values in level.values.values())


def as_table(found: Factors) -> dict[str, Any]:
    """What `parse` reads, with logarithms to four digits: a ten-thousandth of a factor."""

    def law(one: Law) -> dict[str, Any]:
        return {
            "terms": one.terms,
            "common": _short(one.common),
            "levels": [
                {
                    "name": level.name,
                    "blocks": level.blocks,
                    "values": {key: _short(values) for key, values in sorted(level.values.items())},
                }
                for level in one.levels
            ],
            "intervals": {key: _short(values) for key, values in sorted(one.intervals.items())},
        }

    about = {name: getattr(found, name) for name in ("format", "dated", "provenance", "command")}
    return {**about, "tpot": law(found.tpot), "ttft": law(found.ttft)}


def _short(values: Sequence[float]) -> list[float]:
    return [round(float(value), 4) for value in values]
