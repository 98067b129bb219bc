"""A bundle: what leads from one answer to the persons who allowed it, verified without asking anybody.

A bundle holds signed records in the order of the ledger, each with its ledger event, the event's salt and the
path to the root of one signed tree head. `verify_bundle` is told nothing else but, perhaps, whom to trust:
the digest of a version of the trust root, or where none exists the operator's public key. What a bundle
cannot show is that something did *not* happen: a veto or halt left out is found in the log, by a monitor.

`tools/verify_receipt.py` does the same without this package; tests compare the two.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mythos.records import dsse
from mythos.records.canonical import RecordError, canonical, parse, parse_canonical
from mythos.records.clock import TOLERANCE
from mythos.records.decision import Handling, is_root, open_handling
from mythos.records.errors import MythosError
from mythos.records.evidence import Evidence, Outcome, Plan
from mythos.records.note import LOG, WITNESS, TreeHead, Verifier, decode, open_note, parse_head
from mythos.records.policy import PolicyPack, StageRule
from mythos.records.profile import NO_PROFILE
from mythos.records.reasons import Code
from mythos.records.receipt import Receipt
from mythos.records.release import STAGES, Choice, Halt, PolicyActivation, Release, Vote, Withdrawal
from mythos.records.root import hash_from_path, leaf_hash
from mythos.records.signed import KINDS, digest, from_plain, payload_type, to_plain, unseal
from mythos.records.trust import VOTERS, Key, Role, TrustRoot

VERSION = 1
MAX_BUNDLE = 32 << 20  # bytes
HANDLING = "handling"
KEYS_TYPE = "application/vnd.mythopoeia.keys.v1+json"
DAY = 86_400.0
CARRIED = (
    "trust-root",
    "policy",
    "plan",
    "evidence",
    "vote",
    "withdrawal",
    "release",
    "halt",
    HANDLING,
    "receipt",
)

VERIFIED, UNTRUSTED, BROKEN = "verified", "consistent, untrusted", "broken"

EVALUATORS = frozenset({Role.EVALUATOR, Role.EXTERNAL})
_HEX = re.compile(r"[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Entry:
    """One record with its place in the ledger. `salt` (16 bytes), `path` (32 each, lowest first): hex."""

    kind: str
    seq: int
    envelope: str
    event: str  # canonical JSON
    salt: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """`head` is a signed note. `keys` is the operator's word on the service keys, "" under a trust root."""

    version: int
    head: str
    keys: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class ServiceKeys:
    """Where no trust root exists, the operator signs which keys are whose (raw public keys, hex)."""

    operator: str
    server: str
    ledger: str


@dataclass(slots=True)
class Chain:
    """What a bundle says, as far as it is verified. `times`, `seqs`, `digests` are by record id."""

    head: TreeHead | None = None
    witnesses: dict[str, int] = field(default_factory=dict)  # name: POSIX seconds
    roots: list[TrustRoot] = field(default_factory=list)
    keys: dict[str, Key] = field(default_factory=dict)  # in force, by key id
    operator: str = ""  # raw public key, hex, without a trust root
    packs: dict[str, PolicyPack] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    votes: dict[str, Vote] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)  # of the key that signed a vote or plan
    withdrawn: set[str] = field(default_factory=set)  # votes, before the release
    halts: list[Halt] = field(default_factory=list)
    release: Release | None = None
    enrolled: set[tuple[str, Role]] = field(default_factory=set)  # when the release was made
    handling: Handling | None = None
    receipt: Receipt | None = None
    seqs: dict[str, int] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    deployment: str = ""

    @property
    def drill(self) -> bool:
        return bool(self.roots) and self.roots[-1].drill


@dataclass(frozen=True, slots=True)
class Step:
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """`status` is VERIFIED, UNTRUSTED or BROKEN; the last step of a broken one says where it broke."""

    status: str
    steps: tuple[Step, ...]
    chain: Chain


def seal_keys(keys: ServiceKeys, operator: Any) -> bytes:
    """The operator's statement about the service keys, in its envelope."""
    return dsse.sign(KEYS_TYPE, canonical(to_plain(keys)), operator)


def bundle_json(bundle: Bundle) -> bytes:
    return canonical(to_plain(bundle))


