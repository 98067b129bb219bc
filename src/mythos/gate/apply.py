"""What one signed record does to the state: checked first, applied last, so that a refusal changes nothing.

The same function decides whether a new record is taken and whether one on disk still counts.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mythos.gate.grants import widens
from mythos.gate.incidents import (
    take_closed,
    take_contained,
    take_counted,
    take_finding,
    take_opened,
    take_reported,
)
from mythos.gate.policy import lint, pack_digest, pack_from_json
from mythos.gate.publications import take_publication, take_request, take_unpublication, take_vote
from mythos.gate.release import against, check, in_force
from mythos.gate.reports import take_report, take_report_filed, take_report_publication
from mythos.gate.state import Cast, Rejected, State
from mythos.gate.votes import same_place, signed_by_quorum
from mythos.records import dsse
from mythos.records.canonical import RecordError
from mythos.records.clock import TOLERANCE
from mythos.records.evidence import Evidence, Plan
from mythos.records.grant import Grant, Organisation, Revocation
from mythos.records.incident import (
    IncidentClosed,
    IncidentContained,
    IncidentCounted,
    IncidentFinding,
    IncidentOpened,
    IncidentReported,
)
from mythos.records.publication import Publication, PublicationRequest, PublicationVote, Unpublication
from mythos.records.reasons import Code, Verdict
from mythos.records.release import (
    Acknowledgement,
    Halt,
    Incident,
    PolicyActivation,
    Release,
    Resumption,
    Suspension,
    Vote,
    Withdrawal,
)
from mythos.records.report import IssuedReport, ReportFiled, ReportPublication
from mythos.records.signed import KINDS, digest, from_plain, kind_of, unseal
from mythos.records.trust import SERVICES, VOTERS, Key, Role, TrustRoot

EVALUATORS = frozenset({Role.EVALUATOR, Role.EXTERNAL})
# Whoever is enrolled may take something away; auditors read only.
RESTRICTORS = frozenset(Role) - SERVICES - {Role.AUDITOR} | {Role.GATE}


def apply(state: State, seq: int, now: float, envelope: bytes) -> Any:
    """Let the record in `envelope`, logged at `seq` and `now`, take effect, and return it; or Rejected.

    `state` is changed only when the record counts.
    """
    try:
        kind = kind_of(envelope)
    except RecordError as error:
        raise Rejected(Code.RECORD_MALFORMED, error.message) from None
    if kind == "receipt":
        raise Rejected(Code.RECORD_MALFORMED, "a receipt is no record of the gate")
    if kind == "trust-root":
        record = _trust_root(state, envelope)
    else:
        record, signers = _opened(state, kind, envelope)
        _HANDLERS[type(record)](state, record, signers, now)
        state.at[record.id] = now
    _end_what_fell(state, record, now)
    state.seq = seq
    return record


def _opened(state: State, kind: str, envelope: bytes) -> tuple[Any, list[Key]]:
    """The record and the keys, in force, that signed it."""
    if state.trust is None:
        raise Rejected(Code.NO_TRUST_ROOT, "nobody is enrolled yet", "mythos trust init")
    try:
        record, signers = unseal(envelope, KINDS[kind], state.keys)
    except dsse.SignatureError as error:
        raise Rejected(Code.SIGNATURE_INVALID, error.message) from None
    except RecordError as error:
        code = Code.EVIDENCE_MALFORMED if kind == "evidence" else Code.RECORD_MALFORMED
        raise Rejected(code, error.message) from None
    if record.deployment != state.deployment:
        raise Rejected(Code.WRONG_DEPLOYMENT, "the record is of another deployment")
    if record.id in state.at or record.id in state.orgs_of:
        raise Rejected(Code.ID_TAKEN, f"{record.id} is on record already")
    keys = [state.trust.key(signer) for signer in sorted(signers)]
    return record, [key for key in keys if key is not None]


def _by(keys: list[Key], roles: frozenset[Role], holder: str, may: str) -> Key:
    """The one key that signed, which must be `holder`'s and of one of `roles`."""
    if len(keys) != 1 or keys[0].role not in roles or keys[0].holder != holder:
        said = ", ".join(f"{key.holder} as {key.role}" for key in keys)
        raise Rejected(Code.SIGNER_NOT_AUTHORISED, f"signed by {said}; {holder} must {may}")
    return keys[0]


