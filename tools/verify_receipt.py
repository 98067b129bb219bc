#!/usr/bin/env python3
"""Verify a receipt or bundle of Mythopoeia without Mythopoeia: the standard library and `cryptography` only.

    python verify_receipt.py FILE [--trust ROOT] [--prompt FILE] [--answer FILE] [--json]

FILE is what `GET /v1/receipts/ID` returned, or its bundle. ROOT, from elsewhere, is whom you trust: 64 hex
digits (a trust root's digest, an operator's public key), or a file with a signed trust root or a PEM key.
Exit codes: 0 verified, 5 consistent but untrusted, 1 broken. Any exception while checking means broken.
docs/reference/receipts.md says what is checked, and what is left to `mythos receipt verify`.
"""

import argparse
import base64
import hashlib
import json
import math
import re
import sys
from decimal import Decimal
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey as PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

DAY, TOLERANCE = 86400.0, 60.0  # seconds
STAGES = ["internal", "early_access", "expanded", "general"]
VOTERS, EVALUATORS = {"safety", "scaling_officer", "executive", "board"}, {"evaluator", "external_evaluator"}
SERVICES = {"gate", "server", "ledger", "witness"}
SINGLE = {  # by one signer: in which roles, which field names it, what earlier record of theirs it needs
    "plan": (EVALUATORS, "evaluator", ""),
    "evidence": (EVALUATORS, "evaluator", "plan"),
    "vote": (VOTERS, "person", ""),
    "withdrawal": (VOTERS, "person", "vote"),
    "receipt": ({"server"}, "server", ""),
    "handling": ({"gate"}, "issued_by", ""),
}
CARRIED = {"trust-root", "policy", "release", "halt", *SINGLE}


class Table(dict):  # a JSON object whose fields can be read as attributes
    __getattr__ = dict.__getitem__


def need(holds, words):
    if not holds:
        raise ValueError(words)


