"""Fits against known laws, against scipy, and the laws that a fit itself obeys."""

import json
import math
import random
from dataclasses import asdict, astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from mythos.plan.scaling import Law, ScalingError, ScalingFit, ScalingRun, fit, forecast, optimal
from mythos.records.table import from_table

from .sweeps import EPOCH, SIZES, sweep

MIXED = replace(EPOCH, mu=0.12)


def bare(law: Law) -> ScalingFit:
    """A fit that knows its law for certain."""
    return ScalingFit(law, law, law, 0.95, 16, 0.0, 1e9, 2e10, 1.0, (law,))


@pytest.mark.parametrize("law", [EPOCH, Law(1.69, 406.4, 0.34, 410.7, 0.28), Law(0.5, 20.0, 0.1, 9e4, 0.6)])
def test_an_exact_sweep_gives_its_law_back(law):
    found = fit(sweep(law), draws=50)
    assert astuple(found.law) == pytest.approx(astuple(law), rel=1e-3)
    assert found.scatter < 1e-6 and found.ratio == 1.0
    assert forecast(found, 7e9, 140e9).loss.value == pytest.approx(law.loss(7e9, 140e9), rel=1e-5)


def test_intervals_hold_what_they_claim():
    """Twelve noisy sweeps: coefficients and forecasts of the true law lie in their 95 % intervals."""
    inside = [[0, 0] for _ in range(6)]
    for seed in range(12):
        found = fit(sweep(EPOCH, noise=0.005, seed=seed), draws=100)
        pairs = zip(astuple(found.low), astuple(EPOCH), astuple(found.high), strict=True)
        checks = [low <= value <= high for low, value, high in list(pairs)[:5]]
        ahead = forecast(found, 2.5e9, 5e10).loss
        checks.append(ahead.low <= EPOCH.loss(2.5e9, 5e10) <= ahead.high)
        for tally, held in zip(inside, checks, strict=True):
            tally[held] += 1
    assert min(held for _, held in inside) >= 9, inside


def test_a_mixture_of_experts_gives_its_power_back():
    found = fit(sweep(MIXED, ratios=(1, 4, 16), noise=0.002, seed=3), draws=100)
    assert found.ratio is None
    assert found.low.mu <= MIXED.mu <= found.high.mu and found.law.mu == pytest.approx(0.12, abs=0.03)
    ahead = forecast(found, 56e9, 140e9, active=7e9)
    assert ahead.loss.value == pytest.approx(MIXED.loss(7e9, 140e9, 8), rel=0.01)
    assert ahead.size_reach == pytest.approx(7e9 / SIZES[-1]) and ahead.params == 56e9
    assert ahead.loss.value < forecast(found, 7e9, 140e9).loss.value
    assert optimal(found, 1e22, ratio=8).loss.value < optimal(found, 1e22).loss.value


@pytest.mark.parametrize("ratio", [1.0, 8.0])
def test_one_ratio_says_nothing_of_others(ratio):
    found = fit(sweep(MIXED, ratios=(ratio,)), draws=50)
    assert found.ratio == pytest.approx(ratio) and found.law.mu == 0.0
    ahead = forecast(found, ratio * 1e9, 2e10, active=1e9)
    assert ahead.loss.value == pytest.approx(MIXED.loss(1e9, 2e10, ratio), rel=1e-4)
    with pytest.raises(ScalingError, match="add runs with another ratio"):
        forecast(found, 4e9, 2e10, active=1e9)
    with pytest.raises(ScalingError, match="add runs with another ratio"):
        optimal(found, 1e21, ratio=2)


def test_the_order_of_runs_does_not_matter():
    runs = sweep(EPOCH, noise=0.01)
    shuffled = random.Random(5).sample(runs, len(runs))
    assert fit(runs, draws=50) == fit(shuffled, draws=50)


def test_the_seed_decides_the_intervals_alone():
    runs = sweep(EPOCH, noise=0.01)
    one, again, other = (fit(runs, draws=50, seed=seed) for seed in (1, 1, 2))
    assert one == again and one.law == other.law and one.low != other.low


