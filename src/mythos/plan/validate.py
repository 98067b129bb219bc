"""Predictions held against published values: errors, intervals, and the tables of both halves.

Three in ten of the cases are held out from everything that is fitted, by the hash of their id. An interval
holds 80%: the spread of the fitted half's errors, by group, around the prediction, and what the case leaves
open. A case that the fit has seen is predicted by the same fit without it: its error and its interval are
those of a case that is new.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Literal

from mythos.plan.cases import Case, NoData, UnknownModel
from mythos.plan.efficiencies import Efficiencies, packaged
from mythos.plan.errors import PlanError
from mythos.plan.moves import without
from mythos.plan.predict import Group, Prediction, predict

HELD_OUT_TENTHS = 3
LEAST_CASES = 5  # fewer allow no verdict
_Z80 = NormalDist().inv_cdf(0.9)
_LOW_LIMIT = 0.08  # memory may lie no further below what was measured


@dataclass(frozen=True, slots=True)
class Checked:
    """One case. Without a prediction `status` says why; without a published value there is no error."""

    id: str
    kind: str
    determined: bool
    held_out: bool
    status: Literal["predicted", "no-data", "unknown-model"]
    group: Group | None = None
    detail: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    published: float | None = None
    error: float | None = None  # of the prediction, by the published value
    passed: bool | None = None
    because: str = ""

    @property
    def covered(self) -> bool | None:
        """Whether the published value lies in the interval."""
        if self.published is None or self.low is None or self.high is None:
            return None
        return self.low <= self.published <= self.high


def is_held_out(case_id: str) -> bool:
    """Three of ten ids, the same everywhere: the first four bytes of their SHA-256, modulo 10."""
    digest = hashlib.sha256(case_id.encode()).digest()
    return int.from_bytes(digest[:4], "big") % 10 < HELD_OUT_TENTHS


def validate(cases: Iterable[Case], eff: Efficiencies | None = None) -> tuple[Checked, ...]:
    """Every case with its prediction, in order; none by efficiencies that were fitted to it."""
    return tuple(check(case, eff or packaged()) for case in cases)


def check(case: Case, eff: Efficiencies) -> Checked:
    held_out = is_held_out(case.id)
    eff = without(eff, case.id)
    try:
        found = predict(case, eff)
    except UnknownModel as error:
        return Checked(case.id, case.kind, case.determined, held_out, "unknown-model", because=error.message)
    except (NoData, PlanError) as error:
        return Checked(case.id, case.kind, case.determined, held_out, "no-data", because=error.message)
    spread = _Z80 * _spread(found, eff)
    below, above = (math.hypot(spread, end) for end in found.open)
    low = found.value * math.exp(-below) if found.low is None else found.low
    high = found.value * math.exp(above) if found.high is None else found.high
    error = passed = None
    if case.value is not None:
        error = (found.value - case.value) / case.value if case.value else None
        passed = _passes(case, found.value)
    return Checked(
        id=case.id,
        kind=case.kind,
        determined=case.determined,
        held_out=held_out,
        status="predicted",
        group=found.group,
        detail=found.detail,
        value=found.value,
        low=low,
        high=high,
        published=case.value,
        error=error,
        passed=passed,
    )


def _spread(found: Prediction, eff: Efficiencies) -> float:
    """Standard deviation of the logarithm; a whole run of a mixture of experts is no surer than its step."""
    own = eff.spread.get(found.group, 0.0)
    return max(own, eff.spread["moe"]) if (found.group, found.detail) == ("hours", "moe") else own


def _passes(case: Case, value: float) -> bool | None:
    """By the case's own tolerance; None when it states none that can be read."""
    assert case.value is not None
    tolerance = case.tolerance
    kind, size = tolerance.get("type"), tolerance.get("value")
    least, most = tolerance.get("min"), tolerance.get("max")
    if kind == "rel" and isinstance(size, int | float):
        return abs(value - case.value) <= size * abs(case.value)
    if kind == "abs" and isinstance(size, int | float):
        return abs(value - case.value) <= size
    if kind == "max_ratio" and isinstance(size, int | float) and value > 0 and case.value > 0:
        return max(value / case.value, case.value / value) <= size
    if kind == "published_over_predicted" and value:
        ratio = case.value / value
        return (least is None or ratio >= least) and (most is None or ratio <= most)
    if kind in ("min", "max", "range"):
        least = size if kind == "min" else least
        most = size if kind == "max" else most
        return (least is None or value >= least) and (most is None or value <= most)
    return None


