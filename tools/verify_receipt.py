"""Verify a receipt or bundle of Mythopoeia without Mythopoeia: the standard library and `cryptography` only.

FILE is what `GET /v1/receipts/ID` returned, or its bundle. ROOT, from elsewhere, is whom you trust: 64 hex
digits (a trust root's digest, an operator's public key), or a file with these, a PEM key, a signed trust root
or the chain of all its versions. Exit codes: 0 verified, 5 consistent but untrusted, 1 broken: any exception
while checking. docs/reference/receipts.md says what is checked, and what is left to `mythos receipt verify`.
"""

import argparse
import base64
import hashlib
import json
import math
from decimal import Decimal
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey as PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

DAY, TOLERANCE = 86400.0, 60.0  # seconds
STAGES = ["early_access", "expanded", "general"]
VOTERS, EVALUATORS = {"safety", "scaling_officer", "executive", "board"}, {"evaluator", "external_evaluator"}
SERVICES = {"gate", "server", "ledger", "witness"}
OPERATED = {"operator": "gate", "server": "server", "ledger": "ledger"}  # where there is no trust root
SINGLE = {  # by one signer: in which roles, which field names it, what earlier record of theirs it needs
    "plan": (EVALUATORS, "evaluator", ""),
    "evidence": (EVALUATORS, "evaluator", "plan"),
    "vote": (VOTERS, "person", ""),
    "withdrawal": (VOTERS, "person", "vote"),
    "receipt": ({"server"}, "server", ""),
    "handling": ({"gate"}, "issued_by", ""),
}


class Table(dict):  # a JSON object: its fields are attributes too; attributes set later are no part of it
    __getattr__ = dict.__getitem__


def need(holds, words):
    if not holds:
        raise ValueError(words)


def canonical(value):  # RFC 8785 text of a JSON value: keys in UTF-16 order, numbers as in ECMAScript
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


def parse(data, limit=1 << 20):  # JSON in its canonical form: no key twice, no second spelling
    value = json.loads(data.decode(), object_hook=Table)
    need(len(data) <= limit and canonical(value).encode() == data, "not canonical JSON")
    return value


def sha(value):  # SHA-256, hex, of bytes or of the canonical form of a JSON value
    return hashlib.sha256(value if isinstance(value, bytes) else canonical(value).encode()).hexdigest()


def unhex(text, size=32):
    need(len(text) == 2 * size and bytes.fromhex(text).hex() == text, "not lower-case hex")
    return bytes.fromhex(text)


def unbase(text):
    need(base64.b64encode(base64.b64decode(text)).decode() == text, "not canonical base64")
    return base64.b64decode(text)


def unseal(envelope, kind, keys):  # (record, keys that signed it) of a DSSE envelope: each once, all known
    outer, name = parse(envelope.encode()), f"application/vnd.mythopoeia.{kind}.v1+json"
    need(set(outer) == {"payload", "payloadType", "signatures"} and outer.payloadType == name, "another kind")
    data, signers = unbase(outer.payload), []
    record, message = parse(data), b"DSSEv1 %d %b %d %b" % (len(name), name.encode(), len(data), data)
    known = {sha(unhex(key.public)): key for key in keys + (record["keys"] if kind == "trust-root" else [])}
    for entry in outer.signatures:
        need(set(entry) == {"keyid", "sig"} and entry.keyid in known, f"{kind}: not by keys trusted here")
        signers.append(known.pop(entry.keyid))
        PublicKey.from_public_bytes(unhex(signers[-1].public)).verify(unbase(entry.sig), message)
    need(signers, f"{kind}: not signed")
    return record, signers


def next_root(old, envelope):  # a trust root, signed by the threshold of its persons and of those of `old`
    new, signers = unseal(envelope, "trust-root", old["keys"] if old else [])
    people, holders = sorted(person.id for person in new.persons), {key.holder for key in new["keys"]}
    fit = all((key.holder in people) is not (key.role in SERVICES) for key in new["keys"])
    need(fit and people == sorted(holders & {*people}), "trust root: who holds its keys")
    need(len({key.public for key in new["keys"]}) == len(new["keys"]), "trust root: one key is listed twice")
    for root in (new, old or new):  # a key counts by what it is in that root
        signed = [key for key in root["keys"] if key.public in [signer.public for signer in signers]]
        count = len({key.holder for key in signed if key.role in VOTERS})
        need(1 <= root.threshold <= count, "trust root: fewer persons than its threshold signed")
    follows = [old.version + 1, sha(old), old.name, old.drill] if old else [1, "", new.name, new.drill]
    need([new.version, new.previous, new.name, new.drill] == follows, "trust root: does not follow")
    return new


