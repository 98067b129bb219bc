"""Fleets: the simulated engine against the closed form it is made from, promises kept, money conserved."""

from dataclasses import replace

import numpy as np
import pytest

from mythos.plan.errors import PlanError
from mythos.plan.factors import packaged
from mythos.plan.fleet import (
    Promise,
    Traffic,
    answer_price,
    engine,
    highest_rate,
    nodes,
    prompt_share,
    replicas_for,
    slower,
    token_costs,
    waits,
)
from mythos.plan.hardware import hardware
from mythos.plan.published import shape
from mythos.plan.serve_tier import layouts, premium, serve_tier
from mythos.plan.serving import Deployment, bytes_per_accelerator, decode_step, prefill, throughput
from mythos.plan.serving_predict import case_of
from mythos.plan.simulate import Requests, poisson, simulate
from mythos.plan.traffic import read_traffic

LLAMA, OSS = shape("meta-llama/Llama-3.1-70B"), shape("openai/gpt-oss-120b")
assert LLAMA is not None and OSS is not None
H200 = hardware("H200")
TP4 = Deployment(tp=4, precision="fp8", engine="vllm")
FACTORS = packaged()
MADE = FACTORS.tpot.factors(case_of(LLAMA, TP4, H200))
PROMISE = Promise(ttft=2.0, tpot=0.05)


def test_the_simulated_engine_steps_as_the_closed_form_says():
    made = engine(LLAMA, TP4, H200, MADE, prompt=1000, answer=400)
    for batch in (1, 10, 60):
        for context in (1000, 1200, 1400):
            wanted = decode_step(LLAMA, TP4, batch, context, H200, MADE)
            assert made.base[batch] + made.per_cached * batch * context == pytest.approx(wanted, rel=0.01)
    asked = Requests(np.zeros(1), np.array([1000]), np.array([2]))
    alone = prefill(LLAMA, TP4, 1000, H200, MADE)
    assert simulate(made, asked).ttft[0] == pytest.approx(alone, rel=0.05)


def test_the_closed_loop_is_the_simulation_without_waits():
    """C n / (TTFT + TPOT (n - 1)) with the simulated times is the simulated rate."""
    made = engine(LLAMA, TP4, H200, MADE, prompt=500, answer=200)
    done = simulate(made, poisson(1.0, 3000, 500, 200, seed=1), concurrency=32)
    wanted = throughput(32, 200, float(done.ttft.mean()), float(done.tpot.mean()))
    assert done.output_rate == pytest.approx(wanted, rel=0.03)


def test_the_highest_rate_keeps_the_promise_and_a_higher_one_does_not():
    traffic = Traffic(1.0, 1000, 200, spread=0.3)
    made = engine(LLAMA, TP4, H200, MADE, 1000, 200)
    rate, seen = highest_rate(made, traffic, PROMISE, count=3000)
    assert rate > 0 and seen.keeps(PROMISE)
    above = simulate(made, poisson(1.05 * rate, 3000, 1000, 200, spread=0.3, seed=0))
    assert not waits(above, PROMISE.share).keeps(PROMISE)
    strict, _ = highest_rate(made, traffic, Promise(ttft=1.0, tpot=0.02), count=3000)
    slow, _ = highest_rate(slower(made, 1.5), traffic, PROMISE, count=3000)
    assert strict < rate and slow < rate
    assert highest_rate(made, traffic, Promise(1e-4, 1e-4), count=1000)[0] == 0


def test_hits_and_speculation_raise_the_rate():
    def rate(deployment=TP4, **more):
        made = engine(LLAMA, deployment, H200, MADE, 2000, 100)
        return highest_rate(made, Traffic(1.0, 2000, 100, **more), PROMISE, count=2000)[0]

    plain = rate()
    assert rate(hits=0.8) > 1.5 * plain
    assert rate(replace(TP4, draft=1, accept=0.9)) > plain


def test_replicas_for_a_given_stream():
    made = engine(LLAMA, TP4, H200, MADE, 1000, 200)
    asked = poisson(30, 4000, 1000, 200, spread=0.3, seed=4)
    many, seen = replicas_for(made, asked, PROMISE)
    rate, _ = highest_rate(made, Traffic(30, 1000, 200, spread=0.3), PROMISE, count=3000)
    assert seen.keeps(PROMISE) and many == pytest.approx(30 / rate, rel=0.35, abs=1)
    with pytest.raises(PlanError, match="by itself"):
        replicas_for(made, poisson(1, 5, 1000, 200), Promise(1e-4, 1e-4))


def test_token_costs_add_up_to_the_fleet():
    traffic = Traffic(7.0, 1500, 300)
    inward, outward = token_costs(0.02, traffic, 0.3)
    assert inward * 7 * 1500 / 1e6 + outward * 7 * 300 / 1e6 == pytest.approx(0.02)
    assert answer_price(inward, outward, 1500, 300) == pytest.approx(0.02 / 7)
    made = engine(LLAMA, TP4, H200, MADE, 1500, 300)
    assert 0 < prompt_share(made, traffic, 20) < 1
    assert prompt_share(made, replace(traffic, hits=0.9), 20) < prompt_share(made, traffic, 20)