def canonical(value):
    """RFC 8785 text of a JSON value: keys in UTF-16 order, numbers as ECMAScript writes them."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float):
        shortest = Decimal(repr(value or 0.0)).normalize()  # -0.0 is written 0
        need(shortest.is_finite(), "a number is not finite")
        return f"{shortest:f}" if -7 < shortest.adjusted() < 21 else f"{shortest:e}"
    need(not isinstance(value, int) or abs(value) < 2**53, "a number is out of range")
    return json.dumps(value, ensure_ascii=False)


def parse(data, limit=1 << 20):
    """JSON of `data`, which must be its canonical form: no key twice, no second spelling."""
    value = json.loads(data.decode(), object_hook=Table)
    need(len(data) <= limit and canonical(value).encode() == data, "not canonical JSON")
    return value


def sha(value):
    """SHA-256, hex, of bytes or of the canonical form of a JSON value."""
    return hashlib.sha256(value if isinstance(value, bytes) else canonical(value).encode()).hexdigest()


def unhex(text, size=32):
    need(re.fullmatch("[0-9a-f]*", text) and len(text) == 2 * size, "not lower-case hex")
    return bytes.fromhex(text)


def unbase(text):
    data = base64.b64decode(text, validate=True)
    need(base64.b64encode(data).decode() == text, "not canonical base64")
    return data


def peek(envelope):
    """What an envelope claims to hold, no signature looked at."""
    return parse(unbase(parse(envelope.encode()).payload))


def unseal(envelope, kind, keys):
    """(record, keys that signed it) of a DSSE envelope: every signature is by one of `keys` (by id)."""
    outer, kind = parse(envelope.encode()), f"application/vnd.mythopoeia.{kind}.v1+json"
    need(set(outer) == {"payload", "payloadType", "signatures"} and outer.payloadType == kind, "another kind")
    data, ids = unbase(outer.payload), [entry.keyid for entry in outer.signatures]
    need(ids and len(set(ids)) == len(ids) and set(ids) <= set(keys), f"{kind}: not by keys trusted here")
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(data), data)
    for entry in outer.signatures:
        key = PublicKey.from_public_bytes(unhex(keys[entry.keyid].public))
        key.verify(unbase(entry.sig), message)
    return parse(data), [keys[signer] for signer in ids]


def next_root(old, envelope):
    """The trust root in `envelope`, signed by the threshold of its own persons and, if any, of `old`."""
    keys = [*(old["keys"] if old else []), *peek(envelope)["keys"]]
    new, signers = unseal(envelope, "trust-root", {sha(unhex(key.public)): key for key in keys})
    people, publics = [person.id for person in new.persons], {key.public for key in new["keys"]}
    need(len(set(people)) == len(people) and len(publics) == len(new["keys"]), "trust root: enrolled twice")
    fit = all((key.holder in people) is not (key.role in SERVICES) for key in new["keys"])
    need(fit and set(people) <= {key.holder for key in new["keys"]}, "trust root: holders of keys")
    for root in (new, old or new):
        publics = {signer.public for signer in signers}
        count = len({key.holder for key in root["keys"] if key.public in publics and key.role in VOTERS})
        need(1 <= root.threshold <= count, "trust root: fewer persons than its threshold signed")
    follows = [old.version + 1, sha(old), old.name, old.drill] if old else [1, "", new.name, new.drill]
    need([new.version, new.previous, new.name, new.drill] == follows, "trust root: does not follow")
    return new


def check_log(bundle, keys, say):
    """The ledger's key and enrolled witnesses signed the head (C2SP checkpoint); all events are under it."""
    text, _, tail = bundle.head.rpartition("\n\n")
    origin, size, root = text.split("\n")
    lines = re.findall("— ([^ \n]+) ([^ \n]+)\n", tail)
    need(tail == "".join(f"— {name} {data}\n" for name, data in lines), "head: malformed")
    [ledger, *_] = [key for key in keys.values() if key.role == "ledger"]
    known, signers = {}, []
    for key in [ledger] + [key for key in keys.values() if key.role == "witness"]:
        name, kind = (origin, b"\x01") if key is ledger else (key.holder, b"\x04")
        line = name.encode() + b"\n" + kind + unhex(key.public)
        known[name, hashlib.sha256(line).digest()[:4]] = key
    for name, data in [(name, unbase(data)) for name, data in lines]:
        if key := known.get((name, data[:4])):  # one by an unknown key is passed over
            signers.append(key)
            time = "" if key is ledger else f"cosignature/v1\ntime {int.from_bytes(data[4:12], 'big')}\n"
            signature, message = data[12 if time else 4 :], f"{time}{text}\n".encode()
            PublicKey.from_public_bytes(unhex(key.public)).verify(signature, message)
    need(all(signers.count(key) == 1 for key in [ledger, *signers]), "head: not signed once by its ledger")
    for entry in bundle.entries:
        path, index, count = [unhex(step) for step in entry.path], entry.seq, int(size)
        node = hashlib.sha256(b"\x00" + unhex(entry.salt, 16) + entry.event.encode()).digest()
        need(type(index) is int and 0 <= index < count, "beyond the tree")
        while count > 1:  # RFC 6962
            if index ^ 1 < count:
                other = path.pop(0)
                node = hashlib.sha256(b"\x01" + (other + node if index % 2 else node + other)).digest()
            index, count = index // 2, (count + 1) // 2
        need(node == unbase(root) and not path, f"{entry.kind} {entry.seq}: not in the log")
    say(f"log of {size} leaves, witnesses: {[key.holder for key in signers if key is not ledger]}")


def check_quorum(rule, voted):
    """`voted` (person: role) are as many persons as `rule` demands, and each of its roles has another."""
    full = all([*voted.values()].count(role) >= rule.roles.count(role) for role in rule.roles)
    need(full and len(voted) >= rule.quorum, f"no quorum: {voted}")


