#!/usr/bin/env python3
"""Verify a receipt or bundle of Mythopoeia without Mythopoeia: the standard library and `cryptography` only.

    python verify_receipt.py FILE [--trust ROOT] [--prompt FILE] [--answer FILE] [--json]

FILE is what `GET /v1/receipts/ID` returned, or its bundle alone. ROOT is whom you trust, from elsewhere: 64
hex digits (a trust root's digest, an operator's public key), or a file with a signed trust root or a PEM
public key. Exit codes: 0 verified, 5 consistent but untrusted, 1 broken.
"""

import argparse
import base64
import hashlib
import json
import math
import re
import struct
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

DAY, TOLERANCE = 86400.0, 60.0
TYPE = "application/vnd.mythopoeia.%s.v1+json"
STAGES = ["internal", "early_access", "expanded", "general"]
VOTERS, EVALUATORS = {"safety", "scaling_officer", "executive", "board"}, {"evaluator", "external_evaluator"}
SERVICES = {"gate", "server", "ledger", "witness"}
FIELDS = {
    "trust-root": "version name drill threshold persons keys previous",
    "policy": "id deployment pack",
    "plan": "id deployment family tier root profile suite suite_digest harness items elicitations looks"
    " policy judge evaluator",
    "evidence": "id deployment plan root profile suite_digest harness look samples judge transcripts"
    " isolation evaluator started ended",
    "vote": "id deployment person choice subject note",
    "withdrawal": "id deployment person vote",
    "release": "id deployment subject strategy votes evidence verdicts requester rollback expires_at",
    "halt": "id deployment release reason by",
    "receipt": "id deployment server family tier asked root profile mode backend decision purpose prompt"
    " answer parameters finish input_tokens output_tokens time leaf",
    "handling": "id family tier root principals actions purposes policy issued_at issued_by",
}


class Broken(Exception):
    pass


def need(holds, message):
    if not holds:
        raise Broken(message)


def number(value):
    """A float as ECMAScript writes it (RFC 8785, section 3.2.2.3)."""
    need(math.isfinite(value), "a number is not finite")
    sign, digits, exponent = re.fullmatch(r"(-?)([\d.]+)(?:e([+-]\d+))?", repr(value + 0.0)).groups()
    whole, _, part = digits.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = whole + part
    point -= len(digits) - len(digits.lstrip("0"))
    digits = digits.strip("0")
    if not digits:
        return "0"
    if 0 < point <= 21:
        text = digits.ljust(point, "0")[:point] + ("." + digits[point:] if len(digits) > point else "")
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        tail = "." + digits[1:] if len(digits) > 1 else ""
        text = f"{digits[0]}{tail}e{point - 1:+d}"
    return sign + text


