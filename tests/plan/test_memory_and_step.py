"""Memory and time of a training step: published formulas, laws that must hold, and nonsense."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.plan.assumed import prices
from mythos.plan.efficiencies import as_toml, load, packaged, parse, starting
from mythos.plan.errors import PlanError
from mythos.plan.hardware import hardware, parts, peak
from mythos.plan.layout import Layout, check, rank_layers
from mythos.plan.memory import Kernels, memory
from mythos.plan.step import may_hide_dispatch, step
from mythos.records.errors import MythosError
from mythos.spec.config import MLAConfig, ModelConfig, MoEConfig
from mythos.spec.counting import mtp_parameters, parameters, training_flops_per_token

GIB = 1 << 30


def gpt(width: int, layers: int, heads: int) -> ModelConfig:
    return ModelConfig(
        vocab=51200,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        ffn=4 * width,
        context=2048,
        gated=False,
    )


LLAMA_8B = ModelConfig(
    vocab=128256,
    layers=32,
    width=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    ffn=14336,
    context=8192,
    tied=False,
)
DEEP = ModelConfig(
    vocab=1024,
    layers=10,
    width=256,
    heads=8,
    kv_heads=8,
    head_dim=48,
    ffn=512,
    context=4096,
    tied=False,
    mla=MLAConfig(kv_rank=64, nope_dim=32, rope_dim=16, value_dim=32, q_rank=96),
    moe=MoEConfig(routed=16, top_k=2, width=128, shared=1),
    dense_layers=(0,),
    mtp=1,
)
OLD = Kernels(flash=False, dropout=True)


# ---- formulas of arXiv 2205.05198


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_a_gpt_layer_keeps_what_the_paper_says(tp: int) -> None:
    """s b h (10 + 24/t + 5 a s/(h t)); 34 s b h/t split by sequence and selective; 2 s b h in full."""
    s, b, h, a = 2048, 4, 6144, 64
    config = gpt(h, 4, a)
    layout = Layout(
        tp=tp, micro_batch=b, global_batch=b, sequence=s, sharding="none", sequence_parallel=False
    )
    found = memory(config, layout, OLD).ranks[0].activations / config.layers
    assert found == pytest.approx(s * b * h * (10 + 24 / tp + 5 * a * s / (h * tp)), rel=1e-12)
    selective = dataclasses.replace(layout, recompute="selective", sequence_parallel=True)
    assert memory(config, selective, OLD).ranks[0].activations / config.layers == 34 * s * b * h / tp
    full = dataclasses.replace(layout, recompute="full")
    assert memory(config, full, OLD).ranks[0].activations / config.layers == 2 * s * b * h


@pytest.mark.parametrize(("pp", "virtual"), [(4, 1), (4, 2), (8, 3)])
def test_the_first_rank_holds_most_micro_batches(pp: int, virtual: int) -> None:
    """pp of them; 1 + (p - 1)/(p v) times that when interleaved."""
    config = gpt(1024, 96, 16)
    layout = Layout(pp=pp, virtual=virtual, global_batch=64, sequence=2048)
    one = memory(config, Layout(global_batch=64, sequence=2048)).ranks[0].activations
    ranks = memory(config, layout).ranks
    more = 1 + (pp - 1) / (pp * virtual) if virtual > 1 else 1
    assert ranks[0].activations == pytest.approx(one * more)
    assert ranks[0].activations >= ranks[-1].activations
    assert ranks[-1].logits > 0 == ranks[0].logits
    few = dataclasses.replace(layout, global_batch=1)
    assert memory(config, few).ranks[0].activations == pytest.approx(one / pp)


@pytest.mark.parametrize(
    ("sharding", "optimizer", "bytes_each"),
    [("none", "adam", 18), ("optimizer", "adam", 6 + 12 / 8), ("full", "adam", 16 / 8), ("none", "muon", 14)],
)
def test_bytes_of_states(sharding: str, optimizer: str, bytes_each: float) -> None:
    layout = Layout(dp=8, global_batch=8, sharding=sharding, optimizer=optimizer)  # type: ignore[arg-type]
    rank = memory(LLAMA_8B, layout).worst
    states = rank.weights + rank.gradients + rank.optimizer
    assert states == pytest.approx(parameters(LLAMA_8B) * bytes_each)
    assert rank.static - states < 1 << 29


def test_experts_have_replicas_of_their_own() -> None:
    """With ep 8 on 8 replicas each expert lies once: its optimizer is not split."""
    layout = Layout(dp=8, ep=8, global_batch=8)
    rank = memory(DEEP, layout).worst
    experts = 10 * 16 * 3 * 256 * 128 / 8  # nine routed layers and the prediction module's
    others = parameters(DEEP) + mtp_parameters(DEEP) - 8 * experts
    assert rank.parameters == pytest.approx(others + experts)
    assert rank.optimizer == pytest.approx(12 * (others / 8 + experts))


# ---- laws


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    tp, pp, cp = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 5])), draw(st.integers(1, 2))
    dp, micro = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 2))
    ep = draw(st.sampled_from([e for e in (1, 2, 4, 8) if tp * cp * dp % e == 0]))
    return Layout(
        tp=tp,
        pp=pp,
        cp=cp,
        dp=dp,
        ep=ep,
        virtual=draw(st.integers(1, 2)) if pp > 1 else 1,
        micro_batch=micro,
        global_batch=micro * dp * draw(st.integers(1, 8)),
        sequence=draw(st.sampled_from([512, 4096])),
        recompute=draw(st.sampled_from(["none", "selective", "full"])),
        precision=draw(st.sampled_from(["bf16", "fp8", "fp4"])),
        optimizer=draw(st.sampled_from(["adam", "muon"])),
        sharding=draw(st.sampled_from(["none", "optimizer", "full"])),
        sequence_parallel=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(layouts(), st.booleans())
def test_laws_of_any_layout(layout: Layout, flash: bool) -> None:
    kernels = Kernels(flash=flash)
    held = memory(DEEP, layout, kernels)
    done = step(DEEP, layout, hardware("GB300"), kernels=kernels)
    # every layer lies on one rank, and all ranks together hold the model
    assert sorted(sum(rank_layers(DEEP, layout), ())) == list(range(DEEP.layers))
    # parts are seconds of work, and sum to the whole
    names = [f.name for f in dataclasses.fields(done)]
    whole = names[1 : names.index("tokens")]
    assert min(getattr(done, name) for name in whole) >= 0
    assert sum(getattr(done, name) for name in whole) == pytest.approx(done.seconds)
    assert 0 < done.mfu <= done.hfu < 1
    assert done.flops == done.tokens * training_flops_per_token(DEEP, layout.sequence)
    # no accelerator works faster than its peak: more accelerators never lower the work done in all
    assert done.seconds * layout.accelerators >= done.flops / peak(hardware("GB300"), layout.precision)
    # dropping activations takes time and no memory
    if layout.recompute == "none":
        for less in ("selective", "full"):
            dropped = dataclasses.replace(layout, recompute=less)
            slower = step(DEEP, dropped, hardware("GB300"), kernels=kernels)
            assert slower.seconds > done.seconds
            kept = memory(DEEP, dropped, kernels).ranks[0].activations
            assert kept <= held.ranks[0].activations


@settings(max_examples=40, deadline=None)
@given(layouts(), st.floats(1.0, 4.0))
def test_uneven_experts_take_more(layout: Layout, imbalance: float) -> None:
    even, uneven = Kernels(), Kernels(imbalance=imbalance)
    part = hardware("H100")
    layout = dataclasses.replace(layout, precision="bf16")
    assert step(DEEP, layout, part, kernels=uneven).seconds >= step(DEEP, layout, part, kernels=even).seconds
    assert memory(DEEP, layout, uneven).worst.peak >= memory(DEEP, layout, even).worst.peak


def test_half_the_rates_and_links_is_twice_the_time() -> None:
    """Units: but for the fixed waits, seconds are work by rate."""
    eff = dataclasses.replace(packaged(), gap={"default": 0.0}, collective=0.0)
    part = hardware("H100")
    rates = ("bf16", "fp8", "bandwidth", "scale_up", "scale_out")
    slow = dataclasses.replace(part, **{rate: getattr(part, rate) / 2 for rate in rates})
    layout = Layout(tp=2, pp=2, dp=4, ep=4, global_batch=64, micro_batch=2, precision="fp8")
    one, two = step(DEEP, layout, part, eff), step(DEEP, layout, slow, eff)
    assert two.seconds == pytest.approx(2 * one.seconds)
    assert two.mfu == pytest.approx(one.mfu)


def test_a_longer_pipeline_waits_more_and_interleaving_less() -> None:
    part = hardware("H100")
    bubbles = []
    for pp, virtual in ((1, 1), (2, 1), (4, 1), (4, 2)):
        layout = Layout(pp=pp, virtual=virtual, global_batch=32, sequence=8192)
        bubbles.append(step(LLAMA_8B, layout, part).bubble / step(LLAMA_8B, layout, part).seconds)
    assert bubbles[0] == 0 and bubbles[0] < bubbles[1] < bubbles[2] > bubbles[3]


def test_a_domain_of_72_dispatches_faster_than_eight() -> None:
    layout = Layout(dp=64, ep=16, global_batch=64)
    near, far = step(DEEP, layout, hardware("GB200")), step(DEEP, layout, hardware("B200"))
    assert near.ep < 0.6 * far.ep


@pytest.mark.parametrize(
    ("change", "hides"),
    [
        ({}, True),
        ({"ep": 8}, False),  # within a domain of eight
        ({"virtual": 1}, False),
        ({"recompute": "selective"}, True),
        ({"recompute": "full"}, False),
    ],
)
def test_a_dispatch_beyond_the_domain_may_be_hidden(change: dict[str, object], hides: bool) -> None:
    layout = dataclasses.replace(Layout(pp=2, virtual=2, dp=16, ep=16, global_batch=64), **change)  # type: ignore[arg-type]
    assert may_hide_dispatch(layout, hardware("H100")) == hides
    shown = [
        step(DEEP, layout, hardware("H100"), dataclasses.replace(packaged(), overlap_dispatch=share)).ep
        for share in (0.0, 0.5, 1.0)
    ]
    if hides:
        assert shown[1] == pytest.approx(shown[0] / 2) and shown[2] == 0
    else:
        assert shown[0] == shown[1] == shown[2] > 0


def test_neighbours_do_not_share_the_exchange_of_experts_that_lie_elsewhere() -> None:
    """Eight ranks of a domain hold eight parts of the experts: a gradient's copies lie in other domains."""
    part, eff = hardware("H100"), packaged()
    layout = Layout(dp=64, ep=8, global_batch=64)
    experts = memory(DEEP, layout).ranks[0].parameters - memory(DEEP, layout_of_none()).ranks[0].parameters
    alone = experts * 7 / 8 / (part.scale_out * eff.scale_out)
    assert step(DEEP, layout, part, eff).dp >= (1 - eff.overlap_dp) * 6 * alone


