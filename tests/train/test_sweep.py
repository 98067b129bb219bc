"""A sweep, its forecast and the outcome, as `mythos sweep` and `mythos build` make them: tiny and real."""

from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mythos.cli.forecasts import beside, in_words
from mythos.cli.local import Records
from mythos.cli.rungs import Rung, mean_of, over_seeds
from mythos.cli.sweep import commit
from mythos.ledger.log import append
from mythos.plan.ladder import counted, ladder_below, target_of
from mythos.plan.scaling import fit, forecast
from mythos.plan.sweep import read_runs
from mythos.records.canonical import RecordError
from mythos.records.clock import Clock
from mythos.records.dsse import SignatureError, key_id
from mythos.records.forecast import Forecast, Outcome, open_forecast, sign_forecast
from mythos.records.principal import OPERATOR
from mythos.spec.family import Family
from mythos.spec.load import load_family, parse_family
from mythos.store.db import Store
from mythos.store.forecasts import (
    COMMITTED,
    ForecastError,
    begin_training,
    commit_forecast,
    committed_forecasts,
    outcome_of,
)
from mythos.store.home import Home
from mythos.store.operator_key import operator_keys
from mythos.train.build import build_tier
from mythos.train.ladder import measure
from mythos.train.material import Material
from mythos.train.recipes import run_facts
from mythos.train.run import Training
from mythos.train.settings import Budget
from mythos.train.sweep import read_csv, runs_csv, sweep
from tests.train import test_build_family as tiny

material = tiny.material  # the fixture

TIER = """
[[tiers]]
name = "{name}"
description = "made"
made_by = {{ kind = "pretrain", share = 0.25, optimiser = "{optimiser}", learning_rate = 3e-3 }}
config = {{ layers = 1, width = {width}, ffn = {ffn}{moe} }}
price = {{ input = 0.0, output = 0.0 }}
context = 256
max_output = 64
"""
MOE = ", moe = { routed = 4, top_k = 2, width = 32, bias = true }"
TIERS = [("a", 16, 32, ""), ("b", 32, 48, ""), ("c", 48, 64, ""), ("d", 48, 64, MOE)]
HEAD = tiny.FAMILY[: tiny.FAMILY.index("[[tiers]]")]
BUDGETS = (4096, 2 * 4096, 4 * 4096)


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    monkeypatch.setenv("MYTHOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    text = "".join(
        TIER.format(name=n, width=w, ffn=f, moe=m, optimiser="adamw" if m else "muon") for n, w, f, m in TIERS
    )
    return parse_family((HEAD + text).encode(), "made.toml")


def quiet(*_: object) -> None:
    pass


def test_a_sweep_is_kept_and_its_forecast_stands_beside_the_outcome(
    family: Family, material: Material
) -> None:
    home = Home.open()
    store, clock, target = Store.open(home), Clock(), target_of(family, None)
    records = Records(home, store, clock)
    tiers = ladder_below(family, target)
    assert [tier.name for tier in tiers] == ["a", "b", "c", "a-x4", "b-x4"]
    steps: list[object] = []
    training = Training(material, Budget(tokens=BUDGETS[-1]), steps.append, compiled=False)
    here = (home, store, clock, OPERATOR, tiers, BUDGETS, 1, training, quiet)
    stopped = sweep(*here)
    first = [next(stopped) for _ in range(4)]
    stopped.close()
    runs = list(sweep(*here))
    assert runs[:4] == first and len(steps) == (1 + 2 + 4) * 5  # nothing was trained twice
    assert list(sweep(*here)) == runs and len(steps) == 35
    assert not list(home.path.glob("runs/*/checkpoint"))
    assert [run.tokens for run in runs] == sorted(run.tokens for run in runs)

    data = runs_csv(runs)
    place = home.path / "runs" / f"{family.name}-sweep.csv"
    place.write_bytes(data)
    assert read_csv(place) == runs
    (points,) = read_runs(place).values()
    assert points == tuple(run.point() for run in runs)
    fitted = fit(points, draws=50)
    assert fitted.ratio is None and fitted.runs == 15

    params, active = counted(target)
    ahead = forecast(fitted, params, BUDGETS[-1], active)
    evidence = sha256(data).hexdigest()
    told = commit(records, family, target, training, fitted, ahead, evidence)
    again = commit(records, family, target, training, fitted, ahead, evidence)
    assert not isinstance(told, ForecastError) and told == again
    assert f"event {told.seq} of the log" in in_words(target.name, told)

    build_tier(home, store, clock, OPERATOR, family, target, quiet, replace(training, seed=0))
    quality = measure(home, store, clock, OPERATOR, family, target, material.held_out, quiet)
    bits = {name: one.bits_per_byte for name, one in quality.items()}
    rung = Rung(target, 0, bits, None, {}, {"a": True}, ("", ""))
    (line,) = beside(records, family, {target.name: training}, [rung])
    assert line["outcomes"] == [rung.loss] and line["committed"] == told.seq < line["begun"]
    assert not line["late"] and line["inside"] == (line["low"] <= rung.loss <= line["high"])
    drawn = ElementTree.parse(line["picture"])
    assert len(drawn.findall("{*}rect[@class='outcome']")) == 1
    assert len(drawn.findall("{*}line[@class='forecast']")) == 1

    late = commit(records, family, target, training, fitted, ahead, "f" * 64)
    assert isinstance(late, ForecastError) and "comes too late" in late.message


