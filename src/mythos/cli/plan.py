"""`mythos plan fit`."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mythos.cli.output import CommandError, Exit, amount, emit, json_wanted, note, table
from mythos.plan.scaling import Estimate, Forecast, ScalingFit, Split, fit, forecast, optimal
from mythos.plan.sweep import read_runs
from mythos.records.errors import MythosError

NAMES = {"e": "E", "a": "A", "b": "B"}  # as the formula has them
UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def run_fit(
    path: Path, wanted: list[str], budgets: list[str], series: list[str], params: str, seed: int
) -> int:
    asked = [_numbers(text, "--forecast", 2, 3) for text in wanted]
    compute = [_numbers(text, "--budget", 1, 2) for text in budgets]
    found = []
    for values, runs in read_runs(path, series, params).items():
        name = dict(zip(series, values, strict=True))
        try:
            fitted = fit(runs, seed=seed)
            forecasts = [forecast(fitted, *point) for point in asked]
            splits = [optimal(fitted, *amounts) for amounts in compute]
            found.append((name, fitted, forecasts, splits))
        except MythosError as error:
            raise MythosError(_titled(name, error.message), error.cure) from None
    if json_wanted():
        emit({"fits": [_plain(*one) for one in found]})
        return 0
    for one in found:
        show_fit(*one)
    return 0


def _numbers(text: str, option: str, least: int, most: int) -> list[float]:
    """`7B:140B` as numbers."""
    try:
        parts = [part.strip().upper() for part in text.split(":")]
        if least <= len(parts) <= most:
            return [float(p[:-1]) * UNITS[p[-1]] if p[-1:] in UNITS else float(p) for p in parts]
    except ValueError:
        pass
    raise CommandError(f"{option} {text} is not understood", "mythos plan fit --help", Exit.USAGE)


def _plain(
    name: dict[str, str], fitted: ScalingFit, forecasts: list[Forecast], splits: list[Split]
) -> dict[str, Any]:
    table_ = asdict(fitted)
    del table_["draws"]  # thousands of numbers; the seed gives them again
    return {
        "series": name,
        **table_,
        "forecasts": [asdict(found) for found in forecasts],
        "optimal": [asdict(found) for found in splits],
    }


def show_fit(
    name: dict[str, str], fitted: ScalingFit, forecasts: list[Forecast], splits: list[Split]
) -> None:
    """The tables of one fit, on stdout."""
    share = f"{fitted.confidence:.0%} interval"
    table(["coefficient", "value", share], _coefficients(fitted), _titled(name, f"{fitted.runs} runs"))
    if forecasts:
        table(
            ["parameters", "tokens", "loss", share, "size, tokens by the largest fitted"],
            [[*_sizes(f), *_loss(f.loss), f"x{f.size_reach:.2g}, x{f.token_reach:.2g}"] for f in forecasts],
        )
    if splits:
        table(
            ["FLOPs", "active parameters", share, "tokens", share, "loss", share],
            [[f"{s.flops:.3g}", *_amount(s.active), *_amount(s.tokens), *_loss(s.loss)] for s in splits],
        )
    note(f"a run scatters by {fitted.scatter:.2%} around the law, which may bend beyond the runs")


def _titled(name: dict[str, str], text: str) -> str:
    return f"{', '.join(f'{key} {value}' for key, value in name.items())}: {text}" if name else text


def _coefficients(fitted: ScalingFit) -> Iterator[tuple[str, str, str]]:
    for key in ("e", "a", "alpha", "b", "beta", "mu"):
        if key != "mu" or fitted.ratio is None:
            value, low, high = (getattr(law, key) for law in (fitted.law, fitted.low, fitted.high))
            yield NAMES.get(key, key), f"{value:.4g}", f"{low:.4g} to {high:.4g}"


def _sizes(found: Forecast) -> tuple[str, str]:
    whole, active = amount(found.params), amount(found.active)
    return whole if whole == active else f"{whole}, {active} active", amount(found.tokens)


def _amount(found: Estimate) -> tuple[str, str]:
    return amount(found.value), f"{amount(found.low)} to {amount(found.high)}"


def _loss(found: Estimate) -> tuple[str, str]:
    return f"{found.value:.4f}", f"{found.low:.4f} to {found.high:.4f}"
