"""`mythos evaluate` and `evidence`: promise a suite, run it, sign what came out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mythos.cli.desk import DAY, Desk, listing, open_desk, profile_named, said
from mythos.cli.output import CommandError, Exit, emit, json_wanted, note
from mythos.cli.progress import progress
from mythos.gate.apply import EVALUATORS
from mythos.gate.bounds import clustered_upper
from mythos.gate.submit import submit
from mythos.records.canonical import canonical
from mythos.records.evidence import Evidence, Judge, Outcome, Plan
from mythos.records.ids import new_id
from mythos.records.principal import OPERATOR
from mythos.records.profile import CHECKS
from mythos.records.signed import digest, seal
from mythos.store.home import private_directory
from mythos.store.profiles import find_profile

if TYPE_CHECKING:
    from mythos.evaluate.run import SuiteResult


@dataclass(frozen=True, slots=True)
class Bound:
    """The worst elicitation of one record, as far as its samples say: no verdict, which is the gate's."""

    samples: int
    failures: int
    upper: float


def plan(family: str, tier: str, suite_name: str, elicitations: Sequence[str], profile: str, who: str) -> int:
    """Log the plan of one suite on a tier's weights under a profile, before its first sample."""
    from mythos.evaluate.judge import judge_for
    from mythos.evaluate.run import load_suite

    desk = open_desk()
    declared, root = desk.tier(family, tier)
    person, secret = desk.key(who, EVALUATORS)
    with progress("evaluate") as report:
        suite = load_suite(desk.records.home, suite_name, report)
    judge = judge_for(suite.name)
    record = Plan(
        id=new_id("plan"),
        deployment=desk.state.deployment,
        family=declared.name,
        tier=tier,
        root=root,
        profile=profile_named(desk.records.home, root, profile),
        suite=suite.name,
        suite_digest=suite.digest,
        harness=suite.harness,
        items=len(suite.items),
        elicitations=tuple(elicitations) or suite.elicitations,
        looks=1,
        policy=desk.state.policy,
        judge=digest(judge) if judge else "",
        evaluator=person,
    )
    if unknown := set(record.elicitations) - set(suite.elicitations):
        choice = ", ".join(suite.elicitations)
        raise CommandError(f"{suite_name} has no elicitation {min(unknown)}", f"it has {choice}", Exit.USAGE)
    submit(*desk.acting, seal(record, secret))
    count = f"{record.items} items x {len(record.elicitations)} elicitations"
    about = f"{suite_name} on {tier} under {record.profile}"
    labels = f"; judged by {judge.name}, labels by {_labels_by(judge)}" if judge else ""
    return said(desk, f"{record.id}: {about} is planned, {count}{labels}", record)


def run(family: str, tier: str, suite: str | None, who: str | None) -> int:
    """Run what is planned for a tier and not answered yet; with `who`, sign and submit it. Resumes."""
    desk = open_desk()
    declared, root = desk.tier(family, tier)
    answered = {piece.plan for piece in desk.state.evidence.values()}
    plans = [
        one
        for one in desk.state.plans.values()
        if one.root == root and one.id not in answered and suite in (None, one.suite)
    ]
    if not plans:
        cure = f"mythos evaluate plan {tier} --suite {suite or 'S'} --as EVALUATOR"
        raise CommandError(f"nothing is planned for {tier}", cure, Exit.REFUSED)
    signer = desk.key(who, EVALUATORS) if who else None
    from mythos.evaluate.run import run_suite

    done = []
    for one in plans:
        if signer and one.evaluator != signer[0]:
            raise CommandError(
                f"{one.id} is planned by {one.evaluator}", f"--as {one.evaluator}", Exit.REFUSED
            )
        place = desk.records.home.path / "evaluations"
        private_directory(place)
        private_directory(place / one.id)
        results = []
        for elicitation in one.elicitations:
            with progress("evaluate") as report:
                results.append(
                    run_suite(
                        desk.records.home, desk.records.store, desk.records.clock, OPERATOR, declared, tier,
                        one.suite, elicitation, place / one.id, progress=report, announce=note,
                        profile=one.profile,
                    )
                )  # fmt: skip
        piece = _evidence(desk, one, results)
        if signer:
            submit(*desk.acting, seal(piece, signer[1]))
        done.append(
            {"plan": one.id, "suite": one.suite, **_row(piece), "evidence": piece.id if signer else ""}
        )
    if json_wanted():
        emit({"drill": desk.state.drill, "runs": done})
        return 0
    listing(desk, "runs", done, "")
    if not signer:
        note(f"next: mythos evidence submit {tier} --as EVALUATOR")
    return 0


