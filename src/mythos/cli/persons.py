"""`mythos trust`, `person`, `policy activate`, `sign` and `submit`: who decides, and by which rules."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mythos.cli.desk import Desk, hand_in, listing, mark, open_desk, said
from mythos.cli.output import CommandError, Exit, emit, json_wanted, note, show
from mythos.gate import acts
from mythos.gate.apply import apply
from mythos.gate.policy import load_pack, pack_json
from mythos.gate.state import State
from mythos.records import dsse
from mythos.records.decision import is_root
from mythos.records.errors import MythosError
from mythos.records.ids import new_id
from mythos.records.release import PolicyActivation
from mythos.records.signed import digest, kind_of
from mythos.records.trust import VOTERS, Key, Person, Role
from mythos.store.operator_key import service_key
from mythos.store.person_keys import new_person_key, person_key
from mythos.store.record_log import records_after

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SERVICES = (("operator", Role.GATE), ("server", Role.SERVER), ("ledger", Role.LEDGER))


def trust_init(name: str, drill: bool, threshold: int, persons: Sequence[str], draft: Path | None) -> int:
    desk = open_desk()
    if desk.state.trust is not None:
        raise CommandError(
            "this deployment has a trust root", "mythos person enrol NAME --role R", Exit.REFUSED
        )
    enrolled: dict[str, Person] = {}
    keys: list[Key] = []
    local: dict[str, Ed25519PrivateKey] = {}
    for given in persons:
        (holder, org), role, public = _person(given, name)
        enrolled.setdefault(holder, Person(holder, org))
        if public:
            keys.append(Key(public, holder, role))
        else:
            local[holder] = secret = new_person_key(desk.records.home, holder, role)
            keys.append(acts.public_key(secret, holder, role))
    for service, role in SERVICES:
        keys.append(acts.public_key(service_key(desk.records.home, service), str(role), role))
    root = acts.first_root(name, drill, threshold, list(enrolled.values()), keys)
    done = f"trust root {digest(root)}\nwrite it down: this is what others compare out of band"
    return hand_in(desk, root, list(local.values()), draft, done)


def _person(given: str, org: str) -> tuple[tuple[str, str], Role, str]:
    """`NAME[@ORG]:ROLE[=PUBLIC]`."""
    who, _, rest = given.partition(":")
    role, _, public = rest.partition("=")
    name, _, own = who.partition("@")
    if not name or role not in list(Role) or (public and not is_root(public)):
        roles = ", ".join(Role)
        raise CommandError(f"{given!r} is not NAME[@ORG]:ROLE[=PUBLIC KEY]", f"roles: {roles}", Exit.USAGE)
    return (name, own or org), Role(role), public


def trust_show(out: Path | None) -> int:
    desk = _founded()
    state = desk.state
    assert state.trust is not None
    with desk.records.store.read() as conn:
        chain = [row.envelope for row in records_after(conn, -1) if row.kind == "trust-root"]
    if out is not None:
        out.write_text(json.dumps([base64.b64encode(one).decode() for one in chain]) + "\n")
        note(f"{len(chain)} versions in {out}")
    return said(
        desk,
        f"{state.trust.name}, version {state.trust.version}, {state.trust.threshold} persons change it\n"
        f"deployment {state.deployment}\ntrust root {state.trust_digest}",
        state.trust,
        deployment=state.deployment,
        digest=state.trust_digest,
    )


def trust_check(path: Path) -> int:
    """Whether a chain or digest from elsewhere names the deployment of this machine."""
    desk = _founded()
    given, deployment, version = State(), "", 0
    try:
        found = path.read_text().strip()
        if is_root(found):
            deployment = found
        else:
            for seq, envelope in enumerate(json.loads(found)):
                apply(given, seq, 0.0, base64.b64decode(envelope, validate=True))
            deployment, version = given.deployment, given.trust.version if given.trust else 0
    except (OSError, ValueError, TypeError, MythosError) as error:
        raise CommandError(f"{path} is no trust root: {error}", "mythos trust show --out FILE") from None
    own = desk.state.deployment, desk.state.trust_digest
    same = deployment in own and (not version or _prefix(desk, version, given.trust_digest))
    if json_wanted():
        emit({"same": same, "deployment": deployment, "version": version, "drill": desk.state.drill})
    else:
        show(f"{mark(desk.state.drill)}{'the same deployment' if same else 'ANOTHER deployment or chain'}")
    return Exit.OK if same else Exit.REFUSED


def _prefix(desk: Desk, version: int, name: str) -> bool:
    state, seen = State(), {}
    with desk.records.store.read() as conn:
        for row in records_after(conn, -1):
            if row.kind == "trust-root":
                apply(state, row.seq, row.time, row.envelope)
                seen[len(seen) + 1] = state.trust_digest
    return version > len(seen) or seen[version] == name


def enrol(
    name: str, role: Role, org: str | None, public: str | None, by: Sequence[str], draft: Path | None
) -> int:
    desk = _founded()
    trust = desk.state.trust
    assert trust is not None
    if public and not is_root(public):
        raise CommandError("a public key is 64 hex digits", "", Exit.USAGE)
    signers = _signers(desk, by)
    persons = trust.persons
    if trust.person(name) is None:
        persons = (*persons, Person(name, org or trust.name))
    if public:
        key = Key(public, name, role)
    else:
        key = acts.public_key(new_person_key(desk.records.home, name, role), name, role)
    root = acts.next_root(desk.state, persons, (*trust.keys, key))
    return hand_in(desk, root, signers, draft, f"{name} is enrolled as {role}; trust root {digest(root)}")


def remove(name: str, by: Sequence[str], draft: Path | None) -> int:
    desk = _founded()
    trust = desk.state.trust
    assert trust is not None
    if trust.person(name) is None:
        raise CommandError(f"{name} is not enrolled", "mythos person list")
    persons = [person for person in trust.persons if person.id != name]
    keys = [key for key in trust.keys if key.holder != name]
    root = acts.next_root(desk.state, persons, keys)
    return hand_in(desk, root, _signers(desk, by), draft, f"{name} is removed; trust root {digest(root)}")


def persons() -> int:
    desk = _founded()
    trust = desk.state.trust
    assert trust is not None
    local = desk.records.home.keys / "persons"
    rows = []
    for key in trust.keys:
        person = trust.person(key.holder)
        here = (local / f"{key.holder.replace('/', '_')}.{key.role}.key").exists()
        rows.append(
            {
                "person": key.holder,
                "role": str(key.role),
                "org": person.org if person else "(service)",
                "key": key.id[:16],
                "key_here": "yes" if here or person is None else "no",
            }
        )
    return listing(desk, "persons", rows, "nobody is enrolled")


def activate(pack_name: str, by: Sequence[str], draft: Path | None) -> int:
    desk = _founded()
    pack = load_pack(pack_name)
    record = PolicyActivation(new_id("pol"), desk.state.deployment, pack_json(pack).decode())
    keys = [desk.key(who, VOTERS)[1] for who in by]
    return hand_in(desk, record, keys, draft, f"policy {pack.name} {pack.version} is in force")


def sign(path: Path, who: str, yes: bool) -> int:
    """Add one local person's signature to a draft, after showing what it says."""
    import typer

    desk = open_desk()
    envelope = _read(path)
    kind, what = kind_of(envelope), dsse.peek(envelope)
    if "pack" in what:
        what = {**what, "pack": json.loads(what["pack"])}
    note(f"{mark(desk.state.drill)}{kind}:")
    note(json.dumps(what, indent=1, ensure_ascii=True)[:20_000])
    if not yes and not typer.confirm(f"Sign this {kind} as {who}?", err=True):
        raise CommandError("not signed", "", Exit.REFUSED)
    person, _, role = who.partition(":")
    if desk.state.trust is None and role in list(Role):  # a machine that knows no persons
        secret = person_key(desk.records.home, person, Role(role))
    else:
        secret = desk.key(who)[1]
    path.write_bytes(dsse.add_signature(envelope, secret))
    return said(desk, f"{path} is signed by {who}", file=str(path), signer=who)


def hand_in_file(path: Path) -> int:
    desk = open_desk()
    record, seq = acts.submit_drafted(*desk.acting, _read(path))
    return said(desk, f"{getattr(record, 'id', 'the trust root')} is on record at {seq}", record, seq=seq)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", "") from None


def _signers(desk: Desk, by: Sequence[str]) -> "list[Ed25519PrivateKey]":
    """The local keys of `by`; of a person with several, any one counts."""
    keys = []
    for who in by:
        if ":" not in who and desk.state.trust is not None:
            held = [key for key in desk.state.trust.keys if key.holder == who]
            who = f"{who}:{held[0].role}" if held else who
        keys.append(desk.key(who)[1])
    return keys


def _founded() -> Desk:
    desk = open_desk()
    if desk.state.trust is None:
        cure = "mythos trust init NAME --threshold N --person alice:safety ..."
        raise CommandError("nobody is enrolled yet", cure, Exit.REFUSED)
    return desk
