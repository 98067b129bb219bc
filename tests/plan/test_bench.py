"""`bench/scaling_fit.py` as a subprocess, on a sweep of a known law."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
