"""`mythos gate check`, `vote` and `release`: what the gate says, opening and closing stages."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mythos.cli.cures import CURES
from mythos.cli.desk import Desk, hand_in, listing, mark, open_desk, pairs, profile_named, said, table
from mythos.cli.output import CommandError, Exit, date, emit, json_wanted, note, show
from mythos.gate import acts
from mythos.gate.apply import RESTRICTORS
from mythos.gate.release import GateAnswer, check, in_force
from mythos.records.ids import new_id
from mythos.records.reasons import Code, Verdict
from mythos.records.release import Choice, Resumption, Stage, Subject, Vote, Withdrawal
from mythos.records.trust import VOTERS, Role
from mythos.store.operator_key import operator_keys

EXITS = {Verdict.ALLOW: Exit.OK, Verdict.HOLD: Exit.NOT_BUILT, Verdict.BLOCK: Exit.REFUSED}
HOUSE = " (house assumption)"
# family, tier, stage, audience, purposes, profile
Asked = tuple[str, str, Stage, str | None, Sequence[str], str]
PERSONS = RESTRICTORS - {Role.GATE}


def about(desk: Desk, asked: Asked, strategy: str) -> Subject:
    """The subject that a command names; audience and purposes default to those of the strategy's step."""
    family, tier, stage, audience, purposes, profile = asked
    declared, root = desk.tier(family, tier)
    pack = desk.state.pack
    chosen = pack and next((one for one in pack.strategies if one.name == strategy), None)
    step = chosen and next((one for one in chosen.steps if one.stage is stage), None)
    if pack is not None and step is None and not (audience and purposes):
        names = ", ".join(one.name for one in pack.strategies)
        raise CommandError(
            f"{strategy} has no step {stage}",
            f"name --audience and --purpose, or a strategy of {names}",
            Exit.USAGE,
        )
    wanted = tuple(purposes) or (step.purposes if step else ())
    chosen_audience = audience or (step.audience if step else "")
    named = profile_named(desk.records.home, root, profile)
    return acts.subject(desk.state, declared.name, tier, root, named, stage, chosen_audience, wanted)


def gate_check(subject: Asked, strategy: str, requester: str | None) -> int:
    desk = open_desk()
    named = about(desk, subject, strategy)
    answer = check(desk.state, named, requester or _engineer(desk), strategy, desk.records.clock.now())
    return _answered(desk, named, answer)


def _engineer(desk: Desk) -> str:
    keys = desk.state.trust.keys if desk.state.trust else ()
    found = next((key.holder for key in keys if key.role is Role.RELEASE), None)
    if found is None:
        cure = "mythos person enrol NAME --role release_engineer --by ..."
        raise CommandError("no release engineer is enrolled", cure, Exit.REFUSED)
    return found


def _answered(desk: Desk, subject: Subject, answer: GateAnswer) -> int:
    """Show a verdict with its reasons; its exit code."""
    drill = desk.state.drill
    following = _following(subject, answer)
    if json_wanted():
        emit(
            {
                "drill": drill,
                "verdict": str(answer.verdict),
                "reasons": [asdict(one) for one in answer.reasons],
                "domains": [asdict(one) for one in answer.domains],
                "votes": list(answer.votes),
                "expires_at": answer.expires_at if answer.verdict is Verdict.ALLOW else None,
                "next": following,
            }
        )
        return EXITS[answer.verdict]
    show(f"{mark(drill)}{answer.verdict}: {subject.tier} at {subject.stage} for {subject.audience}")
    show(f"purposes {', '.join(subject.purposes)}; profile {subject.profile}; weights {subject.root[:12]}")
    if answer.domains:
        rows = [
            {
                "domain": one.domain,
                "verdict": str(one.verdict),
                "at_most": f"{one.upper:.3f}" if one.samples else "-",
                "alert": f"{one.alert:g}" if one.samples else "-",
                "suite": one.suite,
                "samples": one.samples,
                "code": str(one.code) + HOUSE * (one.code is Code.RULED_OUT_BY_PRECURSOR),
                "labels_by": one.labels or "-",
            }
            for one in answer.domains
        ]
        table(rows, f"{mark(drill)}domains")
    for reason in answer.reasons:
        show(f"{mark(drill)}{reason.verdict} {reason.code}: {reason.detail}")
    voters = [desk.state.votes[vote].vote.person for vote in answer.votes]
    show(f"votes that count: {', '.join(voters) or 'none'}")
    for command in following:
        note(f"next: {command}")
    return EXITS[answer.verdict]


def _following(subject: Subject, answer: GateAnswer) -> list[str]:
    codes = [reason.code for reason in answer.reasons]
    rest = f"{subject.tier} --stage {subject.stage}"
    if not codes:
        return [f"mythos release open {rest} --as PERSON"]
    fitting = [CURES[code].replace("TIER", rest) for code in codes if code in CURES]
    return list(dict.fromkeys(fitting))


