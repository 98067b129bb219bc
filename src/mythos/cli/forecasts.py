"""A committed forecast beside its outcome: in words, and as a picture."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mythos.cli.local import Records
from mythos.cli.output import amount, date, note
from mythos.plan.scaling import Forecast, ScalingFit
from mythos.records.errors import MythosError
from mythos.spec.family import Family, Tier

if TYPE_CHECKING:
    from mythos.cli.rungs import Rung
    from mythos.store.forecasts import Committed
    from mythos.train.run import Training
    from mythos.train.sweep import SweepRun

UNIT = "bits-per-byte"  # of held-out text, the mean over the domains


def in_words(tier: str, found: "Committed") -> str:
    foreseen = found.forecast
    return (
        f"{tier} on {amount(foreseen.about.tokens)} tokens: foreseen {foreseen.value:.4f} bits per byte "
        f"[{foreseen.low:.4f}, {foreseen.high:.4f}], from {foreseen.runs} runs; "
        f"event {found.seq} of the log, {date(foreseen.made_at)}"
    )


def beside(
    records: Records, family: Family, trained: "dict[str, Training]", found: "Sequence[Rung]"
) -> list[dict[str, Any]]:
    """What was foreseen of the tiers just trained, with what they came to; the picture is drawn anew."""
    from mythos.store.forecasts import committed_forecasts, outcome_of
    from mythos.train.ladder import rule_digest
    from mythos.train.recipes import run_facts

    lines = []
    for name, how in trained.items():
        tier, outcomes = family.tier(name), [rung.loss for rung in found if rung.tier.name == name]
        about = outcome_of(family.name, name, run_facts(tier, {}, how))
        if about is None:
            continue
        try:
            committed = committed_forecasts(records.home, records.store, about)
        except MythosError as error:  # the tier is built all the same
            note(f"the forecast of {name} cannot be shown: {error.message} {error.cure}")
            continue
        for one in committed:
            foreseen = one.forecast
            if foreseen.held_out != rule_digest(how.material.held_out):
                continue  # measured on other text: the figures do not compare
            inside = sum(foreseen.low <= value <= foreseen.high for value in outcomes)
            order = "LATE: the training began before," if one.late else "the training began"
            said = ", ".join(f"{value:.4f}" for value in outcomes)
            text = f"{in_words(name, one)}; {order} at event {one.begun}; outcome {said}: "
            text += f"{inside} of {len(outcomes)} in the interval"
            picture = _draw_again(records, family, tier, one, outcomes)
            lines.append(
                {
                    "tier": name, "forecast": foreseen.value, "low": foreseen.low, "high": foreseen.high,
                    "outcomes": outcomes, "inside": inside, "committed": one.seq, "begun": one.begun,
                    "late": one.late, "picture": picture, "text": text,
                }
            )  # fmt: skip
    return lines


def draw(
    records: Records,
    family: Family,
    target: Tier,
    runs: "Sequence[SweepRun]",
    fitted: ScalingFit,
    ahead: Forecast,
    outcomes: Sequence[float],
) -> Path:
    """The runs, the law through them, the forecast and, once they are there, its outcomes, as an SVG file."""
    from mythos.train.plot import forecast_svg

    picture = records.home.path / "runs" / f"{family.name}-forecast.svg"
    sizes = {one.tier: (one.active, one.params / one.active) for one in runs}
    points = {name: [(one.tokens, one.loss) for one in runs if one.tier == name] for name in sizes}
    curves = {
        name: [(tokens, fitted.law.loss(active, tokens, ratio)) for tokens in _between(points[name])]
        for name, (active, ratio) in sizes.items()
    }
    picture.write_text(
        forecast_svg(
            f"{family.name}: {target.name} foreseen from smaller runs", points, curves,
            (ahead.tokens, ahead.loss.value, ahead.loss.low, ahead.loss.high), outcomes, target.name,
        )
    )  # fmt: skip
    return picture


def _between(points: Sequence[tuple[float, float]]) -> list[float]:
    """Tokens from the first to the last point, evenly spaced in their logarithm."""
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    return [low * (high / low) ** (step / 20) for step in range(21)]


def _draw_again(
    records: Records, family: Family, tier: Tier, found: "Committed", outcomes: Sequence[float]
) -> str | None:
    """The picture with the outcome, if the table of runs that the forecast was made from is still there."""
    from mythos.plan.ladder import counted
    from mythos.plan.scaling import fit, forecast
    from mythos.train.sweep import read_csv

    place = records.home.path / "runs" / f"{family.name}-sweep.csv"
    if not place.exists() or hashlib.sha256(place.read_bytes()).hexdigest() != found.forecast.evidence:
        return None
    runs, (params, active) = read_csv(place), counted(tier)
    fitted = fit([one.point() for one in runs])
    ahead = forecast(fitted, params, found.forecast.about.tokens, active)
    return str(draw(records, family, tier, runs, fitted, ahead, outcomes))
