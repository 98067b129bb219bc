"""Counting votes: enrolled persons, each once, the requester never; every wanted role by another person."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mythos.gate.state import Cast, State, later
from mythos.records.policy import StageRule
from mythos.records.reasons import Code
from mythos.records.release import Choice, Subject
from mythos.records.trust import VOTERS, Role

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Count:
    """`votes` are the approvals that count. `reasons` is empty when they suffice."""

    votes: tuple[str, ...]
    reasons: tuple[tuple[Code, str], ...]


def count(state: State, subject: Subject, requester: str, rule: StageRule, now: float) -> Count:
    """The approvals of exactly this subject, and what is missing. Vetoes are found by `vetoes`."""
    assert state.trust is not None
    counted: dict[str, Cast] = {}  # newest of each person
    expired: list[str] = []
    spent: list[str] = []
    other: list[str] = []
    for cast in state.votes.values():
        vote = cast.vote
        if cast.withdrawn or vote.choice is not Choice.APPROVE or vote.person == requester:
            continue
        if cast.key not in state.keys:  # who is enrolled anew, under another key, votes anew
            continue
        if vote.subject != subject:
            if _same_but_evidence(vote.subject, subject):
                other.append(vote.person)
        elif now >= cast.at + rule.vote_days * DAY:
            expired.append(vote.person)
        elif vote.id in state.spent:
            spent.append(vote.person)
        else:
            counted[vote.person] = cast
    reasons = missing({p: c.role for p, c in counted.items()}, rule.quorum, rule.roles)
    if reasons and (late := sorted(set(expired) - set(counted))):
        reasons.append((Code.VOTE_EXPIRED, f"older than {rule.vote_days:g} days: {', '.join(late)}"))
    if reasons and (before := sorted(set(spent) - set(counted))):
        reasons.append((Code.HALTED, f"voted before it was halted: {', '.join(before)}"))
    if reasons and (void := sorted(set(other) - set(counted))):
        detail = f"voted on other evidence: {', '.join(void)}"
        reasons.append((Code.EVIDENCE_ROOT_CHANGED, detail))
    return Count(tuple(sorted(cast.vote.id for cast in counted.values())), tuple(reasons))


def vetoes(state: State, subject: Subject) -> list[Cast]:
    """Vetoes that stand against it: on the same weights, at this stage or an earlier one, whatever the rest.

    Changing the profile, the audience or a piece of evidence does not shake a veto off; only its author does.
    """
    return [
        cast
        for cast in state.votes.values()
        if cast.vote.choice is Choice.VETO
        and not cast.withdrawn
        and cast.vote.subject.root == subject.root
        and not later(cast.vote.subject.stage, subject.stage)
    ]


def missing(voters: Mapping[str, Role], quorum: int, roles: Sequence[Role]) -> list[tuple[Code, str]]:
    """What these persons, with the roles they signed in, lack of a quorum."""
    reasons = []
    if len(voters) < quorum:
        reasons.append((Code.QUORUM_NOT_MET, f"{len(voters)} of {quorum} persons"))
    if lacking := _unfilled(list(roles), dict(voters)):
        reasons.append((Code.ROLE_MISSING, ", ".join(lacking)))
    return reasons


def signed_by_quorum(
    state: State, key_ids: Collection[str], quorum: int, roles: Sequence[Role]
) -> list[tuple[Code, str]]:
    """As `missing`, for the persons behind the keys that signed one envelope."""
    assert state.trust is not None
    voters = {}
    for key_id in key_ids:
        key = state.trust.key(key_id)
        if key is not None and key.role in VOTERS:
            voters[key.holder] = key.role
    return missing(voters, quorum, roles)


def enrolled(state: State, person: str, role: Role) -> bool:
    """Whether this person still holds a key of this role."""
    trust = state.trust
    return trust is not None and any(key.holder == person and key.role is role for key in trust.keys)


def same_place(a: Subject, b: Subject) -> bool:
    """Whether two subjects are the same weights, under the same profile, at the same stage."""
    return (a.root, a.profile, a.stage) == (b.root, b.profile, b.stage)


def _same_but_evidence(a: Subject, b: Subject) -> bool:
    parts = ("root", "profile", "stage", "audience")
    return a.evidence != b.evidence and all(getattr(a, part) == getattr(b, part) for part in parts)


def _unfilled(roles: list[Role], voters: dict[str, Role]) -> list[str]:
    """Wanted roles that nobody is left for. A person signs in one role, so taking any holder is right."""
    lacking = []
    for role in roles:
        person = next((p for p in sorted(voters) if voters[p] is role), None)
        if person is None:
            lacking.append(str(role))
        else:
            del voters[person]
    return lacking