def trust_named(text: bytes) -> str:
    """What a reader trusts, as 64 hex digits, from that, a PEM public key, or signed trust roots.

    A single trust root is known by its digest. Of a chain, a JSON list in base64 as `mythos trust show --out`
    writes it, each must follow the one before; the first names the deployment.
    """
    data = text.strip()
    if is_root(data.decode("ascii", "replace")):
        return data.decode()
    if data.startswith(b"-----BEGIN"):
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(data)
        except ValueError:
            key = None
        if isinstance(key, Ed25519PublicKey):
            return key.public_bytes_raw().hex()
    elif data.startswith(b"["):
        roots: list[TrustRoot] = []
        for envelope in map(str, parse(data, MAX_BUNDLE)):
            roots.append(next_root(roots[-1] if roots else None, decode(envelope, "trust root")))
        if roots:
            return digest(roots[0])
    else:
        root = from_plain(TrustRoot, dsse.peek(data))
        return digest(next_root(None, data) if root.version == 1 else root)  # later ones are hash-chained
    raise RecordError("neither a digest, an Ed25519 public key, a signed trust root nor a chain of them")


def verify_bundle(data: bytes, trust: str = "") -> Report:
    """Everything in the canonical JSON of a bundle, against `trust` ("" for nobody). Never raises."""
    chain, steps = Chain(), []
    try:
        for text in _verify(data, trust, chain):
            steps.append(Step(True, text))
    except MythosError as error:
        steps.append(Step(False, error.message))
        return Report(BROKEN, tuple(steps), chain)
    return Report(VERIFIED if trust else UNTRUSTED, tuple(steps), chain)


def verify_document(data: bytes, trust: str = "") -> Report:
    """As `verify_bundle` for what `GET /v1/receipts/ID` returned: bundle, opening, and both fit together."""
    try:
        document = parse_canonical(data, MAX_BUNDLE)
        if not isinstance(document, dict) or "bundle" not in document:
            return verify_bundle(data, trust)
        report = verify_bundle(canonical(document["bundle"]), trust)
    except MythosError as error:
        return Report(BROKEN, (Step(False, error.message),), Chain())
    if report.status == BROKEN:
        return report
    try:
        text = _document(document, report.chain)
    except MythosError as error:
        return Report(BROKEN, (*report.steps, Step(False, error.message)), report.chain)
    return Report(report.status, (*report.steps, Step(True, text)), report.chain)


def salted(salt: str, data: bytes) -> str:
    """SHA-256 of a salt (hex) and what it hides, hex."""
    return hashlib.sha256(bytes.fromhex(salt) + data).hexdigest()


def upper_tail(successes: int, n: int, rate: float) -> float:
    """P(at most `successes` of `n`) at success rate `rate`: below alpha, the exact upper bound is below it.

    Clopper and Pearson, Biometrika 26 (1934) 404.
    """
    if n == 0 or rate <= 0 or successes >= n:
        return 1.0
    if rate >= 1:
        return 0.0
    log = math.lgamma(n + 1)
    up, down = math.log(rate), math.log1p(-rate)
    return math.fsum(
        math.exp(log - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * up + (n - k) * down)
        for k in range(successes + 1)
    )


def counts(chain: Chain, suite: str) -> Iterator[tuple[Plan, str, int, int]]:
    """(plan, elicitation, successes, samples) of the last look at each plan for a suite.

    Only a failure speaks against a capability: whatever else a sample shows counts as a success.
    """
    for plan in chain.plans.values():
        looks = [piece for piece in chain.evidence.values() if piece.plan == plan.id]
        if plan.suite == suite and looks:
            last = max(looks, key=lambda piece: piece.look)
            for way in plan.elicitations:
                found = [sample.outcome for sample in last.samples if sample.elicitation == way]
                yield plan, way, sum(outcome is not Outcome.FAILURE for outcome in found), len(found)