def test_a_published_day_of_nodes():
    """DeepSeek's open-infra figures: 226.75 nodes in the mean."""
    day = 86400.0
    assert nodes(608e9 / day, 168e9 / day, 73.7e3, 14.8e3) == pytest.approx(226.75, rel=0.001)


def test_layouts_hold_the_model_only_where_it_fits():
    found = layouts(OSS, H200, Deployment(precision="fp4"))
    assert {one.accelerators for one in found} == {1, 2, 4, 8}
    assert all(OSS.heads % one.tp == 0 and OSS.moe and OSS.moe.routed % one.ep == 0 for one in found)
    assert all(one.dp == 1 for one in layouts(LLAMA, H200, Deployment()))


@pytest.fixture(scope="module")
def plans():
    traffic = Traffic(200.0, 1000, 200, spread=0.3)
    return [
        serve_tier(config, H200, traffic, PROMISE, FACTORS, precision="fp8", engine_name="vllm")
        for config in (LLAMA, OSS)
    ]


def test_a_plan_keeps_its_promise_and_has_intervals(plans):
    for plan in plans:
        assert plan.waits.keeps(PROMISE)
        assert plan.deployment.replicas * plan.rate_of_replica >= plan.traffic.rate * 0.999
        for name in ("replicas", "output_cost", "answer_price", "watt_hours"):
            found = plan.answers[name]
            assert found.low <= found.value <= found.high and found.low > 0, name
        assert plan.answers["output_cost"].moved_by
        assert bytes_per_accelerator(LLAMA if plan is plans[0] else OSS, plan.deployment) < H200.usable_bytes
    assert list(plans[0].counts) == sorted(plans[0].counts)


def test_five_billion_active_are_cheaper_than_seventy(plans):
    more = premium(plans[0], plans[1])
    assert 1 < more.low < more.value < more.high
    one = premium(plans[0], plans[0])
    assert one.low < 1 < one.high or one.value == pytest.approx(1, rel=0.1)


def test_a_wider_assumption_widens_the_interval():
    def width(**assume):
        plan = serve_tier(
            LLAMA, H200, Traffic(50, 1000, 200), PROMISE, FACTORS, deployment=TP4, assume=assume
        )
        found = plan.answers["answer_price"]
        return found.high / found.low

    assert width(margin=(0.5, 0.5, 0.5), own=(1.5, 1.5, 1.5)) < width(margin=(0.5, 0.5, 0.5)) < width()


@pytest.mark.parametrize(
    ("promise", "precision", "part"),
    [(Promise(1.0, 1e-6), "fp8", "H200"), (Promise(1e-6, 1.0), "fp8", "H200")],
)
def test_what_cannot_be_is_refused(promise, precision, part):
    with pytest.raises(PlanError) as told:
        serve_tier(
            LLAMA,
            hardware(part),
            Traffic(5, 1000, 100),
            promise,
            FACTORS,
            precision=precision,
            engine_name="vllm",
        )
    assert told.value.cure


def test_a_model_that_fits_no_node_is_refused():
    deepseek = shape("deepseek-ai/DeepSeek-V3")
    assert deepseek is not None
    with pytest.raises(PlanError, match="No layout on H100"):
        serve_tier(deepseek, hardware("H100"), Traffic(5, 1000, 100), PROMISE, FACTORS, precision="bf16")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Traffic(-1, 1, 1),
        lambda: Traffic(float("nan"), 1, 1),
        lambda: Traffic(1, 1, 1, hits=1.5),
        lambda: Promise(0, 1),
        lambda: Promise(1, 1, 1.0),
        lambda: nodes(1, 1, 0, 1),
        lambda: engine(LLAMA, Deployment(precision="bf16"), hardware("H100"), MADE, 1000, 100),
    ],
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(PlanError) as told:
        wrong()
    assert told.value.cure


def test_traffic_from_a_file(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("arrival,prompt,answer,cached\n3,100,10,\n1,300,20,200\n2,200,30,0\n")
    asked, traffic = read_traffic(path)
    assert asked.arrivals.tolist() == [0, 1, 2] and asked.computed.tolist() == [100, 200, 100]
    assert traffic.rate == 1 and traffic.prompt == 200 and traffic.hits == pytest.approx(200 / 600)


@pytest.mark.parametrize(
    "text",
    ["", "arrival,prompt\n1,2\n", "arrival,prompt,answer\n1,2,3\n", "arrival,prompt,answer\n1,2,3\n1,2,3\n",
     "arrival,prompt,answer\n1,2,3\nnan,2,3\n", "arrival,prompt,answer\n1,2,3\n2,0,3\n",
     "arrival,prompt,answer,cached\n1,2,3,0\n2,2,3,2\n", "arrival,prompt,answer\n1,2,3\n2,x,3\n"],
)  # fmt: skip
def test_traffic_that_is_none(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(PlanError) as told:
        read_traffic(path)
    assert told.value.cure