def _known(table: dict[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no {what} {name}")
    return table[name]


def _trust_root(state: State, envelope: bytes) -> TrustRoot:
    """TUF's rule: the next version, signed by the threshold of the old persons and of its own."""
    try:
        outer = dsse.peek(envelope)
        new = from_plain(TrustRoot, outer)
        trusted = state.keys | new.public_keys()
        new, signers = unseal(envelope, TrustRoot, trusted)
    except dsse.SignatureError as error:
        raise Rejected(Code.SIGNATURE_INVALID, error.message) from None
    except RecordError as error:
        raise Rejected(Code.RECORD_MALFORMED, error.message) from None
    old = state.trust
    if new.version != (1 if old is None else old.version + 1) or new.previous != state.trust_digest:
        raise Rejected(Code.TRUST_ROLLBACK, f"version {new.version} does not follow the one in force")
    if old is not None and (new.name, new.drill) != (old.name, old.drill):
        raise Rejected(Code.WRONG_DEPLOYMENT, "name and DRILL mark of a deployment never change")
    for voters, wanted in ((new.signers(signers), new.threshold),) + (
        () if old is None else ((old.signers(signers), old.threshold),)
    ):
        if len(voters) < wanted:
            raise Rejected(Code.QUORUM_NOT_MET, f"signed by {len(voters)} of {wanted} persons")
    for key in new.keys:
        if state.bound.get(key.id, (key.holder, key.role)) != (key.holder, key.role):
            raise Rejected(Code.SIGNER_NOT_AUTHORISED, "a key never changes its holder or role")
    for person in new.persons:
        if state.orgs_of.get(person.id, person.org) != person.org:
            raise Rejected(Code.ID_TAKEN, f"{person.id} was enrolled for another organisation")
    state.trust, state.trust_digest = new, digest(new)
    state.deployment = state.deployment or state.trust_digest
    state.keys = new.public_keys()
    state.bound |= {key.id: (key.holder, key.role) for key in new.keys}
    state.orgs_of |= {person.id: person.org for person in new.persons}
    return new


def _policy(state: State, record: PolicyActivation, keys: list[Key], now: float) -> None:
    """Signed by the pack's own quorum and, where one is in force, by that pack's quorum as well."""
    try:
        pack = pack_from_json(record.pack)
    except RecordError as error:
        raise Rejected(Code.POLICY_INCOMPLETE, error.message) from None
    if errors := [finding for finding in lint(pack) if finding.severity == "error"]:
        raise Rejected(Code.POLICY_INCOMPLETE, errors[0].message, "mythos policy lint")
    name = pack_digest(pack)
    for other in state.packs.values():
        if other.name == pack.name and _version(other.version) >= _version(pack.version):
            raise Rejected(Code.POLICY_ROLLBACK, f"{other.name} {other.version} was in force already")
    signers = [key.id for key in keys]
    for asked in (pack, state.pack):
        if asked and (lacking := signed_by_quorum(state, signers, asked.quorum, asked.roles)):
            raise Rejected(lacking[0][0], f"{asked.name} {asked.version}: {lacking[0][1]}")
    state.packs[name] = pack
    state.policy = name


def _plan(state: State, record: Plan, keys: list[Key], now: float) -> None:
    key = _by(keys, EVALUATORS, record.evaluator, "sign as evaluator")
    if record.policy != state.policy:
        raise Rejected(Code.POLICY_CHANGED, "a plan is made under the pack in force")
    about = (record.family, record.tier)
    if state.roots.get(record.root, about) != about:
        raise Rejected(Code.ROOT_ALREADY_REGISTERED, "these weights are known under another tier")
    state.plans[record.id] = record
    state.roots[record.root] = about
    state.signed_as[record.id] = key.role


def _evidence(state: State, record: Evidence, keys: list[Key], now: float) -> None:
    key = _by(keys, EVALUATORS, record.evaluator, "sign as evaluator")
    if record.plan not in state.plans:
        raise Rejected(Code.NOT_PREREGISTERED, f"no plan {record.plan} was logged before")
    if state.plans[record.plan].evaluator != record.evaluator or state.signed_as[record.plan] != key.role:
        raise Rejected(Code.SIGNER_NOT_AUTHORISED, "the plan is somebody else's")
    if record.started < state.at[record.plan] - TOLERANCE:
        raise Rejected(Code.NOT_PREREGISTERED, "it began before its plan was logged")
    looks = sum(piece.plan == record.plan for piece in state.evidence.values())
    if record.look != looks + 1 or record.look > state.plans[record.plan].looks:
        raise Rejected(Code.LOOKS_EXCEEDED, f"look {record.look} after {looks}")
    state.evidence[record.id] = record
    state.signed_as[record.id] = key.role


def _vote(state: State, record: Vote, keys: list[Key], now: float) -> None:
    key = _by(keys, VOTERS, record.person, "sign in a role that votes")
    state.votes[record.id] = Cast(record, key.role, key.id, now, False)


def _withdrawal(state: State, record: Withdrawal, keys: list[Key], now: float) -> None:
    cast = _known(state.votes, record.vote, "vote")
    if record.person != cast.vote.person:
        raise Rejected(Code.NOT_AUTHOR, "only its author takes a vote back")
    _by(keys, VOTERS, record.person, "sign in a role that votes")
    state.votes[record.vote] = replace(cast, withdrawn=True)


def _release(state: State, record: Release, keys: list[Key], now: float) -> None:
    """Signed by the gate and by the requester; everything it rests on is decided again here."""
    roles = {key.role: key.holder for key in keys}
    if set(roles) != {Role.GATE, Role.RELEASE} or roles[Role.RELEASE] != record.requester:
        raise Rejected(Code.SIGNER_NOT_AUTHORISED, "the gate and the requesting release engineer must sign")
    answer = check(state, record.subject, record.requester, record.strategy, now, record.rollback)
    if answer.verdict is not Verdict.ALLOW:
        first = next(b for b in answer.reasons if b.verdict is answer.verdict)
        raise Rejected(first.code, first.detail, "mythos gate check")
    verdicts = {verdict.domain: str(verdict.code) for verdict in answer.domains}
    if (record.votes, record.evidence, record.verdicts) != (answer.votes, answer.evidence, verdicts):
        raise Rejected(Code.RECORD_MALFORMED, "it does not name what it rests on")
    if not now < record.expires_at <= answer.expires_at:
        raise Rejected(Code.EXPIRED, "it would outlive what it rests on")
    state.releases[record.id] = record


def _halt(state: State, record: Halt, keys: list[Key], now: float) -> None:
    _by(keys, RESTRICTORS, record.by, "sign")
    halted = _known(state.releases, record.release, "release")
    for release in state.releases.values():  # the same may have been opened twice
        if release is halted or release.subject == halted.subject and in_force(state, release, now):
            state.fallen.setdefault(release.id, (now, Code.HALTED))
    state.spent |= {
        vote: now for vote, cast in state.votes.items() if same_place(cast.vote.subject, halted.subject)
    }


def _suspension(state: State, record: Suspension, keys: list[Key], now: float) -> None:
    _by(keys, RESTRICTORS, record.by, "sign")
    state.suspensions[record.id] = record


def _resumption(state: State, record: Resumption, keys: list[Key], now: float) -> None:
    _known(state.suspensions, record.suspension, "suspension in force")
    pack = state.pack
    if pack is None:
        raise Rejected(Code.NO_POLICY, "no policy pack says who may resume")
    if lacking := signed_by_quorum(state, [key.id for key in keys], pack.quorum, pack.roles):
        raise Rejected(*lacking[0])
    del state.suspensions[record.suspension]


def _incident(state: State, record: Incident, keys: list[Key], now: float) -> None:
    _by(keys, RESTRICTORS, record.by, "sign")
    state.incidents[record.id] = record


def _acknowledgement(state: State, record: Acknowledgement, keys: list[Key], now: float) -> None:
    _by(keys, frozenset({Role.SERVER}), record.server, "be an enrolled server")
    if record.record not in state.at:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no record {record.record}")
    state.acknowledged[record.record] = (*state.acknowledged.get(record.record, ()), record.server)


def _organisation(state: State, record: Organisation, keys: list[Key], now: float) -> None:
    _by(keys, VOTERS, record.by, "sign in a role that votes")
    if record.contractor_of:
        _known(state.organisations, record.contractor_of, "organisation")
    state.organisations[record.id] = record


def _grant(state: State, record: Grant, keys: list[Key], now: float) -> None:
    _by(keys, VOTERS, record.by, "sign in a role that votes")
    org = _known(state.organisations, record.org, "organisation")
    if record.org in state.revoked:
        raise Rejected(Code.ORGANISATION_UNKNOWN, f"{record.org} has ended")
    if bool(org.contractor_of) is not bool(record.parent):
        raise Rejected(Code.GRANT_WIDENS, "a contractor's grant hangs on one of its principal, no other does")
    if record.parent:
        parent = _known(state.grants, record.parent, "grant")
        if parent.org != org.contractor_of or widens(record, parent):
            raise Rejected(Code.GRANT_WIDENS, f"it is wider than {record.parent}")
    _check_cap(state, record, org)
    state.grants[record.id] = record
    state.granted[record.org] = (*state.granted.get(record.org, ()), record.id)


def _check_cap(state: State, record: Grant, org: Organisation) -> None:
    audience = state.pack and next((a for a in state.pack.audiences if a.name == org.audience), None)
    if not audience:
        raise Rejected(Code.AUDIENCE_NOT_ALLOWED, f"the policy in force has no class {org.audience}")
    if not audience.cap:
        return
    members = {
        name
        for name, ids in state.granted.items()
        if name not in state.revoked
        and state.organisations[name].audience == audience.name
        and any(state.grants[i].tier == record.tier and i not in state.revoked for i in ids)
    }
    if len(members | {org.id}) > audience.cap:
        raise Rejected(Code.CAP_REACHED, f"{audience.name} admits {audience.cap} organisations")


def _revocation(state: State, record: Revocation, keys: list[Key], now: float) -> None:
    _by(keys, RESTRICTORS, record.by, "sign")
    if record.revoked not in state.grants and record.revoked not in state.organisations:
        raise Rejected(Code.UNKNOWN_SUBJECT, f"no grant or organisation {record.revoked}")
    state.revoked.setdefault(record.revoked, now)


def _end_what_fell(state: State, record: Any, now: float) -> None:
    """After a record that can take something away: releases that no longer hold end, for good."""
    if not isinstance(record, TrustRoot | Evidence | Withdrawal | Vote | Incident | PolicyActivation):
        return
    for release in state.releases.values():
        if in_force(state, release, now) and (code := against(state, release, now)):
            state.fallen[release.id] = (now, code)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


_HANDLERS: dict[type, Callable[[State, Any, list[Key], float], None]] = {
    PolicyActivation: _policy,
    Plan: _plan,
    Evidence: _evidence,
    Vote: _vote,
    Withdrawal: _withdrawal,
    Release: _release,
    Halt: _halt,
    Suspension: _suspension,
    Resumption: _resumption,
    Incident: _incident,
    Acknowledgement: _acknowledgement,
    Organisation: _organisation,
    Grant: _grant,
    Revocation: _revocation,
    PublicationRequest: take_request,
    PublicationVote: take_vote,
    Publication: take_publication,
    Unpublication: take_unpublication,
    IncidentOpened: take_opened,
    IncidentFinding: take_finding,
    IncidentContained: take_contained,
    IncidentCounted: take_counted,
    IncidentReported: take_reported,
    IncidentClosed: take_closed,
    IssuedReport: take_report,
    ReportFiled: take_report_filed,
    ReportPublication: take_report_publication,
}
