"""What is trusted, and what a quorum is: forgeries by insiders short of one, each beside a true twin."""

import base64
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.cli.main import run
from mythos.gate import acts
from mythos.gate.policy import pack_digest, pack_json
from mythos.records import dsse
from mythos.records.bundle import BROKEN, UNTRUSTED, VERIFIED, trust_named
from mythos.records.canonical import RecordError, canonical, parse
from mythos.records.principal import OPERATOR
from mythos.records.release import Subject
from mythos.records.signed import KINDS, digest, from_plain, payload_type, seal, to_plain
from mythos.records.trust import Key, Person, Role, TrustRoot
from tests.gate.town import STAFF, VOTERS, Town
from tests.receipts.world import Forge, alone, answered, both, changed, document, judged, new_town


@pytest.fixture(scope="module")
def town(tmp_path_factory) -> Town:
    """With a second version of its trust root."""
    town = new_town(tmp_path_factory.mktemp("town"))
    keys = [*town.state.trust.keys, Key("07" * 32, "watcher", Role.WITNESS)]
    second = acts.next_root(town.state, [Person(who, "town") for who in STAFF], keys)
    acts.enrol(town.store, town.clock, OPERATOR, second, [town.keys[who] for who in VOTERS[:3]])
    return town


@pytest.fixture(scope="module")
def good(town) -> bytes:
    return document(town, answered(town, town.released()))


def records(data: bytes, kind: str) -> list[Any]:
    rows = [entry for entry in parse(data, 1 << 25)["bundle"]["entries"] if entry["kind"] == kind]
    return [from_plain(KINDS[kind], dsse.peek(row["envelope"].encode())) for row in rows]


def envelopes(data: bytes, kind: str) -> list[bytes]:
    rows = parse(data, 1 << 25)["bundle"]["entries"]
    return [row["envelope"].encode() for row in rows if row["kind"] == kind]


def decided(town: Town, good: bytes, forge: Forge, votes: int = 5, **changes: Any) -> Forge:
    """The same persons vote anew on a subject with `changes`, and the gate releases it with some votes."""
    [release] = records(good, "release")
    subject: Subject = replace(release.subject, **changes)
    for vote in records(good, "vote"):
        forge.swap("vote", vote, replace(vote, subject=subject), town.keys[vote.person])
    asked = replace(release, subject=subject, votes=release.votes[:votes])
    return forge.swap("release", release, asked, town.gate, town.keys["requester-1"])


def raw(forge: Forge, old: Any, key: Ed25519PrivateKey, **changes: Any) -> str:
    """A record that no code of ours would make, in the place of `old`; its digest."""
    kind = next(name for name, made in KINDS.items() if isinstance(old, made))
    data = canonical({**to_plain(old), **changes})
    at = next(i for i, row in enumerate(forge.records) if row[:2] == (kind, old.id))
    forge.records[at] = (kind, old.id, dsse.sign(payload_type(kind), data, key), forge.records[at][3])
    return hashlib.sha256(data).hexdigest()


def evidence_digest(digests: list[str]) -> str:
    return hashlib.sha256(canonical(sorted(digests))).hexdigest()


# A chain of trust roots as `--trust`.


