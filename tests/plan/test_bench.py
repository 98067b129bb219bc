"""Scripts of bench/ as subprocesses, on data made by a known law."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mythos.plan.factors import load

from .sweeps import EPOCH, SIZES, sweep

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "scaling_fit.py"


@pytest.mark.parametrize(("extra", "held"), [((), SIZES[-1]), (("--second",), SIZES[-2])])
def test_forecasts_the_size_left_out(tmp_path, extra, held):
    path = tmp_path / "runs.csv"
    runs = sweep(EPOCH, sizes=(2.5e6, *SIZES), noise=0.001)
    rows = [f"a,b,{run.params},{run.tokens},{run.loss}" for run in runs]
    path.write_text("\n".join(["train_set,val_set,params,tokens,loss", *rows, ""]))
    command = [sys.executable, str(SCRIPT), str(path), "--params", "params", *extra]
    told = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert [cell["params"] for cell in told["cells"]] == [held] * 4
    assert told["largest_error"] < 0.02 and told["seconds"] > 0
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "4 cells: median error" in shown and len(shown.splitlines()) == 9


OWN = SCRIPT.with_name("plan_own_engine.py")


def own_record(held_out: float) -> dict:
    """What `mythos bench` would write of a machine of 50 GFLOP/s and 20 GB/s, whose step takes 13.5 ms and
    4 ms a row more; four streams take `held_out` times that."""

    def turn(case: str, seconds: float, work: int, round_: int) -> dict:
        return {
            "case": case, "arm": "mythos", "round": round_, "figures": {case: work / seconds},
            "gflops": 50.0, "gbps": 20.0,
        }  # fmt: skip

    reading, row = 0.0135, 0.004
    steps = [turn("decode-1", 9.9, 1, 0)]  # a warm-up
    for round_ in (1, 2, 3):
        steps += [turn(f"decode-{n}", reading + row * n, n, round_) for n in (1, 16)]
        steps += [
            turn("decode-4", (reading + row * 4) * held_out, 4, round_),
            turn("prefill-512", 2.0, 512, round_),
        ]
    return {
        "quick": True, "finished": "2026-01-02T00:00:00Z", "threads": 2, "machine": {"processor": "a CPU"},
        "model": {"family": "pocket", "tier": "opus"}, "steps": steps,
    }  # fmt: skip


@pytest.mark.parametrize("held_out", [1.0, 2.0])
def test_four_streams_are_foreseen_from_one_and_sixteen(tmp_path, held_out):
    path, kept = tmp_path / "bench.json", tmp_path / "own.json"
    path.write_text(json.dumps(own_record(held_out)))
    command = [sys.executable, str(OWN), "--record", str(path), "--factors", str(kept), "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    errors = {row["case"]: row["error"] for row in told["cases"]}
    assert {name: row["half"] for name, row in ((r["case"], r) for r in told["cases"])}[
        "decode-4"
    ] == "held out"
    assert all(abs(errors[name]) < 0.005 for name in ("decode-1", "decode-16", "prefill-512"))
    assert errors["decode-4"] == pytest.approx(1 / held_out - 1, abs=0.01)
    found = load(kept)
    assert found.dated == "2026-01-02" and "a CPU" in found.provenance and "mythos" in found.provenance


def test_a_record_without_what_is_foreseen(tmp_path):
    path, record = tmp_path / "bench.json", own_record(1.0)
    record["steps"] = [step for step in record["steps"] if step["case"] != "decode-4"]
    path.write_text(json.dumps(record))
    found = subprocess.run([sys.executable, str(OWN), "--record", str(path)], capture_output=True, text=True)
    assert found.returncode == 1 and "--only decode-4" in found.stderr