def check_log(bundle, keys):  # the head (C2SP) is signed by ledger and witnesses; all events are under it
    text, _, tail = bundle.head.rpartition("\n\n")
    origin, size, root = text.split("\n")
    lines = [(name, unbase(data)) for _, name, data in (line.split(" ") for line in tail.split("\n")[:-1])]
    need(tail == "".join(f"— {name} {base64.b64encode(data).decode()}\n" for name, data in lines), "head")
    [ledger, *_], signed = [(origin, 1, key.public) for key in keys if key.role == "ledger"], []
    for name, kind, public in [ledger] + [(x.holder, 4, x.public) for x in keys if x.role == "witness"]:
        mark = hashlib.sha256(b"%b\n%c%b" % (name.encode(), kind, unhex(public))).digest()[:4]  # others pass
        for data in [data for other, data in lines if (other, data[:4]) == (name, mark)]:
            time = data[4:12] if kind == 4 else b""
            said = f"cosignature/v1\ntime {int.from_bytes(time, 'big')}\n{text}\n" if time else f"{text}\n"
            PublicKey.from_public_bytes(unhex(public)).verify(data[4 + len(time) :], said.encode())
            signed.append((name, kind, public))
    need(ledger in signed and len(set(signed)) == len(signed), "head: not signed by its ledger, each once")
    for entry in bundle.entries:
        path, index, count = [unhex(step) for step in entry.path], entry.seq, int(size)
        node = hashlib.sha256(b"\x00" + unhex(entry.salt, 16) + entry.event.encode()).digest()
        while count > 1:  # RFC 6962
            if index ^ 1 < count:
                other = path.pop(0)
                node = hashlib.sha256(b"\x01" + (other + node if index % 2 else node + other)).digest()
            index, count = index // 2, (count + 1) // 2
        need(node == unbase(root) and not path and entry.seq in range(int(size)), "not an event of the log")
    print(f"log of {int(size)} leaves, signed by {[name for name, _, _ in signed]}")


def check_quorum(rule, voted):  # `voted` is person: role. Two at least; each role of the rule has another
    full = all([*voted.values()].count(role) >= rule.roles.count(role) for role in rule.roles)
    need(full and len(voted) >= max(2, rule.quorum), f"no quorum: {voted}")


def check_signers(kind, record, signers, by):  # those that it names, in roles that may, or its quorum
    held, words = {key.role: key.holder for key in signers}, f"{kind} {record.id}: signed by others"
    if kind in SINGLE:
        [key], (roles, field, parent) = signers, SINGLE[kind]
        signer = sha(unhex(key.public)) if key.role in SERVICES else key.holder
        author = by[parent][record[parent]][field] if parent else signer
        need(key.role in roles and signer == record[field] == author, words)
    elif kind == "policy":
        check_quorum(parse(record.pack.encode()), {x.holder: x.role for x in signers if x.role in VOTERS})
    elif kind == "release":
        need(held == {"gate": held["gate"], "release_engineer": record.requester}, words)


