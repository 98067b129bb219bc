"""Serving times: what must rise with what, closed forms, room in the cache, nonsense."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.plan.errors import PlanError
from mythos.plan.factors import packaged
from mythos.plan.hardware import hardware
from mythos.plan.published import known_as, shape, totals
from mythos.plan.serving import (
    TERMS,
    Deployment,
    bytes_per_accelerator,
    closed_loop_terms,
    decode_step,
    largest_batch,
    met_share,
    prefill,
    step_terms,
    throughput,
    tokens_per_step,
    tpot,
)
from mythos.plan.serving_predict import TTFT_TERMS, case_of, predict, ttft_terms
from mythos.spec.config import ModelConfig
from mythos.spec.counting import flops_per_token, kv_bytes_per_token, parameters

H200 = hardware("H200")


def model(name: str) -> ModelConfig:
    found = shape(name)
    assert found is not None
    return found


LLAMA, DEEPSEEK, OSS = (
    model(name) for name in ("meta-llama/Llama-3.1-70B", "deepseek-ai/DeepSeek-R1", "openai/gpt-oss-120b")
)
ONES = np.ones(len(TERMS))
TERM = {name: place for place, name in enumerate(TERMS)}


@pytest.mark.parametrize(("name", "published"), totals().items())
def test_shapes_have_the_published_number_of_parameters(name, published):
    found = model(name)
    assert parameters(found) == pytest.approx(published, rel=0.003)
    assert known_as(found) == name and model(name.upper()) == found


def test_an_unknown_name_has_no_shape():
    assert shape("nobody/nothing") is None
    assert known_as(replace(LLAMA, layers=79)) == ""


def test_a_step_reads_the_weights_and_the_cache_once():
    """One accelerator, ideal factors: bytes by bandwidth, FLOPs by peak."""
    one = Deployment(precision="bf16")
    part = replace(H200, usable_bytes=1e12)
    terms = step_terms(LLAMA, one, 8, 1000, part)
    read = 2 * (parameters(LLAMA) - LLAMA.vocab * LLAMA.width)
    assert terms[TERM["dense"]] == pytest.approx(read / part.bandwidth)
    assert terms[TERM["cache"]] == pytest.approx(8 * 1000 * kv_bytes_per_token(LLAMA, 2) / part.bandwidth)
    assert terms[TERM["product"]] == pytest.approx(8 * flops_per_token(LLAMA, 1000) / part.bf16)
    assert terms[TERM["exchange"]] == terms[TERM["reduce"]] == terms[TERM["experts"]] == 0


def test_tensor_parallelism_splits_reading_and_adds_exchange():
    narrow, wide = (step_terms(LLAMA, Deployment(tp=tp), 8, 1000, H200) for tp in (1, 8))
    for name in ("dense", "cache", "product"):
        assert wide[TERM[name]] == pytest.approx(narrow[TERM[name]] / 8)
    assert wide[TERM["exchange"]] > 0 and wide[TERM["reduce"]] > 0


def test_tensor_parallelism_does_not_split_a_latent_cache():
    tp1, tp8, dp8 = (
        step_terms(DEEPSEEK, one, 64, 2000, H200)[TERM["cache"]]
        for one in (Deployment(), Deployment(tp=8), Deployment(dp=8))
    )
    assert tp8 == pytest.approx(tp1) and dp8 == pytest.approx(tp1 / 8)


@given(st.floats(0, 1e6))
def test_experts_met(tokens):
    """From none to all, the first token meeting k of E."""
    share = met_share(DEEPSEEK, tokens)
    assert 0 <= share <= 1
    assert met_share(DEEPSEEK, tokens + 1) >= share
    assert met_share(DEEPSEEK, 1) == pytest.approx(8 / 256) and met_share(LLAMA, tokens) == 0


FACTORS = packaged()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([LLAMA, DEEPSEEK, OSS]),
    st.sampled_from(["vllm", "trtllm", "sglang", "unheard-of"]),
    st.sampled_from(["bf16", "fp8", "fp4"]),
    st.integers(1, 400),
    st.integers(64, 20_000),
    st.floats(1.01, 4),
)
def test_more_work_takes_longer(config, engine, precision, batch, context, more):
    deployment = Deployment(tp=8, engine=engine, precision=precision)
    factors_K = FACTORS.tpot.factors(case_of(config, deployment, H200))
    assert (factors_K > 0).all()

    def step(b, c):
        return decode_step(config, deployment, b, c, H200, factors_K)

    assert step(batch * more, context) >= step(batch, context)
    assert step(batch, context * more) >= step(batch, context)
    assert step(batch * more, context) <= more * step(batch, context) * 1.0001  # batching never costs
    faster = replace(H200, bandwidth=H200.bandwidth * more)
    assert decode_step(config, deployment, batch, context, faster, factors_K) <= step(batch, context)
    long = prefill(config, deployment, context * more, H200, factors_K)
    assert long > prefill(config, deployment, context, H200, factors_K)


def test_a_prefix_hit_shortens_a_prompt():
    whole = prefill(LLAMA, Deployment(tp=8), 8000, H200, ONES)
    hit = prefill(LLAMA, Deployment(tp=8), 8000, H200, ONES, cached=7000)
    alone = prefill(LLAMA, Deployment(tp=8), 1000, H200, ONES)
    assert alone < hit < 0.3 * whole
    with pytest.raises(PlanError):
        prefill(LLAMA, Deployment(tp=8), 8000, H200, ONES, cached=8000)


def test_less_memory_never_makes_room():
    deployment = Deployment(tp=4, precision="fp8")
    rooms = [
        largest_batch(LLAMA, deployment, 2000, replace(H200, usable_bytes=H200.usable_bytes * share))
        for share in (1.0, 0.6, 0.3, 0.13, 0.1)
    ]
    assert rooms == sorted(rooms, reverse=True) and rooms[0] > 0 and rooms[-1] == 0


def test_what_is_in_the_room_fits():
    deployment = Deployment(tp=4, precision="fp8")
    room = largest_batch(LLAMA, deployment, 2000, H200)
    caches = room * 2000 * kv_bytes_per_token(LLAMA, 1) / 4
    assert bytes_per_accelerator(LLAMA, deployment) + caches < H200.usable_bytes


def test_ten_trillion_parameters_fit_a_rack_and_no_node():
    """DESIGN's ladder: FP4 weights of about 5.6 TB."""
    from mythos.spec.load import load_family

    config = load_family("mythos-10t").tiers[-1].config
    part = hardware("GB300")
    assert largest_batch(config, Deployment(tp=1, dp=8, ep=8, precision="fp4"), 4096, part) == 0
    assert largest_batch(config, Deployment(tp=1, dp=64, ep=64, precision="fp4"), 4096, part) > 0


