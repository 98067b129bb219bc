"""What share of the published rates a training step reaches: dated data with provenance."""

import json
import tomllib
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mythos.plan.errors import PlanError, reason
from mythos.plan.hardware import Hardware, peak
from mythos.records.table import from_table

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A fit without one case: its moves of the starting values (`mythos.plan.moves`) and its spreads."""

    moves: tuple[float, ...]
    spread: dict[str, float]


@dataclass(frozen=True, slots=True)
class Efficiencies:
    """Shares between 0 and 1 of a published rate, and seconds of waiting, as `efficiencies.toml` says."""

    dated: str
    provenance: str
    matmul: dict[str, dict[str, float]]  # by part and precision
    grouped: float
    attention: float
    bandwidth: float
    scale_up: float
    scale_out: float
    all_to_all: float
    overlap_tp: float
    overlap_ep: float
    overlap_dispatch: float  # of the same, where a recipe may hide it behind another micro-batch
    overlap_dp: float
    overlap_pp: float
    gap: dict[str, float]  # by part
    collective: float
    whole_run: float
    spread: dict[str, float]  # standard deviation of log(published / predicted), by group of predictions
    left_out: dict[str, LeftOut] = field(default_factory=dict)  # by the id of a case that the fit saw


def matmul_rate(eff: Efficiencies, part: Hardware, precision: str) -> float:
    """FLOP/s that long matrix products sustain on one accelerator; PlanError for a part without them."""
    shares = eff.matmul.get(part.name, {})
    return peak(part, precision) * shares.get(precision, eff.matmul[DEFAULT][precision])


@cache
def packaged() -> Efficiencies:
    """The efficiencies that come with this package, fitted."""
    return parse((files("mythos.plan") / "efficiencies.toml").read_text(), "efficiencies.toml")


@cache
def starting() -> Efficiencies:
    """What is known without a fit: where `calibrate` starts."""
    name = "efficiencies_start.toml"
    return parse((files("mythos.plan") / name).read_text(), name)


def as_toml(eff: Efficiencies) -> str:
    """The text of a file that `load` reads, values in four figures."""
    lines = [f"dated = {json.dumps(eff.dated)}", f"provenance = {json.dumps(eff.provenance)}", "", "[values]"]
    for entry in fields(eff):
        value = getattr(eff, entry.name)
        if isinstance(value, float):
            lines.append(f"{entry.name} = {value:.4g}")
    tables = [(f"matmul.{part}", shares) for part, shares in eff.matmul.items()]
    for name, table in (*tables, ("gap", eff.gap), ("spread", eff.spread)):
        lines += ["", f"[{_key(name)}]", *(f"{key} = {value:.4g}" for key, value in table.items())]
    for name, left in eff.left_out.items():
        spread = ", ".join(f"{key} = {value:.4g}" for key, value in left.spread.items())
        moves = ", ".join(f"{move:.4g}" for move in left.moves)
        lines += ["", f"[left_out.{json.dumps(name)}]", f"moves = [{moves}]", f"spread = {{ {spread} }}"]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    """A table's name as TOML wants it: parts with a space in quotes."""
    return ".".join(part if part.isidentifier() else json.dumps(part) for part in name.split("."))


def load(path: Path) -> Efficiencies:
    """The efficiencies of a file that `mythos plan calibrate` wrote; PlanError when it is none."""
    try:
        return parse(path.read_text(), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} cannot be read ({reason(error)}).", "Check its path.") from None


def parse(text: str, where: str) -> Efficiencies:
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except ValueError as error:
        raise PlanError(f"{where} is not TOML: {str(error)[:200]}.", "Correct the file.") from None
    values = table.pop("values", {})
    if not isinstance(values, dict):
        raise PlanError(f"{where} has no table [values].", "Correct the file.")
    table |= values
    return from_table(Efficiencies, table, where)
