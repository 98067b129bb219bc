"""The gate under attack, as operations by name: everything else here knows only these.

Every operation returns a word: OK, ALLOW | HOLD | BLOCK with reason codes, GRANT | DENY, or the code of a
refusal.
"""

import base64
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate import acts
from mythos.gate.grants import Access, access
from mythos.gate.policy import load_pack, pack_json
from mythos.gate.release import GateAnswer
from mythos.gate.state import Rejected
from mythos.gate.submit import submit
from mythos.records.canonical import canonical
from mythos.records.evidence import Judge, Labelled, Outcome, Sample
from mythos.records.ids import new_id
from mythos.records.principal import OPERATOR
from mythos.records.release import Choice, PolicyActivation, Stage, Vote
from mythos.records.signed import seal
from mythos.records.trust import Key, Person, Role
from mythos.store.db import Store
from tests.gate.town import DAY, VOTERS, W1, W2, Town, hexdigest

WEIGHTS = {"W1": W1, "W2": W2}
AUDIENCES = {"early_access": "researchers", "expanded": "enterprises", "general": "public"}


@dataclass
class Said:
    """What an operation said: `word`, and every reason code that came with it."""

    word: str
    codes: frozenset[str] = frozenset()


@dataclass
class Adapter:
    """One deployment for one case. Names that steps give (`name = "v1"`) are kept in `kept`."""

    path: Path
    setting: dict[str, Any]
    kept: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.town = Town(self.path, **self.setting)
        self.place = (self.town.store, self.town.clock, OPERATOR)

    def do(self, operation: str, arguments: dict[str, Any]) -> Said:
        try:
            got = getattr(self, f"op_{operation}")(**arguments)
        except Rejected as refused:
            return Said(str(refused.code), frozenset({str(refused.code)}))
        return got if isinstance(got, Said) else Said("OK")

    def restart(self) -> None:
        self.town.store.close()
        self.town.store = Store.open(self.town.home)
        self.place = (self.town.store, self.town.clock, OPERATOR)

    def entries(self) -> int:
        """Entries of the audit log."""
        with self.town.store.read() as conn:
            return int(conn.exec_driver_sql("SELECT count(*) FROM ledger").scalar_one())

    def standing(self) -> Any:
        """All state but the audit log, comparable."""
        return self.town.state

    def close(self) -> None:
        self.town.store.close()

    # Operations.

    def op_clock_advance(self, days: float = 0.0, seconds: float = 0.0) -> None:
        self.town.now += days * DAY + seconds

    def op_measure(
        self, root: str = "W1", humaneval: int = 0, mmlu: int = 80, tier: str = "capybara"
    ) -> None:
        self.town.measure(WEIGHTS[root], tier, humaneval, mmlu)

    def op_register_run(
        self, suite: str = "humaneval", root: str = "W1", name: str = "plan", items: int = 100, **other: Any
    ) -> None:
        other = {k: tuple(v) if isinstance(v, list) else v for k, v in other.items()}
        self.kept[name] = self.town.plan(suite, WEIGHTS[root], items, **other)

    def op_submit_evidence(
        self,
        plan: str = "plan",
        successes: int | list[int] = 0,
        signer: str = "evaluator-1",
        first: int | None = None,  # submit only so many samples
        outcomes: dict[str, int] | None = None,  # the first samples, by outcome
        clusters: int = 0,
        labels: dict[str, Any] | None = None,
        fields: dict[str, Any] | None = None,  # other values of the record
    ) -> None:
        of = self.kept[plan]
        counts = successes if isinstance(successes, list) else [successes] * len(of.elicitations)
        samples = []
        for elicitation, count in zip(of.elicitations, counts, strict=True):
            kinds = [Outcome.SUCCESS] * count
            for kind, number in (outcomes or {}).items():
                kinds += [Outcome(kind)] * number
            kinds += [Outcome.FAILURE] * (of.items - len(kinds))
            for i, kind in enumerate(kinds[:first]):
                cluster = f"c{i * clusters // of.items}" if clusters else f"s{i}"
                samples.append(Sample(f"s{i}", cluster, kind, elicitation))
        other = dict(fields or {})
        for part in ("root", "harness", "suite_digest"):
            if part in other:
                other[part] = WEIGHTS.get(other[part], hexdigest(other[part]))
        if labels:
            other["judge"] = judge(**labels)
        self.town.evidence(of, samples=tuple(samples), signer=signer, **other)

    def op_submit_raw(
        self, find: str, replace_with: str, plan: str = "plan", signer: str = "evaluator-1"
    ) -> None:
        """Evidence whose bytes were edited before signing: what a program of one's own can send."""
        piece = self._evidence_text(plan).replace(find, replace_with)
        self._send("evidence", piece.encode(), self.town.keys[signer])

    def op_submit_replayed(self, what: str, edit: dict[str, Any], signer: str, record: str) -> None:
        """A kept record with other values, signed anew."""
        changed = replace(self.kept[record], id=new_id("x"), **edit)
        submit(*self.place, seal(changed, self.town.keys[signer]))

    def op_gate(self, **about: Any) -> Said:
        about, strategy, requester = self._asked(about)
        return said(self.town.check(about, strategy, requester))

    def op_vote(
        self,
        signer: str,
        veto: bool = False,
        name: str = "vote",
        key: str = "",
        deployment: str = "",
        **about: Any,
    ) -> None:
        subject, _, _ = self._asked(about)
        choice = Choice.VETO if veto else Choice.APPROVE
        secret = self.kept[key] if key else self.town.keys[signer]
        where = hexdigest(deployment) if deployment else self.town.state.deployment
        record = Vote(new_id("vote"), where, signer, choice, subject, "")
        submit(*self.place, seal(record, secret))
        self.kept[name] = record

    def op_votes(self, signers: list[str] | None = None, **about: Any) -> None:
        for who in signers or VOTERS:
            self.op_vote(who, name=f"vote of {who}", **about)

    def op_vote_tampered(self, how: str, signer: str = "rso-1", **about: Any) -> None:
        """A good vote, damaged: `payload`, `type`, `signature`, `keyid`, `unsigned`, `twice`."""
        subject, _, _ = self._asked(about)
        record = Vote(new_id("vote"), self.town.state.deployment, signer, Choice.APPROVE, subject, "")
        envelope = json.loads(seal(record, self.town.keys[signer]))
        one = envelope["signatures"][0]
        if how == "payload":
            data = base64.b64decode(envelope["payload"]).replace(b'"note":""', b'"note":"x"')
            envelope["payload"] = base64.b64encode(data).decode()
        elif how == "type":
            envelope["payloadType"] = envelope["payloadType"].replace("vote", "withdrawal")
        elif how == "signature":
            one["sig"] = base64.b64encode(bytes(64)).decode()
        elif how == "keyid":
            one["keyid"] = next(i for i in self.town.state.keys if i != one["keyid"])
        elif how == "unsigned":
            envelope["signatures"] = []
        elif how == "twice":
            envelope["signatures"] = [one, one]
        submit(*self.place, canonical(envelope))

    def op_withdraw(self, vote: str = "vote", signer: str = "safety-1", claiming: str = "") -> None:
        from mythos.records.release import Withdrawal

        person = claiming or signer
        record = Withdrawal(new_id("wd"), self.town.state.deployment, person, self.kept[vote].id)
        submit(*self.place, seal(record, self.town.keys[signer]))

    def op_release(
        self, name: str = "release", rollback: bool = False, signer: str = "", **about: Any
    ) -> Said:
        subject, strategy, requester = self._asked(about)
        release, answer = self.town.open(subject, strategy, requester, rollback)
        if release is not None:
            self.kept[name] = release
        return said(answer)

    def op_release_forged(self, signer: str = "requester-1", **about: Any) -> None:
        """A release made without asking the gate, signed by its requester and a key of theirs."""
        from mythos.records.release import Release

        subject, strategy, requester = self._asked(about)
        record = Release(
            new_id("rel"), self.town.state.deployment, subject, strategy, (), (), {}, requester, False,
            self.town.now + DAY,
        )  # fmt: skip
        submit(*self.place, seal(record, Ed25519PrivateKey.generate(), self.town.keys[signer]))

    def op_halt(self, signer: str = "safety-1", release: str = "release") -> None:
        acts.halt(*self.place, self.kept[release].id, "drill", signer, self.town.keys[signer])

    def op_suspend(self, where: dict[str, str], signer: str = "safety-1", name: str = "suspension") -> None:
        self.kept[name] = acts.suspend(*self.place, "", where, "drill", signer, self.town.keys[signer])

    def op_resume(self, signers: list[str], suspension: str = "suspension") -> None:
        keys = [self.town.keys[who] for who in signers]
        acts.resume(*self.place, self.kept[suspension].id, keys)

    def op_incident(self, profile: str = "none", signer: str = "safety-1") -> None:
        acts.report_incident(*self.place, profile, "universal jailbreak", signer, self.town.keys[signer])

    def op_policy(
        self, version: str = "9.0.0", name: str = "", change: dict[str, Any] | None = None,
        signers: list[str] | None = None, raw: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Put a changed `house` in force. `change` has paths like `domains.0.alert`."""
        table = json.loads(pack_json(load_pack("house"))) | {"version": version}
        if name:
            table["name"] = name
        for path, value in (change or {}).items():
            place, *rest = table, *path.split(".")
            for part in rest[:-1]:
                place = place[int(part) if isinstance(place, list) else part]
            last = int(rest[-1]) if isinstance(place, list) else rest[-1]
            if value == "REMOVE":
                del place[last]
            else:
                place[last] = value
        text = canonical(table).decode()
        for old, new in (raw or {}).items():
            text = text.replace(old, new)
        record = PolicyActivation(new_id("pol"), self.town.state.deployment, text)
        submit(*self.place, seal(record, *[self.town.keys[who] for who in signers or VOTERS]))

    def op_enrol(
        self, person: str, role: str, signers: list[str], org: str = "town", drop: list[str] | None = None,
        key_of: str = "", threshold: int = 0, version: int = 0,
    ) -> None:  # fmt: skip
        """A new trust root: one person more (with a key of their own, or somebody's), some fewer."""
        trust = self.town.state.trust
        assert trust is not None
        secret = self.town.keys[key_of] if key_of else Ed25519PrivateKey.generate()
        persons = [p for p in trust.persons if p.id not in (drop or [])]
        keys: list[Key] = [k for k in trust.keys if k.holder not in (drop or [])]
        if person and all(p.id != person for p in persons):
            persons.append(Person(person, org))
        if person:
            keys.append(acts.public_key(secret, person, Role(role)))
        root = acts.next_root(self.town.state, persons, keys, threshold or None)
        if version:
            root = replace(root, version=version)
        acts.enrol(*self.place, root, [self.town.keys[who] for who in signers])
        self.kept[f"{person}:{role}"] = secret
        self.town.keys.setdefault(person, secret)

    def op_organisation(
        self, org: str, audience: str = "researchers", attributes: dict[str, str] | None = None,
        contractor_of: str = "", signer: str = "rso-1",
    ) -> None:  # fmt: skip
        known = {"jurisdiction": "DE"} if attributes is None else attributes
        acts.add_organisation(
            *self.place, org, audience, known, contractor_of, signer, self.town.keys[signer]
        )

    def op_grant(
        self, org: str = "acme-def", stage: str = "early_access", purposes: list[str] | None = None,
        days: float = 30, starts: float = 0.0, jurisdictions: list[str] | None = None, parent: str = "",
        signer: str = "rso-1", name: str = "grant", profile: str = "none", tier: str = "capybara",
    ) -> None:  # fmt: skip
        now = self.town.now
        self.kept[name] = acts.add_grant(
            *self.place, org, "fam", tier, profile, Stage(stage), purposes or ["cyber_defence"],
            jurisdictions or [], now + starts * DAY, now + days * DAY,
            self.kept[parent].id if parent else "", signer, self.town.keys[signer],
        )  # fmt: skip

    def op_revoke(self, what: str, signer: str = "rso-1") -> None:
        target = self.kept[what].id if what in self.kept else what
        acts.revoke(*self.place, target, "drill", signer, self.town.keys[signer])

    def op_request(
        self, org: str = "acme-def", root: str = "W1", purpose: str = "cyber_defence", tier: str = "capybara"
    ) -> Said:
        now = self.town.clock.now()
        found = access(self.town.state, org, "fam", tier, WEIGHTS[root], purpose, now)
        return Said("GRANT") if isinstance(found, Access) else Said("DENY", frozenset({str(found)}))

    def op_tamper(self, sql: list[str]) -> None:
        """Edit the database file as somebody without keys would, triggers put aside."""
        import sqlite3

        self.town.store.close()
        with sqlite3.connect(self.town.home.database) as conn:
            triggers = conn.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for (trigger,) in triggers:
                conn.execute(f"DROP TRIGGER {trigger}")
            for statement in sql:
                conn.execute(statement)
        self.restart()

    def _asked(self, about: dict[str, Any]) -> tuple[Any, str, str]:
        """Subject, strategy and requester of a step."""
        stage = about.get("stage", "early_access")
        purposes = tuple(about.get("purposes", ["cyber_defence"]))
        subject = self.town.subject(
            Stage(stage),
            about.get("audience", AUDIENCES[stage]),
            purposes,
            WEIGHTS[about.get("root", "W1")],
            about.get("profile", "none"),
            about.get("tier", "capybara"),
        )
        changed = {k: hexdigest(v) for k, v in about.get("instead", {}).items()}
        return (
            replace(subject, **changed),
            about.get("strategy", "staged"),
            about.get("requester", "requester-1"),
        )

    def _evidence_text(self, plan: str) -> str:
        from mythos.records.evidence import Evidence
        from mythos.records.signed import payload

        of = self.kept[plan]
        samples = tuple(
            Sample(f"s{i}", f"s{i}", Outcome.FAILURE, of.elicitations[0]) for i in range(of.items)
        )
        piece = Evidence(
            new_id("ev"), of.deployment, of.id, of.root, of.profile, of.suite_digest, of.harness, 1, samples,
            None, hexdigest("t"), "none", of.evaluator, self.town.now, self.town.now,
        )  # fmt: skip
        return payload(piece).decode()

    def _send(self, kind: str, payload: bytes, secret: Ed25519PrivateKey) -> None:
        from mythos.records import dsse
        from mythos.records.signed import payload_type

        submit(*self.place, dsse.sign(payload_type(kind), payload, secret))


def judge(by: str, right: int, wrong: int, name: str = "rules-1") -> Judge:
    """A labelled sample with so many right and wrong calls on each side."""
    items = []
    for label in (True, False):
        for i in range(right + wrong):
            judged = label if i < right else not label
            items.append(Labelled(f"{label}-{i}", judged, label, by, "somebody"))
    return Judge(name, tuple(items))


def said(answer: GateAnswer) -> Said:
    codes = {str(because.code) for because in answer.reasons} | {str(d.code) for d in answer.domains}
    return Said(str(answer.verdict), frozenset(codes))
