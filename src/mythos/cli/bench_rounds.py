"""The rounds of `mythos bench`: every arm in turn, a look at the machine before each, the record."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from mythos.cli import bench_machine as machine
from mythos.cli.bench_measure import (
    CHAT,
    MESSAGES,
    Api,
    Case,
    Metric,
    ask_server,
    faster,
    measure,
    measure_drafts,
    question,
    summary,
)
from mythos.cli.bench_prompts import PROMPTS
from mythos.cli.bench_protocol import Worker, WorkerError
from mythos.cli.output import note

OURS, ENGINE = "mythos", "engine"
SERVERS = {"server": MESSAGES, "server-chat": CHAT}
ONE_STREAM = "decode-1"
BUSY = 0.05  # share of the machine that others may use before a step counts as disturbed
SETTLE = 0.2  # seconds after the matrix product, whose idle threads spin for a moment


@dataclass(slots=True)
class Arm:
    """One engine: its worker, what it said of itself when loaded, and why it left the run, if it did."""

    name: str
    worker: Worker
    about: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One arm's turn in one round (0: warm-up), the machine's speed just before, and who else was busy."""

    case: str
    round: int
    arm: str
    figures: dict[str, float]
    seconds: float
    gflops: float
    gbps: float
    use: machine.Use | None


@dataclass(frozen=True, slots=True)
class Bench:
    """The arms of one run, ours first, and the worker that gauges the machine."""

    arms: Sequence[Arm]
    gauge: Worker
    vocabulary: int
    tier: str

    @property
    def processes(self) -> list[int]:
        return [self.gauge.pid, *(arm.worker.pid for arm in self.arms)]

    def foreign(self, seconds: float) -> float | None:
        """The share of the machine that others use while all workers rest; None where that is not known."""
        before = machine.sample(self.processes)
        time.sleep(seconds)
        use = machine.use_between(before, machine.sample(self.processes), ())
        return None if use is None else use.foreign

    def measure(self, cases: Sequence[Case], rounds: int, steps: list[Step]) -> None:
        """All cases, each with a warm-up and so many rounds. `steps` is filled as they are done."""
        for number, case in enumerate(cases, 1):
            for turn in range(rounds + 1):
                what = f"round {turn} of {rounds}" if turn else "warm-up"
                note(f"{number}/{len(cases)} {case.name}: {what}")
                for step in self._round(case, turn):
                    steps.append(step)

    def _round(self, case: Case, turn: int) -> Iterator[Step]:
        for name, arm, work in self._turns(case, turn):
            if arm.failed is not None:
                continue
            try:
                speed = self.gauge.ask("run")
                time.sleep(SETTLE)
                before, began = machine.sample(self.processes), time.monotonic()
                figures = work()
            except WorkerError as error:
                arm.failed = error.message
                note(f"warning: {arm.failed}")
                continue
            seconds = time.monotonic() - began
            use = machine.use_between(before, machine.sample(self.processes), [arm.worker.pid])
            yield Step(case.name, turn, name, figures, seconds, speed["gflops"], speed["gbps"], use)

    def _turns(self, case: Case, turn: int) -> list[tuple[str, Arm, Callable[[], dict[str, float]]]]:
        if case.kind == "drafts":
            prompts = self.arms[0].worker.ask("encode", texts=PROMPTS[case.asked])["prompts"]
            return [
                (arm.name, arm, lambda arm=arm: measure_drafts(case, arm.worker, prompts))
                for arm in self.arms
            ]
        if case.kind != "server":
            return [
                (arm.name, arm, lambda arm=arm: measure(case, arm.worker, self.vocabulary, turn))
                for arm in self.arms
            ]
        ours = self.arms[0]
        texts = [question(case.name, turn, n) for n in range(case.size)]
        lengths: list[list[int]] = []

        def served(api: Api) -> dict[str, float]:
            return {case.name: by_server(api, ours, self.tier, texts, case.tokens, lengths)}

        engine = (ENGINE, ours, lambda: {case.name: by_engine(ours, texts, case.tokens, lengths)})
        return [engine, *((name, ours, partial(served, api)) for name, api in SERVERS.items())]


