"""Runs one suite on one tier under its handling decision, and resumes what was stopped."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mythos.data.fetch import Progress
from mythos.engine.engine import Engine
from mythos.engine.loader import Loader
from mythos.engine.request import Delta, Request, Sampling
from mythos.evaluate import covert, errands, flaws, humaneval, mmlu_dev, mutants, reasoning_gym, refusal
from mythos.evaluate.journal import Journal
from mythos.evaluate.suite import Access, Result, Suite
from mythos.gate.authorize import authorize, decision_on, load_standing
from mythos.records.clock import Clock
from mythos.records.decision import Handling
from mythos.records.errors import MythosError
from mythos.records.evidence import Sample
from mythos.records.permit import Action, Permit, Refusal
from mythos.records.principal import Principal
from mythos.records.profile import NO_PROFILE
from mythos.records.release import Release
from mythos.spec.family import Family, Tier
from mythos.store.db import Store
from mythos.store.home import Home, write_private
from mythos.store.profiles import find_profile

PURPOSE = "evaluation"
# Those that need nothing but this package, then those that fetch or need one more.
OWN: dict[str, Callable[[], Suite]] = {
    "cyber_flaws": partial(flaws.suite, "cyber"),
    "autonomy_errands": errands.suite,
    "ai_rnd_flaws": partial(flaws.suite, "ai_rnd"),
    "misalignment_covert": covert.suite,
    "refusal": refusal.suite,
    "refusal_held_out": refusal.held_out,
}
SUITES = (*OWN, "humaneval", "mmlu_dev", "mutants", "reasoning_gym")
BATCH = 8  # results written together: a kill loses at most this many, and they are run again
FIRST = 16  # results from which the time of a run is estimated
ASK_AGAIN = 1.0  # seconds for which the gate's last answer counts
WARM_UP = 5.0  # seconds in which a tier's rate is measured, once


class EvaluationError(MythosError):
    """A suite cannot be run so."""


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """`root`, `profile`, `backend`, `mode` are those of the weights that answered.

    `isolation` is the sandbox's ("" where no program was run). `complete` False: items are missing, and it is
    no evidence. `transcripts` is the journal's path; its digest is final once the run is complete.
    """

    root: str
    profile: str
    backend: str
    mode: str
    harness: str
    suite_digest: str
    isolation: str
    samples: tuple[Sample, ...]
    complete: bool
    transcripts: Path
    transcripts_sha256: str
    started: float
    ended: float


def load_suite(home: Home, name: str, progress: Progress) -> Suite:
    """The suite called `name`, its data fetched when it is not in the cache. EvaluationError, FetchError."""
    if name in OWN:
        return OWN[name]()
    if name == "reasoning_gym":
        return reasoning_gym.suite(progress)
    makers = {"humaneval": humaneval.suite, "mmlu_dev": mmlu_dev.suite, "mutants": mutants.suite}
    if name not in makers:
        raise EvaluationError(f"There is no suite {name!r}.", f"Suites: {', '.join(SUITES)}.")
    return makers[name](home.cache, progress)


def run_suite(
    home: Home,
    store: Store,
    clock: Clock,
    principal: Principal,
    family: Family,
    tier: str,
    suite_name: str,
    elicitation: str,
    journal_dir: Path,
    limit: int | None = None,
    progress: Progress = lambda phase, done, total: None,
    announce: Callable[[str], None] = lambda text: None,
    memory: int = 4 << 30,
    profile: str = NO_PROFILE,
) -> SuiteResult:
    """All samples of one suite in one elicitation; what `journal_dir` (named by its plan's id) holds is kept.

    `limit`: the first so many items only; the result is then incomplete. `memory` bounds the engine, in
    bytes. `announce` gets a line with the expected time before the run and one after its first items.
    `profile`: a stored safeguard profile of these weights, put on where the decision demands none.
    PermissionError when the gate refuses, also in the middle; EvaluationError, JournalError, FetchError.
    """
    suite = load_suite(home, suite_name, progress)
    if elicitation not in suite.elicitations:
        choice = ", ".join(suite.elicitations)
        raise EvaluationError(f"{suite_name} has no elicitation {elicitation!r}.", f"It has {choice}.")

    def ask(action: Action) -> Permit:
        answer = authorize(load_standing(home, store, family), principal, action, tier, PURPOSE, clock.now())
        if isinstance(answer, Refusal):
            raise PermissionError(answer.message)
        if answer.profile == profile:
            return answer
        found = None if answer.profile != NO_PROFILE else find_profile(home, profile)
        if found is None or found.root != answer.root:
            raise EvaluationError(
                f"{tier} cannot be run under the profile {profile!r}.", "Name a stored one."
            )
        return replace(answer, profile=profile)  # only ever stricter: from none to some

    def decided(root: str, decision: str) -> tuple[Tier, Handling | Release]:
        state = load_standing(home, store, family)
        found = decision_on(state, root, decision, clock.now())
        if found is None:
            raise PermissionError("the decision does not hold")
        return state.family.tier(tier), found

    permit = ask(Action.ANSWER)
    find = partial(find_profile, home)
    engine = Engine(Loader(home), decided, memory, now=clock.now, profiles=find)
    engine.start()
    try:
        loaded = engine.loaded(permit)
        about = {
            "plan": journal_dir.name, "family": family.name, "tier": tier, "root": loaded.root,
            "profile": permit.profile, "backend": loaded.backend, "mode": "exact", "suite": suite.name,
            "suite_digest": suite.digest, "harness": suite.harness, "elicitation": elicitation,
        }  # fmt: skip
        journal = Journal(journal_dir / f"{suite.name}.{elicitation}.jsonl", about, clock.now())
        try:
            access = Access(engine, loaded, _lasting(lambda: ask(Action.ANSWER)))
            expect = partial(_rate, home, access)
            _run(suite, access, elicitation, journal, limit, progress, announce, expect)
            if len(journal.samples) == len(suite.items):
                journal.end(clock.now())
            return SuiteResult(
                root=loaded.root,
                profile=permit.profile,
                backend=loaded.backend,
                mode="exact",
                harness=suite.harness,
                suite_digest=suite.digest,
                isolation=",".join(sorted(journal.isolation)),
                samples=tuple(journal.samples[i.id] for i in suite.items if i.id in journal.samples),
                complete=journal.ended is not None,
                transcripts=journal.path,
                transcripts_sha256=journal.sha256(),
                started=journal.started,
                ended=clock.now() if journal.ended is None else journal.ended,
            )
        finally:
            journal.close()
    finally:
        engine.stop()


def _lasting(ask: Callable[[], Permit]) -> Callable[[], Permit]:
    """`ask`, whose answer counts for ASK_AGAIN seconds. A refusal is not kept."""
    lock, last, asked = threading.Lock(), ask(), time.monotonic()

    def permit() -> Permit:
        nonlocal last, asked
        with lock:
            if time.monotonic() - asked > ASK_AGAIN:
                last, asked = ask(), time.monotonic()
            return last

    return permit


def _rate(home: Home, access: Access) -> float:
    """Tokens a second that 16 streams of these weights write here; measured once in WARM_UP seconds."""
    file = home.cache / f"rate-{access.loaded.root[:16]}.json"
    if file.exists():
        return float(json.loads(file.read_bytes())["tokens_per_second"])
    request = Request(tuple(access.plain("A story:")), 512, Sampling(0.0), stop_at_eos=False)
    running = [access.engine.submit(access.permit(), request) for _ in range(16)]
    began, written = time.monotonic(), 0
    for event in running[0]:
        written += len(event.tokens) if isinstance(event, Delta) else 0
        if time.monotonic() - began > WARM_UP:
            break
    rate = max(1, written) * len(running) / (time.monotonic() - began)
    for generation in running:
        generation.cancel()
    write_private(file, json.dumps({"tokens_per_second": rate}).encode(), replace=True)
    return rate


def _run(
    suite: Suite,
    access: Access,
    elicitation: str,
    journal: Journal,
    limit: int | None,
    progress: Progress,
    announce: Callable[[str], None],
    expect: Callable[[], float],
) -> None:
    items = suite.items[:limit]
    left = [item for item in items if item.id not in journal.samples]
    if len(left) > FIRST:
        minutes = len(left) * suite.tokens / expect() / 60
        announce(f"{suite.name}: {len(left)} items, about {minutes:.1f} minutes by the rate of these weights")
    done, began = len(items) - len(left), time.monotonic()
    batch: list[Result] = []
    for count, result in enumerate(suite.run(access, elicitation, left), 1):
        batch.append(result)
        if len(batch) == BATCH or count == len(left):
            journal.add(batch)
            batch = []
            progress(suite.name, done + count, len(items))
        if count == FIRST and len(left) > FIRST:
            seconds = (time.monotonic() - began) / count * (len(left) - count)
            announce(f"{suite.name}: about {seconds / 60:.1f} minutes more, by the first {FIRST} items")
