"""`mythos ledger`: the log, its signed heads, proofs and witnesses."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import sqlalchemy as sa

from mythos.cli.local import open_records
from mythos.cli.output import CommandError, Exit, date, emit, json_wanted, note, printable
from mythos.ledger import heads, verify, witness
from mythos.ledger.log import ledger
from mythos.ledger.tiles import write_atomic
from mythos.records.canonical import RecordError
from mythos.records.clock import Clock
from mythos.records.note import LOG, SignedHead, Verifier, open_note, parse_head, parse_verifier
from mythos.records.root import leaf_hash
from mythos.records.tlog import inclusion_holds, parse_proof, proof_text, request_text
from mythos.store.home import private_directory
from mythos.store.operator_key import make_key, read_key
from mythos.store.own_log import own_log, publish_own, tiles_of


def run_list(limit: int) -> int:
    with open_records().store.read() as conn:
        rows = conn.execute(sa.select(ledger).order_by(ledger.c.seq.desc()).limit(limit)).all()[::-1]
    events = [(row.leaf.hex(), json.loads(row.event)) for row in rows]
    if json_wanted():
        emit({"events": [{**event, "leaf": leaf} for leaf, event in events]})
        return 0
    for _, event in events:
        seq, time, kind = (event.pop(name, None) for name in ("seq", "time", "kind"))
        print(printable(f"{seq:>7}  {date(time)}  {kind}  {json.dumps(event)}"))
    return 0


def run_head(out: Path | None, rebuild: bool) -> int:
    records = open_records()
    signed = publish_own(records.store, records.clock, rebuild)
    return _result(signed.note, out, {**_shown(signed), "note": signed.note.decode()})


def run_key() -> int:
    log = own_log(open_records().home)
    emit({"key": str(log), "origin": log.name}) if json_wanted() else print(log)
    return 0


def run_prove(seq: int, out: Path | None, size: int | None, disclose: bool) -> int:
    records = open_records()
    if size is None:
        publish_own(records.store, records.clock)
    proof, entry = heads.prove(records.store, tiles_of(records.home), own_log(records.home), seq, size)
    if disclose:
        proof = type(proof)(proof.index, proof.path, proof.note, entry)
    text, leaf = proof_text(proof), leaf_hash(entry).hex()
    if not disclose:
        note(f"leaf: {leaf}")
    return _result(text, out, {"seq": seq, "leaf": leaf, "proof": text.decode()})


def run_check(path: Path, trust: str | None, leaf: str | None) -> int:
    log, witnesses = _trusted(trust) if trust else (None, ())
    try:
        proof = parse_proof(_bytes(path))
        signed = open_note(proof.note, log, witnesses) if log else None
        head = signed.head if signed else parse_head(proof.note)
        hashed = leaf_hash(proof.extra) if leaf is None else bytes.fromhex(leaf)
    except RecordError as error:
        raise CommandError(error.message, "Ask for the proof again.") from None
    except ValueError:
        raise CommandError("a leaf hash is 64 hex digits", code=Exit.USAGE) from None
    if leaf is None and not proof.extra:
        raise CommandError("the proof discloses no event", "mythos ledger check FILE --leaf HEX", Exit.USAGE)
    if not inclusion_holds(hashed, proof.index, head, proof.path):
        raise CommandError(
            "the proof does not lead from this leaf to the tree head", "Ask for the proof again."
        )
    event = proof.extra[16:].decode(errors="replace") if leaf is None else None
    witnessed = _shown(signed)["witnesses"] if signed else {}
    if json_wanted():
        found = {"origin": head.origin, "size": head.size, "seq": proof.index, "event": event}
        emit({**found, "witnesses": witnessed, "trusted": signed is not None})
    else:
        print(f"event {proof.index} is among the first {head.size} of {head.origin}")
        if event:
            print(printable(event))
    return _judged(signed is not None)


def run_verify(trust: str | None, given: Sequence[Path]) -> int:
    records = open_records()
    if trust:
        log, witnesses = _trusted(trust)
    else:  # what this machine says of itself: good for consistency, not for trust; no key is made for it
        kept = (records.home.keys_dir / "ledger.key").exists()
        log, witnesses = own_log(records.home) if kept else None, []
    notes = [_bytes(path) for path in given]
    report = verify.verify(records.store, tiles_of(records.home), log, witnesses, notes)
    trusted = trust is not None and report.signed > 0 and not report.faults
    if json_wanted():
        emit({**asdict(report), "trusted": trusted})
    else:
        print(
            f"{report.size} events, {report.heads} signed heads; the first {report.signed} are signed,"
            f" the first {report.witnessed} witnessed"
        )
        for fault in report.faults:
            print(printable(f"BROKEN {fault.kind}: {fault.message}"))
    if report.faults:
        if all(fault.kind == "tile" for fault in report.faults):
            note("the log itself is whole: `mythos ledger head --rebuild` makes its tiles again")
        return Exit.FAILED
    if trusted and not given:
        note("no head from elsewhere (--head): a log cut back, or replaced by its signer, looks the same")
    return _judged(trusted)


def run_request(since: int | None, out: Path | None) -> int:
    records = open_records()
    publish_own(records.store, records.clock)
    log = own_log(records.home)
    old = heads.last_cosigned(records.store, log) if since is None else since
    text = request_text(heads.consistency(records.store, tiles_of(records.home), log, old))
    return _result(text, out, {"since": old, "request": text.decode()})


def run_init(directory: Path, log: str, name: str) -> int:
    place = directory.expanduser().resolve()
    if any((parent / "mythos.db").exists() for parent in (place, *place.parents)):
        raise CommandError(
            f"{place} lies inside a data directory: whoever replaces the log replaces its witness too",
            "Name a directory outside MYTHOS_HOME, at best on another machine.",
        )
    private_directory(place)
    made = witness.init_witness(place, name, make_key(place / "witness.key"), _trusted(log)[0], Clock())
    if json_wanted():
        emit({"key": str(made), "trust": str(place / witness.TRUST)})
    else:
        note("others check its signatures with this key:")
        print(made)
    return 0


def run_cosign(directory: Path, request: Path, out: Path | None) -> int:
    key = read_key(directory / "witness.key")
    if key is None:
        raise CommandError(
            f"no witness in {directory}", "mythos ledger witness init DIR --log KEY --name NAME"
        )
    try:
        cosigned = witness.cosign(directory, key, _bytes(request), Clock())
    except witness.WitnessRefusal as error:
        note(f"refused with status {error.status}")
        raise CommandError(error.message, error.cure, Exit.REFUSED) from None
    return _result(cosigned, out, {"note": cosigned.decode()})


def run_attach(path: Path, trust: str) -> int:
    records = open_records()
    log = own_log(records.home)
    signed = heads.attach(records.store, tiles_of(records.home), log, _trusted(trust, log)[1], _bytes(path))
    emit(_shown(signed)) if json_wanted() else note(
        f"{len(signed.signers) - 1} cosignatures are kept with it"
    )
    return 0


def _trusted(trust: str, log: Verifier | None = None) -> tuple[Verifier, list[Verifier]]:
    """The log (or `log`, when the caller knows it) and the witnesses of a verifier key or a file of them."""
    try:
        keys = [parse_verifier(trust)]
    except RecordError:
        try:
            keys = [
                parse_verifier(line) for line in _bytes(Path(trust)).decode().splitlines() if line.strip()
            ]
        except (RecordError, UnicodeDecodeError) as error:
            raise CommandError(f"{trust}: {error}", "mythos ledger key", Exit.USAGE) from None
    logs = [key for key in keys if key.kind == LOG] if log is None else [log]
    if len(logs) != 1:
        raise CommandError(
            f"{len(logs)} keys of logs are given; one is needed", "mythos ledger key", Exit.USAGE
        )
    return logs[0], [key for key in keys if key.kind != LOG]


def _shown(signed: SignedHead) -> dict[str, object]:
    head = signed.head
    times = {key.name: time for key, time in signed.signers.items() if time is not None}
    return {"origin": head.origin, "size": head.size, "root": head.root.hex(), "witnesses": times}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(
            f"cannot read {path}: {error.strerror}", "Name an existing file.", Exit.USAGE
        ) from None


def _result(data: bytes, out: Path | None, shown: dict[str, object]) -> int:
    if out is not None:
        write_atomic(out.absolute(), data)
        note(f"written to {out}")
    if json_wanted():
        emit(shown)
    elif out is None:
        print(data.decode(), end="")
    return 0


def _judged(trusted: bool) -> int:
    note("consistent" if trusted else "consistent, untrusted: nothing signed by a key given with --trust")
    return Exit.OK if trusted else Exit.UNTRUSTED