def test_the_whole_chain_may_be_what_is_trusted(town, good, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MYTHOS_HOME", str(town.home.path))
    monkeypatch.setenv("MYTHOS_KEYS", str(town.home.keys))
    chain, place = tmp_path / "chain.json", tmp_path / "receipt.json"
    assert run(["trust", "show", "--out", str(chain)]) == 0
    place.write_bytes(good + b"\n")
    assert len(json.loads(chain.read_text())) == 2
    assert trust_named(chain.read_bytes()) == alone.trusted(str(chain)) == town.state.deployment
    assert run(["receipt", "verify", str(place), "--trust", str(chain)]) == 0
    given = [sys.executable, alone.__file__, str(place), "--trust"]
    done = subprocess.run([*given, str(chain)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == VERIFIED, done.stderr
    other = new_town(tmp_path / "other", name="other")
    elsewhere = tmp_path / "elsewhere.json"
    first = seal(other.state.trust, *(other.keys[who] for who in VOTERS[:3]))
    elsewhere.write_text(json.dumps([base64.b64encode(first).decode()]))
    assert run(["receipt", "verify", str(place), "--trust", str(elsewhere)]) == 1
    done = subprocess.run([*given, str(elsewhere)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(BROKEN)


def test_a_chain_is_verified_root_by_root(town, good, tmp_path):
    first, second = envelopes(good, "trust-root")
    lone = seal(records(good, "trust-root")[1], town.keys["rso-1"])
    place = tmp_path / "chain.json"

    def named(*chain: Any) -> str:
        table = [base64.b64encode(one).decode() if isinstance(one, bytes) else one for one in chain]
        place.write_text(json.dumps(table))
        try:
            found = trust_named(place.read_bytes())
        except RecordError:
            with pytest.raises(Exception):  # noqa: B017 - whatever it raises, nothing is trusted
                alone.trusted(str(place))
            return ""
        assert alone.trusted(str(place)) == found
        return found

    assert named(first) == named(first, second) == town.state.deployment
    for chain in ((), (second,), (second, first), (first, first), (first, lone), (first, 7), (first, "x")):
        assert named(*chain) == ""
    place.write_bytes(second)  # one root alone: its digest is what counts
    assert trust_named(second) == alone.trusted(str(place)) == digest(town.state.trust)


# Who makes a quorum.


def test_service_keys_do_not_become_persons_by_naming_themselves(town, good):
    """Whoever holds the machine's keys enrols them as those of three persons, in the next trust root."""
    old, ledger = town.state.trust, Ed25519PrivateKey.generate()
    owners = {"ann": town.gate, "ben": town.server, "cem": town.ledger}
    keys = [acts.public_key(secret, who, Role.BOARD) for who, secret in owners.items()]
    keys.append(acts.public_key(ledger, "ledger", Role.LEDGER))
    people = tuple(Person(who, "town") for who in owners)
    third = TrustRoot(3, old.name, old.drill, 3, people, tuple(keys), digest(old))

    def with_root(*more: Ed25519PrivateKey) -> str:
        forge = replace(Forge.of(town, good), ledger=ledger)
        forge.records.append(("trust-root", "trust-root.3", seal(third, *owners.values(), *more), town.now))
        return both(forge.bundle(), town.state.deployment)

    assert with_root(*(town.keys[who] for who in VOTERS[:3])) == VERIFIED
    assert with_root() == with_root(town.keys["rso-1"], town.keys["safety-1"]) == BROKEN


@pytest.mark.parametrize(
    ("signers", "votes", "status"), [(2, 2, VERIFIED), (1, 5, BROKEN), (5, 1, BROKEN), (5, 0, BROKEN)]
)
@pytest.mark.parametrize("least", [0, 1, -1])
def test_no_pack_lets_one_person_decide(town, good, signers, votes, status, least):
    """A pack is signed by the quorum that it names itself: one that asks for nobody is worth nothing."""
    pack, [activation] = town.state.pack, records(good, "policy")
    stages = tuple(replace(rule, quorum=least, roles=()) for rule in pack.stages)
    weak = replace(pack, quorum=least, roles=(), stages=stages)
    new = replace(activation, pack=pack_json(weak).decode())
    keys = [town.keys[who] for who in VOTERS[:signers]]
    forge = Forge.of(town, good).swap("policy", activation, new, *keys)
    assert both(decided(town, good, forge, votes, policy=pack_digest(weak)).bundle()) == (
        UNTRUSTED if status == VERIFIED else status
    )


def test_a_policy_holds_from_its_activation_on(town, good):
    forge = Forge.of(town, good)
    policy = next(row for row in forge.records if row[0] == "policy")
    forge.records.remove(policy)
    at = next(i for i, row in enumerate(forge.records) if row[0] == "release")
    before = [*forge.records[:at], policy, *forge.records[at:]]
    after = [*forge.records[: at + 1], policy, *forge.records[at + 1 :]]
    assert both(replace(forge, records=before).bundle()) == UNTRUSTED
    assert both(replace(forge, records=after).bundle()) == BROKEN


# Evidence.


@pytest.mark.parametrize(
    ("looks", "look", "status"), [(1, 1, UNTRUSTED), (2, 1, UNTRUSTED), (2, 2, BROKEN), (1, 2, BROKEN)]
)
def test_a_look_more_than_planned_or_one_left_out(town, good, looks, look, status):
    (plan, _), (piece, rest) = records(good, "plan"), records(good, "evidence")
    key, seen = town.keys["evaluator-1"], replace(piece, look=look)
    forge = Forge.of(town, good).swap("plan", plan, replace(plan, looks=looks), key)
    forge.swap("evidence", piece, seen, key)
    found = evidence_digest([digest(seen), digest(rest)])
    assert both(decided(town, good, forge, evidence=found).bundle()) == status


@pytest.mark.parametrize("twice", [False, True])
def test_a_sample_counts_once(town, good, twice):
    piece, rest = records(good, "evidence")
    samples = to_plain(piece)["samples"]
    forge = Forge.of(town, good)
    if twice:
        samples[1] = samples[0]
    found = [raw(forge, piece, town.keys["evaluator-1"], samples=samples), digest(rest)]
    forged = decided(town, good, forge, evidence=evidence_digest(found)).bundle()
    assert both(forged) == (BROKEN if twice else UNTRUSTED)


@pytest.mark.parametrize("suite", ["humaneval", ""])
def test_a_suite_without_a_name_rules_nothing_out(town, good, suite):
    """A domain without a precursor names it "", and so does a plan that nobody of ours would sign."""
    pack, [activation] = town.state.pack, records(good, "policy")
    domains = tuple(replace(one, precursor=suite, precursor_alert=0.5) for one in pack.domains)
    other = replace(pack, domains=domains)
    forge = Forge.of(town, good)
    new = replace(activation, pack=pack_json(other).decode())
    forge.swap("policy", activation, new, *(town.keys[who] for who in VOTERS))
    raw(forge, records(good, "plan")[0], town.keys["evaluator-1"], suite=suite)
    forged = decided(town, good, forge, policy=pack_digest(other)).bundle()
    assert both(forged) == (UNTRUSTED if suite else BROKEN)


# The form.


def test_a_bundle_has_one_form(town, good):
    assert both(changed(good)) == UNTRUSTED
    for change in ({"version": True}, {"version": "1"}, {"keys": None}, {"keys": 0}, {"entries": {}}):
        assert both(changed(good, **change)) == BROKEN
    forge = Forge.of(town, good)
    kind, name, envelope, time = forge.records[-1]
    outer = parse(envelope)
    outer["signatures"][0]["more"] = 1
    forge.records[-1] = (kind, name, canonical(outer), time)
    assert both(forge.bundle()) == BROKEN


def test_what_is_printed_cannot_write_on_the_terminal(town, good, capsys):
    [receipt] = records(good, "receipt")
    other = replace(receipt, asked="x\n\x1b[2Jverified")
    assert both(Forge.of(town, good).swap("receipt", receipt, other, town.server).bundle()) == UNTRUSTED
    printed = capsys.readouterr().out
    assert "\\x1b[2Jverified" in printed and "\x1b" not in printed
    other = replace(receipt, id="x\n\x1b[2Jverified", deployment="aa" * 32)
    forge = Forge.of(town, good).swap("receipt", receipt, other, town.server)
    assert "\x1b" not in judged(forge.bundle())[1]


def test_a_bundle_alone_opens_no_prompt(town, good):
    bundle = bundle_json_of(good)
    assert judged(bundle)[0] == UNTRUSTED
    assert judged(bundle, "", b'{"messages": []}')[0] == judged(bundle, "", None, b"Paris.")[0] == BROKEN


def bundle_json_of(data: bytes) -> bytes:
    return canonical(parse(data, 1 << 25)["bundle"])