# ---- tables


@dataclass(frozen=True, slots=True)
class Score:
    """One line of the table: a measure over the cases of a group in one half."""

    name: str
    half: str  # "fitted", "held out", or "all"
    n: int
    value: float | None
    bar: str
    holds: bool | None  # None: fewer than `LEAST_CASES` cases, no verdict


def scores(checked: Sequence[Checked]) -> tuple[Score, ...]:
    known = [one for one in checked if one.error is not None]
    lines = [_determined(known)]
    memory = [one for one in known if one.group == "memory"]  # nothing of it is fitted
    for detail, bar in (("static", 0.05), ("peak", _LOW_LIMIT)):
        errors = [abs(one.error or 0) for one in memory if one.detail == detail]
        lines.append(_line(f"memory, {detail}: median error", "all", errors, bar))
    lowest = max((-(one.error or 0) for one in memory), default=None)
    holds = lowest is not None and lowest <= _LOW_LIMIT if len(memory) >= LEAST_CASES else None
    lines.append(Score("memory: most below measured", "all", len(memory), lowest, "<= 8%", holds))
    for half, rows in _halves(known):
        timed = [one for one in rows if one.group in ("dense", "moe", "hours")]
        for name, bar in (("dense", 0.10), ("moe", 0.15)):
            errors = [abs(one.error or 0) for one in timed if name in (one.group, one.detail)]
            lines.append(_line(f"training time, {name}: median error", half, errors, bar))
    for half, rows in (*_halves(known), ("all", known)):
        inside = [one.covered for one in rows if not one.determined and one.covered is not None]
        share = sum(inside) / len(inside) if inside else None
        holds = 0.70 <= share <= 0.95 if share is not None and len(inside) >= LEAST_CASES else None
        lines.append(Score("published value in the interval", half, len(inside), share, "70-95%", holds))
    throughput = [one for one in known if one.id.startswith("tput-") and one.value is not None]
    rank = spearman([one.value or 0 for one in throughput], [one.published or 0 for one in throughput])
    holds = rank is not None and rank >= 0.9 if len(throughput) >= LEAST_CASES else None
    lines.append(Score("rank correlation of throughputs", "all", len(throughput), rank, ">= 0.9", holds))
    return tuple(lines)


def _determined(known: Sequence[Checked]) -> Score:
    exact = [one for one in known if one.determined and one.passed is not None]
    share = sum(bool(one.passed) for one in exact) / len(exact) if exact else None
    holds = share == 1.0 if len(exact) >= LEAST_CASES else None
    return Score("determined cases that pass", "all", len(exact), share, "100%", holds)


def _halves(rows: Sequence[Checked]) -> list[tuple[str, list[Checked]]]:
    return [
        ("fitted", [one for one in rows if not one.held_out]),
        ("held out", [one for one in rows if one.held_out]),
    ]


def _line(name: str, half: str, errors: Sequence[float], bar: float) -> Score:
    value = median(errors) if errors else None
    holds = value is not None and value <= bar if len(errors) >= LEAST_CASES else None
    return Score(name, half, len(errors), value, f"<= {bar:.0%}", holds)


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation, ties at their mean rank; None for fewer than two pairs or no spread."""
    if len(first) < 2:
        return None
    a, b = _ranks(first), _ranks(second)
    mean = (len(a) + 1) / 2
    top = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    size = math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))
    return top / size if size else None


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    first = {value: ordered.index(value) + 1 for value in set(values)}
    return [first[value] + (ordered.count(value) - 1) / 2 for value in values]
