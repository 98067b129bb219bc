"""Rounds over several arms, the record they make, and what a person is shown of it."""

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
from mythos.cli.bench import choose, quiet_or_refuse
from mythos.cli.bench_measure import Case, cases
from mythos.cli.bench_peers import worker
from mythos.cli.bench_report import report
from mythos.cli.bench_rounds import OURS, Arm, Bench, Step, all_results, noise
from mythos.cli.output import CommandError, Exit
from tests.bench.toys import toy

CASES = (Case("prefill", 64), Case("decode", 2, 16))


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_rounds, "SETTLE", 0.0)  # toys do not mind a busy processor


@cache
def measured(
    *behaviours: str, rounds: int = 1, chosen: tuple[Case, ...] = CASES
) -> tuple[list[Arm], list[Step]]:
    steps: list[Step] = []
    with ExitStack() as stack:
        gauge = stack.enter_context(worker("gauge", ["-m", "mythos.cli.bench_machine"], 1))
        names = [OURS, *(f"other{n}" for n in range(1, len(behaviours)))]
        workers = [stack.enter_context(toy(behaviour)) for behaviour in behaviours]
        arms = [Arm(n, w, w.ask("load")) for n, w in zip(names, workers, strict=True)]
        Bench(arms, gauge, 1000, "tier").measure(chosen, rounds, steps)
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
        "metrics": all_results(CASES, steps, {a.name: a.about["weight_bytes"] for a in arms}),
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


def test_all_arms_are_asked_the_same_questions_and_only_who_can_drafts() -> None:
    cases = (Case("decode", 1, 16), Case("drafts", 1, 16, "chat"), Case("drafts", 1, 16, "code"))
    _, steps = measured("drafts", "well", chosen=cases)
    plain, *drafted = all_results(cases, steps, {OURS: 1, "other1": 1})
    assert plain["ratios"]["other1"]["median"] == pytest.approx(1.0)
    assert [result["name"] for result in drafted] == ["drafts-chat", "drafts-code"]
    for result in drafted:
        assert result["ratios"]["other1"]["median"] == pytest.approx(2.0)


def test_the_record_is_json_with_a_fixed_outline() -> None:
    whole = json.loads(json.dumps(record(*measured("well", "slow"))))
    assert {"name", "failed", "versions", "settings", "weight_bytes", "load_seconds", "peak_bytes"} == set(
        whole["arms"][0]
    )
    metric = whole["metrics"][0]
    assert set(metric) == {"name", "title", "unit", "more", "arms", "ratios", "best_peer"}
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


ONE = [Case("decode", 1, 16), Case("prefix", 1)]
WEIGHTS = {OURS: 135, "light": 90, "heavy": 143, "heavier": 269}


def taken(case: str, arm: str, turn: int, gbps: float = 20.0, **figures: float) -> Step:
    named = {name.replace("_", "-"): value for name, value in figures.items()}
    return Step(case, turn, arm, named, 1.0, 100.0, gbps, None)


def test_the_best_peer_is_chosen_for_each_figure_and_among_those_as_heavy() -> None:
    steps = [taken("decode-1", arm, 0, decode_1=999) for arm in WEIGHTS]  # the warm-up, which does not count
    for turn in (1, 2, 3):
        for arm, speed in zip(WEIGHTS, (100, 130, 90, 80), strict=True):
            steps.append(taken("decode-1", arm, turn, decode_1=speed))
        for arm, ms in zip(WEIGHTS, (50, 60, 70, 40), strict=True):
            steps.append(taken("prefix", arm, turn, prefix_cold=1000 + ms, prefix_warm=ms))
    decode, cold, warm = all_results(ONE, steps, WEIGHTS)
    assert decode["best_peer"] == "light"
    assert decode["best_peer_as_heavy"] == "heavy"
    assert decode["ratios"]["heavy"]["median"] == pytest.approx(100 / 90)
    assert cold["best_peer"] == warm["best_peer"] == "heavier"  # fewer milliseconds are better
    assert "best_peer_as_heavy" not in warm


def test_there_may_be_no_best_peer() -> None:
    steps = [taken("decode-1", arm, 1, decode_1=100) for arm in (OURS, "light")]
    (decode,) = all_results(ONE[:1], steps, WEIGHTS)
    assert (decode["best_peer"], decode["best_peer_as_heavy"]) == ("light", None)
    (alone,) = all_results(ONE[:1], steps[:1], WEIGHTS)
    assert (alone["best_peer"], alone["best_peer_as_heavy"]) == (None, None)


def test_the_share_of_memorys_speed_is_taken_round_by_round() -> None:
    weights = {OURS: 100_000_000}
    steps = [
        taken("decode-1", OURS, turn, gbps, decode_1=speed)
        for turn, gbps, speed in [(0, 1, 1), (1, 20, 100), (2, 10, 100), (3, 40, 100)]
    ]
    (decode,) = all_results(ONE[:1], steps, weights)
    assert decode["bandwidth_share"][OURS]["values"] == pytest.approx([0.5, 1.0, 0.25])


def test_the_report_says_what_the_best_peer_is() -> None:
    arms, _ = measured("well", "slow")
    arms = [Arm(name, arms[0].worker, {**arms[0].about, "weight_bytes": n}) for name, n in WEIGHTS.items()]
    steps = []
    for arm, speed in zip(WEIGHTS, (100, 125, 80, 50), strict=True):
        steps.append(taken("decode-1", arm, 1, decode_1=speed))
        steps.append(taken("prefix", arm, 1, prefix_cold=1000, prefix_warm=speed))
    whole = record(arms, steps) | {"metrics": all_results(ONE, steps, WEIGHTS)}
    text = shown(whole)
    assert "1.25 (1.25 - 1.25) times as fast as heavy, the best of those that read as many bytes" in text
    assert "warm as a share of cold: mythos 10%, light 12%, heavy 8%, heavier 5%" in text
    best = [line for line in text.splitlines() if line.startswith("│ decode, 1 stream ")]
    assert best and best[0].count("0.80 (0.80 - 0.80)") == 2  # as light, which is the best


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


def test_only_what_exists_can_be_chosen() -> None:
    assert [case.name for case in choose(cases(False), ["prefix", "decode-1"])] == ["decode-1", "prefix"]
    assert choose(cases(True), None) == cases(True)
    with pytest.raises(CommandError, match="nothing to measure is called decode-3"):
        choose(cases(False), ["decode-3"])
