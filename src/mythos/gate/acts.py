"""What persons and the gate do, as plain functions: make the record, sign it, submit it.

Each takes (store, clock, principal) and the private keys that sign. `Rejected` says why a record does not
count.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate.policy import pack_json
from mythos.gate.release import GateAnswer, audience_id, check, evidence_root, runs_for
from mythos.gate.state import Rejected, State
from mythos.gate.submit import load_state, submit
from mythos.ledger.log import audit
from mythos.records import dsse
from mythos.records.canonical import RecordError
from mythos.records.clock import Clock
from mythos.records.grant import Grant, Organisation, Revocation
from mythos.records.ids import new_id
from mythos.records.policy import PolicyPack
from mythos.records.principal import Principal
from mythos.records.reasons import Code, Verdict
from mythos.records.release import (
    Choice,
    Halt,
    Incident,
    PolicyActivation,
    Release,
    Resumption,
    Stage,
    Subject,
    Suspension,
    Vote,
    Withdrawal,
)
from mythos.records.signed import digest, kind_of, seal
from mythos.records.trust import Key, Person, Role, TrustRoot
from mythos.store.db import Store
from mythos.store.operator_key import operator_keys

Secret = Ed25519PrivateKey


def first_root(
    name: str, drill: bool, threshold: int, persons: Sequence[Person], keys: Sequence[Key]
) -> TrustRoot:
    """Version 1 of a deployment's trust root; its digest is the deployment's name in every record."""
    return TrustRoot(1, name, drill, threshold, tuple(persons), tuple(keys), "")


def next_root(
    state: State, persons: Sequence[Person], keys: Sequence[Key], threshold: int | None = None
) -> TrustRoot:
    """The version after the one in force, with these persons and keys."""
    old = state.trust
    if old is None:
        raise Rejected(Code.NO_TRUST_ROOT, "nobody is enrolled yet", "mythos trust init")
    wanted = old.threshold if threshold is None else threshold
    return TrustRoot(
        old.version + 1, old.name, old.drill, wanted, tuple(persons), tuple(keys), state.trust_digest
    )


def public_key(secret: Secret, holder: str, role: Role) -> Key:
    """The public half, as a trust root lists it."""
    return Key(secret.public_key().public_bytes_raw().hex(), holder, role)


def activate_policy(
    store: Store, clock: Clock, principal: Principal, pack: PolicyPack, secrets: Sequence[Secret]
) -> PolicyActivation:
    """Put a pack in force: signed by its own quorum and by that of the pack before."""
    deployment = load_state(store).deployment
    record = PolicyActivation(new_id("pol"), deployment, pack_json(pack).decode())
    return _submitted(store, clock, principal, record, *secrets)


def subject(
    state: State,
    family: str,
    tier: str,
    root: str,
    profile: str,
    stage: Stage,
    audience: str,
    purposes: Sequence[str],
) -> Subject:
    """What is voted on and released, with the evidence and policy as they stand now.

    Rejected when no pack is in force or it has no such audience class.
    """
    pack = state.pack
    if pack is None:
        raise Rejected(Code.NO_POLICY, "no policy pack is in force", "mythos policy activate house")
    found = next((one for one in pack.audiences if one.name == audience), None)
    if found is None:
        raise Rejected(Code.AUDIENCE_NOT_ALLOWED, f"{pack.name} {pack.version} has no class {audience}")
    draft = Subject(
        family=family,
        tier=tier,
        root=root,
        profile=profile,
        stage=stage,
        audience=audience_id(found),
        purposes=tuple(sorted(set(purposes))),
        evidence=evidence_root(()),
        policy=state.policy,
    )
    pieces = [piece for run in runs_for(state, draft) for piece in run.evidence]
    values = {name: getattr(draft, name) for name in Subject.__slots__}
    return Subject(**{**values, "evidence": evidence_root(pieces)})


def cast_vote(
    store: Store,
    clock: Clock,
    principal: Principal,
    about: Subject,
    choice: Choice,
    person: str,
    secret: Secret,
    note: str = "",
) -> Vote:
    """One person's vote, signed with their key."""
    record = Vote(new_id("vote"), load_state(store).deployment, person, choice, about, note)
    return _submitted(store, clock, principal, record, secret)


def withdraw_vote(
    store: Store, clock: Clock, principal: Principal, vote: str, person: str, secret: Secret
) -> Withdrawal:
    record = Withdrawal(new_id("wd"), load_state(store).deployment, person, vote)
    return _submitted(store, clock, principal, record, secret)


def draft_release(
    store: Store,
    clock: Clock,
    principal: Principal,
    about: Subject,
    strategy: str,
    requester: str,
    rollback: bool = False,
) -> tuple[Release | None, GateAnswer]:
    """What is to be signed to open a stage; (None, answer), and the attempt logged, when the gate says no."""
    state = load_state(store)
    answer = check(state, about, requester, strategy, clock.now(), rollback)
    if answer.verdict is not Verdict.ALLOW:
        codes = sorted({str(because.code) for because in answer.reasons})
        facts = {"verdict": str(answer.verdict), "codes": codes, "policy": state.policy}
        audit(store, clock, principal, "release", "refused", **facts)
        return None, answer
    record = Release(
        id=new_id("rel"),
        deployment=state.deployment,
        subject=about,
        strategy=strategy,
        votes=answer.votes,
        evidence=answer.evidence,
        verdicts={found.domain: str(found.code) for found in answer.domains},
        requester=requester,
        rollback=rollback,
        expires_at=answer.expires_at,
    )
    return record, answer


