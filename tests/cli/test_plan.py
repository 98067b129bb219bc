"""`mythos plan fit` as a subprocess."""

import json
from dataclasses import replace

import pytest

from tests.plan.sweeps import EPOCH, sweep


@pytest.fixture
def runs(tmp_path):
    """Two series of one law, the second of twice the loss."""
    path = tmp_path / "runs.csv"
    rows = [
        f"{name},{run.params},{run.params / 2},{run.tokens},{run.loss * factor}"
        for name, factor in (("one", 1), ("two", 2))
        for run in sweep(EPOCH, noise=0.003)
    ]
    path.write_text("\n".join(["series,params,body,tokens,loss", *rows, ""]))
    return str(path)


def test_fits_and_forecasts(mythos, runs):
    wanted = ("--forecast", "7B:140B", "--forecast", "1e9:2e10", "--budget", "1e22")
    done = mythos("plan", "fit", runs, "--series", "series", *wanted, "--json")
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout)["fits"]
    assert one["series"] == {"series": "one"} and "draws" not in one and one["runs"] == 16
    assert one["low"]["alpha"] <= EPOCH.alpha <= one["high"]["alpha"]
    ahead = one["forecasts"][0]
    assert ahead["params"] == 7e9 and ahead["loss"]["low"] < ahead["loss"]["value"] < ahead["loss"]["high"]
    assert ahead["loss"]["value"] == pytest.approx(EPOCH.loss(7e9, 140e9), rel=0.02)
    assert two["forecasts"][0]["loss"]["value"] == pytest.approx(2 * ahead["loss"]["value"], rel=1e-3)
    best = one["optimal"][0]
    assert 6 * best["active"]["value"] * best["tokens"]["value"] == pytest.approx(1e22)

    done = mythos("plan", "fit", runs, "--series", "series", *wanted)
    assert done.returncode == 0 and "series two: 16 runs" in done.stdout
    assert all(word in done.stdout for word in ("alpha", "95% interval", "7.0B", "140.0B", "1e+22"))
    assert " mu " not in done.stdout and "may bend" in done.stderr


def test_another_count_of_parameters(mythos, runs):
    done = mythos(
        "plan", "fit", runs, "--series", "series", "--params", "body", "--forecast", "3.5B:140B", "--json"
    )
    loss = json.loads(done.stdout)["fits"][0]["forecasts"][0]["loss"]["value"]
    assert loss == pytest.approx(EPOCH.loss(7e9, 140e9), rel=0.02)


def test_mixtures_of_experts(mythos, tmp_path):
    law = replace(EPOCH, mu=0.12)
    path = tmp_path / "runs.csv"
    rows = [f"{r.params},{r.active or ''},{r.tokens},{r.loss}" for r in sweep(law, ratios=(1, 8))]
    path.write_text("\n".join(["params,active_params,tokens,loss", *rows, ""]))
    wanted = ("--forecast", "56B:140B:7B", "--budget", "1e22:8")
    done = mythos("plan", "fit", str(path), *wanted, "--json")
    (found,) = json.loads(done.stdout)["fits"]
    assert found["law"]["mu"] == pytest.approx(0.12, rel=0.01) and found["ratio"] is None
    assert found["forecasts"][0]["loss"]["value"] == pytest.approx(law.loss(7e9, 140e9, 8), rel=1e-3)
    assert found["optimal"][0]["ratio"] == 8
    done = mythos("plan", "fit", str(path), *wanted)
    assert " mu " in done.stdout and "56.0B, 7.0B active" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--forecast", "7B"], 2),
        (["--forecast", "big:140B"], 2),
        (["--budget", "1e21:2:3"], 2),
        (["--budget", "-1"], 1),
        (["--series", "nothing"], 1),
        (["--forecast", "8B:140B:1B"], 1),
    ],
)
def test_errors_name_a_cure(mythos, runs, arguments, code):
    done = mythos("plan", "fit", runs, *arguments)
    assert done.returncode == code and done.stderr.startswith("error: ") and "\ncure: " in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_help(mythos):
    done = mythos("plan", "fit", "--help")
    assert done.returncode == 0 and "--json" in done.stdout and "PARAMS:TOKENS" in done.stdout
    assert "plan" in mythos("--help").stdout