def canonical(value):
    """RFC 8785 text of a JSON value."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        need(abs(value) < 2**53, "a number is out of range")
        return str(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
    return "{" + ",".join(json.dumps(k, ensure_ascii=False) + ":" + canonical(value[k]) for k in keys) + "}"


def parse(data, limit=1 << 20, strict=True):
    def unique(pairs):
        need(len(dict(pairs)) == len(pairs), "a key stands twice")
        return dict(pairs)

    need(len(data) <= limit, "too long")
    value = json.loads(data.decode(), object_pairs_hook=unique)
    text = canonical(value).encode()
    need(not strict or text == data, "not canonical JSON")
    return value


def sha(data):
    return hashlib.sha256(data).hexdigest()


def unhex(text, size):
    need(
        isinstance(text, str) and len(text) == 2 * size and re.fullmatch("[0-9a-f]*", text),
        "not lower-case hex",
    )
    return bytes.fromhex(text)


def unbase(text):
    data = base64.b64decode(text, validate=True)
    need(base64.b64encode(data).decode() == text, "not canonical base64")
    return data


def signed(public, signature, message):
    try:
        Ed25519PublicKey.from_public_bytes(unhex(public, 32)).verify(signature, message)
    except Exception:
        raise Broken("a signature does not verify") from None


def peek(envelope):
    outer = parse(envelope.encode(), strict=False)
    need(set(outer) == {"payload", "payloadType", "signatures"}, "not an envelope")
    return outer, unbase(outer["payload"])


def unseal(envelope, kind, keys):
    """(record, ids of the keys that signed): DSSE, every signature by one of `keys` (id: entry)."""
    outer, data = peek(envelope)
    need(outer["payloadType"] == TYPE % kind, "another kind of record")
    message = b"DSSEv1 %d %b %d %b" % (len(TYPE % kind), (TYPE % kind).encode(), len(data), data)
    ids = [entry["keyid"] for entry in outer["signatures"]]
    need(ids and len(set(ids)) == len(ids), "unsigned, or signed twice by one key")
    for entry in outer["signatures"]:
        need(set(entry) == {"keyid", "sig"} and entry["keyid"] in keys, "signed by a key not trusted here")
        signed(keys[entry["keyid"]]["public"], unbase(entry["sig"]), message)
    record = parse(data)
    need(kind not in FIELDS or set(record) == set(FIELDS[kind].split()), f"{kind}: missing or unknown field")
    return record, ids


def keys_of(root):
    return {sha(unhex(key["public"], 32)): key for key in root["keys"]}


def next_root(old, envelope):
    """(root, digest) of the trust root in `envelope`, signed by the threshold before it and its own."""
    claimed = parse(peek(envelope)[1])
    new, ids = unseal(envelope, "trust-root", {**(keys_of(old[0]) if old else {}), **keys_of(claimed)})
    need(len({key["public"] for key in new["keys"]}) == len(new["keys"]), "a key is bound twice")
    people = [person["id"] for person in new["persons"]]
    need(len(set(people)) == len(people) and 1 <= new["threshold"] <= len(people), "trust root: persons")
    for key in new["keys"]:
        need((key["holder"] in people) is not (key["role"] in SERVICES), "trust root: a key's role")
    need(set(people) <= {key["holder"] for key in new["keys"]}, "trust root: a person has no key")
    for root in [new] + ([old[0]] if old else []):
        holders, known = {person["id"] for person in root["persons"]}, keys_of(root)
        signers = {known[i]["holder"] for i in ids if i in known} & holders
        need(len(signers) >= root["threshold"], "trust root: fewer persons than its threshold signed")
    if old:
        follows = new["version"] == old[0]["version"] + 1 and new["previous"] == old[1]
        need(
            follows and all(new[x] is old[0][x] or new[x] == old[0][x] for x in ("name", "drill")),
            "does not follow",
        )
    else:
        need(new["version"] == 1 and new["previous"] == "", "the first trust root must be version 1")
    return new, sha(canonical(new).encode())


def parse_note(note):
    """(origin, size, root, signed text, signature lines) of a C2SP signed note."""
    need(len(note.encode()) <= 1 << 16 and not any(c < " " and c != "\n" for c in note), "note: malformed")
    text, blank, tail = note.rpartition("\n\n")
    need(blank and tail.endswith("\n"), "note: malformed")
    origin, size, root = text.split("\n")
    lines = [re.fullmatch(r"— ([^ ]+) ([^ ]+)", line) for line in tail[:-1].split("\n")]
    need(all(lines), "note: malformed signature line")
    signatures = [(line[1], unbase(line[2])) for line in lines]
    for name in (origin, *(name for name, _ in signatures)):
        need(name.isprintable() and not re.search(r"[\s+]", name) and 0 < len(name) <= 255, "note: a name")
    need(all(len(data) >= 5 for _, data in signatures), "note: a signature is too short")
    need(
        re.fullmatch(r"0|[1-9][0-9]{0,18}", size) and int(size) < 2**63 and len(unbase(root)) == 32,
        "note: head",
    )
    return origin, int(size), unbase(root), text + "\n", signatures


def check_note(note, keys):
    """The tree head is signed by the ledger's key; what known witnesses signed holds; their names."""
    origin, _, _, text, signatures = parse_note(note)
    ledgers = [key for key in keys.values() if key["role"] == "ledger"][:1]
    known = {}
    for key in ledgers + [key for key in keys.values() if key["role"] == "witness"]:
        name, kind = (origin, b"\x01") if key["role"] == "ledger" else (key["holder"], b"\x04")
        known[name, hashlib.sha256(name.encode() + b"\n" + kind + unhex(key["public"], 32)).digest()[:4]] = (
            key
        )
    seen = []
    for name, data in signatures:
        key = known.get((name, data[:4]))
        if key is None:
            continue
        need(key not in seen, "note: a key signs twice")
        seen.append(key)
        message, signature = text.encode(), data[4:]
        if key["role"] == "witness":
            time, signature = int.from_bytes(signature[:8], "big"), signature[8:]
            need(time < 2**63, "note: a cosignature's time")
            message = f"cosignature/v1\ntime {time}\n{text}".encode()
        signed(key["public"], signature, message)
    need(ledgers and ledgers[0] in seen, "the tree head is not signed by the ledger's key")
    return [key["holder"] for key in seen if key["role"] == "witness"]