def layout_of_none() -> Layout:
    """Experts dealt out so far that hardly any is left on a rank."""
    return Layout(dp=64, ep=16, expert_tp=4, global_batch=64)


def test_a_bias_of_experts_is_read_and_written() -> None:
    assert DEEP.moe is not None
    biased = dataclasses.replace(DEEP, moe=dataclasses.replace(DEEP.moe, expert_bias=True))
    layout, part, eff = Layout(dp=1, global_batch=1), hardware("H100"), packaged()
    more = step(biased, layout, part, eff).elementwise - step(DEEP, layout, part, eff).elementwise
    rows = 4096 * DEEP.moe.top_k * 10  # nine routed layers and the MTP module's
    moved = rows * (20 * DEEP.moe.width + 68 * DEEP.width)
    assert more == pytest.approx(moved / part.bandwidth / eff.bandwidth)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 130), st.integers(1, 32), st.integers(1, 8), st.integers(0, 2))
def test_stages_hold_each_layer_once_and_the_last_rank_no_more(
    layers: int, pp: int, virtual: int, mtp: int
) -> None:
    if pp * virtual > layers + 2 or (pp == 1 and virtual > 1):
        return
    config = dataclasses.replace(LLAMA_8B, layers=layers, mtp=mtp)
    ranks = rank_layers(config, Layout(pp=pp, virtual=virtual))
    assert sorted(sum(ranks, ())) == list(range(layers))
    sizes = [len(rank) for rank in ranks]
    assert sizes[-1] == min(sizes) or layers % (pp * virtual) == 0 or sizes[-1] <= sizes[0]
    assert max(sizes) - min(sizes) <= 2 + 2 * mtp + virtual


