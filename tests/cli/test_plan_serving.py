"""`mythos plan serve`, `validate-serving` and `calibrate-serving` as subprocesses."""

import json

import pytest

HEADS = (
    "id,silicon_data_source,backend,model_path,system,precision,mode,isl,osl,batch_size,tp_size,"
    "silicon_ttft_ms,silicon_tpot_ms"
)
RUNS = f"""{HEADS}
a,silicon_concurrency=16,vllm,meta-llama/Llama-3.1-70B,h200_sxm,fp8,agg,1024,1024,16,4,180,17
b,silicon_concurrency=32,vllm,meta-llama/Llama-3.1-70B,h200_sxm,fp8,agg,1024,1024,32,4,,
c,,vllm,nobody/nothing,h200_sxm,fp8,agg,1024,1024,16,4,180,17
d,,vllm,meta-llama/Llama-3.1-70B,abacus,fp8,agg,1024,1024,16,4,180,17
"""


@pytest.fixture
def runs(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(RUNS)
    return str(path)


def test_validate_as_json_has_a_line_for_each_row(mythos, runs):
    done = mythos("plan", "validate-serving", runs, "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c", "d"]
    for line in lines[:2]:
        for name in ("ttft_ms", "tpot_ms"):
            assert 0 < line[f"{name}_low"] < line[name] < line[f"{name}_high"]
    assert lines[1]["tpot_ms"] > lines[0]["tpot_ms"]
    assert [line["status"] for line in lines[2:]] == ["unknown-model", "unknown-hardware"]
    assert lines[2]["tpot_ms"] is None


def test_validate_gives_no_verdict_on_one_row(mythos, runs):
    done = mythos("plan", "validate-serving", runs)
    assert done.returncode == 0, done.stderr
    assert "held out" in done.stdout and "fitted" in done.stdout
    assert "no verdict from fewer than 5 rows" in done.stderr
    assert "unknown-model: 1 rows (nobody/nothing)" in done.stderr
    assert "unknown-hardware: 1 rows (abacus)" in done.stderr


def test_serve_in_one_page(mythos):
    done = mythos("plan", "serve", "mythos-10t", "--rate", "50", "--precision", "fp4", "--over", "opus")
    assert done.returncode == 0, done.stderr
    assert "capybara: 50 requests a second" in done.stdout and "opus: 50 requests" in done.stdout
    assert "80% interval" in done.stdout and "moved most by" in done.stdout
    assert "costs" in done.stderr and "nobody measured this" in done.stderr


def test_serve_a_file_as_json(mythos, tmp_path):
    path = tmp_path / "traffic.csv"
    rows = [f"{n * 0.2},{500 + n % 7 * 100},{50 + n % 5 * 30}" for n in range(300)]
    path.write_text("\n".join(["arrival,prompt,answer", *rows, ""]))
    done = mythos(
        "plan",
        "serve",
        "mythos-10t",
        "--tier",
        "haiku",
        "--hardware",
        "H200",
        "--traffic",
        str(path),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    (plan,) = json.loads(done.stdout)["plans"]
    assert plan["tier"] == "haiku" and plan["traffic"]["rate"] == pytest.approx(5)
    assert plan["waits"]["ttft"] <= 2 and plan["waits"]["tpot"] <= 0.05
    for found in plan["answers"].values():
        assert found["low"] <= found["value"] <= found["high"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "there is no traffic"),
        (("--rate", "-3"), "above 0"),
        (("--rate", "nan"), "above 0"),
        (("--rate", "5", "--tier", "x"), "no tier is called x"),
        (("--rate", "5", "--hardware", "abacus"), "abacus"),
        (("--rate", "5", "--precision", "fp1"), "fp1"),
        (("--rate", "5", "--hits", "2"), "hits"),
        (("--rate", "5", "--tpot", "0.0001"), "between tokens"),
        (("--rate", "5", "--assume", "luck=1"), "luck"),
        (("--rate", "5", "--prompt", "1e12"), "No layout"),
    ],
)
def test_nonsense_gets_one_sentence(mythos, arguments, words):
    done = mythos("plan", "serve", "mythos-10t", *arguments)
    assert done.returncode not in (0, 130) and "Traceback" not in done.stderr
    assert words in done.stderr and "cure: " in done.stderr


def test_calibrate_says_what_is_missing(mythos, runs):
    done = mythos("plan", "calibrate-serving", runs)
    assert done.returncode == 1 and "Give 30 or more" in done.stderr