def tree_root(leaf, index, count, path):
    """The RFC 6962 root that `path` leads to; None when no tree has it."""
    need(0 <= index < count, "not in the log: beyond the tree")
    steps = list(path)
    while count > 1:
        if index ^ 1 < count:
            need(steps, "not in the log: path too short")
            other = steps.pop(0)
            leaf = hashlib.sha256(b"\x01" + (other + leaf if index % 2 else leaf + other)).digest()
        index, count = index // 2, (count + 1) // 2
    return leaf if not steps else None


def tail(successes, n, rate):
    """P(at most `successes` of `n`) at rate `rate`; below alpha, the exact upper bound lies below `rate`."""
    if n == 0 or rate <= 0 or successes >= n:
        return 1.0
    log, up, down = math.lgamma(n + 1), math.log(rate), math.log1p(-rate)
    terms = (
        log - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * up + (n - k) * down
        for k in range(successes + 1)
    )
    return math.fsum(map(math.exp, terms)) if rate < 1 else 0.0


def verify(bundle, trust, say):
    need(
        set(bundle) == {"version", "head", "keys", "entries"} and bundle["version"] == 1, "no bundle of ours"
    )
    entries, head = bundle["entries"], parse_note(bundle["head"])
    need(
        all(a["seq"] < b["seq"] for a, b in zip(entries, entries[1:], strict=False)),
        "not in the order of the ledger",
    )
    kinds = [entry["kind"] for entry in entries]
    need(set(kinds) <= set(FIELDS) and kinds.count("receipt") <= 1, "a record that bundles do not carry")
    need(kinds.count("release") + kinds.count("handling") == 1, "a bundle is about one decision")
    need(bool(bundle["keys"]) is ("trust-root" not in kinds), "service keys come from one place only")
    roots, keys, seen, packs = [], {}, {}, {}
    by = {kind: {} for kind in FIELDS}
    if bundle["keys"]:
        said = parse(peek(bundle["keys"])[1])
        need(set(said) == {"operator", "server", "ledger"} and len(set(said.values())) == 3, "service keys")
        roles = {"operator": "gate", "server": "server", "ledger": "ledger"}
        keys = keys_of({"keys": [{"public": said[n], "holder": r, "role": r} for n, r in roles.items()]})
        gate = sha(unhex(said["operator"], 32))
        unseal(bundle["keys"], "keys", {gate: keys[gate]})
    for entry in entries:
        need(set(entry) == {"kind", "seq", "envelope", "event", "salt", "path"}, "an entry is malformed")
        kind, seq, event = entry["kind"], entry["seq"], parse(entry["event"].encode())
        leaf = hashlib.sha256(b"\x00" + unhex(entry["salt"], 16) + entry["event"].encode()).digest()
        path = [unhex(step, 32) for step in entry["path"]]
        need(
            type(seq) is int and tree_root(leaf, seq, head[1], path) == head[2],
            f"{kind} {seq}: not in the log",
        )
        need(event["seq"] == seq and type(event["time"]) in (int, float), f"{kind} {seq}: another's place")
        says = {"kind": "receipt"} if kind == "receipt" else {"kind": "record", "record": kind}
        says["digest"] = sha(entry["envelope"].encode())
        need(kind == "handling" or says.items() <= event.items(), f"{kind} {seq}: its event is another's")
        if kind == "trust-root":
            roots.append(next_root(roots[-1] if roots else None, entry["envelope"]))
            keys = keys_of(roots[-1][0])
            continue
        if kind == "handling":
            continue  # may be older than the trust root: below
        record, ids = unseal(entry["envelope"], kind, keys)
        signers, here = [keys[i] for i in ids], f"{kind} {record['id']}"
        held = {key["role"]: key["holder"] for key in signers}
        need(record["deployment"] == (roots[0][1] if roots else ""), f"{here}: of another deployment")
        need(record["id"] not in seen and event["id"] == record["id"], f"{here}: twice, or not its event")
        seen[record["id"]], by[kind][record["id"]] = (seq, event["time"], signers), record
        one = signers[0] if len(signers) == 1 else {"role": "", "holder": ""}
        if kind == "policy":
            pack = parse(record["pack"].encode())
            voted = {key["holder"]: key["role"] for key in signers if key["role"] in VOTERS}
            need(len(voted) >= pack["quorum"] and covers(pack["roles"], voted), f"{here}: no quorum signed")
            packs[sha(record["pack"].encode())] = pack
        elif kind in ("plan", "evidence"):
            need(
                one["role"] in EVALUATORS and one["holder"] == record["evaluator"],
                f"{here}: not its evaluator",
            )
            plan = by["plan"].get(record["plan"], {}) if kind == "evidence" else record
            need(plan.get("evaluator") == record["evaluator"], f"{here}: no plan of its own before")
        elif kind in ("vote", "withdrawal"):
            need(one["role"] in VOTERS and one["holder"] == record["person"], f"{here}: not its person's")
            vote = by["vote"].get(record["vote"], {}) if kind == "withdrawal" else record
            need(vote.get("person") == record["person"], f"{here}: not of its author")
        elif kind == "release":
            need(set(held) == {"gate", "release_engineer"}, f"{here}: not signed by the gate and who asked")
            need(held["release_engineer"] == record["requester"], f"{here}: another asked")
            enrolled = [(key["holder"], key["role"]) for key in keys.values()]
        elif kind == "receipt":
            need(one["role"] == "server", f"{here}: not signed by the server")
    for entry in entries:
        if entry["kind"] == "handling":
            gate = {i: key for i, key in keys.items() if key["role"] == "gate"}
            record, ids = unseal(entry["envelope"], "handling", gate)
            event = json.loads(entry["event"])
            says = {"kind": "weights.registered", "decision": record["id"]}
            says |= {name: record[name] for name in ("family", "tier", "root")}
            need(
                says.items() <= event.items() and ids == [record["issued_by"]],
                "handling: not its event or issuer",
            )
            seen[record["id"]], by["handling"][record["id"]] = (entry["seq"], event["time"], []), record
    if roots:
        known, root = [digest for _, digest in roots], roots[-1][0]
        say(
            f"trust root: {'DRILL ' * root['drill']}{root['name']} {known[0][:16]}, version {root['version']}"
        )
    else:
        known = [said["operator"], sha(unhex(said["operator"], 32))]
        say(f"no trust root: the operator's key {known[0][:16]} vouches for the service keys")
    need(not trust or trust in known, "this is not the deployment that is trusted here")
    witnesses = check_note(bundle["head"], keys)
    say(f"log: {len(entries)} records under the head of {head[1]} leaves, witnesses: {witnesses or 'none'}")
    for release in by["release"].values():
        check_release(release, packs, by, seen, enrolled, say)
    for receipt in by["receipt"].values():
        check_receipt(receipt, by, seen, keys, say)
    return next(iter(by["receipt"].values()), None)