def test_deepseek_v3_in_sixteen_ranks() -> None:
    """61 layers, MTP and two heads: four units each, where head and module count."""
    config = dataclasses.replace(LLAMA_8B, layers=61, mtp=1)
    assert [len(rank) for rank in rank_layers(config, Layout(pp=16))] == [4] * 15 + [1]


# ---- data files and nonsense


def test_parts_are_in_si_units() -> None:
    h100 = hardware("H100")
    assert (h100.bf16, h100.bandwidth, h100.scale_up, h100.scale_out) == (989e12, 3.35e12, 450e9, 50e9)
    assert h100.usable_bytes < h100.memory_bytes == 80 * GIB
    for part in parts():
        assert part.usable_bytes <= part.memory_bytes
        assert part.scale_out < part.scale_up < part.bandwidth < part.bf16
        assert all(0 < price.low <= price.value <= price.high for price in prices(part))
        assert part.source and part.dated


@pytest.mark.parametrize(
    ("written", "name"),
    [("H100 SXM (DGX)", "H100"), ("GB300 NVL72", "GB300"), ("b200_sxm", "B200"), ("A100 SXM 80GB", "A100")],
)
def test_names_as_sources_write_them(written: str, name: str) -> None:
    assert hardware(written).name == name


@pytest.mark.parametrize("name", ["", "H100 PCIe", "H1000", "RTX 4090", "A100 SXM 20GB"])
def test_an_unknown_part_lists_the_known(name: str) -> None:
    with pytest.raises(PlanError, match="Known are A100, "):
        hardware(name)