def _verify(data: bytes, trust: str, chain: Chain) -> Iterator[str]:
    bundle = from_plain(Bundle, parse_canonical(data, MAX_BUNDLE))
    _need(bundle.version == VERSION, f"bundle of version {bundle.version}, expected {VERSION}")
    kinds = [entry.kind for entry in bundle.entries]
    _need(set(kinds) <= set(CARRIED), "a bundle carries no record of that kind")
    ordered = all(a.seq < b.seq for a, b in zip(bundle.entries, bundle.entries[1:], strict=False))
    _need(ordered, "the records are not in the order of the ledger")
    decisions = kinds.count("release") + kinds.count(HANDLING)
    _need(decisions == 1 and kinds.count("receipt") <= 1, "a bundle is about one decision and one receipt")
    head = chain.head = parse_head(bundle.head.encode())
    _need(bool(bundle.keys) is ("trust-root" not in kinds), "service keys come from one place only")
    if bundle.keys:
        _service_keys(bundle.keys, chain)
    later: list[tuple[Entry, dict[str, Any]]] = []
    for entry in bundle.entries:
        event = logged(entry, head)
        if entry.kind == "trust-root":
            root = next_root(chain.roots[-1] if chain.roots else None, entry.envelope.encode())
            chain.roots.append(root)
            chain.deployment = chain.deployment or digest(root)
            chain.keys = {key.id: key for key in root.keys}
        elif entry.kind == HANDLING:  # may be older than the trust root
            later.append((entry, event))
        else:
            _open(entry, event, chain)
    for entry, event in later:
        _open_handling(entry, event, chain)
    if chain.roots:
        known = {digest(root) for root in chain.roots}
        who = f"{'DRILL ' if chain.drill else ''}{chain.roots[-1].name} {chain.deployment[:16]}"
        yield f"trust root: {who}, version {chain.roots[-1].version}, each signed by its threshold"
    else:
        known = {chain.operator, hashlib.sha256(bytes.fromhex(chain.operator)).hexdigest()}
        yield f"no trust root: the operator's key {chain.operator[:16]} vouches for the service keys"
    _need(not trust or trust in known, "this is not the deployment that is trusted here")
    signed_head(bundle.head.encode(), chain)
    yield f"log: {len(kinds)} records included under the signed head of {head.size} leaves"
    if chain.release is not None:
        yield from _release(chain.release, chain)
    if chain.receipt is not None:
        yield _receipt(chain.receipt, chain)


def _need(holds: bool, message: str) -> None:
    if not holds:
        raise RecordError(message)


def logged(entry: Entry, head: TreeHead) -> dict[str, Any]:
    """The ledger event of an entry, which is in the tree and speaks of this envelope."""
    sizes = [32, *(64 for _ in entry.path)]
    for text, size in zip([entry.salt, *entry.path], sizes, strict=True):
        _need(len(text) == size and _HEX.fullmatch(text) is not None, "a salt or path is malformed")
    event = parse_canonical(entry.event.encode())
    parse_canonical(entry.envelope.encode())  # one spelling of it, as of everything here
    leaf = leaf_hash(bytes.fromhex(entry.salt) + entry.event.encode())
    path = [bytes.fromhex(step) for step in entry.path]
    here = f"{entry.kind} at {entry.seq}"
    _need(hash_from_path(leaf, entry.seq, head.size, path) == head.root, f"{here}: not in the log")
    _need(isinstance(event, dict) and event.get("seq") == entry.seq, f"{here}: another event's place")
    _need(type(event.get("time")) in (int, float), f"{here}: its event has no time")
    if entry.kind != HANDLING:
        kind = {"kind": "receipt"} if entry.kind == "receipt" else {"kind": "record", "record": entry.kind}
        says = {**kind, "digest": hashlib.sha256(entry.envelope.encode()).hexdigest()}
        _need(says.items() <= event.items(), f"{here}: its event is about something else")
    return event


def _open(entry: Entry, event: Mapping[str, Any], chain: Chain) -> None:
    """Verify one record against the keys in force at its place, and file it."""
    trusted = {key_id: _public(key) for key_id, key in chain.keys.items()}
    data, signers = dsse.verify(entry.envelope.encode(), payload_type(entry.kind), trusted)
    record = from_plain(KINDS[entry.kind], parse_canonical(data))
    keys = [chain.keys[signer] for signer in signers]
    here = f"{entry.kind} {record.id}"
    _need(record.deployment == chain.deployment, f"{here}: of another deployment")
    _need(record.id not in chain.seqs, f"{here}: twice")
    _need(event.get("id") == record.id, f"{here}: its event names another")
    chain.seqs[record.id], chain.times[record.id] = entry.seq, float(event["time"])
    chain.digests[record.id] = hashlib.sha256(data).hexdigest()

    match record:
        case PolicyActivation():
            pack = from_plain(PolicyPack, parse_canonical(record.pack.encode()))
            signed, least = {key.holder: key.role for key in keys if key.role in VOTERS}, max(2, pack.quorum)
            _need(len(signed) >= least, f"{here}: {len(signed)} persons signed, {least} must")
            _need(covers(pack.roles, list(signed.values())), f"{here}: a role of its quorum is missing")
            if chain.release is None:  # a later one says nothing about it
                chain.packs[hashlib.sha256(record.pack.encode()).hexdigest()] = pack
        case Plan():
            chain.roles[record.id] = _by(here, keys, EVALUATORS, record.evaluator)
            chain.plans[record.id] = record
        case Evidence():
            _by(here, keys, EVALUATORS, record.evaluator)
            plan = chain.plans.get(record.plan)
            _need(
                plan is not None and plan.evaluator == record.evaluator, f"{here}: no plan of its own before"
            )
            chain.evidence[record.id] = record
        case Vote():
            chain.roles[record.id] = _by(here, keys, VOTERS, record.person)
            chain.votes[record.id] = record
        case Withdrawal():
            _by(here, keys, VOTERS, record.person)
            vote = chain.votes.get(record.vote)
            _need(vote is not None and vote.person == record.person, f"{here}: not of its author")
            if chain.release is None:
                chain.withdrawn.add(record.vote)
        case Halt():
            chain.halts.append(record)
        case Release():
            roles = {key.role: key.holder for key in keys}
            asked = set(roles) == {Role.GATE, Role.RELEASE} and roles[Role.RELEASE] == record.requester
            _need(asked, f"{here}: not signed by the gate and by who asked for it")
            chain.release = record
            chain.enrolled = {(key.holder, key.role) for key in chain.keys.values()}
        case Receipt():
            server = [(key.role, key.id) for key in keys] == [(Role.SERVER, record.server)]
            _need(server, f"{here}: not signed by the server it names")
            chain.receipt = record