def covers(roles, voted):
    held = list(voted.values())
    return all(held.count(role) >= roles.count(role) for role in roles)


def check_release(release, packs, by, seen, enrolled, say):
    subject, here, (seq, at, _) = release["subject"], f"release {release['id']}", seen[release["id"]]
    need(subject["policy"] in packs, f"{here}: its policy is not here")
    pack = packs[subject["policy"]]
    rule = next(rule for rule in pack["stages"] if rule["stage"] == subject["stage"])
    need(at < release["expires_at"] <= at + rule["release_days"] * DAY + TOLERANCE, f"{here}: lives too long")
    say(f"policy: {pack['name']} {pack['version']} {subject['policy'][:16]}")
    need(set(release["evidence"]) == set(by["evidence"]), f"{here}: evidence is missing, or not named")
    digests = sorted(sha(canonical(piece).encode()) for piece in by["evidence"].values())
    need(sha(canonical(digests).encode()) == subject["evidence"], f"{here}: other evidence was voted on")
    for piece in by["evidence"].values():
        same = ("root", "profile", "suite_digest", "harness")
        need(all(by["plan"][piece["plan"]][name] == piece[name] for name in same), "evidence: not as planned")
        about = piece["root"] == subject["root"] and piece["profile"] in (subject["profile"], "none")
        need(
            about and seen[piece["id"]][0] < seq, f"evidence {piece['id']}: about other weights, or too late"
        )
    need(set(rule["domains"]) <= set(release["verdicts"]), f"{here}: a domain has no verdict")
    for name, code in sorted(release["verdicts"].items()):
        check_domain(name, code, rule, pack, by, seen, at, say)
    voted = {}
    for vote in map(by["vote"].__getitem__, release["votes"]):
        (when, cast, signers), here = seen[vote["id"]], f"vote {vote['id']}"
        need(vote["choice"] == "approve" and vote["subject"] == subject, f"{here}: not for this release")
        standing = when < seq and not withdrawn(vote, by, seen, seq) and at < cast + rule["vote_days"] * DAY
        need(standing and (vote["person"], signers[0]["role"]) in enrolled, f"{here}: not standing then")
        need(vote["person"] != release["requester"], f"{here}: by who asked for the release")
        voted[vote["person"]] = signers[0]["role"]
    for vote in by["vote"].values():
        about = vote["subject"]["root"] == subject["root"] and seen[vote["id"]][0] < seq
        about = about and STAGES.index(vote["subject"]["stage"]) <= STAGES.index(subject["stage"])
        need(
            not (vote["choice"] == "veto" and about) or withdrawn(vote, by, seen, seq),
            f"{vote['person']} has vetoed",
        )
    need(len(voted) >= rule["quorum"] and covers(rule["roles"], voted), f"release {release['id']}: no quorum")
    say(f"votes: {', '.join(sorted(voted))}; {rule['quorum']} needed, {release['requester']} asked")


