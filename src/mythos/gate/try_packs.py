"""The same evidence under several packs: which part of which pack would hold a release. Opens nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mythos.gate.policy import pack_digest
from mythos.gate.release import Because, audience_id, evidence_reasons, evidence_root
from mythos.gate.state import Rejected, State
from mythos.records.policy import PolicyPack, StageRule
from mythos.records.reasons import Code, Verdict
from mythos.records.release import Stage, Subject


@dataclass(frozen=True, slots=True)
class Held:
    """`part` of the pack holds, for this reason; `rows` of its crosswalk say what that part follows."""

    part: str
    verdict: Verdict
    code: Code
    detail: str
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """One stage under one pack. `ships`: nothing in the evidence speaks against it; votes are not asked."""

    pack: str
    version: str
    stage: Stage
    ships: bool
    held: tuple[Held, ...]


def try_packs(
    state: State, root: str, profile: str, packs: Sequence[PolicyPack], now: float
) -> tuple[Tried, ...]:
    """What each of `packs` makes, at each of its stages, of the evidence on these weights. Pure.

    Each stage is taken on its own. That a run is also held against the bars it was planned under is left out,
    lest every pack be judged by the one in force. Rejected when the state does not count.
    """
    if state.fault:
        raise Rejected(Code.STATE_DAMAGED, state.fault)
    if state.trust is None:
        raise Rejected(Code.NO_TRUST_ROOT, "nobody is enrolled yet", "mythos trust init")
    unbound = state.clone()
    unbound.packs = {}
    return tuple(_tried(unbound, root, profile, pack, rule, now) for pack in packs for rule in pack.stages)


def _tried(state: State, root: str, profile: str, pack: PolicyPack, rule: StageRule, now: float) -> Tried:
    """Each part is asked alone, by the gate's own function, so that every reason belongs to one part."""
    family, tier = state.roots.get(root, ("none", "none"))
    audience = audience_id(next(a for a in pack.audiences if a.name == rule.audiences[0]))
    purposes = tuple(sorted(set(rule.purposes)))
    about = Subject(
        family, tier, root, profile, rule.stage, audience, purposes, evidence_root(()), pack_digest(pack)
    )

    def asked(part: StageRule) -> list[Because]:
        return evidence_reasons(state, pack, part, about, now)

    none = replace(rule, domains=(), safety_level="")
    general = asked(none)  # a broken profile, whatever is asked for
    parts = {"profile": general}
    for name in rule.domains:
        parts[f"domains.{name}"] = asked(replace(none, domains=(name,)))[len(general) :]
    if rule.safety_level:
        parts[f"stages.{rule.stage}.safety_level"] = asked(replace(rule, domains=()))[len(general) :]
    held = tuple(
        Held(part, why.verdict, why.code, why.detail, _rows(pack, part))
        for part, reasons in parts.items()
        for why in reasons
    )
    return Tried(pack.name, pack.version, rule.stage, not held, held)


def _rows(pack: PolicyPack, part: str) -> tuple[str, ...]:
    """Crosswalk rows that point to `part`, to something in it, or to what it is in."""
    found = {
        r.row
        for r in pack.crosswalk
        if f"{r.key}.".startswith(f"{part}.") or f"{part}.".startswith(f"{r.key}.")
    }
    return tuple(sorted(found))