def cast(subject: Asked, strategy: str, who: str, veto: bool, text: str, draft: Path | None) -> int:
    desk = open_desk()
    named = about(desk, subject, strategy)
    person, keys = desk.signer(who, VOTERS, draft)
    choice = Choice.VETO if veto else Choice.APPROVE
    vote = Vote(new_id("vote"), desk.state.deployment, person, choice, named, text)
    return hand_in(desk, vote, keys, draft, f"{vote.id}: {person} {choice}s {named.tier} at {named.stage}")


def withdraw(vote: str, who: str, draft: Path | None) -> int:
    desk = open_desk()
    person, keys = desk.signer(who, VOTERS, draft)
    record = Withdrawal(new_id("wd"), desk.state.deployment, person, vote)
    return hand_in(desk, record, keys, draft, f"{vote} is withdrawn")


def votes() -> int:
    desk = open_desk()
    rows = [
        {
            "id": vote,
            "person": cast.vote.person,
            "role": str(cast.role),
            "choice": "withdrawn" if cast.withdrawn else str(cast.vote.choice),
            "tier": cast.vote.subject.tier,
            "stage": str(cast.vote.subject.stage),
            "audience": cast.vote.subject.audience,
            "at": cast.at,
            "note": cast.vote.note,
        }
        for vote, cast in desk.state.votes.items()
    ]
    return listing(desk, "votes", rows, "no votes yet: mythos vote cast TIER --stage S --as PERSON")


def open_(subject: Asked, strategy: str, who: str, rollback: bool, draft: Path | None) -> int:
    desk = open_desk()
    named = about(desk, subject, strategy)
    requester, keys = desk.signer(who, {Role.RELEASE}, draft)
    release, answer = acts.draft_release(*desk.acting, named, strategy, requester, rollback)
    if release is None:
        return _answered(desk, named, answer)
    if draft is None:  # else the gate signs when it is handed in, and decides again
        keys = [operator_keys(desk.records.home), *keys]
    opened = f"{release.id}: {named.tier} is open at {named.stage} until {date(release.expires_at)}"
    return hand_in(desk, release, keys, draft, opened)


def halt(release: str, who: str, reason: str) -> int:
    desk = open_desk()
    person, secret = desk.key(who, PERSONS)
    record = acts.halt(*desk.acting, release, reason, person, secret)
    return said(desk, f"{release} is ended for good", record)


def suspend(tier: str, where: Sequence[str], who: str, reason: str) -> int:
    desk = open_desk()
    person, secret = desk.key(who, PERSONS)
    record = acts.suspend(*desk.acting, tier, pairs(where), reason, person, secret)
    whom = ", ".join(where) or "everybody"
    return said(desk, f"{record.id}: {tier or 'every tier'} is suspended for {whom}", record)


def resume(suspension: str, by: Sequence[str], draft: Path | None) -> int:
    desk = open_desk()
    if suspension not in desk.state.suspensions:
        raise CommandError(f"no suspension {suspension} is in force", "mythos release status")
    record = Resumption(new_id("res"), desk.state.deployment, suspension)
    keys = [desk.key(who, VOTERS)[1] for who in by]
    return hand_in(desk, record, keys, draft, f"{suspension} is ended")


def status(tier: str | None) -> int:
    desk = open_desk()
    state, now = desk.state, desk.records.clock.now()

    def fate(release: Any) -> str:
        if in_force(state, release, now):
            return "open"
        if release.id in state.fallen:
            return str(state.fallen[release.id][1])
        return str(
            Code.STATE_DAMAGED
            if state.fault
            else Code.EXPIRED
            if now >= release.expires_at
            else Code.POLICY_CHANGED
        )

    releases = [
        {
            "id": release.id,
            "tier": release.subject.tier,
            "stage": str(release.subject.stage),
            "audience": release.subject.audience,
            "purposes": release.subject.purposes,
            "profile": release.subject.profile,
            "state": fate(release),
            "until": state.fallen[release.id][0] if release.id in state.fallen else release.expires_at,
            "root": release.subject.root[:12],
        }
        for release in state.releases.values()
        if tier in (None, release.subject.tier)
    ]
    suspensions = [
        {
            "id": one.id,
            "tier": one.tier or "every tier",
            "where": one.where or {"everybody": "yes"},
            "since": state.at[one.id],
            "by": one.by,
            "reason": one.reason,
            "acknowledged_by": len(state.acknowledged.get(one.id, ())),
        }
        for one in state.suspensions.values()
        if tier is None or one.tier in ("", tier)
    ]
    if json_wanted():
        emit({"drill": state.drill, "fault": state.fault, "releases": releases, "suspensions": suspensions})
        return 0
    if state.fault:
        show(f"{mark(state.drill)}STATE_DAMAGED: {state.fault}")
    listing(desk, "releases", releases, "no stage was ever opened: mythos gate check TIER --stage S")
    if suspensions:
        table(suspensions, f"{mark(state.drill)}suspensions")
    return 0
