"""Bundles: what a forger may try, each beside what must verify; two verifiers must agree on all of it."""

import ast
import json
import random
import sys
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate import acts
from mythos.gate.bundle import build_bundle, verify_fully
from mythos.gate.release import evidence_root
from mythos.records.bundle import BROKEN, UNTRUSTED, VERIFIED, bundle_json, trust_named, verify_document
from mythos.records.canonical import canonical, parse
from mythos.records.dsse import key_id, peek
from mythos.records.evidence import Outcome
from mythos.records.note import cosign_head, parse_head
from mythos.records.principal import OPERATOR
from mythos.records.release import Choice
from mythos.records.signed import KINDS, digest, from_plain, seal
from mythos.records.trust import Key, Person, Role, TrustRoot
from tests.gate.town import STAFF, VOTERS, Town
from tests.receipts.world import SCRIPT, Forge, alone, answered, both, changed, document, judged, new_town


@pytest.fixture(scope="module")
def town(tmp_path_factory) -> Town:
    return new_town(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def release(town):
    return town.released()


@pytest.fixture(scope="module")
def good(town, release) -> bytes:
    return document(town, answered(town, release))


def record(data: bytes, kind: str, at: int = 0):
    rows = [entry for entry in parse(data, 1 << 25)["bundle"]["entries"] if entry["kind"] == kind]
    return from_plain(KINDS[kind], peek(rows[at]["envelope"].encode()))


def test_a_true_receipt_verifies_and_says_drill(town, good):
    assert both(good) == UNTRUSTED and both(good, town.state.deployment) == VERIFIED
    report = verify_document(good, town.state.deployment)
    assert report.chain.drill and "DRILL" in report.steps[0].text
    assert report.chain.receipt.decision == report.chain.release.id


def test_the_gate_judges_the_samples_again(town, good):
    """Few samples in clusters: the plain bound still holds, the gate's own verdict does not."""
    trust = town.state.deployment
    report = verify_fully(good, trust)
    assert report.status == VERIFIED and "again" in report.steps[-1].text
    piece, other = record(good, "evidence"), record(good, "evidence", 1)
    alike = replace(piece, samples=tuple(replace(sample, cluster="one") for sample in piece.samples))
    forge = Forge.of(town, good).swap("evidence", piece, alike, town.keys["evaluator-1"])
    release = record(good, "release")
    subject = replace(release.subject, evidence=evidence_root([alike, other]))
    asked = (town.gate, town.keys["requester-1"])
    forge.swap("release", release, replace(release, subject=subject), *asked)
    for at in range(5):
        vote = record(good, "vote", at)
        forge.swap("vote", vote, replace(vote, subject=subject), town.keys[vote.person])
    assert both(forge.bundle(), trust) == VERIFIED
    assert verify_fully(forge.bundle(), trust).status == BROKEN


def test_the_bundle_of_a_decision_alone(town, release):
    bundle = build_bundle(town.home, town.store, town.clock, release.id, town.state.deployment)
    assert both(bundle_json(bundle), town.state.deployment) == VERIFIED


def test_what_is_trusted_may_be_a_digest_a_file_or_nobody_here(town, good, tmp_path):
    envelope = parse(good, 1 << 25)["bundle"]["entries"][0]["envelope"].encode()
    place = tmp_path / "root.json"
    place.write_bytes(envelope)
    assert trust_named(envelope) == alone.trusted(str(place)) == town.state.deployment
    other = new_town(tmp_path / "other", name="other")
    assert both(good, other.state.deployment) == BROKEN  # a DRILL says nothing elsewhere


def test_a_later_trust_root_is_followed_and_an_unsigned_one_is_not(tmp_path):
    town = new_town(tmp_path)
    persons = [Person(who, "town") for who in STAFF]
    keys = [*town.state.trust.keys, Key("07" * 32, "watcher", Role.WITNESS)]
    second = acts.next_root(town.state, persons, keys)
    acts.enrol(town.store, town.clock, OPERATOR, second, [town.keys[who] for who in VOTERS[:3]])
    data = document(town, answered(town, town.released()))
    assert both(data, digest(second)) == both(data, town.state.deployment) == VERIFIED
    forge = Forge.of(town, data)
    at = next(i for i, row in enumerate(forge.records) if row[1] == "trust-root.2")
    forge.records[at] = ("trust-root", "trust-root.2", seal(second, town.keys["rso-1"]), town.now)
    assert both(forge.bundle()) == BROKEN


# Each forger holds the key that signs the log, and rewrites it; what they lack is the keys of other persons.


def test_a_forged_log_of_true_records_is_the_control(town, good):
    assert both(Forge.of(town, good).bundle(), town.state.deployment) == VERIFIED


def test_swapped_weights(town, good):
    receipt, release = record(good, "receipt"), record(good, "release")
    other = replace(receipt, root="ee" * 32)
    assert both(Forge.of(town, good).swap("receipt", receipt, other, town.server).bundle()) == BROKEN
    subject = replace(release.subject, root="ee" * 32)
    forged = replace(release, subject=subject)
    forge = Forge.of(town, good).swap("release", release, forged, town.gate, town.keys["requester-1"])
    assert both(forge.swap("receipt", receipt, other, town.server).bundle()) == BROKEN


@pytest.mark.parametrize(
    "change", ["purpose", "profile", "tier", "decision", "deployment", "time", "server"], ids=str
)
def test_a_receipt_that_does_not_fit_its_decision(town, good, change):
    receipt = record(good, "receipt")
    values = {"time": receipt.time + 3600, "deployment": "aa" * 32, "server": "aa" * 32}
    forged = replace(receipt, **{change: values.get(change, "other")})
    assert both(Forge.of(town, good).swap("receipt", receipt, forged, town.server).bundle()) == BROKEN


def test_a_fallback_names_what_was_asked(town, release):
    data = document(town, answered(town, release, asked="larger"))
    assert both(data) == UNTRUSTED and "larger was asked" in verify_document(data).steps[-2].text


def test_a_receipt_by_an_unknown_server(town, release, good):
    stranger = Ed25519PrivateKey.generate()
    assert both(document(town, answered(town, release, stranger))) == BROKEN
    receipt = record(good, "receipt")
    assert both(Forge.of(town, good).swap("receipt", receipt, receipt, town.gate).bundle()) == BROKEN


def test_votes_left_out_edited_or_by_the_requester(town, good):
    release = record(good, "release")
    signers = (town.gate, town.keys["requester-1"])

    def with_votes(*votes: str) -> str:
        forged = replace(release, votes=votes)
        return both(Forge.of(town, good).swap("release", release, forged, *signers).bundle())

    assert with_votes(*release.votes) == UNTRUSTED
    assert with_votes(*release.votes[:2]) == BROKEN
    assert with_votes() == BROKEN
    vote = record(good, "vote")
    for choice, key in ((Choice.VETO, town.keys[vote.person]), (Choice.APPROVE, town.keys["requester-1"])):
        forged = replace(vote, choice=choice)
        assert both(Forge.of(town, good).swap("vote", vote, forged, key).bundle()) == BROKEN
    other = replace(vote, subject=replace(vote.subject, evidence="ab" * 32))
    forge = Forge.of(town, good).swap("vote", vote, other, town.keys[vote.person])
    assert both(forge.bundle()) == BROKEN


@pytest.mark.parametrize(
    "people", [("one",) * 4, ("one", "two", "three", "four")], ids=["one person", "four"]
)
def test_one_person_with_all_the_keys_counts_once(town, good, people):
    """The whole deployment founded again, with the same four voting keys in the hands of `people`."""
    secrets = [Ed25519PrivateKey.generate() for _ in range(6)]
    roles = (Role.SAFETY, Role.SCALING, Role.EXECUTIVE, Role.BOARD, Role.EVALUATOR, Role.RELEASE)
    holders = (*people, "judge", "asker")
    keys = [acts.public_key(*row) for row in zip(secrets, holders, roles, strict=True)]
    keys += [key for key in town.state.trust.keys if key.holder not in STAFF]
    persons = tuple(Person(name, "town") for name in dict.fromkeys(holders))
    first = TrustRoot(1, "solo", True, 1, persons, tuple(keys), "")
    forge, rows, pieces, voters = Forge.of(town, good), [], [], 0
    for kind, name, envelope, time in forge.records:
        if kind == "trust-root":
            rows.append((kind, name, seal(first, secrets[0]), time))
            continue
        new = from_plain(KINDS[kind], {**peek(envelope), "deployment": digest(first)})
        signers = [town.server]
        if kind == "policy":
            signers = secrets[:4]
        elif kind in ("plan", "evidence"):
            new, signers = replace(new, evaluator="judge"), [secrets[4]]
            pieces += [new] if kind == "evidence" else []
        elif kind in ("vote", "release"):
            new = replace(new, subject=replace(new.subject, evidence=evidence_root(pieces)))
        if kind == "vote":
            if voters == 4:
                continue
            new, signers = replace(new, person=people[voters]), [secrets[voters]]
            voters += 1
        if kind == "release":
            votes = tuple(row[1] for row in rows if row[0] == "vote")
            new, signers = replace(new, requester="asker", votes=votes), [town.gate, secrets[5]]
        rows.append((kind, name, seal(new, *signers), time))
    data = replace(forge, records=rows).bundle()
    if len(set(people)) == 4:
        assert both(data, digest(first)) == VERIFIED
    else:  # the pack's activation already has too few signers, and so have the votes
        assert both(data) == BROKEN and "1 persons signed" in verify_document(data).steps[-1].text


def test_evidence_edited_or_left_out(town, good):
    piece = record(good, "evidence")
    better = tuple(replace(s, outcome=Outcome.FAILURE) for s in piece.samples[:-1])
    forged = replace(piece, samples=(*better, piece.samples[-1]), isolation="edited")
    forge = Forge.of(town, good).swap("evidence", piece, forged, town.keys["evaluator-1"])
    assert both(forge.bundle()) == BROKEN
    forge = Forge.of(town, good).swap("evidence", piece, forged, town.keys["requester-1"])
    assert both(forge.bundle()) == BROKEN


def test_a_verdict_that_the_samples_do_not_bear_out(tmp_path):
    """The gate's own key signs "ruled out" over samples that rule nothing out."""
    town = new_town(tmp_path)
    data = document(town, answered(town, town.released()))
    piece, release = record(data, "evidence"), record(data, "release")
    worse = tuple(replace(sample, outcome=Outcome.SUCCESS) for sample in piece.samples)
    forged = replace(piece, samples=worse)
    other = record(data, "evidence", 1)
    subject = replace(release.subject, evidence=evidence_root([forged, other]))
    forge = Forge.of(town, data).swap("evidence", piece, forged, town.keys["evaluator-1"])
    new = replace(release, subject=subject)
    forge.swap("release", release, new, town.gate, town.keys["requester-1"])
    for at in range(5):
        vote = record(data, "vote", at)
        forge.swap("vote", vote, replace(vote, subject=subject), town.keys[vote.person])
    report = verify_document(forge.bundle())
    assert both(forge.bundle()) == BROKEN and "not ruled out" in report.steps[-1].text


def test_a_veto_and_a_halt(tmp_path):
    town = new_town(tmp_path)
    release = town.released()
    before = document(town, answered(town, release, leaf=3))
    assert both(before) == UNTRUSTED
    halt = acts.halt(town.store, town.clock, OPERATOR, release.id, "drill", "safety-1", town.keys["safety-1"])
    with town.store.read() as conn:
        last = conn.exec_driver_sql("SELECT max(seq) FROM ledger").scalar()
    assert halt and both(document(town, answered(town, release, leaf=3))) == UNTRUSTED  # asked before
    assert both(document(town, answered(town, release, leaf=last + 1))) == BROKEN
    vote = record(before, "vote")
    veto = replace(vote, id="veto-1", choice=Choice.VETO)
    forge = Forge.of(town, before)
    at = next(i for i, row in enumerate(forge.records) if row[0] == "release")
    forge.records.insert(at, ("vote", "veto-1", seal(veto, town.keys[vote.person]), town.now))
    assert both(forge.bundle()) == BROKEN


# Proofs.


def test_an_inner_node_as_a_leaf_another_tree_another_place(good):
    table = parse(good, 1 << 25)["bundle"]
    first = table["entries"][0]

    def with_entry(**values) -> str:
        return both(changed(good, entries=[{**first, **values}, *table["entries"][1:]]))

    assert with_entry() == UNTRUSTED
    assert with_entry(path=first["path"][1:]) == BROKEN
    assert with_entry(path=[*first["path"], "00" * 32]) == BROKEN
    assert with_entry(salt="00" * 16) == BROKEN
    assert with_entry(seq=first["seq"] + 1) == BROKEN
    assert with_entry(salt=first["salt"].upper()) == BROKEN
    event = json.dumps(json.loads(first["event"]))  # the same event in other bytes
    assert with_entry(event=event) == BROKEN
    lines = table["head"].split("\n")
    assert both(changed(good, head="\n".join([lines[0], str(int(lines[1]) + 1), *lines[2:]]))) == BROKEN


def test_a_head_by_somebody_else(town, good):
    forge = Forge.of(town, good)
    assert both(replace(forge, ledger=town.server).bundle()) == BROKEN


def test_a_witness_is_named_and_a_false_one_condemns(tmp_path):
    town, watcher = new_town(tmp_path), Ed25519PrivateKey.generate()
    persons = [Person(who, "town") for who in STAFF]
    keys = [*town.state.trust.keys, acts.public_key(watcher, "watcher", Role.WITNESS)]
    second = acts.next_root(town.state, persons, keys)
    acts.enrol(town.store, town.clock, OPERATOR, second, [town.keys[who] for who in VOTERS[:3]])
    data = document(town, answered(town, town.released()))
    bundle = parse(data, 1 << 25)["bundle"]
    note, head = bundle["head"], parse_head(bundle["head"].encode())
    seen = {**bundle, "head": note + cosign_head(head, "watcher", watcher, 1_777_000_000).decode()}
    assert both(canonical(seen)) == UNTRUSTED
    assert verify_document(canonical(seen)).chain.witnesses == {"watcher": 1_777_000_000}
    other = {**bundle, "head": note + cosign_head(head, "nobody", watcher, 1_777_000_000).decode()}
    assert both(canonical(other)) == UNTRUSTED  # unknown: passed over
    line = cosign_head(replace(head, size=head.size + 1), "watcher", watcher, 1_777_000_000)
    assert both(canonical({**bundle, "head": note + line.decode()})) == BROKEN


def test_a_cut_bundle(good):
    table = parse(good, 1 << 25)["bundle"]
    for gone in range(len(table["entries"])):
        rest = [entry for at, entry in enumerate(table["entries"]) if at != gone]
        kind = table["entries"][gone]["kind"]
        bare = UNTRUSTED if kind == "receipt" else BROKEN  # then it is about the decision alone
        assert both(canonical({**table, "entries": rest})) == bare, kind
        assert both(changed(good, entries=rest)) == BROKEN
    assert both(good[:-1]) == both(b"") == both(b"{}") == both(b"[]") == both(b"null") == BROKEN


def test_the_document_around_the_bundle(good):
    table = parse(good, 1 << 25)
    for field in ("id", "status", "receipt", "leaf", "event", "salt", "inclusion"):
        assert both(canonical({**table, field: "x"})) == BROKEN
        assert both(canonical({name: value for name, value in table.items() if name != field})) == BROKEN
    opening = {**table["opening"], "value": {"sampling": {"temperature": 1}}}
    assert both(canonical({**table, "opening": opening})) == BROKEN
    assert both(canonical({**table, "more": 1})) == BROKEN


def test_every_byte_counts_and_both_verifiers_agree(town, good):
    """Sampled single-byte mutations of a document, and of every place in a small part of it."""
    draw = random.Random(7)
    places = {draw.randrange(len(good)) for _ in range(120)}
    places |= {good.index(b'"head"') + n for n in range(0, 160, 4)}
    opening = parse(good, 1 << 25)["opening"]
    for name in ("prompt", "answer"):  # these salts open what is not in the document: nothing here can tell
        at = good.index(f'"{name}":"{opening[name]}"'.encode()) + len(name) + 4
        places -= set(range(at, at + len(opening[name])))
    for at in sorted(places):
        byte = draw.choice([b for b in (good[at] ^ 1, good[at] ^ 32, 0x30, 0x22) if b != good[at]])
        mutated = good[:at] + bytes([byte]) + good[at + 1 :]
        assert both(mutated) == BROKEN, (at, good[at - 20 : at + 20])


def test_prompt_and_answer_open_for_their_caller(good, town):
    asked, other = b'{"messages": []}', b'{"messages": [{"role": "user", "content": "x"}]}'
    assert judged(good, "", asked, b"Paris.")[0] == judged(good, "", asked, b"Paris.\n")[0] == UNTRUSTED
    for prompt, answer in ((other, None), (b"[]", None), (b"", None), (None, b"London."), (None, b"")):
        assert judged(good, "", prompt, answer)[0] == BROKEN


@pytest.mark.parametrize("value", [0.0, -0.0, 5.0, 1e21, 1e-7, 1.5e-7, 0.1, 1234.789, 1e300, 5e-324, -2.5e20])
def test_numbers_are_written_alike(value):
    assert alone.canonical(value).encode() == canonical(value)


def test_canonical_forms_agree():
    draw = random.Random(1)
    for _ in range(2_000):
        value = draw.uniform(-1, 1) * 10.0 ** draw.randrange(-30, 30)
        assert alone.canonical(value).encode() == canonical(value)
    strings = ["\u2028", "\ue000\U00010000", 'a"\\\b\x01\x7f', "é"]
    table = {text: [text, None, True] for text in strings}
    assert alone.canonical(table).encode() == canonical(table)


MOST_LINES = 300  # an auditor reads it in one sitting


def test_the_script_is_short_and_stands_alone():
    """A reviewer reads all of it, so it must not grow; nothing of ours is imported."""
    text = SCRIPT.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    nodes = list(ast.walk(ast.parse(text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"cryptography"}


def test_a_receipt_names_the_server_that_signed_it(town, good):
    receipt = record(good, "receipt")
    other = replace(receipt, server=key_id(town.gate.public_key()))
    assert both(Forge.of(town, good).swap("receipt", receipt, receipt, town.server).bundle()) == UNTRUSTED
    assert both(Forge.of(town, good).swap("receipt", receipt, other, town.server).bundle()) == BROKEN


def test_an_envelope_has_one_spelling(town, good):
    forge = Forge.of(town, good)
    kind, name, envelope, time = forge.records[-1]
    forge.records[-1] = (kind, name, json.dumps(json.loads(envelope)).encode(), time)
    assert both(forge.bundle()) == BROKEN


@pytest.mark.parametrize(
    "other",
    [{}, {"root": "a" * 64}, {"profile": "strict"}, {"suite_digest": "a" * 64}, {"harness": "a" * 64}],
)
def test_evidence_unlike_its_plan(town, good, other):
    """Everything that rests on the evidence is signed anew: the twin without a difference still stands."""
    piece, rest = record(good, "evidence"), record(good, "evidence", 1)
    forged = replace(piece, **other)
    forge = Forge.of(town, good).swap("evidence", piece, forged, town.keys["evaluator-1"])
    release = record(good, "release")
    subject = replace(release.subject, evidence=evidence_root([forged, rest]))
    forge.swap("release", release, replace(release, subject=subject), town.gate, town.keys["requester-1"])
    for n in range(len(VOTERS)):
        vote = record(good, "vote", n)
        forge.swap("vote", vote, replace(vote, subject=subject), town.keys[vote.person])
    report = verify_document(forge.bundle(), town.state.deployment)
    assert report.status == (BROKEN if other else VERIFIED), report.steps
    assert not other or "not what its plan promised" in report.steps[-1].text
