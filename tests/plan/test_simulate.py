"""The event simulation against itself step by step, Little's law and queues with a known answer."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.plan.errors import PlanError
from mythos.plan.simulate import Engine, Requests, poisson, quantiles, simulate


def requests(rows) -> Requests:
    """From (arrival, prompt, answer)."""
    arrivals, prompts, answers = zip(*rows, strict=True)
    return Requests(np.array(arrivals, dtype=float), np.array(prompts), np.array(answers))


def one_by_one(engine: Engine, asked: Requests) -> tuple[list[float], list[float], int]:
    """First and last times and pre-emptions, one step after another, with no jump and no heap."""
    count, now, lost = len(asked.arrivals), 0.0, 0
    held = [int(n) for n in asked.prompts]
    left = [int(n) for n in asked.computed]
    fresh = left[:]
    steps = [math.ceil((int(n) - 1) / engine.tokens_per_step) for n in asked.answers]
    size = [0.0] * count  # in the cache
    first, last = [-1.0] * count, [-1.0] * count
    waiting, filling, running, seen = [], [], [], 0
    while min(last) < 0:
        while seen < count and asked.arrivals[seen] <= now:
            waiting.append(seen)
            seen += 1
        used = lambda: sum(size[i] for i in running) + sum(held[i] for i in filling)  # noqa: E731
        while waiting and len(running) + len(filling) < engine.slots:
            one, members = waiting[0], len(running) + len(filling)
            if members and used() + held[one] + (members + 1) * engine.tokens_per_step > engine.cache_tokens:
                break
            filling.append(waiting.pop(0))
        if not running and not filling:
            now = float(asked.arrivals[seen])
            continue
        while (
            running
            and len(running) + len(filling) > 1
            and used() + len(running) * engine.tokens_per_step > engine.cache_tokens
        ):
            if filling:
                victim = filling.pop()
                lost += left[victim] < fresh[victim]
            else:
                victim = running.pop()
                held[victim] = math.ceil(size[victim])
                lost += 1
            if first[victim] >= 0:
                fresh[victim] = held[victim]
            left[victim] = fresh[victim]
            waiting.insert(0, victim)
        room, taken, ready = engine.chunk - len(running), 0, []
        for one in filling:
            part = min(left[one], room)
            left[one] -= part
            room -= part
            taken += part
            if left[one]:
                break
            ready.append(one)
        context = sum(size[i] for i in running)
        now += engine.base[len(running)] + engine.per_cached * context + engine.per_prompt * taken
        for one in running[:]:
            size[one] += engine.tokens_per_step
            steps[one] -= 1
            if steps[one] <= 0:
                last[one] = now
                running.remove(one)
        for one in ready:
            filling.remove(one)
            if first[one] < 0:
                first[one] = now
            else:
                steps[one] -= 1
            size[one] = held[one]
            if steps[one] <= 0:
                last[one] = now
            else:
                running.append(one)
    return first, last, lost


@st.composite
def cases(draw):
    slots = draw(st.integers(1, 5))
    engine = Engine(
        base=tuple(0.01 + 0.003 * n for n in range(slots + 1)),
        per_cached=draw(st.sampled_from([0.0, 1e-5])),
        per_prompt=draw(st.sampled_from([1e-4, 1e-3])),
        cache_tokens=draw(st.integers(60, 200)),
        chunk=draw(st.integers(slots + 1, 40)),
        tokens_per_step=draw(st.sampled_from([1.0, 1.5])),
    )
    size = st.integers(1, 25)
    rows = draw(st.lists(st.tuples(st.floats(0, 2), size, size), min_size=1, max_size=12))
    return engine, requests(sorted(rows))


@settings(max_examples=300, deadline=None)
@given(cases())
def test_jumping_equals_going_step_by_step(case):
    engine, asked = case
    found = simulate(engine, asked)
    first, last, lost = one_by_one(engine, asked)
    assert found.first == pytest.approx(first, rel=1e-9)
    assert found.last == pytest.approx(last, rel=1e-9)
    assert found.preempted == lost


@settings(max_examples=60, deadline=None)
@given(cases())
def test_littles_law(case):
    """Sequences in decoding, as the engine counts them, are the rate times the time each spends there."""
    engine, asked = case
    found = simulate(engine, asked)
    if not found.preempted:
        assert found.mean_running == pytest.approx(float((found.last - found.first).sum()) / found.seconds)
    assert found.busy <= found.seconds * (1 + 1e-9)
    assert (found.ttft > 0).all() and (found.last >= found.first).all()


@pytest.mark.parametrize("clients", [1, 7, 32])
def test_littles_law_closed(clients):
    """C clients without a pause: rate x time from sending to the last token is C."""
    asked = poisson(1.0, 4000, 300, 60, spread=0.4, seed=2)
    engine = Engine(tuple(0.01 + 1e-4 * n for n in range(65)), 1e-8, 1e-5, 200_000, 2048)
    found = simulate(engine, asked, concurrency=clients)
    inside = float((found.last - found.requests.arrivals).sum()) / found.seconds
    assert inside == pytest.approx(clients, rel=0.02)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_deterministic_service_waits_as_m_d_1(load):
    """Pollaczek-Khinchine: the mean wait before service is load x service / (2 (1 - load))."""
    service = 0.05  # one prompt of 50 tokens, one token of answer
    asked = poisson(load / service, 200_000, 50, 1, seed=5)
    found = simulate(Engine((0.0, 0.0), 0.0, service / 50, 1000, 64), asked)
    waited = float(found.ttft.mean()) - service
    assert waited == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)
    assert found.busy / found.seconds == pytest.approx(load, rel=0.02)


def test_exponential_service_waits_as_m_m_1():
    load, service = 0.7, 0.05
    random = np.random.default_rng(3)
    count = 300_000
    arrivals = np.cumsum(random.exponential(service / load, count))
    prompts = np.maximum(random.exponential(1000, count), 1).astype(np.int64)
    asked = Requests(arrivals, prompts, np.ones(count, np.int64))
    found = simulate(Engine((0.0, 0.0), 0.0, service / 1000, 100_000, 100_000), asked)
    assert float(found.ttft.mean()) == pytest.approx(service / (1 - load), rel=0.05)


def test_one_request_takes_what_its_steps_take():
    engine = Engine((0.02, 0.03, 0.04), 1e-5, 1e-3, 1000, 64)
    found = simulate(engine, requests([(1.0, 100, 11)]))
    assert found.ttft[0] == pytest.approx(2 * 0.02 + 0.1)  # two chunks: 64 and 36 tokens
    tokens = sum(100 + n for n in range(10))
    assert found.last[0] - found.first[0] == pytest.approx(10 * 0.03 + 1e-5 * tokens)
    assert found.tpot[0] == pytest.approx((found.last[0] - found.first[0]) / 10)


def test_more_traffic_never_lowers_the_median_wait():
    engine = Engine(tuple(0.01 + 1e-4 * n for n in range(33)), 1e-8, 2e-5, 100_000, 2048)
    waits = [
        quantiles(simulate(engine, poisson(rate, 3000, 500, 100, spread=0.3, seed=1)).ttft, [0.5])[0]
        for rate in (1, 4, 16, 64)
    ]
    assert waits == sorted(waits)


def test_the_seed_decides():
    engine = Engine((0.01, 0.01), 0.0, 1e-4, 1000)
    one, again, other = (simulate(engine, poisson(5, 50, 20, 5, spread=0.5, seed=s)).last for s in (1, 1, 2))
    assert (one == again).all() and (one != other).any()


def test_hits_and_speculation_save_time():
    engine = Engine((0.01, 0.01, 0.01), 0.0, 1e-3, 5000, 512)
    plain = simulate(engine, poisson(0.5, 400, 300, 40, seed=1))
    hit = simulate(engine, poisson(0.5, 400, 300, 40, hits=0.9, seed=1))
    assert hit.ttft.mean() < 0.3 * plain.ttft.mean()
    quick = Engine((0.01, 0.01, 0.01), 0.0, 1e-3, 5000, 512, tokens_per_step=1.8)
    assert np.nanmean(simulate(quick, poisson(0.5, 400, 300, 40, seed=1)).tpot) < 0.7 * np.nanmean(plain.tpot)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Engine((0.01,), 0, 0, 10),
        lambda: Engine((0.01, float("nan")), 0, 0, 10),
        lambda: Engine((0.0, 0.0), 0, 0, 10),
        lambda: Engine((0.1, 0.1), 0, 0, 0),
        lambda: Engine((0.1, 0.1), 0, 0, 10, chunk=1),
        lambda: Engine((0.1, 0.1), 0, 0, 10, tokens_per_step=0.5),
        lambda: poisson(0, 10, 1, 1),
        lambda: poisson(float("inf"), 10, 1, 1),
        lambda: poisson(1, 0, 1, 1),
        lambda: poisson(1, 10, 0, 1),
        lambda: poisson(1, 10, 1, 1, hits=1.0),
        lambda: requests([(2.0, 1, 1), (1.0, 1, 1)]),
        lambda: requests([(0.0, 0, 1)]),
        lambda: simulate(Engine((0.1, 0.1), 0, 0, 10), requests([(0.0, 9, 9)])),
        lambda: simulate(Engine((0.1, 0.1), 0, 0, 99), requests([(0.0, 9, 9)]), concurrency=0),
    ],
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(PlanError) as told:
        wrong()
    assert told.value.cure