def withdrawn(vote, by, seen, seq):
    return any(w["vote"] == vote["id"] and seen[w["id"]][0] < seq for w in by["withdrawal"].values())


def check_domain(name, code, rule, pack, by, seen, at, say):
    domain = next(domain for domain in pack["domains"] if domain["name"] == name)
    suites, limit = domain["suites"], domain["alert"] - domain["margin"]
    own = [e for e in by["evidence"].values() if by["plan"][e["plan"]]["suite"] in suites]
    if code == "RULED_OUT_BY_PRECURSOR":
        need(not own, f"{name} has evidence of its own")
        suites, limit = [domain["precursor"]], domain["precursor_alert"]
    elif code != "RULED_OUT":
        need(
            (code == "RULED_IN" and rule["ruled_in_level"]) or name not in rule["domains"], f"{name}: {code}"
        )
        suites = []
    for suite in suites:
        fresh = False
        for plan in (plan for plan in by["plan"].values() if plan["suite"] == suite):
            young = at <= seen[plan["id"]][1] + domain["max_age_days"] * DAY
            looks = sorted(
                (e for e in by["evidence"].values() if e["plan"] == plan["id"]), key=lambda e: e["look"]
            )
            for way in plan["elicitations"] if looks else []:
                found = [s["outcome"] for s in looks[-1]["samples"] if s["elicitation"] == way]
                k, n, fresh = sum(o != "failure" for o in found), len(found), fresh or young
                need(n == plan["items"] or not young, f"{suite}: {n} of {plan['items']} samples")
                below = n != plan["items"] or tail(k, n, limit) < (1 - pack["confidence"]) / plan["looks"]
                need(below, f"{name} is not ruled out by {suite}, {way}: {k}/{n}")
        need(fresh, f"{name}: no fresh evidence from {suite}")
    need(suites or code != "RULED_OUT", f"{name} is ruled out by nothing")
    say(f"{name}: {code}" + (f", upper bound below {limit:g} on {', '.join(suites)}" if suites else ""))