@settings(max_examples=8, deadline=None)
@given(st.floats(-6, 6), st.floats(-6, 6), st.floats(-3, 3))
def test_units_do_not_matter(n, d, loss):
    """Parameters in millions, tokens in thousands, loss in bits: the same law in other units."""
    n, d, loss = 10**n, 10**d, 10**loss
    runs = sweep(EPOCH, noise=0.004)
    there = [ScalingRun(run.params * n, run.tokens * d, run.loss * loss) for run in runs]
    one, other = fit(runs, draws=50), fit(there, draws=50)
    assert other.law.alpha == pytest.approx(one.law.alpha, rel=1e-3)
    assert other.law.beta == pytest.approx(one.law.beta, rel=1e-3)
    assert other.law.e == pytest.approx(one.law.e * loss, rel=1e-3)
    ahead, behind = forecast(one, 3e9, 6e10).loss, forecast(other, 3e9 * n, 6e10 * d).loss
    assert behind.value == pytest.approx(ahead.value * loss, rel=1e-5)
    assert behind.low == pytest.approx(ahead.low * loss, rel=1e-3)


def test_rows_of_one_run_are_resampled_together():
    """Each run twice under its name: no narrower interval than once."""
    named = [replace(run, run=f"run {i}") for i, run in enumerate(sweep(EPOCH, noise=0.01))]
    once, twice = fit(named, draws=100), fit(named * 2, draws=100)
    assert twice.law.e == pytest.approx(once.law.e, rel=1e-3)
    width, doubled = once.high.e - once.low.e, twice.high.e - twice.low.e
    assert doubled == pytest.approx(width, rel=0.1)
    alone = fit([replace(run, run="") for run in named * 2], draws=100)
    assert alone.high.e - alone.low.e < 0.9 * doubled


def test_one_run_gone_wrong_moves_the_law_little():
    runs = sweep(EPOCH, noise=0.001)
    runs[6] = replace(runs[6], loss=runs[6].loss * 1.5)
    found = fit(runs, draws=50)
    assert forecast(found, 2.5e9, 5e10).loss.value == pytest.approx(EPOCH.loss(2.5e9, 5e10), rel=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_scipy_finds_nothing_better(seed):
    """The objective of Hoffmann et al., from 60 random starts of L-BFGS and from where ours ended."""
    runs = sweep(EPOCH, noise=0.01, seed=seed)
    n, d, y = np.log([[run.params, run.tokens, run.loss] for run in runs]).T

    def objective(theta):
        a, b, e, alpha, beta = theta
        r = np.abs(y - np.logaddexp(np.logaddexp(a - alpha * (n - n.mean()), b - beta * (d - d.mean())), e))
        return np.where(r < 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)).sum() * 1e4

    law = fit(runs, draws=50).law
    ours = [
        math.log(law.a) - law.alpha * n.mean(),
        math.log(law.b) - law.beta * d.mean(),
        math.log(law.e),
        law.alpha,
        law.beta,
    ]
    dice = np.random.default_rng(seed)
    starts = [ours, *(dice.uniform([-3, -3, -1, 0.1, 0.1], [1, 1, 1, 1, 1]) for _ in range(60))]
    theirs = min(minimize(objective, start, method="L-BFGS-B").fun for start in starts)
    assert objective(ours) <= theirs * (1 + 1e-4)


laws = st.builds(
    Law,
    e=st.floats(0.1, 3),
    a=st.floats(10, 1e4),
    alpha=st.floats(0.1, 0.8),
    b=st.floats(10, 1e4),
    beta=st.floats(0.1, 0.8),
)


@given(laws, st.floats(1e7, 1e12), st.floats(1e8, 1e14), st.floats(1.01, 100))
def test_more_never_hurts(law, params, tokens, factor):
    known = bare(law)
    here = forecast(known, params, tokens).loss.value
    assert law.e < forecast(known, params * factor, tokens).loss.value <= here
    assert law.e < forecast(known, params, tokens * factor).loss.value <= here


@given(laws, st.floats(1e18, 1e27), st.floats(0.01, 100))
def test_no_split_of_the_budget_is_better(law, flops, factor):
    best = optimal(bare(law), flops)
    assert 6 * best.active.value * best.tokens.value == pytest.approx(flops)
    other = law.loss(best.active.value * factor, best.tokens.value / factor)
    assert best.loss.value <= other * (1 + 1e-12)