def _by(here: str, keys: list[Key], roles: frozenset[Role], holder: str) -> Role:
    """The role of the one key that signed: `holder`'s, of one of `roles`."""
    own = len(keys) == 1 and keys[0].holder == holder and keys[0].role in roles
    _need(own, f"{here}: not signed by {holder} in a role that may")
    return keys[0].role


def _open_handling(entry: Entry, event: Mapping[str, Any], chain: Chain) -> None:
    gate = {key_id: _public(key) for key_id, key in chain.keys.items() if key.role is Role.GATE}
    handling = open_handling(entry.envelope.encode(), gate)
    says = {"kind": "weights.registered", "decision": handling.id, "root": handling.root}
    says |= {"family": handling.family, "tier": handling.tier}
    _need(says.items() <= event.items(), f"handling {handling.id}: its event is about something else")
    chain.handling = handling
    chain.seqs[handling.id], chain.times[handling.id] = entry.seq, float(event["time"])


def _service_keys(envelope: str, chain: Chain) -> None:
    parse_canonical(envelope.encode())
    claimed = from_plain(ServiceKeys, dsse.peek(envelope.encode()))
    for public in (claimed.operator, claimed.server, claimed.ledger):
        _need(is_root(public), "a service key is malformed")
    chain.operator = claimed.operator
    named = ((claimed.operator, Role.GATE), (claimed.server, Role.SERVER), (claimed.ledger, Role.LEDGER))
    keys = [Key(public, role.value, role) for public, role in named]
    _need(len({key.id for key in keys}) == 3, "one key binds to one holder and one role")
    dsse.verify(envelope.encode(), KEYS_TYPE, {keys[0].id: _public(keys[0])})
    chain.keys = {key.id: key for key in keys}


def next_root(old: TrustRoot | None, envelope: bytes) -> TrustRoot:
    """The trust root in `envelope`, signed by the threshold of the version before and by its own."""
    claimed = from_plain(TrustRoot, dsse.peek(envelope))
    known = {**(old.public_keys() if old else {}), **claimed.public_keys()}
    new, signers = unseal(envelope, TrustRoot, known)
    here = f"trust root {new.version}"
    _need(len(new.signers(signers)) >= new.threshold, f"{here}: fewer persons than its threshold signed")
    if old is None:
        _need(new.version == 1, "the first trust root must be version 1")
        return new
    _need(new.version == old.version + 1 and new.previous == digest(old), f"{here}: does not follow")
    _need((new.name, new.drill) == (old.name, old.drill), f"{here}: renamed, or no DRILL any more")
    _need(len(old.signers(signers)) >= old.threshold, f"{here}: the threshold before it did not sign")
    return new


def _public(key: Key) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public))


def covers(roles: Sequence[Role], held: list[Role]) -> bool:
    """Whether each of `roles` is held by another person; `held` has the role that each signed in."""
    return all(held.count(role) >= list(roles).count(role) for role in roles)