def _evidence(desk: Desk, one: Plan, results: "Sequence[SuiteResult]") -> Evidence:
    """What ran, as it was found: whether it is what was planned is the gate's to decide."""
    from mythos.evaluate.judge import judge_for

    if len({(r.root, r.profile, r.harness, r.suite_digest) for r in results}) != 1:
        raise CommandError("weights or suite changed during the run", "plan it again", Exit.REFUSED)
    guard = find_profile(desk.records.home, results[0].profile)
    transcripts = canonical([[path.transcripts.name, path.transcripts_sha256] for path in results])
    return Evidence(
        id=new_id("ev"),
        deployment=desk.state.deployment,
        plan=one.id,
        root=results[0].root,
        profile=results[0].profile,
        suite_digest=results[0].suite_digest,
        harness=results[0].harness,
        look=1,
        samples=tuple(sample for result in results for sample in result.samples),
        judge=judge_for(one.suite),
        transcripts=hashlib.sha256(transcripts).hexdigest(),
        isolation=",".join(sorted({result.isolation for result in results} - {""})) or "none",
        evaluator=one.evaluator,
        started=min(result.started for result in results),
        ended=max(result.ended for result in results),
        checks=CHECKS if guard else (),
        categories=guard.categories if guard else (),
    )


def _labels_by(judge: Judge) -> str:
    return ", ".join(sorted({label.by for label in judge.labelled}))


def evidence(tier: str | None) -> int:
    desk = open_desk()
    state, now = desk.state, desk.records.clock.now()
    rows = []
    for piece in state.evidence.values():
        one = state.plans[piece.plan]
        if tier not in (None, one.tier):
            continue
        lives = (
            [d.max_age_days for d in state.pack.domains if one.suite in (*d.suites, d.precursor)]
            if state.pack
            else []
        )
        rows.append(
            {
                "id": piece.id,
                "tier": one.tier,
                "suite": one.suite,
                "profile": one.profile,
                "by": piece.evaluator,
                **_row(piece),
                "labels_by": _labels_by(piece.judge) if piece.judge else "",
                "age_days": round((now - state.at[one.id]) / DAY, 1),
                "until": state.at[one.id] + min(lives) * DAY if lives else "",
            }
        )
    return listing(desk, "evidence", rows, "none yet: mythos evaluate plan TIER --suite S --as EVALUATOR")


def _row(piece: Evidence) -> dict[str, object]:
    text, upper = shows(piece)
    return {"samples": len(piece.samples), "shows": text, "at_most": "" if upper is None else upper}


def shows(piece: Evidence) -> tuple[str, float | None]:
    """What the samples show, and its upper bound; of prompts to refuse and to answer, how many were."""
    sides = []
    for side in ("refuse", "answer"):
        outcomes = [sample.outcome for sample in piece.samples if sample.id.startswith(f"{side}:")]
        if outcomes:
            sides.append(f"{outcomes.count(Outcome.REFUSAL)}/{len(outcomes)} to {side} refused")
    if sides:
        return "; ".join(sides), None
    bound = bound_of(piece)
    return f"{bound.samples - bound.failures}/{bound.samples} not failed", bound.upper


def bound_of(piece: Evidence) -> Bound:
    """95% upper bound of the elicitation that showed most; whatever is no clear failure is success."""
    worst = Bound(0, 0, 0.0)
    for elicitation in {sample.elicitation for sample in piece.samples}:
        clusters: dict[str, list[bool]] = {}
        for sample in piece.samples:
            if sample.elicitation == elicitation:
                clusters.setdefault(sample.cluster, []).append(sample.outcome is not Outcome.FAILURE)
        upper = clustered_upper(clusters, 0.95)
        if upper >= worst.upper:
            flat = [yes for values in clusters.values() for yes in values]
            worst = Bound(len(flat), flat.count(False), upper)
    return worst