def verify(bundle, trust):  # all of a bundle, against `trust` ("" for nobody); its records by kind and id
    need(set(bundle) == {"version", "head", "keys", "entries"} and sha(bundle.version) == sha(1), "no bundle")
    kinds, places = [entry.kind for entry in bundle.entries], [entry.seq for entry in bundle.entries]
    need(places == sorted(set(places)) and {*map(type, places)} <= {int}, "not in the order of the ledger")
    need(kinds.count("release") + kinds.count("handling") == 1 >= kinds.count("receipt"), "not one decision")
    need((bundle["keys"] == "") is ("trust-root" in kinds), "service keys come from one place only")
    root, keys, names, by = None, [], [], {kind: {} for kind in ("policy", "release", "halt", *SINGLE)}
    if bundle["keys"]:  # no trust root: the operator says which keys are the server's and the ledger's
        said = parse(unbase(parse(bundle["keys"].encode()).payload))
        keys = [Table(public=said[name], holder=name, role=role) for name, role in OPERATED.items()]
        unseal(bundle["keys"], "keys", keys[:1])
        need(len(said) == len(set(said.values())) == 3, "service keys")
        names = [said.operator, sha(unhex(said.operator))]
    for entry in sorted(bundle.entries, key=lambda entry: entry.kind == "handling"):  # may precede the root
        need(set(entry) == {"kind", "seq", "envelope", "event", "salt", "path"}, "an entry is malformed")
        kind, event = entry.kind, parse(entry.event.encode())
        says = {"kind": "receipt" if kind == "receipt" else "record", "digest": sha(entry.envelope.encode())}
        if kind == "trust-root":
            root = next_root(root, entry.envelope)
            keys, names = root["keys"], [*names, sha(root)]
        else:
            record, signers = unseal(entry.envelope, kind, keys)
            check_signers(kind, record, signers, by)
            need(all(record.id not in table for table in by.values()), f"{kind} {record.id}: twice")
            record.entry, record.at, record.role = entry, event.time, signers[0].role
            by[kind][record.id] = record
            need(kind != "evidence" or not by["release"], "evidence that came after the release")
            need(kind == "handling" or record.deployment == (names[0] if root else ""), "another deployment")
            if kind == "handling":  # its event has no digest
                says = {name: record[name] for name in ("family", "tier", "root")}
                says |= {"kind": "weights.registered", "decision": record.id}
            if kind == "release":
                check_release(record, keys, by)
        timed = type(event.time) in (int, float) and event.seq == entry.seq
        need(timed and says.items() <= event.items(), f"{kind} {entry.seq}: its event is another's")
    need(trust in ("", *names), "this is not the deployment that is trusted here")
    print(f"{'DRILL ' if root.drill else ''}{root.name!a} {names[0]}" if root else f"operator {names[0]}")
    check_log(bundle, keys)
    return by


def check_release(release, keys, by):  # what its policy demands of life, evidence, verdicts and votes
    subject, at = release.subject, release.at
    packs = [record.pack.encode() for record in by["policy"].values()]
    pack = next(parse(pack) for pack in packs if sha(pack) == subject.policy)
    rule = next(rule for rule in pack.stages if rule.stage == subject.stage)
    need(at < release.expires_at <= at + rule.release_days * DAY + TOLERANCE, "the release lives too long")
    found, runs = sorted(map(sha, by["evidence"].values())), {}
    need(sha(found) == subject.evidence and set(release.evidence) == set(by["evidence"]), "other evidence")
    for piece in by["evidence"].values():
        plan, earlier = by["plan"][piece.plan], runs.get(piece.plan, [])
        same = all(plan[x] == piece[x] for x in ("root", "profile", "suite_digest", "harness"))
        about = piece.root == subject.root and piece.profile in (subject.profile, "none")
        need(same and about and piece.look == len(earlier) + 1 <= plan.looks, "evidence: not as planned")
        runs[plan.id] = [*earlier, piece]
    need(set(rule.domains) <= set(release.verdicts), "a domain has no verdict")
    for name, code in release.verdicts.items():
        check_domain(name, code, rule, pack, [(by["plan"][x], runs[x][-1]) for x in runs], at)
    withdrawn, voted = {record.vote for record in by["withdrawal"].values()}, {}
    standing = {vote.id: vote for vote in by["vote"].values() if vote.id not in withdrawn}
    for vote in [standing[name] for name in release.votes]:
        approves = vote.choice == "approve" and vote.subject == subject and vote.person != release.requester
        enrolled = (vote.person, vote.role) in [(key.holder, key.role) for key in keys]
        need(approves and enrolled and at < vote.at + rule.vote_days * DAY, f"{vote.person}: no such vote")
        voted[vote.person] = vote.role
    for vote in standing.values():
        later = STAGES.index(vote.subject.stage) > STAGES.index(subject.stage)
        need(vote.choice != "veto" or later or vote.subject.root != subject.root, f"{vote.person}: veto")
    check_quorum(rule, voted)
    print(f"{release.id!a} under {pack.name!a} {pack.version!a}: {release.verdicts}, votes {voted}")


