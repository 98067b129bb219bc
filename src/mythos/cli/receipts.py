"""`mythos receipt get|verify|replay` and `mythos why`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mythos.cli import client, local
from mythos.cli.evaluations import shows
from mythos.cli.output import CommandError, Exit, emit, json_wanted, note, printable
from mythos.cli.progress import waiting
from mythos.gate.bundle import verify_fully
from mythos.records.bundle import (
    BROKEN,
    MAX_BUNDLE,
    VERIFIED,
    Chain,
    Report,
    salted,
    trust_named,
)
from mythos.records.canonical import parse_canonical
from mythos.records.clock import stamp
from mythos.records.principal import OPERATOR
from mythos.spec.load import load_family
from mythos.store.session import read_session

if TYPE_CHECKING:
    from mythos.serve.receipts import Draft


def get(receipt_id: str) -> int:
    print(_document(receipt_id).decode())
    return 0


def verify(file: Path, trust: str | None) -> int:
    report = _report(_bytes(file), trust)
    if json_wanted():
        steps = [{"ok": step.ok, "text": step.text} for step in report.steps]
        emit({"status": report.status, "drill": report.chain.drill, "steps": steps})
    else:
        for step in report.steps:
            print(printable(f"{'ok    ' if step.ok else 'BROKEN'}  {step.text}"))
        print(report.status)
    return _exit(report)


def why(receipt: str, trust: str | None) -> int:
    path = Path(receipt)
    report = _report(_bytes(path) if path.exists() else _document(receipt), trust)
    lines = list(_lines(report.chain)) if report.status != BROKEN else []
    faults = [step.text for step in report.steps if not step.ok]
    if json_wanted():
        emit({"status": report.status, "drill": report.chain.drill, "why": dict(lines), "faults": faults})
    else:
        for name, text in lines:
            print(printable(f"{name:<10}{text}"))
        for fault in faults:
            print(printable(f"BROKEN    {fault}"))
        print(f"{'status':<10}{report.status}")
    return _exit(report)


def replay(file: Path, request: Path, answer: Path | None, family: str | None) -> int:
    """Nothing of the old answer is needed: its salts and the new tokens make the old digests, or do not."""
    from mythos.serve.receipts import differences

    data = _bytes(file).removesuffix(b"\n")
    report = _report(data, None)
    receipt = report.chain.receipt
    if report.status == BROKEN or receipt is None:
        raise CommandError("the receipt does not verify", f"mythos receipt verify {file}")
    if receipt.mode != "exact":
        raise CommandError(f"only answers in exact mode can be repeated; this one ran in {receipt.mode} mode")
    opening = parse_canonical(data, MAX_BUNDLE).get("opening")
    if opening is None:
        raise CommandError("a bundle alone has no opening", f"mythos receipt get {receipt.id}")
    value = opening["value"]
    if value["sampling"]["temperature"] and value["sampling"]["seed"] == "None":
        note("note: it was sampled without a seed; another answer says nothing")
    draft = _again(family or receipt.family, value["surface"], _bytes(request), receipt.backend)
    differs = differences(draft, receipt, opening)
    if answer is not None:
        kept = _bytes(answer)
        if receipt.answer not in {salted(opening["answer"], x) for x in (kept, kept.removesuffix(b"\n"))}:
            differs.append("answer file")
    if json_wanted():
        emit({"same": not differs, "differs": differs, "tokens": len(draft.tokens)})
    else:
        print(f"differs: {', '.join(differs)}" if differs else f"the same {len(draft.tokens)} tokens again")
    return Exit.FAILED if differs else Exit.OK


def _again(family_name: str, surface: str, body: bytes, backend: str) -> "Draft":
    """The request answered by an engine started for it, as the operator, on the backend that answered then.

    The plain one in one process has the bits of the plain one over ranks.
    """
    import asyncio

    from mythos.engine.choose import VARIABLE
    from mythos.serve.repeat import repeat

    os.environ[VARIABLE] = "native" if backend.startswith("native") else "eager"

    records = local.open_records()
    family = load_family(family_name)
    local.usable(records, family)
    with waiting("starting the engine"):
        service = local.start_service(records, family)
    try:
        return asyncio.run(repeat(service, local.SESSION, surface, body))[0]
    finally:
        service.close()
        service.engine.stop()


def _lines(chain: Chain) -> Iterator[tuple[str, str]]:
    """The chain, link by link."""
    receipt, release, handling, head = chain.receipt, chain.release, chain.handling, chain.head
    if receipt is not None:
        asked = f" ({receipt.asked} was asked)" if receipt.asked != receipt.tier else ""
        counted = f"{receipt.input_tokens} tokens in, {receipt.output_tokens} out, {receipt.finish}"
        mode = f"{receipt.mode} mode, {receipt.backend}"
        yield (
            "answer",
            f"{receipt.id}: {receipt.family}/{receipt.tier}{asked}, {counted}, {stamp(receipt.time)}",
        )
        yield "server", f"key {receipt.server[:16]}, {mode}"
        yield "weights", f"{receipt.root}, profile {receipt.profile}"
    if handling is not None:
        who = ", ".join(handling.principals)
        yield (
            "decision",
            f"handling {handling.id} by key {handling.issued_by[:16]}: {who}; nothing leaves here",
        )
    if release is not None:
        subject = release.subject
        about = f"{subject.stage} to {subject.audience} for {', '.join(subject.purposes)}"
        yield "decision", f"release {release.id}: {about}, until {stamp(release.expires_at)}"
        cast = sorted((chain.votes[name].person, chain.roles[name]) for name in release.votes)
        yield "votes", f"{', '.join(f'{p} ({role})' for p, role in cast)}; asked by {release.requester}"
        pack = chain.packs[subject.policy]
        rows = []
        for piece in chain.evidence.values():
            text, most = shows(piece)
            rows.append(f"{chain.plans[piece.plan].suite} {text}" + (f", at most {most:.3f}" if most else ""))
        verdicts = ", ".join(f"{name} {code}" for name, code in sorted(release.verdicts.items()))
        yield "evidence", "; ".join(rows)
        yield "verdicts", verdicts
        yield "policy", f"{pack.name} {pack.version}, {subject.policy}"
    if chain.roots:
        last = chain.roots[-1]
        drill = "DRILL " if last.drill else ""
        yield (
            "trust",
            f"{drill}{last.name} version {last.version}, {last.threshold} persons, {chain.deployment}",
        )
    else:
        yield "trust", f"no trust root; operator's key {chain.operator}"
    assert head is not None  # the bundle verified
    seen = ", ".join(chain.witnesses) or "no witness"
    place = f"event {chain.seqs[receipt.id]} of " if receipt is not None else ""
    yield "log", f"{place}{head.size} in {head.origin}, head {head.root.hex()[:16]}, {seen}"


def _document(receipt_id: str) -> bytes:
    """The receipt's document from the running server, or else from the store: the operator's own only."""
    records = local.open_records()
    live = read_session(records.home)
    if live is not None:
        return client.receipt(client.Server(live.base_url, live.key), receipt_id)
    from mythos.gate.bundle import receipt_document
    from mythos.store.receipts import find_receipt

    stored = find_receipt(records.store, OPERATOR, receipt_id)
    if stored is None:
        raise CommandError("no such receipt of yours", "Its id came in the answer's header `mythos-receipt`.")
    return receipt_document(records.home, records.store, records.clock, stored)


def _report(data: bytes, trust: str | None) -> Report:
    named = ""
    if trust is not None:
        given = Path(trust)
        named = trust_named(_bytes(given) if given.exists() else trust.encode())
    return verify_fully(data.removesuffix(b"\n"), named)


def _exit(report: Report) -> int:
    if report.status == VERIFIED:
        return Exit.OK
    if report.status == BROKEN:
        return Exit.FAILED
    note("nothing was trusted: name a trust root that you have from elsewhere with --trust")
    return Exit.UNTRUSTED


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", "Name an existing file.") from None