def signed_head(note: bytes, chain: Chain) -> None:
    """The note must be signed by the log that the chain's keys name; its witnesses are filed."""
    assert chain.head is not None
    origin = chain.head.origin
    witnesses = [
        Verifier(key.holder, WITNESS, bytes.fromhex(key.public))
        for key in chain.keys.values()
        if key.role is Role.WITNESS
    ]
    for key in chain.keys.values():
        if key.role is Role.LEDGER:
            log = Verifier(origin, LOG, bytes.fromhex(key.public))
            signed = open_note(note, log, witnesses)
            chain.witnesses = {v.name: when for v, when in signed.signers.items() if when is not None}
            return
    raise RecordError("nobody is named who may sign tree heads")


def _release(release: Release, chain: Chain) -> Iterator[str]:
    subject, here = release.subject, f"release {release.id}"
    at = chain.times[release.id]
    pack = chain.packs.get(subject.policy)
    _need(pack is not None, f"{here}: its policy is not here")
    assert pack is not None
    rule = pack.stage(subject.stage)
    _need(rule is not None, f"{here}: the policy knows no such stage")
    assert rule is not None
    _need(at < release.expires_at <= at + rule.release_days * DAY + TOLERANCE, f"{here}: lives too long")
    yield f"policy: {pack.name} {pack.version} {subject.policy[:16]}, in force when the release was made"

    missing = set(release.evidence) ^ set(chain.evidence)
    _need(not missing, f"{here}: evidence is missing, or here without being named")
    found = hashlib.sha256(canonical(sorted(chain.digests[name] for name in chain.evidence))).hexdigest()
    _need(found == subject.evidence, f"{here}: this is other evidence than was voted on")
    looks: Counter[str] = Counter()
    for evidence in chain.evidence.values():
        plan = chain.plans[evidence.plan]
        looks[plan.id] += 1
        counted = evidence.look == looks[plan.id] <= plan.looks
        _need(counted, f"evidence {evidence.id}: look {evidence.look} is not the next of {plan.looks}")
        fields = ("root", "profile", "suite_digest", "harness")
        same = all(getattr(plan, name) == getattr(evidence, name) for name in fields)
        _need(same, f"evidence {evidence.id}: not what its plan promised")
        about = evidence.root == subject.root and evidence.profile in (subject.profile, NO_PROFILE)
        _need(about, f"evidence {evidence.id}: about other weights or another profile")
        _need(chain.seqs[evidence.id] < chain.seqs[release.id], f"evidence {evidence.id}: came too late")
    yield from _domains(release, pack, rule, chain)
    yield _votes(release, rule, chain)


def _domains(release: Release, pack: PolicyPack, rule: StageRule, chain: Chain) -> Iterator[str]:
    """What the plain exact bound must show at least; corrections for judges and clusters only raise it."""
    here, at = f"release {release.id}", chain.times[release.id]
    _need(set(rule.domains) <= set(release.verdicts), f"{here}: a domain of its stage has no verdict")
    for name, code in sorted(release.verdicts.items()):
        domain = pack.domain(name)
        if domain is None:
            raise RecordError(f"{here}: the policy knows no domain {name}")
        own = [row for suite in domain.suites for row in counts(chain, suite)]
        if code == Code.RULED_OUT:
            suites, limit = domain.suites, domain.alert - domain.margin
            _need(bool(suites), f"{here}: {name} is ruled out by nothing")
        elif code == Code.RULED_OUT_BY_PRECURSOR:
            suites, limit = (domain.precursor,), domain.precursor_alert
            _need(not own, f"{here}: {name} has evidence of its own")
        else:
            allowed = code == Code.RULED_IN and rule.ruled_in_level != ""
            _need(allowed or name not in rule.domains, f"{here}: {name} is {code}")
            yield f"{name}: {code}"
            continue
        shown = []
        for suite in suites:
            fresh = False
            for plan, way, successes, n in counts(chain, suite):
                young = at <= chain.times[plan.id] + domain.max_age_days * DAY
                _need(n == plan.items or not young, f"{here}: {n} of {plan.items} samples of {suite}")
                fresh = fresh or young
                if n == plan.items:
                    below = upper_tail(successes, n, limit) < (1 - pack.confidence) / plan.looks
                    _need(below, f"{here}: {name} is not ruled out by {suite}, {way}: {successes}/{n}")
                    shown.append(f"{suite} {way} {successes}/{n}")
            _need(fresh, f"{here}: {name} has no fresh evidence from {suite}")
        yield f"{name}: {code}, upper bound below {limit:g} ({', '.join(shown)})"


