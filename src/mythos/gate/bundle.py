"""Making bundles: from the database, what `records.bundle` verifies without it. And judging them again."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from mythos.gate.verdict import Run, domain_verdict, safeguard_verdict
from mythos.ledger.heads import find_head, last_cosigned, prove
from mythos.records import dsse
from mythos.records.bundle import (
    BROKEN,
    HANDLING,
    VERSION,
    Bundle,
    Chain,
    Entry,
    Report,
    ServiceKeys,
    Step,
    seal_keys,
    verify_document,
)
from mythos.records.canonical import canonical
from mythos.records.clock import Clock
from mythos.records.errors import MythosError
from mythos.records.note import SignedHead, Verifier
from mythos.records.reasons import Code, Verdict
from mythos.records.release import Choice, Release
from mythos.records.signed import to_plain
from mythos.records.trust import Role
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.operator_key import LEDGER_KEY, SERVER_KEY, operator_keys, service_key
from mythos.store.own_log import own_log, publish_own, tiles_of
from mythos.store.receipts import StoredReceipt
from mythos.store.tables import decisions, records

Found = list[tuple[int, str, bytes]]  # seq, kind, envelope


def receipt_document(home: Home, store: Store, clock: Clock, receipt: StoredReceipt) -> bytes:
    """What the caller of an answer is given: the receipt, what opens it, the bundle that leads from it."""
    said = dsse.peek(receipt.envelope)
    bundle = build_bundle(home, store, clock, said["decision"], said["deployment"], receipt)
    own = bundle.entries[-1]
    document = {
        "id": receipt.id,
        "status": "logged",
        "receipt": own.envelope,
        "opening": receipt.opening,
        "leaf": own.seq,
        "event": own.event,
        "salt": own.salt,
        "inclusion": list(own.path),
        "bundle": to_plain(bundle),
    }
    return canonical(document)


def build_bundle(
    home: Home,
    store: Store,
    clock: Clock,
    decision: str,
    deployment: str,
    receipt: StoredReceipt | None = None,
) -> Bundle:
    """What a decision rests on and, if given, the receipt that rests on it, under one signed tree head.

    A head with cosignatures is preferred; when none reaches far enough a new one is signed. MythosError when
    the decision is not on record.
    """
    with store.read() as conn:
        found = _handling(conn, decision) or _release(conn, decision)
        if not found:
            raise MythosError(f"no decision {decision[:80]!r} is on record")
        if deployment and found[0][1] == HANDLING:
            found += kept(conn, "trust-root")
    if receipt is not None:
        found.append((receipt.logged, "receipt", receipt.envelope))
    head, entries = entries_of(home, store, clock, found)
    operator = operator_keys(home)
    signing = (operator, service_key(home, SERVER_KEY), service_key(home, LEDGER_KEY))
    raw = [key.public_key().public_bytes_raw().hex() for key in signing]
    keys = b"" if deployment else seal_keys(ServiceKeys(*raw), operator)
    return Bundle(VERSION, head.note.decode(), keys.decode(), entries)


def entries_of(home: Home, store: Store, clock: Clock, found: Found) -> tuple[SignedHead, tuple[Entry, ...]]:
    """These records in the order of the ledger, each with its place under one signed head."""
    log = own_log(home)
    head = _reaching(store, log, max(found)[0]) or publish_own(store, clock)
    entries = []
    for seq, kind, envelope in sorted(found):
        proof, opened = prove(store, tiles_of(home), log, seq, head.head.size)
        path = tuple(step.hex() for step in proof.path)
        entries.append(Entry(kind, seq, envelope.decode(), opened[16:].decode(), opened[:16].hex(), path))
    return head, tuple(entries)


def _reaching(store: Store, log: Verifier, seq: int) -> SignedHead | None:
    """The last cosigned head, or else the last head, that covers event `seq`."""
    cosigned = last_cosigned(store, log, above=seq)
    with store.read() as conn:
        for head in (find_head(conn, log, cosigned), find_head(conn, log)):
            if head is not None and head.head.size > seq:
                return head
    return None


def kept(conn: sa.Connection, *kinds: str) -> Found:
    """Every record of these kinds."""
    c = records.c
    rows = conn.execute(sa.select(c.seq, c.kind, c.envelope).where(c.kind.in_(kinds)))
    return [(row.seq, row.kind, row.envelope) for row in rows]


def _handling(conn: sa.Connection, decision: str) -> Found:
    c = decisions.c
    row = conn.execute(sa.select(c.logged, c.envelope).where(c.id == decision)).first()
    return [] if row is None else [(row.logged, HANDLING, row.envelope)]


def _release(conn: sa.Connection, decision: str) -> Found:
    """The release, what it names, its policy, vetoes on the same weights, withdrawals, all trust roots."""
    rows = kept(conn, "release", "vote", "withdrawal", "halt", "policy", "plan", "evidence", "trust-root")
    said: dict[int, dict[str, Any]] = {seq: dsse.peek(envelope) for seq, _, envelope in rows}
    release = next((s for seq, k, _ in rows if k == "release" and (s := said[seq])["id"] == decision), None)
    if release is None:
        return []
    pieces = [
        said[seq] for seq, kind, _ in rows if kind == "evidence" and said[seq]["id"] in release["evidence"]
    ]
    named = {decision, *release["evidence"], *release["votes"], *(piece["plan"] for piece in pieces)}
    against = [said[seq] for seq, kind, _ in rows if kind == "vote" and said[seq]["choice"] == Choice.VETO]
    named |= {vote["id"] for vote in against if vote["subject"]["root"] == release["subject"]["root"]}

    def carried(kind: str, record: dict[str, Any]) -> bool:
        match kind:
            case "trust-root":
                return True
            case "withdrawal":
                return record["vote"] in named
            case "halt":
                return record["release"] == decision
            case "policy":
                return hashlib.sha256(record["pack"].encode()).hexdigest() == release["subject"]["policy"]
        return record["id"] in named

    return [row for row in rows if carried(row[1], said[row[0]])]


def verify_fully(data: bytes, trust: str = "") -> Report:
    """As `records.bundle.verify_document`; and the gate's own verdicts on the samples, clusters and judges
    counted, must be those that the release names, and its safety level met."""
    report = verify_document(data, trust)
    chain, release = report.chain, report.chain.release
    if report.status == BROKEN or release is None:
        return report
    wrong = [f"{name} {code}: {detail}" for name, code, detail in rejudged(chain, release)]
    if not wrong:
        return replace(report, steps=(*report.steps, Step(True, "verdicts: the gate decides the same again")))
    return Report(BROKEN, (*report.steps, Step(False, f"the samples make {wrong[0]}")), chain)


def rejudged(chain: Chain, release: Release) -> Iterator[tuple[str, Code, str]]:
    """(domain or level, code, detail) where samples in a verified bundle do not say what the release says."""
    pack, profile = chain.packs[release.subject.policy], release.subject.profile
    rule = pack.stage(release.subject.stage)
    assert rule is not None  # the bundle is verified
    orgs = {person.id: person.org for root in chain.roots for person in root.persons}
    inside = {holder for holder, role in chain.enrolled if holder in orgs and role is not Role.EXTERNAL}
    runs = []
    for plan in chain.plans.values():
        looks = [piece for piece in chain.evidence.values() if piece.plan == plan.id]
        pieces = tuple(sorted(looks, key=lambda piece: piece.look))
        role, org = chain.roles[plan.id], orgs[plan.evaluator]
        runs.append(Run(plan, pieces, chain.times[plan.id], role, org))
    at, developers = chain.times[release.id], frozenset(orgs[holder] for holder in inside)
    wanted = {rule.safety_level} - {""}
    for domain in pack.domains:
        if domain.name in rule.domains:
            said = domain_verdict(domain, pack, chain.packs, runs, at, chain.drill, developers)
            if said.code != release.verdicts.get(domain.name):
                yield domain.name, said.code, said.detail
            wanted |= {rule.ruled_in_level} if said.code is Code.RULED_IN else set()
    own = [run for run in runs if run.plan.profile == profile]
    for level in pack.safety_levels:
        if level.name in wanted:
            verdict, code, detail, _ = safeguard_verdict(level, pack, chain.packs, own, at, chain.drill)
            if verdict is not Verdict.ALLOW:
                yield f"the safety level of {rule.stage}", code, detail
