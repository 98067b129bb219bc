"""What share of the published rates a training step reaches: dated data with provenance."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mythos.plan.errors import PlanError
from mythos.records.table import from_table


@dataclass(frozen=True, slots=True)
class Efficiencies:
    """Shares between 0 and 1 of a published rate, and seconds of waiting, as `efficiencies.toml` says."""

    dated: str
    provenance: str
    matmul: dict[str, float]  # by precision
    grouped: float
    attention: float
    bandwidth: float
    scale_up: float
    scale_out: float
    overlap_tp: float
    overlap_ep: float
    overlap_dp: float
    overlap_pp: float
    dense_gap: float
    routed_gap: float
    spread: dict[str, float]  # standard deviation of log(published / predicted), by group of predictions


@cache
def packaged() -> Efficiencies:
    """The efficiencies that come with this package."""
    return parse((files("mythos.plan") / "efficiencies.toml").read_text(), "efficiencies.toml")


def load(path: Path) -> Efficiencies:
    """The efficiencies of a file that `mythos plan calibrate` wrote; PlanError when it is none."""
    try:
        return parse(path.read_text(), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} cannot be read ({error}).", "Check its path.") from None


def parse(text: str, where: str) -> Efficiencies:
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except ValueError as error:
        raise PlanError(f"{where} is not TOML: {str(error)[:200]}.", "Correct the file.") from None
    table |= table.pop("values", {})
    return from_table(Efficiencies, table, where)