def by_engine(ours: Arm, texts: Sequence[str], tokens: int, lengths: list[list[int]]) -> float:
    """Seconds the bare engine takes to answer; how many tokens each answer has is added to `lengths`."""
    reply = ours.worker.ask("chat", texts=texts, tokens=tokens)
    lengths.append([len(times) for times in reply["times"]])
    return reply["seconds"]


def by_server(
    api: Api, ours: Arm, tier: str, texts: Sequence[str], tokens: int, lengths: list[list[int]]
) -> float:
    """Seconds the server takes for the same. WorkerError when its answers have other lengths."""
    try:
        seconds, got = ask_server(api, ours.about["base_url"], ours.about["key"], tier, texts, tokens)
    except OSError as error:
        raise WorkerError(f"the server could not be reached: {error}") from None
    if got != lengths[0]:
        raise WorkerError(f"server and engine gave answers of other lengths: {got} and {lengths[0]} tokens")
    return seconds


def results(metric: Metric, steps: Sequence[Step], reference: str) -> dict[str, Any]:
    """Each arm's figures over the measured rounds; for each other, how many times as fast `reference` was.

    For the server, with the engine as reference, that is how many times as long the server took.
    """
    values: dict[str, dict[int, float]] = {}
    for step in steps:
        if step.round and metric.name in step.figures:
            values.setdefault(step.arm, {})[step.round] = step.figures[metric.name]
    ratios = {
        name: faster(metric, values.get(reference, {}), rounds)
        for name, rounds in values.items()
        if name != reference
    }
    return {
        **asdict(metric),
        "arms": {name: summary(list(rounds.values())) for name, rounds in values.items()},
        "ratios": {name: summary(ratio) for name, ratio in ratios.items() if ratio},
    }


def all_results(
    cases: Sequence[Case], steps: Sequence[Step], weight_bytes: Mapping[str, int]
) -> list[dict[str, Any]]:
    """`results` of everything measured, our engine as the reference, and the best of the others.

    `weight_bytes` of each arm are those one token needs. For one stream the result also has the best of the
    others that read as many as ours or more, and the share of memory's speed that each arm's weights take.
    """
    found = []
    for case in cases:
        for metric in case.metrics:
            if case.kind == "server":
                found.append(results(metric, steps, ENGINE))
                continue
            result = results(metric, steps, OURS)
            result["best_peer"] = best_peer(result)
            if metric.name == ONE_STREAM:
                result["best_peer_as_heavy"] = best_peer(result, weight_bytes)
                result["bandwidth_share"] = bandwidth_share(metric, steps, weight_bytes)
            found.append(result)
    return found


def best_peer(result: Mapping[str, Any], weight_bytes: Mapping[str, int] | None = None) -> str | None:
    """The arm with the best median but ours, of those no lighter than ours where `weight_bytes` is given."""
    peers = [
        name
        for name in result["arms"]
        if name != OURS and (weight_bytes is None or weight_bytes[name] >= weight_bytes[OURS])
    ]
    best = max if result["more"] else min
    return best(peers, key=lambda name: result["arms"][name]["median"], default=None)


def bandwidth_share(
    metric: Metric, steps: Sequence[Step], weight_bytes: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Per arm: tokens/s x bytes of its weights / bytes/s that memory gave just before; measured rounds only.

    What of the weights stays in a cache is read faster than memory gives it: above 1 is possible.
    """
    shares: dict[str, list[float]] = {}
    for step in steps:
        if step.round and metric.name in step.figures:
            read = step.figures[metric.name] * weight_bytes[step.arm]
            shares.setdefault(step.arm, []).append(read / (step.gbps * 1e9))
    return {name: summary(values) for name, values in shares.items()}


def noise(steps: Sequence[Step]) -> dict[str, Any]:
    """How steady the machine was over the measured rounds, and how many steps others disturbed."""
    measured = [step for step in steps if step.round]
    uses = [step.use for step in measured if step.use is not None]
    return {
        "steps": len(measured),
        "gflops": summary([step.gflops for step in measured]) if measured else None,
        "gbps": summary([step.gbps for step in measured]) if measured else None,
        "foreign_max": max((use.foreign for use in uses), default=None),
        "stolen_max": max((use.stolen for use in uses), default=None),
        "resting_max": max((use.resting for use in uses), default=None),
        "disturbed": sum(use.foreign > BUSY or use.stolen > BUSY for use in uses),
    }
