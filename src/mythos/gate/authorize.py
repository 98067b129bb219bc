"""The one place that says yes. Every route and the command line ask it; unknown means no."""

import math

from mythos.gate.grants import access
from mythos.gate.release import in_force
from mythos.gate.standing import Standing, load_standing
from mythos.records.clock import TOLERANCE
from mythos.records.decision import Handling
from mythos.records.permit import Action, Permit, Reason, Refusal
from mythos.records.principal import LOCAL_ORG, Principal, is_operator
from mythos.records.profile import NO_PROFILE
from mythos.records.reasons import Code
from mythos.records.release import Release
from mythos.spec.family import Tier, TierState

__all__ = ["Standing", "authorize", "known_tiers", "load_standing"]


RELEASED = frozenset({Action.KNOW, Action.ANSWER, Action.COUNT})  # what a release can allow

# Seconds a permit lasts. An answer may take long; everything else is over at once.
LIFETIME = {Action.KNOW: 60.0, Action.COUNT: 60.0, Action.ANSWER: 3600.0, Action.LOAD: 3600.0}


def authorize(
    standing: Standing, principal: Principal, action: Action, tier: str, purpose: str, now: float
) -> Permit | Refusal:
    """May `principal` do `action` on `tier` for `purpose` at `now` (POSIX seconds, from the Clock)? Pure.

    A Refusal with `may_know` False is the same, to the byte, as the one for a tier that does not exist. Only
    the operator and those whom a valid decision names learn the reason.
    """
    declared = next((found for found in standing.family.tiers if found.name == tier), None)
    if declared is None:
        return _unknown(tier)
    if principal.org != LOCAL_ORG:
        return _released(standing, principal, action, declared, purpose, now)
    decision = _decision(standing, declared)
    named = decision is not None and _names(decision, principal)
    if not named and not is_operator(principal):
        return _unknown(tier)

    if declared.root is None or declared.state is not TierState.BUILT:
        message = f"{tier} is declared but not built; {_build(standing, tier)}"
        return Refusal(Reason.NOT_BUILT, True, message)
    if decision is None:
        return _no_decision(standing, tier)
    if not math.isfinite(now) or now < decision.issued_at - TOLERANCE:
        message = f"the clock is behind the decision on {tier}; set the system clock right"
        return Refusal(Reason.CLOCK, True, message)
    if not named:
        return Refusal(Reason.NOT_NAMED, True, f"the decision on {tier} does not name you")
    if action not in decision.actions:
        return Refusal(Reason.ACTION_NOT_GRANTED, True, f"the decision on {tier} does not cover this action")
    if purpose not in decision.purposes:
        return Refusal(Reason.PURPOSE_NOT_GRANTED, True, f"the decision on {tier} does not cover this use")
    return Permit(
        principal=principal,
        action=action,
        tier=tier,
        root=declared.root,
        profile=NO_PROFILE,
        purpose=purpose,
        decision=decision.id,
        issued_at=now,
        expires_at=now + LIFETIME[action],
    )


def _released(
    standing: Standing, principal: Principal, action: Action, tier: Tier, purpose: str, now: float
) -> Permit | Refusal:
    """For other organisations: a release in force, a live grant, no suspension. All refusals look alike."""
    if tier.root is None or action not in RELEASED or not math.isfinite(now):
        return _unknown(tier.name)
    family = standing.family.name
    found = access(standing.state, principal.org, family, tier.name, tier.root, purpose, now)
    if isinstance(found, Code):
        return _unknown(tier.name)
    return Permit(
        principal=principal,
        action=action,
        tier=tier.name,
        root=tier.root,
        profile=found.grant.profile,
        purpose=purpose,
        decision=found.release.id,
        issued_at=now,
        expires_at=min(now + LIFETIME[action], found.until),
    )


def decision_on(standing: Standing, root: str, decision: str, now: float) -> Handling | Release | None:
    """The decision with this id, if it holds now and is about exactly these weights."""
    for handling in standing.decisions.values():
        if (handling.id, handling.root) == (decision, root):
            return handling
    release = standing.state.releases.get(decision)
    if release is None or release.subject.root != root or not in_force(standing.state, release, now):
        return None
    return release


def known_tiers(
    standing: Standing, principal: Principal, now: float, purpose: str = "local_tryout"
) -> list[Tier]:
    """The tiers that exist for `principal`: those whose KNOW `authorize` permits, in the family's order."""
    return [
        tier
        for tier in standing.family.tiers
        if isinstance(authorize(standing, principal, Action.KNOW, tier.name, purpose, now), Permit)
    ]


def _decision(standing: Standing, tier: Tier) -> Handling | None:
    """The decision on exactly these weights. What it says is compared again, not where it was filed."""
    decision = standing.decisions.get(tier.name)
    about = (standing.family.name, tier.name, tier.root)
    if decision is None or (decision.family, decision.tier, decision.root) != about:
        return None
    return decision


def _names(decision: Handling, principal: Principal) -> bool:
    """Under a handling decision nothing leaves the machine: it names principals of this organisation."""
    return principal.org == LOCAL_ORG and principal.id in decision.principals


def _no_decision(standing: Standing, tier: str) -> Refusal:
    fault = standing.faults.get(tier)
    if fault is None:
        return Refusal(Reason.NO_DECISION, True, f"no decision allows {tier}; {_build(standing, tier)}")
    message = f"the decision on {tier} does not hold: {fault}; {_build(standing, tier)} to issue a new one"
    return Refusal(Reason.BAD_SIGNATURE, True, message)


def _build(standing: Standing, tier: str) -> str:
    return f"run `mythos build {tier} --family {standing.family.name}`"


def _unknown(tier: str) -> Refusal:
    return Refusal(Reason.UNKNOWN_TIER, False, f"no tier named {tier[:80]!r}")