ABOUT = Outcome("made", "d", "a" * 64, "b" * 64, 4096)


def made(home: Home, **changes: object) -> Forecast:
    key = key_id(operator_keys(home).public_key())
    fields: dict[str, object] = {
        "id": "for_1", "about": ABOUT, "value": 2.0, "low": 1.9, "high": 2.1, "confidence": 0.95,
        "unit": "bits-per-byte", "held_out": "c" * 64, "runs": 15, "evidence": "d" * 64, "made_at": 5.0,
        "made_by": key,
    }  # fmt: skip
    return Forecast(**fields | changes)  # pyright: ignore[reportArgumentType]


def test_a_forecast_of_what_has_begun_is_refused_or_shows(family: Family) -> None:
    home, clock = Home.open(), Clock()
    store, key = Store.open(home), operator_keys(home)
    early = commit_forecast(home, store, clock, OPERATOR, sign_forecast(made(home), key))
    assert early.begun is None and not early.late
    begin_training(store, clock, OPERATOR, ABOUT, "run-1")
    begin_training(store, clock, OPERATOR, ABOUT, "run-1")  # gone on with: it began once
    begin_training(store, clock, OPERATOR, replace(ABOUT, tokens=8192), "run-2")
    (found,) = committed_forecasts(home, store, ABOUT)
    assert found.begun is not None and found.seq < found.begun and not found.late
    second = sign_forecast(made(home, id="for_2"), key)
    with pytest.raises(ForecastError, match="comes too late"):
        commit_forecast(home, store, clock, OPERATOR, second)
    assert len(committed_forecasts(home, store, ABOUT)) == 1
    commit_forecast(
        home, store, clock, OPERATOR, sign_forecast(made(home, about=replace(ABOUT, tokens=9)), key)
    )  # another budget is another outcome

    # Whoever writes it into the log all the same cannot write it before the training.

    digest = sha256(second).hexdigest()
    (home.path / "forecasts" / f"{digest}.json").write_bytes(second)
    (home.path / "forecasts" / f"{digest}.json").chmod(0o600)
    with store.begin() as conn:
        append(conn, clock, {"kind": COMMITTED, "principal": "operator", "digest": digest, **asdict(ABOUT)})
    assert [one.late for one in committed_forecasts(home, store, ABOUT)] == [False, True]


def test_a_forecast_that_was_changed_is_told(family: Family) -> None:
    home, clock = Home.open(), Clock()
    store, key = Store.open(home), operator_keys(home)
    envelope = sign_forecast(made(home), key)
    commit_forecast(home, store, clock, OPERATOR, envelope)
    (path,) = (home.path / "forecasts").iterdir()
    other = sign_forecast(made(home, value=1.95), key)
    for content in (other, envelope[:-1]):
        path.write_bytes(content)
        with pytest.raises(ForecastError, match="not the one that was logged"):
            committed_forecasts(home, store, ABOUT)
    path.write_bytes(envelope)
    assert committed_forecasts(home, store, ABOUT)[0].forecast == made(home)
    with pytest.raises(SignatureError):
        open_forecast(envelope, {})


@pytest.mark.parametrize(
    "changes",
    [
        {"value": 2.2}, {"low": 0.0}, {"high": float("inf")}, {"runs": 0}, {"evidence": "short"},
        {"unit": "a unit"}, {"confidence": 1.0}, {"about": replace(ABOUT, tokens=True)},
        {"about": replace(ABOUT, config="x")},
    ],
)  # fmt: skip
def test_a_malformed_forecast_is_none(family: Family, changes: dict[str, object]) -> None:
    with pytest.raises(RecordError, match="forecast"):
        made(Home.open(), **changes)


def test_runs_of_a_budget_of_seconds_have_no_outcome_that_could_be_foreseen(
    family: Family, material: Material
) -> None:
    facts = run_facts(family.tier("d"), {}, Training(material, Budget(seconds=60)))
    assert outcome_of("made", "d", facts) is None
    seeds = [
        outcome_of("made", "d", run_facts(family.tier("d"), {}, Training(material, Budget(tokens=9), seed=s)))
        for s in (0, 1)
    ]
    assert seeds[0] is not None and seeds[0] == seeds[1]


def test_means_over_seeds_against_a_known_interval() -> None:
    mean, low, high = mean_of([1.0, 2.0, 3.0])
    assert mean == 2.0 and high - mean == pytest.approx(mean - low)
    assert high - mean == pytest.approx(4.303 / 3**0.5, rel=1e-4)
    tier = load_family("nano").tier("haiku")
    rungs = [
        Rung(tier, seed, {"x": 1.0 + seed}, (0.1 * seed, 0.0, 1.0), {}, {"a": True}, ("", ""))
        for seed in range(3)
    ]
    (line,) = over_seeds(rungs)
    assert (
        line["seeds"] == 3 and line["bits per byte"].startswith("2.0000 [") and line["gain"].startswith("0.1")
    )