def verify(bundle, trust, say):
    """Everything in a bundle, against `trust` ("" for nobody). The receipt in it, or None."""
    need(set(bundle) == {"version", "head", "keys", "entries"} and bundle.version == 1, "no bundle of ours")
    kinds, places = [entry.kind for entry in bundle.entries], [entry.seq for entry in bundle.entries]
    need(set(kinds) <= CARRIED and places == sorted(set(places)), "other kinds, or out of order")
    need(kinds.count("release") + kinds.count("handling") == 1 >= kinds.count("receipt"), "not one decision")
    need(bool(bundle["keys"]) is ("trust-root" not in kinds), "service keys come from one place only")
    root, keys, known, by = None, {}, [], {kind: {} for kind in CARRIED}
    if bundle["keys"]:  # no trust root: the operator says which keys are the server's and the ledger's
        said, roles = peek(bundle["keys"]), {"operator": "gate", "server": "server", "ledger": "ledger"}
        named = {sha(unhex(said[name])): (said[name], role) for name, role in roles.items()}
        keys = {i: Table(public=public, holder=role, role=role) for i, (public, role) in named.items()}
        known = [said.operator, sha(unhex(said.operator))]
        need(len(keys) == len(said) == 3, "service keys")
        unseal(bundle["keys"], "keys", {known[1]: keys[known[1]]})
    for entry in sorted(bundle.entries, key=lambda entry: entry.kind == "handling"):  # may precede the root
        need(set(entry) == {"kind", "seq", "envelope", "event", "salt", "path"}, "an entry is malformed")
        kind, event = entry.kind, parse(entry.event.encode())
        says = {"kind": "receipt"} if kind == "receipt" else {"kind": "record", "record": kind}
        says |= {"seq": entry.seq, "digest": sha(entry.envelope.encode())}
        if kind == "trust-root":
            root = next_root(root, entry.envelope)
            known, keys = [*known, sha(root)], {sha(unhex(key.public)): key for key in root["keys"]}
        else:
            record, signers = unseal(entry.envelope, kind, keys)
            need(all(record.id not in table for table in by.values()), f"{kind} {record.id}: twice")
            record.logged, record.signers, record.keys_then = (entry.seq, event.time), signers, keys
            held, here = {key.role: key.holder for key in signers}, f"{kind} {record.id}: signed by others"
            if kind in SINGLE:
                [key], (roles, field, parent) = signers, SINGLE[kind]
                signer = sha(unhex(key.public)) if key.role in SERVICES else key.holder
                author = by[parent][record[parent]][field] if parent else signer
                need(key.role in roles and signer == record[field] == author, here)
            elif kind == "policy":
                voters = {key.holder: key.role for key in signers if key.role in VOTERS}
                check_quorum(parse(record.pack.encode()), voters)
            elif kind == "release":
                need(held == {"gate": held["gate"], "release_engineer": record.requester}, here)
            by[kind][record.id] = record
            if kind == "handling":
                says = {name: record[name] for name in ("family", "tier", "root")}
                says |= {"kind": "weights.registered", "decision": record.id, "seq": entry.seq}
            else:
                need(record.deployment == (known[0] if root else ""), f"{kind}: of another deployment")
                says["id"] = record.id
        timed = type(event.time) in (int, float)
        need(timed and says.items() <= event.items(), f"{kind} {entry.seq}: its event is another's")
    need(not trust or trust in known, "this is not the deployment that is trusted here")
    check_log(bundle, keys, say)
    say(f"trust root: {'DRILL ' * root.drill}{root.name} {known[0]}" if root else f"operator: {known[0]}")
    for kind, check in (("release", check_release), ("receipt", check_receipt)):
        for record in by[kind].values():
            check(record, by, say)
    return next(iter(by["receipt"].values()), None)


