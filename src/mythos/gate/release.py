"""May this subject be released? One pure function over the state; and which releases stand at a moment."""

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from mythos.gate.reports import unpublished
from mythos.gate.state import State, developers, later, suspended
from mythos.gate.verdict import DomainVerdict, Run, domain_verdict, safeguard_verdict
from mythos.gate.votes import DAY, Count, count, enrolled, same_place, vetoes
from mythos.records.canonical import canonical
from mythos.records.evidence import Evidence
from mythos.records.policy import AudienceClass, PolicyPack, StageRule
from mythos.records.profile import NO_PROFILE
from mythos.records.reasons import Code, Verdict
from mythos.records.release import STAGES, Release, Stage, Subject
from mythos.records.signed import digest


@dataclass(frozen=True, slots=True)
class Because:
    """One reason. `verdict` is what it alone makes of the whole."""

    verdict: Verdict
    code: Code
    detail: str


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """`verdict` is the worst of the reasons, ALLOW when there is none. `expires_at` when it would lapse."""

    verdict: Verdict
    reasons: tuple[Because, ...]
    domains: tuple[DomainVerdict, ...] = ()
    votes: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    expires_at: float = 0.0


@dataclass(slots=True)
class _Found:
    reasons: list[Because] = field(default_factory=list)

    def block(self, code: Code, detail: str) -> None:
        self.reasons.append(Because(Verdict.BLOCK, code, detail))

    def hold(self, code: Code, detail: str) -> None:
        self.reasons.append(Because(Verdict.HOLD, code, detail))


def check(
    state: State, subject: Subject, requester: str, strategy: str, now: float, rollback: bool = False
) -> GateAnswer:
    """What the gate says of releasing `subject` at `now`, asked by the person `requester`. Pure.

    Every reason is found, not only the first. Unknown means no: whatever is missing holds.
    """
    found = _Found()
    pack = state.pack
    if state.fault:
        found.block(Code.STATE_DAMAGED, state.fault)
    if state.trust is None:
        found.hold(Code.NO_TRUST_ROOT, "nobody is enrolled")
    elif state.trust.person(requester) is None:
        found.block(Code.SIGNER_NOT_AUTHORISED, f"{requester} is not enrolled")
    if pack is None:
        found.hold(Code.NO_POLICY, "no policy pack is in force")
    if pack is None or state.trust is None:
        return _answer(found)
    rule = pack.stage(subject.stage)
    if subject.policy != state.policy:
        found.block(Code.POLICY_CHANGED, f"in force: {pack.name} {pack.version}")
    if rule is None:
        found.block(Code.STAGE_UNKNOWN, subject.stage)
        return _answer(found)
    _check_audience(found, pack, rule, subject)
    _check_order(found, state, pack, rule, subject, strategy, now, rollback)
    if suspended(state, subject.tier, {}) is not None:
        found.hold(Code.SUSPENDED, f"{subject.tier} is suspended")
    for kind in unpublished(state, pack, subject, now):
        found.block(Code.REPORT_NOT_PUBLISHED, f"a complete {kind} report about it must be public first")

    runs = runs_for(state, subject)
    pieces = [piece for run in runs for piece in run.evidence]
    if subject.evidence != evidence_root(pieces):
        found.hold(Code.EVIDENCE_ROOT_CHANGED, "the evidence on record is not that of the subject")
    verdicts, until = _domains(found, state, pack, rule, subject, runs, now)
    votes = count(state, subject, requester, rule, now)
    for cast in vetoes(state, subject):
        found.block(Code.VETOED, f"by {cast.vote.person}")
    for code, detail in votes.reasons:
        found.hold(code, detail)
    stood = [release.subject for release in state.releases.values() if release.id not in state.fallen]
    if rollback and not any(same_place(there, subject) for there in stood):
        found.block(Code.ROLLBACK_TARGET_INVALID, f"it never stood at {subject.stage}, or was ended there")
    if rollback and found.reasons:
        found.block(Code.ROLLBACK_TARGET_INVALID, "a rollback takes the same road as a release")
    return _answer(found, verdicts, votes, pieces, min(until, now + rule.release_days * DAY))


def evidence_root(pieces: Iterable[Evidence]) -> str:
    """SHA-256 of the canonical JSON list of the digests of these records, sorted."""
    return hashlib.sha256(canonical(sorted(_digest_of(piece) for piece in pieces))).hexdigest()


