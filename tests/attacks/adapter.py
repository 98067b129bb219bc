"""The gate under attack, as operations by name: everything else here knows only these.

Every operation returns a word: OK, ALLOW | HOLD | BLOCK with codes, GRANT | DENY, or a refusal's code.
"""

import base64
import json
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import sqlalchemy.exc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate import acts, bounds
from mythos.gate.grants import Access, access
from mythos.gate.policy import load_pack, pack_json
from mythos.gate.release import GateAnswer
from mythos.gate.state import Rejected
from mythos.gate.submit import submit
from mythos.ledger import heads
from mythos.ledger.log import leaf_hash, now_in
from mythos.ledger.verify import verify as verify_log
from mythos.ledger.witness import WitnessRefusal, cosign, init_witness
from mythos.records import dsse
from mythos.records.canonical import canonical
from mythos.records.clock import ClockError
from mythos.records.dsse import SignatureError
from mythos.records.evidence import Evidence, Judge, Labelled, Outcome, Sample
from mythos.records.grant import Grant
from mythos.records.ids import new_id
from mythos.records.note import LOG, Verifier, open_note
from mythos.records.principal import OPERATOR
from mythos.records.release import Choice, PolicyActivation, Release, Stage, Vote, Withdrawal
from mythos.records.signed import digest, payload, payload_type, seal
from mythos.records.tlog import inclusion_holds, request_text
from mythos.records.trust import Key, Person, Role
from mythos.store.db import Store
from tests.attacks.towns import copied_town
from tests.gate.town import DAY, VOTERS, W1, W2, hexdigest

ORIGIN = "town.example/log"
ASKS = {
    "delete", "gate", "request", "load", "copies", "check_log", "check_proof", "witness", "head",
    "stream_end", "asset_list", "asset_search", "public_get", "exposure_audit",
    "incident_clocks", "report_verify", "report_guess", "report_mark",
}  # fmt: skip
AUDIENCES = {"early_access": "researchers", "expanded": "enterprises", "general": "public"}


@dataclass
class Said:
    """What an operation said: `word`, and every reason code that came with it."""

    word: str
    codes: frozenset[str] = frozenset()


def entries(operation: str, step: dict[str, Any], said: Said) -> int:
    """How many entries of the log a refusal of this step must leave.

    A question leaves none; nor does a list that is answered and does not name what was looked for.
    """
    listed = step.get("method") == "GET" and "200" in said.codes
    return 0 if operation in ASKS or listed else 2 if step.get("twin") else 1


