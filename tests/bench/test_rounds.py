"""Rounds over several arms, the record they make, and what a person is shown of it."""

import hashlib
import io
import json
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from mythos.cli import bench_machine as machine
from mythos.cli import bench_rounds
from mythos.cli.bench import CHECKOUT, PEERS, choose, peer_arms, peer_packages, quiet_or_refuse, worker
from mythos.cli.bench_measure import Case, cases
from mythos.cli.bench_report import report
from mythos.cli.bench_rounds import OURS, Arm, Bench, Step, all_results, noise
from mythos.cli.output import CommandError, Exit
from tests.bench.toys import toy

CASES = [Case("prefill", 64), Case("decode", 2, 16)]


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_rounds, "SETTLE", 0.0)  # toys do not mind a busy processor


@cache
def measured(*behaviours: str, rounds: int = 1) -> tuple[list[Arm], list[Step]]:
    steps: list[Step] = []
    with ExitStack() as stack:
        gauge = stack.enter_context(worker("gauge", ["-m", "mythos.cli.bench_machine"], 1))
        names = [OURS, *(f"other{n}" for n in range(1, len(behaviours)))]
        workers = [stack.enter_context(toy(behaviour)) for behaviour in behaviours]
        arms = [Arm(n, w, w.ask("load")) for n, w in zip(names, workers, strict=True)]
        Bench(arms, gauge, 1000, "tier").measure(CASES, rounds, steps)
    return arms, steps


def record(arms: list[Arm], steps: list[Step]) -> dict:
    return {
        "format": "mythos-bench/1",
        "finished": "2026-01-01T00:00:00Z",
        "interrupted": False,
        "quick": False,
        "machine": machine.describe(),
        "model": {"family": "tiny", "tier": "tier", "root": "00", "file": "file"},
        "threads": 1,
        "rounds": 2,
        "arms": [{"name": a.name, "failed": a.failed, "peak_bytes": None, **a.about} for a in arms],
        "skipped": {"another": "not installed; make bench-peers"},
        "metrics": all_results(CASES, steps),
        "noise": noise(steps),
        "steps": [asdict(step) for step in steps],
    }


def shown(record: dict) -> str:
    console = Console(file=io.StringIO(), width=160)
    for part in report(record):
        console.print(part, highlight=False)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_arms_take_turns_and_the_warm_up_does_not_count() -> None:
    arms, steps = measured("well", "slow", rounds=2)
    assert [(s.case, s.round, s.arm) for s in steps] == [
        (case.name, turn, arm) for case in CASES for turn in (0, 1, 2) for arm in (OURS, "other1")
    ]
    whole = record(arms, steps)
    for metric in whole["metrics"]:
        assert len(metric["arms"][OURS]["values"]) == 2
        assert metric["ratios"]["other1"]["median"] == pytest.approx(2.0)
    assert whole["noise"]["steps"] == 8
    assert all(step.gflops > 0 and step.gbps > 0 for step in steps)


def test_the_record_is_json_with_a_fixed_outline() -> None:
    whole = json.loads(json.dumps(record(*measured("well", "slow"))))
    assert {"name", "failed", "versions", "settings", "weight_bytes", "load_seconds", "peak_bytes"} == set(
        whole["arms"][0]
    )
    metric = whole["metrics"][0]
    assert set(metric) == {"name", "title", "unit", "more", "arms", "ratios"}
    assert set(metric["arms"][OURS]) == set(metric["ratios"]["other1"]) == {"median", "min", "max", "values"}
    assert set(whole["steps"][0]) == {
        "case", "round", "arm", "figures", "seconds", "gflops", "gbps", "use",
    }  # fmt: skip


def test_an_arm_that_dies_leaves_and_the_others_go_on() -> None:
    arms, steps = measured("well", "dies", "well", rounds=2)
    assert (arms[1].failed or "").startswith("toy-dies died (exit status 3); it said")
    assert arms[0].failed is arms[2].failed is None
    assert {s.arm for s in steps if s.case == "decode-2" and s.round} == {OURS, "other2"}
    assert "left the run: toy-dies died" in shown(record(arms, steps))


