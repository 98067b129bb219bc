"""Reading cases, predicting them from their inputs alone, scoring, fitting, and the two commands."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.cli.main import app
from mythos.plan.calibrate import calibrate
from mythos.plan.cases import read_cases
from mythos.plan.efficiencies import LeftOut, load, packaged, starting
from mythos.plan.errors import PlanError
from mythos.plan.validate import Checked, check, is_held_out, scores, spearman, validate

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
RUN = {
    "hf_config": LLAMA,
    "hardware": {"accelerator": "H100 SXM (DGX)", "count": 64},
    "precision": "BF16",
    "global_batch": 512,
    "micro_batch": 1,
    "seq_len": 4096,
    "layout": {"tp": 2, "pp": 2, "cp": 1, "vp": 2, "dp": 16},
}


def case(name: str, kind: str, inputs: dict[str, Any], value: float | None, **more: Any) -> dict[str, Any]:
    row = {
        "id": name,
        "kind": kind,
        "mode": "blind",
        "inputs": inputs,
        "published": {"value": value, "unit": more.pop("unit", "")},
        "tolerance": {"type": "rel", "value": 0.1},
    }
    return row | more


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "cases.json"
    path.write_text(json.dumps({"cases": rows}))
    return path


def checked(folder: Path, row: dict[str, Any]) -> Checked:
    return validate(read_cases(written(folder, row)))[0]


def test_prediction_does_not_depend_on_what_was_published(tmp_path: Path) -> None:
    values = (None, 1.0, 1e9)
    rows = [case("a", "train_mfu", RUN, v, metric="tokens_per_s_per_gpu") for v in values]
    found = [checked(tmp_path, row) for row in rows]
    assert len({(one.value, one.low, one.high) for one in found}) == 1
    assert (found[0].error, found[0].passed, found[0].covered) == (None, None, None)
    assert found[1].passed is False and found[1].error is not None


def test_the_three_forms_of_a_step_agree(tmp_path: Path) -> None:
    rate = checked(tmp_path, case("a", "train_mfu", RUN, None, metric="tokens_per_s_per_gpu")).value
    seconds = checked(tmp_path, case("a", "train_mfu", RUN, None, metric="iteration_time")).value
    milli = case("a", "train_mfu", RUN, None, metric="iteration_time", unit="ms per iteration")
    hours = checked(tmp_path, case("a", "train_gpu_hours", RUN | {"tokens": 1e12}, None)).value
    assert rate and seconds and hours
    assert rate * seconds * 64 == pytest.approx(512 * 4096)
    assert checked(tmp_path, milli).value == pytest.approx(seconds * 1e3)
    assert hours > 1e12 / rate / 3600
    assert hours == pytest.approx(1e12 / rate / 3600 * packaged().whole_run, rel=0.03)


WIDE = {
    "hf_config": {
        "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
        "vocab_size": 151936, "num_experts": 128, "num_experts_per_tok": 8, "tie_word_embeddings": False,
    },
    "hardware": {"accelerator": "H100 SXM (DGX)", "count": 64},
    "precision": "BF16", "global_batch": 512, "micro_batch": 1, "seq_len": 4096, "recompute": "none",
    "layout": {"tp": 1, "pp": 4, "cp": 1, "ep": 16, "dp": 16},
}  # fmt: skip


def test_a_dispatch_that_may_be_hidden_widens_the_interval(tmp_path: Path) -> None:
    """Unless the case says how it is run: the schedule, DualPipe, or full recomputation."""

    def told(**more: Any) -> Checked:
        return checked(tmp_path, case("a", "train_mfu", WIDE | more, None, metric="tokens_per_s_per_gpu"))

    def width(one: Checked) -> float:
        assert one.low and one.high
        return one.high / one.low

    open_, dual = told(), told(notes="DualPipe")
    stated = told(layout={**WIDE["layout"], "vp": 1})
    assert stated.value and open_.value and dual.value and stated.value < open_.value < dual.value
    assert width(open_) > width(dual) == pytest.approx(width(stated))
    assert width(told(recompute="full")) == pytest.approx(width(dual))
    assert open_.low and open_.high and open_.low < dual.value < open_.high


def test_a_layout_that_is_not_given_is_chosen(tmp_path: Path) -> None:
    open_ = {key: value for key, value in RUN.items() if key not in ("layout", "micro_batch")}
    found = checked(tmp_path, case("a", "train_mfu", open_, None, metric="tokens_per_s_per_gpu"))
    stated = checked(tmp_path, case("a", "train_mfu", RUN, None, metric="tokens_per_s_per_gpu"))
    assert found.value is not None and stated.value is not None
    assert found.value >= stated.value * 0.9


@pytest.mark.parametrize(
    ("kind", "inputs", "status"),
    [
        ("param_count", {"model_name": "GLM-5"}, "unknown-model"),
        ("param_count", {"hf_config": {"model_type": "rwkv", "hidden_size": 8}}, "unknown-model"),
        ("train_mfu", RUN | {"hf_config": None}, "unknown-model"),
        ("train_mfu", RUN | {"hardware": {"accelerator": "Cerebras WSE-3", "count": 1}}, "no-data"),
        ("train_mfu", RUN | {"hardware": {"accelerator": "H100"}}, "no-data"),
        ("train_mfu", RUN | {"global_batch": 7}, "no-data"),
        ("train_mfu", RUN | {"seq_len": None}, "no-data"),
        ("train_gpu_hours", RUN, "no-data"),
        ("memory_per_gpu", {"hf_config": LLAMA}, "no-data"),
        ("goodput", {}, "no-data"),
        ("chinchilla_fit", {"C": 1e20}, "no-data"),
        ("astrology", RUN, "no-data"),
        ("", {}, "no-data"),
    ],
)
def test_what_cannot_be_predicted_says_why(
    tmp_path: Path, kind: str, inputs: dict[str, Any], status: str
) -> None:
    found = checked(tmp_path, case("a", kind, inputs, 3.0))
    assert (found.status, found.value, found.low, found.high) == (status, None, None, None)
    assert found.because


@pytest.mark.parametrize(
    ("tolerance", "passes"),
    [
        ({"type": "rel", "value": 0.1}, (0.91, 1.09)),
        ({"type": "abs", "value": 1e9}, (0.9, 1.1)),
        ({"type": "max_ratio", "value": 1.2}, (0.85, 1.19)),
        ({"type": "published_over_predicted", "min": 0.9, "max": 1.2}, (0.91, 1.19)),
    ],
)
def test_tolerances(tmp_path: Path, tolerance: dict[str, Any], passes: tuple[float, float]) -> None:
    exact = checked(tmp_path, case("a", "param_count", {"hf_config": LLAMA}, None)).value
    assert exact == 8_030_261_248
    for share in passes:
        row = case("a", "param_count", {"hf_config": LLAMA}, exact * share, tolerance=tolerance)
        assert checked(tmp_path, row).passed is True
    for share in (0.5, 2.0):
        row = case("a", "param_count", {"hf_config": LLAMA}, exact * share, tolerance=tolerance)
        assert checked(tmp_path, row).passed is False


def test_laws_that_a_case_states(tmp_path: Path) -> None:
    power = {"C": 1e6, "law": "lr: eta=3.0*C^-0.5; B=2*C^0.25 (tokens)"}
    for metric, value in (("lr", 3e-3), ("batch_tokens", 2e6**0 * 2 * 1e6**0.25)):
        found = checked(tmp_path, case("a", "chinchilla_fit", power, None, metric=metric))
        assert found.value == pytest.approx(value)
    law = {"E": 1.5, "A": 400.0, "B": 500.0, "alpha": 0.5, "beta": 0.5}
    loss = case("a", "chinchilla_fit", {"params": law, "N": 1e8, "D": 1e10}, None, metric="loss")
    assert checked(tmp_path, loss).value == pytest.approx(1.5 + 400 / 1e4 + 500 / 1e5)
    best = case("a", "chinchilla_fit", {"params": law, "C": 6e18}, None, metric="n_opt")
    assert checked(tmp_path, best).value == pytest.approx(400 / 500 * 1e9)


@pytest.mark.parametrize(
    ("kind", "metric", "unit", "inputs", "value"),
    [
        ("carbon", "", "tCO2eq", {"gpu_hours": 1e6, "tdp_w": 400}, 1e6 * 0.4 * 1.1 * 0.385 / 1e3),
        ("train_gpu_hours", "kg_co2", "kg", {"gpu_hours": 10, "tdp_w": 100, "pue": 2.0}, 2 * 0.385),
        ("train_cost", "cost_usd", "USD", {"gpu_hours": 2e6, "usd_per_gpu_hour": 3}, 6e6),
        ("goodput", "mtbf_hours", "hours", {"interruptions": 48, "days": 10}, 5.0),
        (
            "train_gpu_hours",
            "",
            "accelerator-hours",
            {"hf_config": LLAMA, "tokens": 1e12, "achieved_tflops_per_gpu": 400, "goodput": 0.5},
            1e12 * (6 * (8_030_261_248 - 266_240 - 128256 * 4096) + 32 * 6 * 4096 * 4096) / 7.2e17,
        ),
        ("kv_cache", "kv_bytes_per_token", "bytes", {"hf_config": LLAMA}, 2 * 32 * 8 * 128 * 2),
    ],
)
def test_sums_of_what_a_case_states(
    tmp_path: Path, kind: str, metric: str, unit: str, inputs: dict[str, Any], value: float
) -> None:
    assert checked(tmp_path, case("a", kind, inputs, None, metric=metric, unit=unit)).value == pytest.approx(
        value
    )


def test_memory_in_the_unit_of_the_case(tmp_path: Path) -> None:
    sizes = []
    for unit, scale in (("bytes", 1), ("GiB peak", 1 << 30), ("GB", 1e9)):
        row = case("a", "memory_per_gpu", RUN, None, metric="peak", unit=unit)
        sizes.append((checked(tmp_path, row).value or 0) * scale)
    assert sizes == pytest.approx([sizes[0]] * 3)
    static = checked(tmp_path, case("a", "memory_per_gpu", RUN, None, metric="static", unit="bytes"))
    assert static.value is not None and 0 < static.value < sizes[0]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 62) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["tp", "count"]), inner),
    max_leaves=4,
)
KINDS = ["param_count", "active_param_count", "train_mfu", "train_gpu_hours", "memory_per_gpu", "goodput"]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*KINDS, "chinchilla_fit", "other"]),
    st.dictionaries(
        st.sampled_from([*RUN, "model", "tokens", "params", "law", "gpus", "recompute", "optimizer"]), JUNK
    ),
    JUNK,
)
def test_any_inputs_give_a_prediction_or_a_status(kind: str, change: dict[str, Any], unit: object) -> None:
    inputs = copy.deepcopy(RUN) | change
    row = case("a", kind, inputs, 1.0, unit=unit)
    from mythos.plan.cases import _case

    found = check(_case(json.loads(json.dumps(row)), "here"), packaged())
    if found.status == "predicted":
        assert found.value is not None and found.low is not None and found.high is not None
        assert found.low <= found.value <= found.high or found.value < 0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"cases": []}', '{"cases": [3]}', '{"cases": [{"id": ""}]}', "[" * 9999]
)
def test_a_file_of_another_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cases.json"
    path.write_text(text)
    with pytest.raises(PlanError):
        read_cases(path)
    with pytest.raises(PlanError, match="two cases 'a'"):
        read_cases(written(tmp_path, case("a", "x", {}, 1.0), case("a", "x", {}, 1.0)))


def test_three_of_ten_are_held_out() -> None:
    shares = sum(is_held_out(f"case-{n}") for n in range(4000)) / 4000
    assert shares == pytest.approx(0.3, abs=0.03)
    assert [is_held_out(name) for name in ("a", "b", "c", "d", "e")] == [
        is_held_out(name) for name in ("a", "b", "c", "d", "e")
    ]


def test_scores_give_no_verdict_on_few() -> None:
    def one(n: int, error: float, held: bool) -> Checked:
        return Checked(
            f"tput-{n}", "train_mfu", False, held, "predicted", "dense", "time", 1.0, 0.9, 1.1, 1.0, error
        )

    few = scores([one(n, 0.05, False) for n in range(4)])
    assert all(score.holds is None for score in few)
    many = {(s.name, s.half): s for s in scores([one(n, 0.05 * n, True) for n in range(5)])}
    dense = many["training time, dense: median error", "held out"]
    assert (dense.n, dense.value, dense.holds) == (5, 0.1, True)
    assert many["training time, dense: median error", "fitted"].n == 0
    assert many["published value in the interval", "held out"].holds is False  # 100% is too wide


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3], [10, 20, 30]) == 1
    assert spearman([1, 2, 3], [3, 2, 1]) == -1
    assert spearman([1, 1, 2, 3], [1, 1, 2, 3]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert spearman([1, 1], [1, 2]) is None and spearman([1], [1]) is None


def test_calibration_finds_what_made_the_runs_and_never_sees_the_held_out(tmp_path: Path) -> None:
    """Runs made with other efficiencies; those held out are spoiled, and change nothing."""
    true = load_changed(starting())
    rows = []
    for n in range(10):
        inputs = RUN | {"micro_batch": 1 + n % 2, "layout": {"tp": 1 + n % 2, "pp": 1, "vp": None, "dp": 32}}
        row = case(f"run-{n}", "train_mfu", inputs, 1.0, metric="tokens_per_s_per_gpu")
        value = check(read_cases(written(tmp_path, row))[0], true).value
        assert value
        row["published"]["value"] = value * (100 if is_held_out(f"run-{n}") else 1)
        rows.append(row)
    found = calibrate(read_cases(written(tmp_path, *rows)))
    assert found.after < found.before / 3
    assert set(found.used) == {row["id"] for row in rows if not is_held_out(row["id"])}
    kept = [row for row in rows if not is_held_out(row["id"])]
    assert calibrate(read_cases(written(tmp_path, *kept))).efficiencies == found.efficiencies
    some = next(row for row in rows if row["id"] == found.used[0])
    told = check(read_cases(written(tmp_path, some))[0], found.efficiencies)
    some["published"]["value"] *= 1.3
    other = calibrate(read_cases(written(tmp_path, *rows))).efficiencies
    assert other.matmul != found.efficiencies.matmul
    again = check(read_cases(written(tmp_path, some))[0], other)
    assert again.value == pytest.approx(told.value, rel=0.01)  # its own value is not in its prediction
    assert again.covered is False and told.covered is True
    wrong = replace(other, left_out={some["id"]: LeftOut((0.1,), {})})
    with pytest.raises(PlanError, match="hold 1 moves"):
        check(read_cases(written(tmp_path, some))[0], wrong)
    with pytest.raises(PlanError, match="no training runs"):
        calibrate(read_cases(written(tmp_path, case("a", "goodput", {}, 1.0))))


def load_changed(eff):
    matmul = {part: {k: v * 0.88 for k, v in shares.items()} for part, shares in eff.matmul.items()}
    return replace(eff, matmul=matmul)


def run(*words: str) -> int:
    from typer.main import get_command

    try:
        return get_command(app).main(["plan", *words], standalone_mode=False) or 0
    except SystemExit as stop:
        return int(stop.code or 0)


def test_validate_prints_one_object_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(
        tmp_path,
        case("count", "param_count", {"hf_config": LLAMA}, None),
        case("none", "param_count", {}, 1.0),
    )
    assert run("validate", str(path), "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"id": "count", "value": 8_030_261_248, "low": 8_030_261_248, "high": 8_030_261_248},
        {"id": "none", "value": None, "low": None, "high": None},
    ]


def test_calibrate_writes_what_validate_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [case(f"run-{n}", "train_mfu", RUN, 9000.0, metric="tokens_per_s_per_gpu") for n in range(4)]
    path, out = written(tmp_path, *rows), tmp_path / "eff.toml"
    assert run("calibrate", str(path), "--out", str(out)) == 0
    assert "cases.json" in load(out).provenance
    assert set(load(out).left_out) == {row["id"] for row in rows if not is_held_out(row["id"])}
    assert run("validate", str(path), "--efficiencies", str(out)) == 0
    assert "run-0" in capsys.readouterr().out