_digest_of = functools.lru_cache(maxsize=256)(digest)  # asked for at every look, of records that never change


def audience_id(audience: AudienceClass) -> str:
    """`name@` and 16 hex digits of the digest of the class: its rule and cap, not its members."""
    return f"{audience.name}@{digest(audience)[:16]}"


def runs_for(state: State, subject: Subject) -> list[Run]:
    """As `runs_on`, for the weights and profile of `subject`."""
    return runs_on(state, subject.root, subject.profile)


def runs_on(state: State, root: str, profile: str) -> list[Run]:
    """Every plan on these weights, with its evidence, under this profile or under none.

    What was measured without safeguards bounds what can be done with them.
    """
    by_plan: dict[str, list[Evidence]] = {}
    for piece in state.evidence.values():
        by_plan.setdefault(piece.plan, []).append(piece)
    runs = []
    for plan in state.plans.values():
        if plan.root != root or plan.profile not in (profile, NO_PROFILE):
            continue
        pieces = sorted(by_plan.get(plan.id, []), key=lambda piece: piece.look)
        role, org = state.signed_as[plan.id], state.orgs_of[plan.evaluator].casefold()
        runs.append(Run(plan, tuple(pieces), state.at[plan.id], role, org))
    return runs


def in_force(state: State, release: Release, now: float) -> bool:
    """Whether a release stands at `now`. It falls by itself when its evidence or its time runs out."""
    return (
        not state.fault
        and release.id not in state.fallen
        and release.subject.policy == state.policy
        and state.at[release.id] <= now < release.expires_at
    )


def standing_stage(state: State, root: str, profile: str, now: float) -> Stage:
    """The furthest stage at which these weights, under this profile, stand now; INTERNAL for none."""
    stages = [
        release.subject.stage
        for release in state.releases.values()
        if (release.subject.root, release.subject.profile) == (root, profile)
        and in_force(state, release, now)
    ]
    return max(stages, key=STAGES.index, default=Stage.INTERNAL)


def against(state: State, release: Release, now: float) -> Code | None:
    """Why a release that was opened may not go on; None when it may.

    Its own votes and the evidence on record now decide again: a vote taken back, a veto, a worse sample, a
    broken safeguard each end it. Newer approvals do not save it: that needs a new release.
    """
    subject, pack = release.subject, state.pack
    if pack is None or subject.policy != state.policy:
        return Code.POLICY_CHANGED
    rule = pack.stage(subject.stage)
    if rule is None:
        return Code.STAGE_UNKNOWN
    if vetoes(state, subject):
        return Code.VETOED
    for cast in map(state.votes.__getitem__, release.votes):
        if cast.withdrawn or not enrolled(state, cast.vote.person, cast.role):
            return Code.QUORUM_NOT_MET
    reasons = evidence_reasons(state, pack, rule, subject, now)
    return reasons[0].code if reasons else None


def evidence_reasons(
    state: State, pack: PolicyPack, rule: StageRule, subject: Subject, now: float
) -> list[Because]:
    """What the evidence alone, without votes or order of stages, says against `subject` under `rule`."""
    found = _Found()
    _domains(found, state, pack, rule, subject, runs_for(state, subject), now)
    return found.reasons


def _check_audience(found: _Found, pack: PolicyPack, rule: StageRule, subject: Subject) -> None:
    audience = next((a for a in pack.audiences if audience_id(a) == subject.audience), None)
    if audience is None or audience.name not in rule.audiences:
        found.block(Code.AUDIENCE_NOT_ALLOWED, f"{subject.audience} at {rule.stage}")
    if extra := set(subject.purposes) - set(rule.purposes):
        found.block(Code.PURPOSE_NOT_ALLOWED, f"{', '.join(sorted(extra))} at {rule.stage}")


