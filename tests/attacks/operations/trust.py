"""Policy packs and the trust root."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate import acts
from mythos.gate.policy import load_pack, pack_json
from mythos.gate.submit import submit
from mythos.records.canonical import canonical
from mythos.records.ids import new_id
from mythos.records.release import PolicyActivation
from mythos.records.signed import seal
from mythos.records.trust import Key, Person, Role
from tests.gate.town import VOTERS, hexdigest

if TYPE_CHECKING:
    from tests.attacks.adapter import Adapter


def op_policy(
    adapter: "Adapter", version: str = "9.0.0", name: str = "", change: dict[str, Any] | None = None,
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
    record = PolicyActivation(new_id("pol"), adapter.town.state.deployment, text)
    adapter.kept["policy before"] = adapter.town.state.policy
    submit(*adapter.place, seal(record, *[adapter.secret(who) for who in signers or VOTERS]))


def op_enrol(
    adapter: "Adapter",
    person: str,
    role: str,
    signers: list[str],
    org: str = "town",
    drop: list[str] | None = None,
    key_of: str = "",
    threshold: int = 0,
    version: int = 0,
    previous: str = "",
    fields: dict[str, Any] | None = None,
) -> None:
    """A new trust root: one person more (with a key of their own, or somebody's), some fewer."""
    trust = adapter.town.state.trust
    assert trust is not None
    secret = adapter.town.keys[key_of] if key_of else Ed25519PrivateKey.generate()
    persons = [p for p in trust.persons if p.id not in (drop or [])]
    keys: list[Key] = [k for k in trust.keys if k.holder not in (drop or [])]
    if person and all(p.id != person for p in persons):
        persons.append(Person(person, org))
    if person:
        keys.append(acts.public_key(secret, person, Role(role)))
    root = acts.next_root(adapter.town.state, persons, keys, threshold or None)
    if version:
        root = replace(root, version=version)
    if previous:
        root = replace(root, previous=hexdigest(previous))
    acts.enrol(*adapter.place, replace(root, **fields or {}), [adapter.secret(who) for who in signers])
    adapter.kept[f"{person}:{role}"] = secret
    adapter.town.keys.setdefault(person, secret)