@dataclass
class Adapter:
    """One deployment for one case. Names that steps give (`name = "v1"`) are kept in `kept`."""

    path: Path
    setting: dict[str, Any]
    kept: dict[str, Any] = field(default_factory=dict)
    faults: ExitStack = field(default_factory=ExitStack)
    _assets: Any = None

    def __post_init__(self) -> None:
        setting = dict(self.setting)
        served = setting.pop("served", False)  # with weights on disk, and a server when one is asked
        self.family, self.roots = "fam", {"W1": W1, "W2": W2}
        self.serving: Any = None
        if served:
            from tests.attacks.serving import Serving, with_weights

            self.town = copied_town(self.path, with_weights, **setting)
            self.serving = Serving(self.town)
            self.family, self.roots = "tiny", self.serving.roots()
        else:
            self.town = copied_town(self.path, **setting)
        self.place = (self.town.store, self.town.clock, OPERATOR)

    def do(self, operation: str, arguments: dict[str, Any]) -> Said:
        try:
            named = f"op_{operation}"
            got = getattr(self if hasattr(self, named) else self.assets, named)(**arguments)
        except Rejected as refused:
            return Said(str(refused.code), frozenset({str(refused.code)}))
        return got if isinstance(got, Said) else Said("OK")

    @property
    def assets(self) -> Any:
        """The half for assets and publication: in vaulted.py."""
        if self._assets is None:
            from tests.attacks.vaulted import Vaulted

            self._assets = Vaulted(self)
        return self._assets

    def restart(self) -> None:
        if self._assets:
            self._assets.stop()
        if self.serving:
            self.serving.stop()
        self.town.store.close()
        self.town.store = Store.open(self.town.home)
        self.place = (self.town.store, self.town.clock, OPERATOR)

    def attempts(self) -> list[dict[str, Any]]:
        """The refused attempts that the audit log holds."""
        wanted = 'SELECT event FROM ledger WHERE instr(event, \'"outcome":"refused"\') > 0 ORDER BY seq'
        with self.town.store.read() as conn:
            return [json.loads(event) for event in conn.exec_driver_sql(wanted).scalars()]

    def standing(self) -> Any:
        """All state but the audit log and what servers acknowledge, comparable."""
        state = self.town.state.clone()
        if self.serving:
            state.seq, state.at, state.acknowledged = 0, {}, {}
        return state, self._assets.rows() if self._assets else []

    def close(self) -> None:
        self.faults.close()
        if self._assets:
            self._assets.stop()
        if self.serving:
            self.serving.stop()
        self.town.store.close()

    # Operations.

    def op_clock_advance(self, days: float = 0.0, seconds: float = 0.0) -> None:
        self.town.now += days * DAY + seconds

    def op_measure(
        self, root: str = "W1", humaneval: int = 0, mmlu: int = 80, tier: str = "capybara"
    ) -> None:
        for suite, items, count in (("humaneval", 164, humaneval), ("mmlu_dev", 273, mmlu)):
            self.town.evidence(
                self.town.plan(suite, self.roots[root], items, family=self.family, tier=tier), count
            )

    def op_register_run(
        self, suite: str = "humaneval", root: str = "W1", name: str = "plan", items: int = 100,
        labels: dict[str, Any] | None = None, signer: str = "evaluator-1", **other: Any,
    ) -> None:  # fmt: skip
        other = {k: tuple(v) if isinstance(v, list) else v for k, v in other.items()}
        if labels:
            other["judge"] = digest(judge(**labels))
        if "policy" in other:
            other["policy"] = self.kept[other["policy"]]
        other = {"family": self.family, "evaluator": signer, "signer": signer, **other}
        self.kept[name] = self.town.plan(suite, self.roots[root], items, **other)

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
        days: float = 0.0,  # that it began so long ago
        name: str = "evidence",
        more: int = 0,  # samples beyond the plan
        only: str = "",  # samples of one elicitation alone
    ) -> None:
        of = self.kept[plan]
        counts = successes if isinstance(successes, list) else [successes] * len(of.elicitations)
        samples = []
        for elicitation, count in zip(of.elicitations, counts, strict=True):
            kinds = [Outcome.SUCCESS] * count
            for kind, number in (outcomes or {}).items():
                kinds += [Outcome(kind)] * number
            kinds += [Outcome.FAILURE] * (of.items - len(kinds))
            kinds += [Outcome.FAILURE] * more
            for i, kind in enumerate(kinds[:first]):
                cluster = f"c{i * clusters // of.items}" if clusters else f"s{i}"
                samples.append(Sample(f"s{i}", cluster, kind, elicitation))
        samples = [s for s in samples if only in ("", s.elicitation)]
        other = dict(fields or {})
        for part in ("root", "harness", "suite_digest", "deployment"):
            if part in other:
                other[part] = self.roots.get(other[part], hexdigest(other[part]))
        if labels:
            other["judge"] = judge(**labels)
        if days:
            other["started"] = self.town.now - days * DAY
        self.kept[name] = self.town.evidence(of, samples=tuple(samples), signer=signer, **other)

    def op_submit_raw(
        self, find: str, replace_with: str, plan: str = "plan", signer: str = "evaluator-1"
    ) -> None:
        """Evidence whose bytes were edited before signing: what a program of one's own can send."""
        piece = self._evidence_text(plan).replace(find, replace_with)
        self._send("evidence", piece.encode(), self.town.keys[signer])

    def op_replay(self, record: str, signer: str, edit: dict[str, Any] | None = None) -> None:
        """A kept record once more: the same bytes, or with other values under the same id."""
        again = replace(self.kept[record], **edit or {})
        submit(*self.place, seal(again, self.town.keys[signer]))

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
        claiming: str = "",
        **about: Any,
    ) -> None:
        subject, _, _ = self._asked(about)
        choice = Choice.VETO if veto else Choice.APPROVE
        secret = self.kept[key] if key else self._secret(signer)
        where = hexdigest(deployment) if deployment else self.town.state.deployment
        record = Vote(new_id("vote"), where, claiming or signer, choice, subject, "")
        submit(*self.place, seal(record, secret))
        self.kept[name] = record

    def op_votes(self, signers: list[str] | None = None, **about: Any) -> None:
        for who in signers or VOTERS:
            self.op_vote(who, name=f"vote of {who}", **about)

    def _secret(self, name: str) -> Ed25519PrivateKey:
        """The key of a person, or of the `gate`, the `server` or the `ledger`."""
        return self.town.keys.get(name) or getattr(self.town, name)

    def op_vote_tampered(self, how: str, signer: str = "rso-1", **about: Any) -> None:
        """A good vote, with its envelope damaged in one way."""
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
        elif how == "malleable":  # S + L is congruent to S
            raw = base64.b64decode(one["sig"])
            order = 2**252 + 27742317777372353535851937790883648493
            one["sig"] = base64.b64encode(
                raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
            ).decode()
        elif how == "padded":  # other bytes that decode to the same
            one["sig"] = one["sig"] + "\n"
        elif how == "unsigned":
            envelope["signatures"] = []
        elif how == "twice":
            envelope["signatures"] = [one, one]
        submit(*self.place, canonical(envelope))

    def op_withdraw(
        self, vote: str = "vote", signer: str = "safety-1", claiming: str = "", name: str = "withdrawal"
    ) -> None:
        target = self.kept[vote].id if vote in self.kept else vote
        record = Withdrawal(new_id("wd"), self.town.state.deployment, claiming or signer, target)
        submit(*self.place, seal(record, self.town.keys[signer]))
        self.kept[name] = record

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
        subject, strategy, requester = self._asked(about)
        record = Release(
            new_id("rel"), self.town.state.deployment, subject, strategy, (), (), {}, requester, False,
            self.town.now + DAY,
        )  # fmt: skip
        submit(*self.place, seal(record, Ed25519PrivateKey.generate(), self.town.keys[signer]))

    def op_halt(self, signer: str = "safety-1", release: str = "release") -> None:
        acts.halt(*self.place, self.kept[release].id, "drill", signer, self._secret(signer))

    def op_suspend(
        self, where: dict[str, str], signer: str = "safety-1", name: str = "suspension", tier: str = ""
    ) -> None:
        self.kept[name] = acts.suspend(*self.place, tier, where, "drill", signer, self._secret(signer))

    def op_resume(self, signers: list[str], suspension: str = "suspension") -> None:
        keys = [self._secret(who) for who in signers]
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
        self.kept["policy before"] = self.town.state.policy
        submit(*self.place, seal(record, *[self._secret(who) for who in signers or VOTERS]))

    def op_enrol(
        self, person: str, role: str, signers: list[str], org: str = "town", drop: list[str] | None = None,
        key_of: str = "", threshold: int = 0, version: int = 0, previous: str = "",
        fields: dict[str, Any] | None = None,
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
        if previous:
            root = replace(root, previous=hexdigest(previous))
        acts.enrol(*self.place, replace(root, **fields or {}), [self._secret(who) for who in signers])
        self.kept[f"{person}:{role}"] = secret
        self.town.keys.setdefault(person, secret)

    def op_organisation(
        self, org: str, audience: str = "researchers", attributes: dict[str, str] | None = None,
        contractor_of: str = "", signer: str = "rso-1",
    ) -> None:  # fmt: skip
        known = {"jurisdiction": "DE"} if attributes is None else attributes
        self.kept["organisation"] = acts.add_organisation(
            *self.place, org, audience, known, contractor_of, signer, self._secret(signer)
        )

    def op_organisation_raw(self, org: str) -> None:
        """An organisation under a name that our own program would not write."""
        where, signer = self.town.state.deployment, "rso-1"
        table = {"id": org, "deployment": where, "audience": "researchers", "attributes": {}}
        table |= {"contractor_of": "", "by": signer}
        self._send("organisation", json.dumps(table, sort_keys=True, separators=(",", ":"),
                   ensure_ascii=False).encode(), self.town.keys[signer])  # fmt: skip

    def op_grant_raw(self, find: str, replace_with: str) -> None:
        """A grant whose bytes were edited before signing."""
        now, where = self.town.now, self.town.state.deployment
        record = Grant(
            new_id("grant"), where, "acme-def", self.family, "capybara", "none", Stage.EARLY_ACCESS,
            ("cyber_defence",), (), now, now + DAY, "", "rso-1",
        )  # fmt: skip
        text = payload(record).decode().replace(find, replace_with)
        self._send("grant", text.encode(), self.town.keys["rso-1"])

    def op_grant(
        self, org: str = "acme-def", stage: str = "early_access", purposes: list[str] | None = None,
        days: float = 30, starts: float = 0.0, jurisdictions: list[str] | None = None, parent: str = "",
        signer: str = "rso-1", name: str = "grant", profile: str = "none", tier: str = "capybara",
    ) -> None:  # fmt: skip
        now = self.town.now
        self.kept[name] = acts.add_grant(
            *self.place, org, self.family, tier, self.kept.get(profile, profile), Stage(stage),
            purposes or ["cyber_defence"], jurisdictions or [], now + starts * DAY, now + days * DAY,
            self.kept[parent].id if parent else "", signer, self._secret(signer),
        )  # fmt: skip

    def op_revoke(self, what: str, signer: str = "rso-1") -> None:
        target = self.kept[what].id if what in self.kept else what
        acts.revoke(*self.place, target, "drill", signer, self.town.keys[signer])

    def op_request(
        self, org: str = "acme-def", root: str = "W1", purpose: str = "cyber_defence", tier: str = "capybara"
    ) -> Said:
        try:
            with self.town.store.read() as conn:
                now = now_in(conn, self.town.clock)
        except ClockError:
            return Said("DENY", frozenset({"CLOCK"}))
        found = access(self.town.state, org, self.family, tier, self.roots[root], purpose, now)
        return Said("GRANT") if isinstance(found, Access) else Said("DENY", frozenset({str(found)}))

    def op_tamper(self, sql: list[str]) -> None:
        """Edit the database file as somebody without keys would, triggers put aside."""
        import sqlite3

        self.town.store.close()
        with sqlite3.connect(self.town.home.database) as conn:
            triggers = conn.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for (trigger,) in triggers:
                conn.execute(f"DROP TRIGGER {trigger}")
            conn.create_function("leaf", 2, lambda salt, event: leaf_hash(salt, event))
            for statement in sql:
                conn.execute(statement)
        self.restart()

    def op_delete(self, table: str) -> Said:
        """Delete rows through the product's own connection, triggers in place."""
        try:
            with self.town.store.begin() as conn:
                conn.exec_driver_sql(f"DELETE FROM {table}")
        except sqlalchemy.exc.IntegrityError:
            return Said("REFUSED")
        return Said("OK")

    def op_fault(self, point: str = "arithmetic") -> None:
        """A part that is needed to decide does not work: here the bounds are a little off."""
        assert point == "arithmetic"
        self.faults.enter_context(
            mock.patch.object(bounds, "upper", lambda k, n, c, real=bounds.upper: real(k, n, c) * 0.999)
        )

    # The log, its heads and witnesses.

    def op_head(self, name: str = "head", tiles: str = "tiles", signer: str = "ledger") -> Said:
        """Sign the log as it stands."""
        place = self.town.home.path / tiles
        try:
            got = heads.publish(self.town.store, self.town.clock, place, ORIGIN, self._secret(signer))
        except SignatureError:
            return Said("SIGNATURE_INVALID")
        self.kept[name] = got
        return Said("OK")

    def op_witness(self, name: str = "cosigned", after: str = "", tiles: str = "tiles") -> Said:
        """A witness of another house is asked for its signature on the last head."""
        place = self.path / "witness"
        secret = self.kept.setdefault("witness", Ed25519PrivateKey.generate())
        if not place.exists():
            place.mkdir()
            init_witness(place, "witness.example/w1", secret, self._log(), self.town.clock)
        old = self.kept[after].head.size if after else 0
        asked = heads.consistency(self.town.store, self.town.home.path / tiles, self._log(), old)
        try:
            self.kept[name] = cosign(place, secret, request_text(asked), self.town.clock)
        except WitnessRefusal as refused:
            return Said("REFUSED", frozenset({str(refused.status)}))
        return Said("OK")

    def op_check_log(self, given: str = "") -> Said:
        """Verify the whole log, against a head that somebody else kept if one is given."""
        notes = [self.kept[given].note] if given else []
        found = verify_log(self.town.store, self.town.home.path / "tiles", self._log(), (), notes)
        codes = frozenset(f"LOG_{fault.kind.upper()}" for fault in found.faults)
        return Said("LOG_DAMAGED", codes) if codes else Said("OK")

    def op_check_proof(self, how: str = "", seq: int = 0, head: str = "head", of: str = "") -> Said:
        """Check that an event is in a head, with the proof changed: `inner`, `index`, `short`, `longer`,
        `event`; or against the head `of` which it was not made, or another log's."""
        signed, tiles = self.kept[head], self.town.home.path / "tiles"
        proof, entry = heads.prove(self.town.store, tiles, self._log(), seq, signed.head.size)
        about, index, path = self.kept[of].head if of else signed.head, proof.index, list(proof.path)
        if how == "inner":  # both children of a node, presented as an entry
            pair = [leaf_hash(entry[:16], entry[16:]), path.pop(0)]
            entry, index = b"".join(pair[:: -1 if index % 2 else 1]), index // 2
            about = replace(about, size=(about.size + 1) // 2)
        elif how == "index":
            index += 1
        elif how == "short":
            path.pop()
        elif how == "longer":
            path.append(bytes(32))
        elif how == "event":
            entry = entry.replace(b'"kind"', b'"kine"')
        elif how == "log":
            other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
            try:
                open_note(proof.note, Verifier(ORIGIN, LOG, other))
            except SignatureError:
                return Said("SIGNATURE_INVALID")
        good = inclusion_holds(leaf_hash(entry[:16], entry[16:]), index, about, path)
        return Said("OK" if good else "PROOF_INVALID")

    def _log(self) -> Verifier:
        return Verifier(ORIGIN, LOG, self.town.ledger.public_key().public_bytes_raw())

    # Weights on disk and requests over HTTP: in serving.py, for settings with `served = true`.

    def op_weights(self, how: str, file: str = "model.safetensors.enc", root: str = "W1") -> None:
        """Damage weights as they lie on disk."""
        other = self.roots["W2" if root == "W1" else "W1"]
        self.serving.damage(how, self.roots[root], file, other)

    def op_weights_written(self, name: str, change: str = "", edit: list[str] | None = None) -> None:
        """Weights that somebody with the key of this house wrote and nobody decided about."""
        self.roots[name] = self.serving.write(change, (edit[0], edit[1]) if edit else None)

    def op_load(self, tier: str = "capybara", root: str = "W1", release: str = "") -> Said:
        return Said(self.serving.load(tier, self.roots[root], self.kept[release] if release else None))

    def op_copies(self) -> Said:
        return Said(self.serving.copies())

    def op_profile(self, name: str, root: str = "W1", fallback: str = "", trips: bool = True) -> None:
        self.kept[name] = self.serving.profile(self.roots[root], fallback, trips)

    def op_key(self, org: str = "acme-def", purpose: str = "cyber_defence", name: str = "key") -> None:
        self.serving.key(org, purpose, name)

    def op_revoke_key(self, name: str = "key") -> None:
        self.serving.revoke_key(name)

    def op_http(
        self, key: str = "key", model: str = "capybara", method: str = "POST", path: str = "/v1/messages",
        body: dict[str, Any] | None = None, twin: str = "", **sent: Any,
    ) -> Said:  # fmt: skip
        word, codes = self.serving.http(key, model, method, path, body, twin, **sent)
        return Said(word, frozenset(codes))

    def op_stream(
        self, key: str = "key", model: str = "capybara", name: str = "stream", short: bool = False
    ) -> None:
        """Begin an answer and leave it running."""
        self.serving.stream(key, model, name, short)

    def op_stream_end(self, name: str = "stream") -> Said:
        """Read it to its end: GRANT when it came to one of its own."""
        word, codes = self.serving.streams[name].end()
        return Said(word, frozenset(codes))

    def _asked(self, about: dict[str, Any]) -> tuple[Any, str, str]:
        """Subject, strategy and requester of a step."""
        stage = about.get("stage", "early_access")
        purposes = tuple(about.get("purposes", ["cyber_defence"]))
        profile = about.get("profile", "none")
        subject = acts.subject(
            self.town.state, self.family, about.get("tier", "capybara"), self.roots[about.get("root", "W1")],
            self.kept.get(profile, profile), Stage(stage), about.get("audience", AUDIENCES[stage]), purposes,
        )  # fmt: skip
        changed = {k: hexdigest(v) for k, v in about.get("instead", {}).items()}
        return (
            replace(subject, **changed),
            about.get("strategy", "staged"),
            about.get("requester", "requester-1"),
        )

    def _evidence_text(self, plan: str) -> str:
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