def open_release(
    store: Store,
    clock: Clock,
    principal: Principal,
    about: Subject,
    strategy: str,
    requester: str,
    secret: Secret,
    gate: Secret,
    rollback: bool = False,
) -> tuple[Release | None, GateAnswer]:
    """Open a stage if the gate allows it; else as `draft_release`."""
    record, answer = draft_release(store, clock, principal, about, strategy, requester, rollback)
    if record is not None:
        _submitted(store, clock, principal, record, gate, secret)
    return record, answer


def submit_drafted(store: Store, clock: Clock, principal: Principal, envelope: bytes) -> tuple[Any, int]:
    """Hand in what was signed elsewhere. A release needs the gate's signature too, which is added here.

    `submit` decides everything again and believes nothing of the draft; when it refuses, the gate's signature
    is dropped with the envelope.
    """
    with contextlib.suppress(RecordError):  # malformed: `submit` refuses it and writes the attempt down
        if kind_of(envelope) == "release":
            envelope = dsse.add_signature(envelope, operator_keys(store.home))
    return submit(store, clock, principal, envelope)


def halt(
    store: Store, clock: Clock, principal: Principal, release: str, reason: str, by: str, secret: Secret
) -> Halt:
    """End a release at once and for good."""
    record = Halt(new_id("halt"), load_state(store).deployment, release, reason, by)
    return _submitted(store, clock, principal, record, secret)


def suspend(
    store: Store,
    clock: Clock,
    principal: Principal,
    tier: str,
    where: Mapping[str, str],
    reason: str,
    by: str,
    secret: Secret,
) -> Suspension:
    """Refuse whoever matches; an unknown attribute matches. It does not touch handling decisions."""
    deployment = load_state(store).deployment
    record = Suspension(new_id("susp"), deployment, tier, dict(where), reason, by)
    return _submitted(store, clock, principal, record, secret)


def resume(
    store: Store, clock: Clock, principal: Principal, suspension: str, secrets: Sequence[Secret]
) -> Resumption:
    """End a suspension; the quorum of the pack in force must sign."""
    record = Resumption(new_id("res"), load_state(store).deployment, suspension)
    return _submitted(store, clock, principal, record, *secrets)


def report_incident(
    store: Store, clock: Clock, principal: Principal, profile: str, note: str, by: str, secret: Secret
) -> Incident:
    """A safeguard was broken: releases under this profile end, until it is measured again."""
    record = Incident(new_id("inc"), load_state(store).deployment, profile, note, by)
    return _submitted(store, clock, principal, record, secret)


def add_organisation(
    store: Store,
    clock: Clock,
    principal: Principal,
    org: str,
    audience: str,
    attributes: Mapping[str, str],
    contractor_of: str,
    by: str,
    secret: Secret,
) -> Organisation:
    deployment = load_state(store).deployment
    record = Organisation(org, deployment, audience, dict(attributes), contractor_of, by)
    return _submitted(store, clock, principal, record, secret)


def add_grant(
    store: Store,
    clock: Clock,
    principal: Principal,
    org: str,
    family: str,
    tier: str,
    profile: str,
    stage: Stage,
    purposes: Sequence[str],
    jurisdictions: Sequence[str],
    starts_at: float,
    expires_at: float,
    parent: str,
    by: str,
    secret: Secret,
) -> Grant:
    """Let an organisation use a tier from `stage` on, for these purposes, in [starts_at, expires_at)."""
    record = Grant(
        id=new_id("grant"),
        deployment=load_state(store).deployment,
        org=org,
        family=family,
        tier=tier,
        profile=profile,
        stage=stage,
        purposes=tuple(purposes),
        jurisdictions=tuple(jurisdictions),
        starts_at=starts_at,
        expires_at=expires_at,
        parent=parent,
        by=by,
    )
    return _submitted(store, clock, principal, record, secret)


def revoke(
    store: Store, clock: Clock, principal: Principal, what: str, reason: str, by: str, secret: Secret
) -> Revocation:
    """End a grant or an organisation, with all that hangs on it."""
    record = Revocation(new_id("rev"), load_state(store).deployment, what, reason, by)
    return _submitted(store, clock, principal, record, secret)


def enrol(
    store: Store, clock: Clock, principal: Principal, root: TrustRoot, secrets: Sequence[Secret]
) -> str:
    """Put a version of the trust root in force; returns its digest."""
    _submitted(store, clock, principal, root, *secrets)
    return digest(root)


def _submitted(store: Store, clock: Clock, principal: Principal, record: Any, *secrets: Secret) -> Any:
    return submit(store, clock, principal, seal(record, *secrets))[0]
