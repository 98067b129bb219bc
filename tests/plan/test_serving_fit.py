"""The fit of serving factors on times made from known ones, reading of runs, and the scoring."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mythos.plan import factors
from mythos.plan.calibrate_serving import calibrate, usable
from mythos.plan.errors import PlanError
from mythos.plan.factors import Case, packaged
from mythos.plan.scaling import Estimate
from mythos.plan.serving import TERMS, closed_loop_terms
from mythos.plan.serving_fit import Plan, fit_law, predicted
from mythos.plan.serving_predict import Prediction, predict_run
from mythos.plan.serving_runs import aggregated_layout, read_serving_runs
from mythos.plan.serving_score import score, scores, spearman

HEADS = (
    "id,silicon_data_source,backend,backend_version,model_path,system,precision,mode,isl,osl,batch_size,tp_size,"
    "pp_size,attention_dp_size,moe_tp_size,moe_ep_size,prefill_num_workers,prefill_tp_size,decode_num_workers,"
    "decode_tp_size,decode_attention_dp_size,decode_moe_ep_size,silicon_ttft_ms,silicon_tpot_ms"
)


def row(name="a", **changes) -> str:
    values = {head: "" for head in HEADS.split(",")} | {
        "id": name, "backend": "vllm", "model_path": "meta-llama/Llama-3.1-70B", "system": "h200_sxm",
        "precision": "fp8", "mode": "agg", "isl": "1024", "osl": "512", "batch_size": "16", "tp_size": "4",
        "attention_dp_size": "1", "moe_tp_size": "1", "moe_ep_size": "1", "silicon_ttft_ms": "200",
        "silicon_tpot_ms": "15",
    }  # fmt: skip
    return ",".join((values | {key: str(value) for key, value in changes.items()}).values())


def written(folder: Path, *rows: str) -> Path:
    path = folder / "runs.csv"
    path.write_text("\n".join([HEADS, *rows, ""]))
    return path


def test_a_known_law_is_found_again():
    random_ = np.random.default_rng(1)
    ideal_NK = np.exp(random_.normal(0, 1.5, (400, 3)))
    cases = [Case(engine=f"e{n % 2}", part=f"p{n % 3}", kind="aggregated") for n in range(400)]
    true = {"e0": np.array([0.5, 2.0, 1.0]), "e1": np.array([1.5, 0.7, 3.0])}
    seconds_N = np.array([ideal_K @ true[case.engine] for ideal_K, case in zip(ideal_NK, cases, strict=True)])
    plans = [Plan("engine", (0, 1, 2), 1e-4), Plan("part", (0, 0, 0), 1.0)]
    law = fit_law(("a", "b", "c"), ideal_NK, seconds_N, cases, np.ones(400), plans)
    for engine, factors_K in true.items():
        assert law.factors(Case(engine=engine)) == pytest.approx(factors_K, rel=0.01)
    assert predicted(law, ideal_NK, cases) == pytest.approx(seconds_N, rel=0.01)


def test_a_tenth_of_runs_gone_wrong_does_not_move_the_law():
    random_ = np.random.default_rng(2)
    ideal_NK = np.exp(random_.normal(0, 1.5, (300, 2)))
    seconds_N = ideal_NK @ np.array([2.0, 0.5])
    seconds_N[::10] *= 8
    law = fit_law(("a", "b"), ideal_NK, seconds_N, [Case()] * 300, np.ones(300), [])
    assert law.factors(Case()) == pytest.approx([2.0, 0.5], rel=0.02)


def test_factors_are_never_negative():
    """A term that only gets in the way ends near 0."""
    random_ = np.random.default_rng(3)
    ideal_NK = np.exp(random_.normal(0, 1, (200, 2)))
    seconds_N = ideal_NK[:, 0] / (1 + 0.1 * ideal_NK[:, 1])
    found = fit_law(("a", "b"), ideal_NK, seconds_N, [Case()] * 200, np.ones(200), []).factors(Case())
    assert (found > 0).all() and found[1] < 0.05


@pytest.mark.parametrize(
    ("tp", "dp", "across", "dealt", "layout"),
    [
        ("8", "1", "8", "1", (8, 1, 1)),
        ("8", "1", "1", "8", (8, 1, 8)),
        ("64", "1", "8", "8", (8, 1, 8)),  # tp x ep written as tp
        ("1", "64", "8", "8", (8, 8, 8)),
        ("4", "4", "1", "16", (4, 4, 4)),
        ("1", "8", "1", "8", (8, 8, 8)),
        ("4", "", "2", "2", (4, 1, 2)),
        ("1", "", "4", "1", (4, 4, 1)),
        ("2", "0", "0", "0", (2, 1, 1)),
    ],
)
def test_layouts_as_the_exporters_write_them(tp, dp, across, dealt, layout):
    columns = {"tp_size": tp, "attention_dp_size": dp, "moe_tp_size": across, "moe_ep_size": dealt}
    assert aggregated_layout(columns) == layout


def test_reading(tmp_path):
    path = written(
        tmp_path,
        row(silicon_data_source="x; silicon_concurrency=64; y"),
        row("b", model_path="nobody/nothing"),
        row("c", system="abacus"),
        row("d", mode="disagg", batch_size="", tp_size="", prefill_tp_size="4", decode_tp_size="8",
            silicon_data_source="silicon_concurrency=30"),
        row("e", mode="disagg", prefill_tp_size="4", decode_tp_size="1", decode_attention_dp_size="8",
            decode_num_workers="2", prefill_num_workers="3", silicon_data_source="silicon_concurrency=30"),
        row("f", precision="fp3"),
        row("g", precision="nvfp4", pp_size="2"),
    )  # fmt: skip
    a, b, c, d, e, f, g = read_serving_runs(path)
    assert a.concurrency == 64 and a.deployment.tp == 4 and a.status == "predicted"
    assert a.tpot == 0.015 and a.ttft == 0.2
    assert b.status == "unknown-model" and c.status == "unknown-hardware"
    assert d.guessed and d.deployment.prefill == 4 and d.deployment.accelerators == 8
    assert not e.guessed and (e.deployment.dp, e.deployment.replicas, e.deployment.prefill_workers) == (
        8,
        2,
        3,
    )
    assert f.status == "unknown-precision" and g.deployment.precision == "fp4" and g.deployment.replicas == 2
    assert [predict_run(run, packaged()) for run in (b, c, f)] == [None] * 3
    found = predict_run(a, packaged())
    assert found is not None and 0.005 < found.tpot.value < 0.05


def test_the_prediction_does_not_see_what_was_measured(tmp_path):
    one, other = read_serving_runs(written(tmp_path, row(), row(silicon_ttft_ms="9", silicon_tpot_ms="")))
    assert other.tpot is None
    assert predict_run(one, packaged()) == predict_run(other, packaged())


def test_the_held_out_part_hangs_on_the_configuration_alone(tmp_path):
    rows = [row(isl=isl, osl=osl, batch_size=b) for isl in (128, 4096) for osl in (1, 900) for b in (1, 500)]
    assert len({run.held_out for run in read_serving_runs(written(tmp_path, *rows))}) == 1
    systems = ["h100_sxm", "h200_sxm", "b200_sxm", "b300_sxm", "gb200", "gb300"]
    rows = [
        row(system=system, backend=backend, tp_size=tp, precision=precision)
        for system in systems
        for backend in ("vllm", "sglang", "trtllm")
        for tp in (2, 4, 8)
        for precision in ("bf16", "fp8", "fp4")
    ]
    held = [run.held_out for run in read_serving_runs(written(tmp_path, *rows))]
    assert 0.2 < sum(held) / len(held) < 0.4


@pytest.mark.parametrize(
    "text",
    ["", "id,backend\na,b\n"]
    + [
        HEADS + "\n" + row(**wrong)
        for wrong in (
            {"isl": -1}, {"isl": "nan"}, {"mode": "x"}, {"tp_size": 1.5},
            {"tp_size": 1e9}, {"silicon_tpot_ms": 0},
        )
    ],
)  # fmt: skip
def test_unreadable_runs_are_told_by_line(tmp_path, text):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(PlanError) as told:
        read_serving_runs(path)
    assert "runs.csv" in told.value.message and told.value.cure
    with pytest.raises(PlanError):
        read_serving_runs(tmp_path / "missing.csv")


def made_runs(folder: Path, count: int = 250, seed: int = 0):
    """Runs of a fleet that does exactly what the packaged factors say, times noise."""
    dice = random.Random(seed)
    rows = [
        row(
            f"r{n}",
            backend=dice.choice(["vllm", "trtllm"]),
            system=dice.choice(["h100_sxm", "h200_sxm", "b200_sxm"]),
            model_path=dice.choice(["meta-llama/Llama-3.1-70B", "Qwen/Qwen3-32B", "openai/gpt-oss-120b"]),
            tp_size=dice.choice([2, 4, 8]),
            isl=dice.choice([256, 1024, 4096]),
            osl=dice.choice([128, 1024]),
            batch_size=dice.choice([1, 8, 32, 128]),
        )
        for n in range(count)
    ]
    runs = []
    for run in read_serving_runs(written(folder, *rows)):
        true = predict_run(run, packaged())
        assert true is not None
        noise = dice.lognormvariate(0, 0.05)
        runs.append(
            replace(run, tpot=true.tpot.value * noise, ttft=true.ttft.value * dice.lognormvariate(0, 0.3))
        )
    return runs


def test_calibration_foresees_what_it_was_not_shown(tmp_path):
    runs = made_runs(tmp_path)
    found = calibrate(runs, dated="2026-01-01", provenance="made", command="none")
    pairs = [(run, prediction) for run in runs if (prediction := predict_run(run, found))]
    held = scores(pairs)[0]
    assert held.rows > 30 and held.median < 0.08 and held.mean < 0.12
    assert held.inside > 0.6
    text = json.dumps(factors.as_table(found))
    again = factors.parse(text, "made")
    one = next(run for run in runs if run.held_out)
    there, back = predict_run(one, found), predict_run(one, again)
    assert (
        there is not None
        and back is not None
        and back.tpot.value == pytest.approx(there.tpot.value, rel=1e-3)
    )


def test_nothing_held_out_is_fitted_on(tmp_path):
    """Times of held-out rows, and rows that repeat their measurements, make no difference."""
    runs = made_runs(tmp_path, 150)
    spoiled = [replace(run, tpot=9.0, ttft=9.0) if run.held_out else run for run in runs]
    repeated = replace(next(run for run in runs if not run.held_out), tpot=9.0, ttft=9.0)
    one, other = (
        calibrate(rows, dated="", provenance="", command="") for rows in (runs, [*spoiled, repeated])
    )
    assert one.tpot.common == other.tpot.common and one.ttft.levels == other.ttft.levels
    assert repeated not in usable([*spoiled, repeated])


def test_too_few_runs_are_refused(tmp_path):
    with pytest.raises(PlanError, match="measured runs"):
        calibrate(read_serving_runs(written(tmp_path, row())), dated="", provenance="", command="")


@pytest.mark.parametrize("change", [("format", "x"), ("tpot", {}), ("dated", None)])
def test_a_file_that_holds_no_factors_is_refused(tmp_path, change):
    table = factors.as_table(packaged()) | dict([change])
    path = tmp_path / "f.json"
    path.write_text(json.dumps(table))
    with pytest.raises(PlanError):
        factors.load(path)
    path.write_text("{")
    with pytest.raises(PlanError):
        factors.load(path)


def test_every_packaged_law_covers_its_terms():
    assert packaged().tpot.terms == TERMS
    for law in (packaged().tpot, packaged().ttft):
        assert all(low <= 0 <= high for low, high in law.intervals.values())


def test_scores(tmp_path):
    runs = read_serving_runs(written(tmp_path, *[row(f"r{n}", silicon_tpot_ms=10 + n) for n in range(6)]))

    def guess(factor):
        return [
            (
                run,
                Prediction(Estimate(1, 0.1, 2), Estimate(run.tpot * factor, run.tpot * 0.9, run.tpot * 1.1)),
            )
            for run in runs
            if run.tpot
        ]

    good, bad = score("good", guess(1.1)), score("bad", guess(1.3))
    assert good.median == pytest.approx(0.1) and bad.mean == pytest.approx(0.3)
    assert good.verdicts["median"] and not bad.verdicts["median"] and not bad.verdicts["mean"]
    assert good.inside == 1.0 and good.ttft_inside == 1.0 and not good.verdicts["inside"]
    assert score("few", guess(1.1)[:4]).verdicts == {} and score("none", []).verdicts == {}
    assert math.isnan(good.rank) and "rank" not in good.verdicts


def test_spearman_with_ties():
    from scipy.stats import spearmanr

    pairs = np.random.default_rng(0).integers(0, 8, (40, 2)).astype(float)
    assert spearman(pairs) == pytest.approx(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def test_no_term_of_a_run_is_negative(tmp_path):
    for run in read_serving_runs(written(tmp_path, row(), row(tp_size=1, model_path="openai/gpt-oss-120b"))):
        assert run.config is not None and run.part is not None
        terms = closed_loop_terms(
            run.config, run.deployment, run.concurrency, run.prompt, run.answer, run.part
        )
        assert (terms >= 0).all() and np.isfinite(terms).all()
