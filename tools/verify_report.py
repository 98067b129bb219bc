"""Verify a report of Mythopoeia without it: the standard library, `cryptography`, and verify_receipt.py.

FILE is a page, full or public. ROOT, from elsewhere, is whom you trust, as for verify_receipt.py. What is
verified is the data that the page carries, and it is printed: read that, for how the page looks is not
checked here (`mythos report verify` makes the page again and compares). Exit codes: 0 verified, 5 consistent
but untrusted, 1 broken.
"""

import argparse
import hashlib
import json
import re
from pathlib import Path

from verify_receipt import canonical, check_log, need, next_root, parse, sha, trusted, unhex, unseal

DATA = re.compile(r'<script type="application/json" id="report">(.*?)</script>', re.DOTALL)
LIMIT = 32 << 20  # bytes
AUDITORS = {"auditor", "server", "ledger", "witness"}  # who signs no report


def judge(page, trust=""):  # the record of a report and its fields, each opened or withheld with a reason
    [found] = DATA.findall(page.decode())
    document = parse(canonical(json.loads(found)).encode(), LIMIT)
    need(set(document) == {"format", "fields", "entries", "head"} and document.format == 1, "no report")
    places = [entry.seq for entry in document.entries]
    need(places == sorted(set(places)) and {*map(type, places)} <= {int}, "not in the order of the ledger")
    root, keys, names, record = None, [], [], None
    for entry in document.entries:
        event = parse(entry.event.encode())
        says = {"kind": "record", "record": entry.kind, "digest": sha(entry.envelope.encode())}
        need(event.seq == entry.seq and says.items() <= event.items(), "an event is about something else")
        if entry.kind == "trust-root":
            root = next_root(root, entry.envelope)
            keys, names = root["keys"], [*names, sha(root)]
            continue
        need(entry.kind == "report" and record is None and root, "not one report under a trust root")
        record, signers = unseal(entry.envelope, "report", keys)
        held = {key.role: key.holder for key in signers}
        authors = [holder for role, holder in held.items() if role != "gate"]
        need("gate" in held and authors == [record.by] and not AUDITORS & {*held}, "signed by others")
        need(record.kind != "external_review" or "external_evaluator" in held, "a review from inside")
        need(record.deployment == names[0] and event.id == record.id, "of another deployment, or report")
    need(record is not None and (not trust or trust in names), "not the deployment that is trusted here")
    check_log(document, keys)
    return record, list(opened(document.fields, record))


def opened(fields, record):  # (name, title, lines) of each, or (name, None, reason) for one that is withheld
    reasons = {one.field: f"{one.ground}: {one.reason}" for one in record.redactions}
    need([one.name for one in fields] == [one.name for one in record.fields], "other fields than signed")
    for one, said in zip(fields, record.fields, strict=True):
        if set(one) == {"name"}:
            need(one.name in reasons, f"{one.name}: withheld without a reason")
            yield one.name, None, reasons[one.name]
            continue
        need(set(one) == {"name", "title", "lines", "salt"}, f"{one.name}: malformed")
        lines = []
        for line in one.lines:
            need(set(line) == {"label", "text", "cited"}, f"{one.name}: a line is malformed")
            cites = [[x.record, x.kind, x.digest, x.persons] for x in line.cited]
            need(all(len(x) == 4 for x in line.cited), f"{one.name}: a citation is malformed")
            lines.append([line.label, line.text, cites])
        hidden = b"\x00" + unhex(one.salt, 16) + canonical([one.name, one.title, lines]).encode()
        need(hashlib.sha256(hidden).hexdigest() == said.commitment, f"{one.name}: not what was signed")
        yield one.name, one.title, lines


def show(record, fields):
    print(f"{record.kind} report {record.id} on {record.family}/{record.tier}, by {record.by}")
    print(f"weights {record.root}, profile {record.profile}; not stated: {', '.join(record.missing) or '-'}")
    for name, title, lines in fields:
        print(f"\n{title or name}")
        if title is None:
            print(f"  WITHHELD, {lines}")
            continue
        for label, text, cites in lines:
            persons = {person for cite in cites for person in cite[3]}
            print(f"  {label + ': ' if label else ''}{text!r}  [{', '.join(sorted(persons)) or 'no source'}]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Verify a report of Mythopoeia.")
    parser.add_argument("file", type=lambda path: Path(path).read_bytes())
    parser.add_argument("--trust", type=trusted)
    args = parser.parse_args()
    try:
        show(*judge(args.file, args.trust or ""))
    except Exception as error:
        raise SystemExit(f"broken: {error!a}") from None
    print("verified" if args.trust else "consistent, untrusted")
    raise SystemExit(0 if args.trust else 5)