def test_prompts_share_the_steps_unless_they_have_their_own_workers():
    together = closed_loop_terms(LLAMA, Deployment(tp=4), 64, 4096, 512, H200)
    apart = closed_loop_terms(LLAMA, Deployment(tp=4, prefill=4), 64, 4096, 512, H200)
    assert together[TERM["prompt"]] > 0 and apart[TERM["prompt"]] == 0
    assert (together[: TERM["prompt"]] == apart[: TERM["prompt"]]).all()


def test_replicas_share_the_clients():
    one = tpot(LLAMA, Deployment(tp=4), 32, 1024, 1024, H200, ONES)
    assert tpot(LLAMA, Deployment(tp=4, replicas=4), 128, 1024, 1024, H200, ONES) == pytest.approx(one)


@given(st.floats(1, 1e4), st.integers(1, 10_000), st.floats(1e-3, 1e3), st.floats(1e-4, 10))
def test_throughput_of_a_closed_loop_is_littles_law(clients, answer, ttft, gap):
    whole = ttft + gap * (answer - 1)
    assert throughput(clients, answer, ttft, gap) / answer * whole == pytest.approx(clients)


def test_throughput_of_a_published_row():
    """H200, Llama-3.1-70B, two accelerators: 273.4 ms and 15.76 ms with 32 clients are 1,013 tokens a second
    each (InferenceX, by aiconfigurator's silicon_sample.csv)."""
    assert throughput(32, 8192, 0.2734, 0.01576) / 2 == pytest.approx(1013.2, rel=1e-3)


def test_speculation_of_certain_and_of_no_proposals():
    assert tokens_per_step(0, 0.0) == 1 and tokens_per_step(3, 0.0) == 1
    assert tokens_per_step(1, 0.85) == pytest.approx(1.85)
    assert tokens_per_step(4, 0.999999) == pytest.approx(5, rel=1e-4)
    plain = tpot(DEEPSEEK, Deployment(tp=8), 8, 1024, 1024, H200, ONES)
    guessed = tpot(DEEPSEEK, Deployment(tp=8, draft=1, accept=0.85), 8, 1024, 1024, H200, ONES)
    useless = tpot(DEEPSEEK, Deployment(tp=8, draft=1, accept=0.0), 8, 1024, 1024, H200, ONES)
    assert guessed < plain < useless


def test_what_is_known_less_has_a_wider_interval():
    def width(config, **kind):
        deployment = Deployment(tp=8, precision="fp8", **kind)
        found = predict(config, deployment, 32, 1024, 1024, H200, FACTORS).tpot
        assert found.low < found.value < found.high
        return math.log(found.high / found.low)

    assert width(LLAMA, engine="vllm") <= width(replace(LLAMA, layers=81), engine="vllm")
    assert width(replace(LLAMA, layers=81), engine="vllm") <= width(LLAMA, engine="unheard-of")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Deployment(tp=0),
        lambda: Deployment(tp=1.5),  # type: ignore[arg-type]
        lambda: Deployment(precision="fp1"),  # type: ignore[arg-type]
        lambda: Deployment(accept=1.0),
        lambda: Deployment(accept=float("nan")),
        lambda: Deployment(tp=4, ep=3),
        lambda: Deployment(draft=-1),
        lambda: decode_step(LLAMA, Deployment(), 0, 10, H200, ONES),
        lambda: decode_step(LLAMA, Deployment(), float("nan"), 10, H200, ONES),
        lambda: throughput(-1, 1, 1, 1),
        lambda: closed_loop_terms(LLAMA, Deployment(), 1, float("inf"), 1, H200),
    ],
)
def test_nonsense_is_refused_in_a_sentence(wrong):
    with pytest.raises(PlanError) as told:
        wrong()
    assert told.value.message and told.value.cure


def test_first_token_and_prompt_run_in_the_same_place():
    """The wait for a first token counts the prompt where `prefill` runs it: on the prefill worker."""
    apart = Deployment(tp=2, prefill=8, prefill_workers=2, precision="fp8", kv_bytes=2.0)
    factors = np.zeros(len(TERMS))
    factors[-2:] = 1.0
    alone = prefill(LLAMA, apart, 3000, H200, factors)
    own = ttft_terms(LLAMA, apart, 1, 3000, 100, H200)[TTFT_TERMS.index("own")]
    assert own == pytest.approx(alone)
    assert own != pytest.approx(ttft_terms(LLAMA, replace(apart, prefill=0), 1, 3000, 100, H200)[2])