@given(laws, st.floats(1e18, 1e24))
def test_the_best_size_grows_as_a_power_of_the_budget(law, flops):
    one, ten = (optimal(bare(law), c) for c in (flops, flops * 10))
    growth = math.log10(ten.active.value / one.active.value)
    assert growth == pytest.approx(law.beta / (law.alpha + law.beta))


def test_published_splits():
    """At Gopher's compute the law as refitted by Besiroglu et al. asks for 72B and 18 tokens a parameter."""
    best = optimal(bare(EPOCH), 5.76e23)
    assert best.active.value == pytest.approx(72e9, rel=0.05)
    assert best.tokens.value / best.active.value == pytest.approx(18, rel=0.1)


def test_json_and_back():
    found = fit(sweep(EPOCH, noise=0.01), draws=50)
    again = from_table(ScalingFit, json.loads(json.dumps(asdict(found))), "fit")
    assert again == found and forecast(again, 7e9, 140e9) == forecast(found, 7e9, 140e9)
    assert len(repr(found)) < 1000


@pytest.mark.parametrize(
    ("field", "value"),
    [("params", 0), ("params", math.nan), ("tokens", -1), ("tokens", math.inf), ("loss", 0),
     ("loss", math.nan), ("active", 0), ("active", -math.inf)],
)  # fmt: skip
def test_values_that_are_none(field, value):
    good = {"params": 1e9, "tokens": 2e10, "loss": 2.5}
    with pytest.raises(ScalingError, match=f"{field} is .*positive finite") as caught:
        ScalingRun(**{**good, field: value})
    assert caught.value.cure


def test_more_active_than_there_are():
    with pytest.raises(ScalingError, match="params counts all"):
        ScalingRun(params=1e9, tokens=2e10, loss=2.5, active=2e9)


def chained(ratio: float) -> list[ScalingRun]:
    """Ten sizes, each with twenty tokens a parameter."""
    return [r for i in range(10) for r in sweep(EPOCH, sizes=(1e7 * 2**i,), multiples=(20,), ratios=(ratio,))]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "0 runs are too few"),
        (sweep(EPOCH)[:8], "8 runs are too few"),
        (sweep(MIXED, sizes=SIZES[:3], multiples=(5, 20, 80), ratios=(1, 8))[:9], "9 runs are too few"),
        (sweep(EPOCH, sizes=(1e8,), multiples=range(1, 20)), "1 value of active parameters"),
        (sweep(EPOCH, sizes=(1e8, 2e8), multiples=range(1, 20)), "2 values of active parameters"),
        (
            [ScalingRun(n, 1e10, EPOCH.loss(n, 1e10)) for n in np.geomspace(1e7, 1e9, 12).tolist()],
            "1 value of tokens",
        ),
        (chained(1.0), "tokens are a fixed power"),
        (
            [ScalingRun(s * (s / 1e6) ** 0.5, s * m, 2 + m / 1e3, s) for s in SIZES for m in (5, 20, 80)],
            "the ratio of parameters is a fixed power",
        ),
        ([replace(run, run="the same") for run in sweep(EPOCH)], "1 runs are too few"),
        (sweep(EPOCH)[:1] * 9 + sweep(EPOCH)[5:6] + sweep(EPOCH)[10:12], "4 settings, too few"),
    ],
)
def test_sweeps_that_show_no_law(runs, message):
    with pytest.raises(ScalingError, match=message) as caught:
        fit(runs, draws=50)
    assert caught.value.cure


@pytest.mark.parametrize("extra", [{"confidence": 1.0}, {"confidence": 0.1}, {"draws": 3}])
def test_intervals_that_are_none(extra):
    with pytest.raises(ValueError):
        fit(sweep(EPOCH), **extra)


def test_no_model_has_more_active_than_all():
    found = fit(sweep(MIXED, ratios=(1, 4)), draws=50)
    for ask in (lambda: forecast(found, 1e9, 2e10, active=2e9), lambda: optimal(found, 1e21, ratio=0.5)):
        with pytest.raises(ScalingError, match="0.5 times as many"):
            ask()


@pytest.mark.parametrize("wrong", [(0, 1e9), (1e9, math.nan), (1e9, -1), (1e9, 2e10, 0)])
def test_forecasts_of_nothing(wrong):
    with pytest.raises(ScalingError):
        forecast(bare(EPOCH), *wrong)
    with pytest.raises(ScalingError):
        optimal(bare(EPOCH), math.inf)
