"""A whole run: goodput against a simulation of failures, spares against a sum, and what must be monotone."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.plan.run import (
    HARDWARE_SHARE,
    HOUR,
    RunError,
    checkpoint_interval,
    goodput,
    mean_time_between_failures,
    plan_run,
    spares,
)

USUAL = dict(failures=19.7, checkpoint=15.0, restart=600.0, repair=24 * HOUR, all_in_kw=2.1, load=0.66)


def run_of(accelerators, seconds=1e6, **changes):
    return plan_run(seconds, accelerators, 8, **{**USUAL, **changes})


def test_published_failure_rates() -> None:
    """419 in 54 days of 16,384 (arXiv 2407.21783) are 19.7 per million hours: half an hour at 100,000."""
    rate = 419 / (54 * 24 * 16384 / 1e6)
    assert rate == pytest.approx(19.73, rel=2e-3)
    assert mean_time_between_failures(100_000, 19.73) / HOUR == pytest.approx(0.507, rel=1e-2)
    assert mean_time_between_failures(16_384, rate) / HOUR == pytest.approx(3.09, rel=1e-2)


def test_goodput_of_a_published_run() -> None:
    """Llama 3 405B: an interruption every 2.78 h, 5 to 15 minutes to be back, more than 90% effective."""
    mtbf = 2.781 * HOUR
    middle = goodput(mtbf, 5.0, 520.0, checkpoint_interval(mtbf, 5.0))
    best, worst = goodput(mtbf, 2.0, 300.0, 300.0), goodput(mtbf, 60.0, 900.0, 1800.0)
    assert worst < 0.9 < middle < best < 0.97


@pytest.mark.parametrize(
    ("mtbf", "checkpoint", "restart"), [(3600, 60, 300), (600, 30, 120), (300, 100, 200)]
)
def test_goodput_agrees_with_simulated_failures(mtbf, checkpoint, restart) -> None:
    random = np.random.default_rng(0)
    work, segments = float(checkpoint_interval(mtbf, checkpoint)), 6000
    clock = 0.0
    for _ in range(segments):
        while (alive := random.exponential(mtbf)) < work + checkpoint:
            clock += alive
            while (broken := random.exponential(mtbf)) < restart:
                clock += broken
            clock += restart
        clock += work + checkpoint
    # Daly's form counts each restart's own failures through e^(R/M)
    assert segments * work / clock == pytest.approx(float(goodput(mtbf, checkpoint, restart, work)), rel=0.08)


@pytest.mark.parametrize(("mtbf", "checkpoint"), [(36000, 10), (3600, 60), (1800, 300)])
def test_the_interval_is_the_best_one(mtbf, checkpoint) -> None:
    best = float(checkpoint_interval(mtbf, checkpoint))
    around = best * np.linspace(0.2, 5, 400)
    shares = goodput(mtbf, checkpoint, 300.0, around)
    assert float(goodput(mtbf, checkpoint, 300.0, best)) >= float(shares.max()) * (1 - 1e-3)
    if checkpoint / mtbf < 1e-3:
        assert best == pytest.approx(math.sqrt(2 * checkpoint * mtbf), rel=0.05)  # Young


@pytest.mark.parametrize("mean_nodes", [0.01, 2.5, 40.0, 450.0, 800.0])
def test_spares_suffice_and_one_fewer_would_not(mean_nodes) -> None:
    repair = 24 * HOUR
    rate = mean_nodes / (HARDWARE_SHARE * 16384 / 1e6 * 24)
    nodes = round(float(spares(16384, rate, repair, 8)) / 8)

    def at_most(count):
        logs = [k * math.log(mean_nodes) - mean_nodes - math.lgamma(k + 1) for k in range(count + 1)]
        return math.fsum(map(math.exp, logs))

    assert at_most(nodes) >= 0.99 > (at_most(nodes - 1) if nodes else 0)


@given(
    accelerators=st.integers(8, 100_000),
    more=st.integers(1, 100_000),
    failures=st.floats(0.1, 40),
    restart=st.floats(1, 900),
    checkpoint=st.floats(0.1, 120),
)
@settings(max_examples=60, deadline=None)
def test_more_accelerators_never_lower_the_work(accelerators, more, failures, restart, checkpoint) -> None:
    """The same training split over more of them: never fewer hours of those at work, nor fewer interruptions.

    Spares are whole nodes, of which a larger job needs a smaller share."""
    changes = dict(failures=failures, restart=restart, checkpoint=checkpoint)
    few = run_of(accelerators, 1e10 / accelerators, **changes)
    many = run_of(accelerators + more, 1e10 / (accelerators + more), **changes)
    assert many.seconds * (accelerators + more) >= few.seconds * accelerators * (1 - 1e-9)
    assert many.spares >= few.spares
    assert many.goodput <= few.goodput * (1 + 1e-9)
    assert many.interruptions >= few.interruptions * (1 - 1e-9)


def test_units_and_arrays() -> None:
    one = run_of(1000, failures=1e-9)
    assert one.accelerator_hours == pytest.approx(1000 * 1e6 / HOUR, rel=1e-3)
    assert one.kwh == pytest.approx(one.accelerator_hours * 2.1 * 0.66)
    both = plan_run(np.array([1e6, 2e6]), 16384, 8, **USUAL)
    assert both.seconds[1] == pytest.approx(2 * both.seconds[0]) and both.spares.shape == (2,)
    assert float(run_of(16384).seconds) == pytest.approx(float(both.seconds[0]))


def test_a_run_of_minutes_needs_no_spare_node() -> None:
    assert run_of(8, 600.0).spares == 0 and run_of(8, 6e7, failures=1000.0).spares > 0


@pytest.mark.parametrize(
    ("accelerators", "seconds", "changes", "says"),
    [
        (0, 1e6, {}, "at least 1"),
        (8, -1.0, {}, "no positive number"),
        (8, float("nan"), {}, "no positive number"),
        (10**9, 1e6, {}, "faster restarts"),
        (8, 1e12, {}, "century"),
    ],
)
def test_nonsense_is_refused(accelerators, seconds, changes, says) -> None:
    with pytest.raises(RunError, match=says):
        run_of(accelerators, seconds, **changes)