def _check_order(
    found: _Found,
    state: State,
    pack: PolicyPack,
    rule: StageRule,
    subject: Subject,
    strategy: str,
    now: float,
    rollback: bool,
) -> None:
    """Stages open one after the other; a strategy only adds to what the stages ask for."""
    known = state.roots.get(subject.root)
    if known is None:
        found.hold(Code.NOT_REGISTERED, "no evaluation of these weights was ever planned")
    elif known != (subject.family, subject.tier):
        found.block(Code.ROOT_ALREADY_REGISTERED, f"as {known[0]}/{known[1]}")
    chosen = next((s for s in pack.strategies if s.name == strategy), None)
    step = chosen and next(
        (
            s
            for s in chosen.steps
            if s.stage is subject.stage
            and subject.audience.split("@")[0] == s.audience
            and set(subject.purposes) <= set(s.purposes)
        ),
        None,
    )
    if chosen is None or step is None:
        found.block(Code.STRATEGY_NOT_ALLOWED, f"{strategy} has no such step")
        return
    if chosen.lower_tiers_first and not any(
        other.subject.family == subject.family
        and other.subject.tier != subject.tier
        and not later(subject.stage, other.subject.stage)
        and in_force(state, other, now)
        for other in state.releases.values()
    ):
        found.hold(Code.STAGE_SKIPPED, f"{strategy}: another tier must stand at {subject.stage} first")
    before = STAGES[STAGES.index(subject.stage) - 1]
    if before is Stage.INTERNAL:
        return
    opened = [
        state.at[release.id]
        for release in state.releases.values()
        if (release.subject.root, release.subject.profile) == (subject.root, subject.profile)
        and release.subject.stage is before
        and (in_force(state, release, now) or rollback and release.id not in state.fallen)
    ]
    wait = max(rule.after_days, step.after_days) * DAY
    if not opened:
        found.hold(Code.STAGE_SKIPPED, f"{before} is not open")
    elif now < min(opened) + wait:
        found.hold(Code.TOO_EARLY, f"{before} must have been open for {wait / DAY:g} days")


def _domains(
    found: _Found,
    state: State,
    pack: PolicyPack,
    rule: StageRule,
    subject: Subject,
    runs: list[Run],
    now: float,
) -> tuple[tuple[DomainVerdict, ...], float]:
    """The verdict of every domain of the stage, and when the first of them lapses."""
    inside = developers(state)
    broken = [state.at[i.id] for i in state.incidents.values() if i.profile == subject.profile]
    again = [run.planned_at for run in runs if run.plan.profile == subject.profile and run.evidence]
    if broken and max(again, default=0.0) <= max(broken):
        # Older evidence is not dropped, lest an incident rid somebody of a bad result: newer must join it.
        found.hold(Code.EVIDENCE_VOID, f"{subject.profile} was broken and not measured again")
    until = float("inf")
    levels = {level.name: level for level in pack.safety_levels}

    def safeguards(name: str, why: str) -> None:
        nonlocal until
        own = [run for run in runs if run.plan.profile == subject.profile]
        level = levels[name]
        verdict, code, detail, lapses = safeguard_verdict(level, pack, state.packs, own, now, state.drill)
        if verdict is not Verdict.ALLOW:
            found.reasons.append(Because(verdict, code, f"{why}: {detail}"))
        until = min(until, lapses)

    verdicts = []
    for name in rule.domains:
        domain = pack.domain(name)
        if domain is None:
            found.block(Code.POLICY_INCOMPLETE, f"no domain {name}")
            continue
        verdict = domain_verdict(domain, pack, state.packs, runs, now, state.drill, inside)
        verdicts.append(verdict)
        if verdict.verdict is Verdict.ALLOW:
            until = min(until, verdict.expires_at)
        elif verdict.code is Code.RULED_IN and rule.ruled_in_level:
            safeguards(rule.ruled_in_level, f"{name} is ruled in")
            until = min(until, verdict.expires_at)
        else:
            found.reasons.append(Because(verdict.verdict, verdict.code, f"{name}: {verdict.detail}"))
    if rule.safety_level:
        safeguards(rule.safety_level, f"{rule.stage}")
    return tuple(verdicts), until


def _answer(
    found: _Found,
    domains: tuple[DomainVerdict, ...] = (),
    votes: Count | None = None,
    pieces: Iterable[Evidence] = (),
    expires_at: float = 0.0,
) -> GateAnswer:
    order = (Verdict.ALLOW, Verdict.HOLD, Verdict.BLOCK)
    worst = max((because.verdict for because in found.reasons), key=order.index, default=Verdict.ALLOW)
    ids = tuple(sorted(piece.id for piece in pieces))
    return GateAnswer(worst, tuple(found.reasons), domains, votes.votes if votes else (), ids, expires_at)