def check_receipt(receipt, by, seen, keys, say):
    here, profile = f"receipt {receipt['id']}", "none"
    decision = next(iter([*by["release"].values(), *by["handling"].values()]))
    about = decision.get("subject", decision)
    if about is not decision:
        profile = about["profile"]
        need(receipt["time"] < decision["expires_at"], f"{here}: after the release had ended")
        need(all(receipt["leaf"] < seen[halt][0] for halt in by["halt"]), f"{here}: asked after the halt")
    need(receipt["decision"] == decision["id"], f"{here}: rests on another decision")
    same = all(receipt[name] == about[name] for name in ("family", "tier", "root"))
    need(same and receipt["profile"] == profile, f"{here}: other weights or another profile than decided on")
    need(receipt["purpose"] in about["purposes"], f"{here}: for a purpose that was not decided on")
    need(seen[decision["id"]][0] < seen[receipt["id"]][0], f"{here}: older than its decision")
    need(abs(receipt["time"] - seen[receipt["id"]][1]) <= TOLERANCE, f"{here}: its time is not the ledger's")
    need(keys.get(receipt["server"], {}).get("role") == "server", f"{here}: names another server")
    asked = "" if receipt["asked"] == receipt["tier"] else f", {receipt['asked']} was asked"
    root, server = receipt["root"][:16], receipt["server"][:16]
    say(f"receipt: {receipt['tier']} {root} under {profile}{asked}, by {server}")


def check_document(document, receipt, given, say):
    """What stands around a bundle says the same, and the opening belongs; `given` are prompt and answer."""
    need(receipt is not None, "the bundle holds no receipt")
    own = next(entry for entry in document["bundle"]["entries"] if entry["kind"] == "receipt")
    said = {"id": receipt["id"], "status": "logged", "receipt": own["envelope"], "leaf": own["seq"]}
    said |= {
        "event": own["event"],
        "salt": own["salt"],
        "inclusion": own["path"],
        "bundle": document["bundle"],
    }
    opening = document["opening"]
    need({**document, "opening": 0} == {**said, "opening": 0}, "the document and its bundle differ")
    need(set(opening) == {"prompt", "answer", "parameters", "value"}, "no opening")
    salts = {name: unhex(opening[name], 16) for name in ("prompt", "answer", "parameters")}
    value = opening["value"]
    need(isinstance(value, dict), "no opening")
    need(sha(salts["parameters"] + canonical(value).encode()) == receipt["parameters"], "not its opening")
    say("opening: the parameters are those of the receipt")
    if given[0] is not None:  # token ids, messages, or a request with messages of plain text
        asked = json.loads(given[0])
        asked = asked["messages"] if isinstance(asked, dict) else asked
        tokens = all(isinstance(item, int) for item in asked)
        data = struct.pack(f"<{len(asked)}I", *asked) if tokens else canonical(asked).encode()
        need(
            sha(salts["prompt"] + data) == (receipt["prompt"] if tokens else value["messages"]),
            "another prompt",
        )
        say("prompt: the one that was answered")
    if given[1] is not None:
        found = {sha(salts["answer"] + text) for text in (given[1], given[1].removesuffix(b"\n"))}
        need(receipt["answer"] in found, "another answer")
        say("answer: the one that was given")


def trusted(text):
    """64 hex digits from what `--trust` names."""
    if re.fullmatch("[0-9a-f]{64}", text):
        return text
    data = Path(text).read_bytes().strip()
    if data.startswith(b"-----BEGIN"):
        return load_pem_public_key(data).public_bytes_raw().hex()
    if re.fullmatch(b"[0-9a-f]{64}", data):
        return data.decode()
    root = parse(peek(data.decode())[1])
    return next_root(None, data.decode())[1] if root["version"] == 1 else sha(canonical(root).encode())


def judge(data, trust="", prompt=None, answer=None):
    """(status, steps) of the bytes of a document or bundle."""
    steps = []
    try:
        document = parse(data, 32 << 20)
        wrapped = "bundle" in document
        receipt = verify(document["bundle"] if wrapped else document, trust, steps.append)
        if wrapped:
            check_document(document, receipt, (prompt, answer), steps.append)
        need(wrapped or (prompt, answer) == (None, None), "a bundle alone opens no prompt and no answer")
    except Exception as error:  # whatever is wrong with it: it is broken
        known = isinstance(error, Broken)
        return "broken", [*steps, f"BROKEN: {error if known else f'malformed ({type(error).__name__})'}"]
    return ("verified" if trust else "consistent, untrusted"), steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file")
    for name in ("--trust", "--prompt", "--answer"):
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
