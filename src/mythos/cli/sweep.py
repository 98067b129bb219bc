"""`mythos sweep`: a family's ladder at several sizes and budgets, a law through it, and a forecast of its
largest tier that is signed and logged before that tier is trained.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mythos.cli.forecasts import UNIT, draw, in_words
from mythos.cli.local import Records, open_records
from mythos.cli.output import CommandError, Exit, amount, emit, json_wanted, note, table
from mythos.cli.plan import show_fit
from mythos.cli.progress import progress
from mythos.cli.training import give_way, prepared, reporter
from mythos.plan.ladder import counted, ladder_below, target_of
from mythos.plan.scaling import LEAST_VALUES, Forecast, ScalingFit, fit, forecast
from mythos.records import forecast as signed
from mythos.records.dsse import key_id
from mythos.records.errors import MythosError
from mythos.records.ids import new_id
from mythos.records.principal import OPERATOR
from mythos.spec.family import Family, Tier
from mythos.spec.load import load_family
from mythos.train.settings import parse_tokens

if TYPE_CHECKING:
    from mythos.store.forecasts import Committed
    from mythos.train.sweep import SweepRun


def run(
    family_name: str, budgets: str, seeds: int, tier_name: str | None, planned: str | None, out: Path | None
) -> int:
    family, tokens = load_family(family_name), [parse_tokens(text) for text in budgets.split(",")]
    target = target_of(family, tier_name)
    foreseen = max(tokens) if planned is None else parse_tokens(planned)
    tiers = ladder_below(family, target)
    _check_enough(tokens, tiers)
    records = open_records()
    give_way()  # before anything starts threads: they have the priority that they begin with
    from mythos.store.home import write_private
    from mythos.train.run import Training
    from mythos.train.settings import Budget
    from mythos.train.sweep import runs_csv, sweep

    stuff, idle, compiled = prepared(records, family)
    training = Training(stuff, Budget(tokens=foreseen), reporter(f"{family.name}: sweep"), idle, compiled)
    runs: list[SweepRun] = []
    here = (records.home, records.store, records.clock, OPERATOR, tiers, tokens, seeds, training)
    with progress(f"{family.name}: sweep") as report:
        count = len(tiers) * len(set(tokens)) * seeds
        for one in sweep(*here, report):
            runs.append(one)
            note(
                f"{len(runs)} of {count}: {one.tier}, {amount(one.tokens)} tokens, seed {one.seed}: "
                f"{one.loss:.4f} bits per byte"
            )
    data, place = runs_csv(runs), out or records.home.path / "runs" / f"{family.name}-sweep.csv"
    write_private(place, data, replace=True)
    fitted = fit([one.point() for one in runs])
    params, active = counted(target)
    ahead = forecast(fitted, params, foreseen, active)
    told = commit(records, family, target, training, fitted, ahead, hashlib.sha256(data).hexdigest())
    picture = draw(records, family, target, runs, fitted, ahead, [])
    if json_wanted():
        emit(_plain(runs, fitted, ahead, told, place, picture))
        return 0
    _show(runs, fitted, target, ahead, told)
    note(f"runs: {place}\npicture: {picture}")
    note(f"its outcome: mythos build {family_name} --tier {target.name} --budget {foreseen}-tokens")
    return 0


def _check_enough(tokens: list[int], tiers: list[Tier]) -> None:
    """Before an hour of training, not after it."""
    for what, count in (("budgets", len(set(tokens))), ("smaller tiers from scratch", len(tiers))):
        if count < LEAST_VALUES:
            raise CommandError(
                f"a law takes at least {LEAST_VALUES} {what}; here are {count}",
                "mythos sweep --help",
                Exit.USAGE,
            )


def commit(
    records: Records,
    family: Family,
    target: Tier,
    training: Any,
    fitted: ScalingFit,
    ahead: Forecast,
    evidence: str,
) -> "Committed | MythosError":
    """The forecast in the log; the error when its outcome was there first. What is there already stays."""
    from mythos.store.forecasts import ForecastError, commit_forecast, committed_forecasts, outcome_of
    from mythos.store.operator_key import operator_keys
    from mythos.train.ladder import rule_digest
    from mythos.train.recipes import run_facts

    about = outcome_of(family.name, target.name, run_facts(target, {}, training))
    assert about is not None
    for found in committed_forecasts(records.home, records.store, about):
        if found.forecast.evidence == evidence:
            return found
    key = operator_keys(records.home)
    made = signed.Forecast(
        id=new_id("for"),
        about=about,
        value=ahead.loss.value,
        low=ahead.loss.low,
        high=ahead.loss.high,
        confidence=fitted.confidence,
        unit=UNIT,
        held_out=rule_digest(training.material.held_out),
        runs=fitted.runs,
        evidence=evidence,
        made_at=records.clock.now(),
        made_by=key_id(key.public_key()),
    )
    envelope = signed.sign_forecast(made, key)
    try:
        return commit_forecast(records.home, records.store, records.clock, OPERATOR, envelope)
    except ForecastError as late:
        return late


def _plain(
    runs: "list[SweepRun]",
    fitted: ScalingFit,
    ahead: Forecast,
    told: "Committed | MythosError",
    place: Path,
    picture: Path,
) -> dict[str, Any]:
    law = asdict(fitted)
    del law["draws"]  # thousands of numbers; `mythos plan fit` gives them again
    return {
        "runs": [{**asdict(one), "bits": dict(one.bits), "loss": one.loss} for one in runs],
        "fit": law,
        "forecast": asdict(ahead),
        "committed": None if isinstance(told, MythosError) else {"seq": told.seq, **asdict(told.forecast)},
        "not_committed": told.message if isinstance(told, MythosError) else None,
        "csv": str(place),
        "picture": str(picture),
    }


def _show(
    runs: "list[SweepRun]",
    fitted: ScalingFit,
    target: Tier,
    ahead: Forecast,
    told: "Committed | MythosError",
) -> None:
    table(
        ["tier", "parameters", "active", "tokens", "seed", "bits per byte"],
        [
            [r.tier, amount(r.params), amount(r.active), amount(r.tokens), r.seed, f"{r.loss:.4f}"]
            for r in runs
        ],
    )
    show_fit({}, fitted, [ahead], [])
    if isinstance(told, MythosError):
        note(f"the forecast was not committed: {told.message}")
    else:
        note(in_words(target.name, told))