def test_a_part_without_such_units_says_so() -> None:
    with pytest.raises(PlanError, match="A100 has no fp8"):
        step(LLAMA_8B, Layout(precision="fp8"), hardware("A100"))


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ({"tp": 0}, "tp"),
        ({"pp": -2}, "pp"),
        ({"dp": 1.5}, "dp"),
        ({"sequence": math.nan}, "sequence"),
        ({"global_batch": 1 << 50}, "global_batch"),
        ({"micro_batch": True}, "micro_batch"),
        ({"recompute": "some"}, "recompute"),
        ({"precision": "fp7"}, "precision"),
        ({"dp": 3, "global_batch": 4}, "micro_batch x dp"),
        ({"ep": 3}, "ep x expert_tp"),
        ({"virtual": 2}, "virtual"),
        ({"cp": 2, "sequence": 2049}, "2 x cp"),
    ],
)
def test_a_layout_that_cannot_be(numbers: dict[str, object], named: str) -> None:
    with pytest.raises(PlanError, match=named) as caught:
        Layout(**numbers)  # type: ignore[arg-type]
    assert caught.value.cure.endswith(".")


@pytest.mark.parametrize(
    ("layout", "named"),
    [
        (Layout(tp=64), "tp is 64"),
        (Layout(tp=16), "tp 16|tp is 16"),
        (Layout(ep=32, dp=32, global_batch=32), "ep is 32"),
        (Layout(pp=13), "pp x virtual is 13"),
    ],
)
def test_a_layout_that_does_not_fit_the_model(layout: Layout, named: str) -> None:
    with pytest.raises(PlanError, match=named):
        check(DEEP, layout)
    with pytest.raises(PlanError, match="no experts"):
        check(LLAMA_8B, Layout(ep=2, dp=2, global_batch=2))


def test_efficiencies_are_shares_and_survive_a_file(tmp_path) -> None:
    for eff in (packaged(), starting()):
        for part, shares in eff.matmul.items():
            assert all(0 < share < 1 for share in shares.values()), part
        assert parse(as_toml(eff), "x").matmul.keys() == eff.matmul.keys()
    file = tmp_path / "eff.toml"
    file.write_text(as_toml(packaged()))
    assert load(file) == packaged()


@pytest.mark.parametrize("text", ["", "dated = 3", "values = 1", "[values]\ngrouped = nan", "= ="])
def test_a_file_that_is_none(text: str) -> None:
    with pytest.raises(MythosError):
        parse(text, "eff.toml")