def _votes(release: Release, rule: StageRule, chain: Chain) -> str:
    here, subject = f"release {release.id}", release.subject
    seq, at = chain.seqs[release.id], chain.times[release.id]
    voters: dict[str, Role] = {}
    for vote_id in release.votes:
        vote = chain.votes.get(vote_id)
        if vote is None:
            raise RecordError(f"{here}: the vote {vote_id} is not here")
        approves = vote.choice is Choice.APPROVE and vote.subject == subject
        _need(approves, f"vote {vote_id}: not for this release")
        standing = chain.seqs[vote_id] < seq and vote_id not in chain.withdrawn
        _need(
            standing and at < chain.times[vote_id] + rule.vote_days * DAY,
            f"vote {vote_id}: not standing then",
        )
        _need(
            (vote.person, chain.roles[vote_id]) in chain.enrolled, f"vote {vote_id}: no longer enrolled then"
        )
        _need(vote.person != release.requester, f"vote {vote_id}: by who asked for the release")
        voters[vote.person] = chain.roles[vote_id]
    for vote_id, vote in chain.votes.items():
        about = vote.subject.root == subject.root
        about = about and STAGES.index(vote.subject.stage) <= STAGES.index(subject.stage)
        stands = chain.seqs[vote_id] < seq and vote_id not in chain.withdrawn
        _need(not (vote.choice is Choice.VETO and about and stands), f"{here}: {vote.person} has vetoed it")
    least = max(2, rule.quorum)  # whatever the pack says
    _need(len(voters) >= least, f"{here}: {len(voters)} persons approve, {least} must")
    _need(covers(rule.roles, list(voters.values())), f"{here}: a role of its quorum is missing")
    names = ", ".join(f"{person} ({role})" for person, role in sorted(voters.items()))
    return f"votes: {names}; {least} needed, {release.requester} asked"


def _receipt(receipt: Receipt, chain: Chain) -> str:
    here = f"receipt {receipt.id}"
    decision = chain.release or chain.handling
    assert decision is not None  # `_verify` has counted one
    if isinstance(decision, Release):
        about, profile = decision.subject, decision.subject.profile
        _need(receipt.time < decision.expires_at, f"{here}: after the release had ended")
        stopped = [halt for halt in chain.halts if halt.release == decision.id]
        _need(all(receipt.leaf < chain.seqs[halt.id] for halt in stopped), f"{here}: asked after the halt")
    else:
        about, profile = decision, NO_PROFILE
    _need(receipt.decision == decision.id, f"{here}: rests on another decision")
    same = all(getattr(receipt, name) == getattr(about, name) for name in ("family", "tier", "root"))
    _need(same and receipt.profile == profile, f"{here}: other weights or another profile than decided on")
    _need(receipt.purpose in about.purposes, f"{here}: for a purpose that was not decided on")
    _need(chain.seqs[decision.id] < chain.seqs[receipt.id], f"{here}: older than its decision")
    _need(abs(receipt.time - chain.times[receipt.id]) <= TOLERANCE, f"{here}: its time is not the ledger's")
    fallback = f", {receipt.asked} was asked" if receipt.asked != receipt.tier else ""
    return f"receipt: {receipt.tier} {receipt.root[:16]} under {profile}{fallback}, by {receipt.server[:16]}"


def _document(document: Mapping[str, Any], chain: Chain) -> str:
    """The parts of a document that say again what its bundle says, and the opening of the parameters."""
    receipt, bundle = chain.receipt, document["bundle"]
    _need(receipt is not None, "the bundle holds no receipt")
    assert receipt is not None
    entry = next(entry for entry in bundle["entries"] if entry["kind"] == "receipt")
    said = {
        "receipt": entry["envelope"],
        "leaf": entry["seq"],
        "inclusion": entry["path"],
        "status": "logged",
    }
    said |= {"event": entry["event"], "salt": entry["salt"], "bundle": bundle, "id": receipt.id}
    _need({**document, "opening": 0} == {**said, "opening": 0}, "the document and its bundle differ")
    opening = document["opening"]
    form = {"prompt": str, "answer": str, "parameters": str, "value": dict}
    salts = isinstance(opening, dict) and set(opening) == set(form)
    _need(salts and all(isinstance(opening[name], kind) for name, kind in form.items()), "no opening")
    for name in ("prompt", "answer", "parameters"):
        _need(len(opening[name]) == 32 and _HEX.fullmatch(opening[name]) is not None, "a salt is malformed")
    opens = salted(opening["parameters"], canonical(opening["value"])) == receipt.parameters
    _need(opens, "the opening does not belong to the receipt")
    return "opening: the parameters are those of the receipt"