def test_ours_may_die_too() -> None:
    arms, steps = measured("fails", "well")
    assert arms[0].failed is not None
    text = shown(record(arms, steps))
    assert "left the run: toy-fails: run failed" in text
    assert "decode, 2 streams" in text


def test_the_report_names_machine_figures_versions_and_what_is_missing() -> None:
    text = shown(record(*measured("well", "slow")))
    assert machine.describe()["processor"] in text
    assert "prefill, 64 tokens, tok/s" in text
    assert "2.00 (2.00 - 2.00)" in text
    assert "toy 1" in text
    assert "another: not measured (not installed; make bench-peers)" in text
    assert "matrix product" in text


def test_a_run_without_a_measurement_still_reports() -> None:
    arms, _ = measured("well", "slow")
    assert "nothing was measured" in shown(record(arms, []))


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc")
def test_work_of_a_worker_is_not_taken_for_another_process() -> None:
    with worker("gauge", ["-m", "mythos.cli.bench_machine"], 1) as gauge:
        gauge.ask("load")
        before = machine.sample([gauge.pid])
        for _ in range(10):
            gauge.ask("run")
        after = machine.sample([gauge.pid])
    assert before is not None and after is not None
    used = after.ours[gauge.pid] - before.ours[gauge.pid]
    assert used > 0
    asked = machine.use_between(before, after, [gauge.pid])
    unasked = machine.use_between(before, after, [])
    assert asked is not None and unasked is not None
    assert asked.resting == 0
    assert unasked.resting == pytest.approx(used / (after.at - before.at))
    assert (
        asked.foreign == unasked.foreign <= (after.busy - before.busy - used + 0.02) / (after.at - before.at)
    )


def test_others_at_work_are_refused_unless_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    quiet_or_refuse(0.01, False)
    quiet_or_refuse(None, False)
    with pytest.raises(CommandError, match="40%") as caught:
        quiet_or_refuse(0.4, False)
    assert caught.value.code == Exit.REFUSED
    quiet_or_refuse(0.4, True)
    assert "prove nothing" in capsys.readouterr().err


def checkout(path: Path, stamp: str | None) -> Path:
    (path / "bench").mkdir()
    for name in ("peers.lock", *(f"{peer}_worker.py" for peer in PEERS)):
        (path / "bench" / name).write_bytes((CHECKOUT / "bench" / name).read_bytes())
    (path / ".cache" / "peers").mkdir(parents=True)
    if stamp is not None:
        (path / ".cache" / "peers" / "installed").write_text(stamp)
    return path


def test_where_the_peers_are_or_why_not(tmp_path: Path) -> None:
    assert "source checkout" in str(peer_packages(tmp_path))
    place = checkout(tmp_path, None)
    assert peer_packages(place) == "not installed; make bench-peers"
    stamp = place / ".cache" / "peers" / "installed"
    stamp.write_text("0" * 64)
    assert "older bench/peers.lock" in str(peer_packages(place))
    stamp.write_text(hashlib.sha256((place / "bench" / "peers.lock").read_bytes()).hexdigest() + "\n")
    assert peer_packages(place) == place / ".cache" / "peers"


def test_peers_that_are_not_there_are_left_out_with_a_reason(tmp_path: Path) -> None:
    lock = (CHECKOUT / "bench" / "peers.lock").read_bytes()
    model = {"file": "none.gguf", "threads": 1, "file_weight_bytes": 1}
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        place = checkout(tmp_path, hashlib.sha256(lock).hexdigest())
        assert peer_arms(stack, 1, model, skipped, place) == []
    assert list(skipped) == list(PEERS)
    assert all("no module" in reason and "make bench-peers" in reason for reason in skipped.values())


def test_only_what_exists_can_be_chosen() -> None:
    assert [case.name for case in choose(cases(False), ["prefix", "decode-1"])] == ["decode-1", "prefix"]
    assert choose(cases(True), None) == cases(True)
    with pytest.raises(CommandError, match="nothing to measure is called decode-3"):
        choose(cases(False), ["decode-3"])