def check_release(release, by, say):
    """A release: what its policy demands of its life, evidence, verdicts and votes."""
    subject, (seq, at) = release.subject, release.logged
    packs = [record.pack.encode() for record in by["policy"].values()]
    pack = next(parse(pack) for pack in packs if sha(pack) == subject.policy)
    rule = next(rule for rule in pack.stages if rule.stage == subject.stage)
    need(at < release.expires_at <= at + rule.release_days * DAY + TOLERANCE, "the release lives too long")
    found = sorted(map(sha, by["evidence"].values()))
    need(sha(found) == subject.evidence and set(release.evidence) == set(by["evidence"]), "other evidence")
    for piece in by["evidence"].values():
        plan = by["plan"][piece.plan]
        same = all(plan[x] == piece[x] for x in ("root", "profile", "suite_digest", "harness"))
        about = piece.root == subject.root and piece.profile in (subject.profile, "none")
        need(same and about and piece.logged[0] < seq, f"evidence {piece.id}: not as planned")
    need(set(rule.domains) <= set(release.verdicts), "a domain has no verdict")
    for name, code in release.verdicts.items():
        check_domain(name, code, rule, pack, by, at)
    voted, enrolled = {}, [(key.holder, key.role) for key in release.keys_then.values()]
    withdrawn = {record.vote for record in by["withdrawal"].values() if record.logged[0] < seq}
    standing = {vote.id for vote in by["vote"].values() if vote.logged[0] < seq} - withdrawn
    for vote in [by["vote"][name] for name in release.votes]:
        role, young = vote.signers[0].role, at < vote.logged[1] + rule.vote_days * DAY
        approves = vote.choice == "approve" and vote.subject == subject and vote.person != release.requester
        need(approves, f"vote {vote.id}: not for this release, or by who asked for it")
        need(young and vote.id in standing and (vote.person, role) in enrolled, f"{vote.id}: not standing")
        voted[vote.person] = role
    for vote in [by["vote"][name] for name in standing]:
        later = STAGES.index(vote.subject.stage) > STAGES.index(subject.stage)
        need(vote.choice != "veto" or later or vote.subject.root != subject.root, f"{vote.person}: veto")
    check_quorum(rule, voted)
    say(f"release {release.id} under {pack.name} {pack.version}: {release.verdicts}, votes {voted}")


def lower_tail(k, n, rate):
    """P(at most `k` of `n`) at `rate`: below alpha, the exact (Clopper-Pearson) upper bound is below it."""
    if n == 0 or rate <= 0 or k >= n or rate >= 1:
        return 0.0 if 0 <= k < n and rate >= 1 else 1.0
    ways = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k + 1)]
    terms = [way + i * math.log(rate) + (n - i) * math.log1p(-rate) for i, way in enumerate(ways)]
    return math.fsum(map(math.exp, terms))


def check_domain(name, code, rule, pack, by, at):
    """A domain is ruled out where it must be: the bound of complete and fresh samples lies below its bar."""
    domain = next(domain for domain in pack.domains if domain.name == name)
    suites, limit = domain.suites, domain.alert - domain.margin
    if code == "RULED_OUT_BY_PRECURSOR":
        own = [by["plan"][piece.plan].suite for piece in by["evidence"].values()]
        need(not set(own) & set(suites), f"{name} has evidence of its own")
        suites, limit = [domain.precursor], domain.precursor_alert
    elif code != "RULED_OUT":
        need((code == "RULED_IN" and rule.ruled_in_level) or name not in rule.domains, f"{name}: {code}")
        return
    fresh, pieces = {suite: False for suite in suites}, reversed(by["evidence"].values())
    last = {piece.plan: piece.samples for piece in sorted(pieces, key=lambda piece: piece.look)}
    for plan in [by["plan"][name] for name in last if by["plan"][name].suite in suites]:
        young = at <= plan.logged[1] + domain.max_age_days * DAY
        for way in plan.elicitations:
            outcomes = [sample.outcome for sample in last[plan.id] if sample.elicitation == way]
            n, complete = len(outcomes), len(outcomes) == plan["items"]
            below = lower_tail(n - outcomes.count("failure"), n, limit) < (1 - pack.confidence) / plan.looks
            need(below if complete else not young, f"{name} is not ruled out by {plan.suite}, {way}")
            fresh[plan.suite] |= young
    need(fresh and all(fresh.values()), f"{name}: no fresh evidence from each of {suites}")