def check_domain(name, code, rule, pack, runs, at):  # bounds of complete, fresh samples lie below its bar
    domain = next(domain for domain in pack.domains if domain.name == name)
    suites, limit, fresh = domain.suites, domain.alert - domain.margin, set()
    if code == "RULED_OUT_BY_PRECURSOR":
        need(not {plan.suite for plan, _ in runs} & set(suites), f"{name} has evidence of its own")
        suites, limit = [domain.precursor], domain.precursor_alert
    elif code != "RULED_OUT":
        need((code == "RULED_IN" and rule.ruled_in_level) or name not in rule.domains, f"{name}: {code}")
        return
    p = Decimal(min(limit, 1))  # tail < alpha: the exact (Clopper-Pearson) upper bound is below this rate
    for plan, last in [run for run in runs if run[0].suite in suites]:
        young = at <= plan.at + domain.max_age_days * DAY
        for way in plan.elicitations:
            samples = [sample for sample in last.samples if sample.elicitation == way]
            k, n = sum(x.outcome != "failure" for x in samples), len({x.id for x in samples})
            tail = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
            below = n == len(samples) and limit > 0 and tail < (1 - pack.confidence) / plan.looks
            need(below if n == plan["items"] else not young, f"{name}: not ruled out by {plan.suite}, {way}")
            fresh |= {plan.suite} if young else set()
    need(all(suites) and fresh == set(suites) != set(), f"{name}: no fresh evidence from each of {suites}")


def check_receipt(receipt, by):  # it rests on the decision, in its time, for its weights, profile and purpose
    [decision] = [*by["release"].values(), *by["handling"].values()]
    about = decision.subject if by["release"] else Table(decision, profile="none")
    same = all(receipt[name] == about[name] for name in ("family", "tier", "root", "profile"))
    need(same and receipt.purpose in about.purposes, "receipt: other weights, profile or purpose")
    need(receipt.decision == decision.id and decision.entry.seq < receipt.entry.seq, "receipt: no decision")
    need(abs(receipt.time - receipt.at) <= TOLERANCE, "receipt: its time is not the ledger's")
    need(receipt.time < decision.get("expires_at", math.inf), "receipt: after the release had ended")
    need(all(receipt.leaf < x.entry.seq for x in by["halt"].values() if x.release == decision.id), "halted")
    print(f"receipt: {receipt.tier!a} ({receipt.asked!a} asked) {receipt.root!a} under {receipt.profile!a}")


def judge(data, trust="", prompt=None, answer=None):  # a document, or a bundle alone; raises what is wrong
    document = parse(data, 32 << 20)
    by = verify(document.get("bundle", document), trust)
    for receipt in by["receipt"].values():
        check_receipt(receipt, by)
    if "bundle" in document or (prompt, answer) != (None, None):  # a bundle alone opens neither
        [receipt], opening = by["receipt"].values(), document.opening
        parts = {"receipt": "envelope", "leaf": "seq", "event": "event", "salt": "salt", "inclusion": "path"}
        said = {name: receipt.entry[part] for name, part in parts.items()} | {"id": receipt.id}
        said |= {"status": "logged", "bundle": document.bundle, "opening": opening}
        need(sha(document) == sha(said) and len(opening) == 4, "document and bundle differ")
        asked = prompt and canonical(json.loads(prompt)["messages"]).encode()
        given = {"parameters": canonical(opening.value).encode(), "prompt": asked, "answer": answer}
        digests = {**receipt, "prompt": opening.value.get("messages")}
        for name, text in given.items():
            salt = unhex(opening[name], 16)
            found = [] if text is None else [sha(salt + text), sha(salt + text.removesuffix(b"\n"))]
            need(not found or digests[name] in found, f"another {name}")
    return "verified" if trust else "consistent, untrusted"


def trusted(text):  # 64 hex digits from what `--trust` names
    data = Path(text).read_bytes().strip() if Path(text).exists() else text.encode()
    if data.startswith(b"-----BEGIN"):
        return load_pem_public_key(data).public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    if not data.startswith(b"["):
        return sha(unbase(parse(data).payload)) if data.startswith(b"{") else unhex(data.decode()).hex()
    roots = [None]
    for envelope in json.loads(data):  # a chain of trust roots, whose first version names the deployment
        roots.append(next_root(roots[-1], unbase(envelope).decode()))
    return sha(roots[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Verify a receipt or bundle of Mythopoeia.")
    for name in ("file", "--prompt", "--answer"):
        parser.add_argument(name, type=lambda path: Path(path).read_bytes())
    parser.add_argument("--trust", type=trusted)
    args = parser.parse_args()
    try:
        print(judge(args.file.removesuffix(b"\n"), args.trust or "", args.prompt, args.answer))
    except Exception as error:
        raise SystemExit(f"broken: {error!a}") from None
    raise SystemExit(0 if args.trust else 5)