def check_receipt(receipt, by, say):
    """A receipt rests on the decision in the bundle, in its time, for its weights, profile and purpose."""
    [decision] = [*by["release"].values(), *by["handling"].values()]
    about = decision.get("subject", decision)
    if by["release"]:
        halts = [halt.logged[0] for halt in by["halt"].values() if halt.release == decision.id]
        in_time = receipt.time < decision.expires_at and all(receipt.leaf < halt for halt in halts)
        need(in_time, "receipt: after the release had ended, or asked after its halt")
    same = all(receipt[name] == about[name] for name in ("family", "tier", "root"))
    need(same and receipt.profile == about.get("profile", "none"), "receipt: other weights or profile")
    need(receipt.decision == decision.id and receipt.purpose in about.purposes, "receipt: another decision")
    need(decision.logged[0] < receipt.logged[0], "receipt: older than its decision")
    need(abs(receipt.time - receipt.logged[1]) <= TOLERANCE, "receipt: its time is not the ledger's")
    say(f"receipt: {receipt.tier} ({receipt.asked} was asked) {receipt.root} under {receipt.profile}")


def check_document(document, receipt, prompt, answer):
    """What stands around a bundle says the same; its opening belongs, and opens prompt and answer (bytes)."""
    own = next(entry for entry in document.bundle.entries if entry.kind == "receipt")
    opening, value = document.opening, document.opening.value
    said = {
        "id": receipt.id,
        "status": "logged",
        "receipt": own.envelope,
        "leaf": own.seq,
        "opening": opening,
    }
    said |= {"event": own.event, "salt": own.salt, "inclusion": own.path, "bundle": document.bundle}
    need(document == said and isinstance(value, dict) and len(opening) == 4, "document and bundle differ")
    salts = {name: unhex(opening[name], 16) for name in ("prompt", "answer", "parameters")}
    need(sha(salts["parameters"] + canonical(value).encode()) == receipt.parameters, "not its opening")
    if prompt is not None:  # token ids, messages, or a request with messages of plain text
        asked = json.loads(prompt)
        asked = asked["messages"] if isinstance(asked, dict) else asked
        tokens = all(isinstance(item, int) for item in asked)
        data = b"".join(n.to_bytes(4, "little") for n in asked) if tokens else canonical(asked).encode()
        need(
            sha(salts["prompt"] + data) == (receipt.prompt if tokens else value["messages"]), "another prompt"
        )
    texts = [] if answer is None else [answer, answer.removesuffix(b"\n")]
    need(not texts or receipt.answer in [sha(salts["answer"] + text) for text in texts], "another answer")


def trusted(text):
    """64 hex digits from what `--trust` names."""
    data = Path(text).read_bytes().strip() if Path(text).exists() else text.encode()
    if data.startswith(b"-----BEGIN"):
        return load_pem_public_key(data).public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    return sha(peek(data.decode())) if data.startswith(b"{") else unhex(data.decode()).hex()


def judge(data, trust="", prompt=None, answer=None):
    """(status, steps) of the bytes of a document or bundle."""
    steps = []
    try:
        document = parse(data, 32 << 20)
        receipt = verify(document.get("bundle", document), trust, steps.append)
        if "bundle" in document or (prompt, answer) != (None, None):  # a bundle alone opens neither
            check_document(document, receipt, prompt, answer)
    except Exception as error:
        return "broken", [*steps, f"BROKEN: {type(error).__name__} {error}"]
    return "verified" if trust else "consistent, untrusted", steps


def main():
    parser = argparse.ArgumentParser(description="Verify a receipt or bundle of Mythopoeia.")
    for name in ("file", "--trust", "--prompt", "--answer"):
        parser.add_argument(name)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    given = [Path(path).read_bytes() if path else None for path in (args.prompt, args.answer)]
    trust = trusted(args.trust) if args.trust else ""
    status, steps = judge(Path(args.file).read_bytes().removesuffix(b"\n"), trust, *given)
    print(json.dumps({"status": status, "steps": steps}) if args.json else "\n".join([*steps, status]))
    return {"verified": 0, "broken": 1}.get(status, 5)


if __name__ == "__main__":
    sys.exit(main())
