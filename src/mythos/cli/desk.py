"""What the commands of the gate share: records, state, the keys of persons, drafts, words."""

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mythos.cli import output
from mythos.cli.local import Records, open_records, standing
from mythos.cli.output import CommandError, Exit, date, emit, json_wanted, note, show
from mythos.gate.state import State
from mythos.gate.submit import load_state, submit
from mythos.records import dsse
from mythos.records.canonical import canonical
from mythos.records.principal import OPERATOR
from mythos.records.profile import NO_PROFILE, identity_parts
from mythos.records.signed import NAMES, payload, payload_type, to_plain
from mythos.records.trust import SERVICES, Key, Role
from mythos.spec.family import Family
from mythos.spec.load import load_family
from mythos.store.home import Home
from mythos.store.person_keys import person_key
from mythos.store.profiles import stored_profiles

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DAY = 86_400.0
PERSONS = frozenset(Role) - SERVICES


@dataclass(frozen=True, slots=True)
class Desk:
    """This machine's records and what they add up to now."""

    records: Records
    state: State

    @property
    def acting(self) -> tuple[Any, Any, Any]:
        """(store, clock, principal), as every function of `gate.acts` begins."""
        return self.records.store, self.records.clock, OPERATOR

    def key(self, who: str, roles: Collection[Role] = PERSONS) -> "tuple[str, Ed25519PrivateKey]":
        """The person named `PERSON[:ROLE]` and their local key, of one of `roles`; CommandError."""
        found = self.enrolled(who, roles)
        return found.holder, person_key(self.records.home, found.holder, found.role)

    def signer(
        self, who: str, roles: Collection[Role], draft: Path | None
    ) -> "tuple[str, list[Ed25519PrivateKey]]":
        """As `key`; no key for a draft, which the person signs elsewhere."""
        if draft is None:
            person, secret = self.key(who, roles)
            return person, [secret]
        return self.enrolled(who, roles).holder, []

    def enrolled(self, who: str, roles: Collection[Role] = PERSONS) -> Key:
        person, _, named = who.partition(":")
        if self.state.trust is None:
            raise CommandError("nobody is enrolled yet", "mythos trust init", Exit.REFUSED)
        held = [key for key in self.state.trust.keys if key.holder == person and key.role in PERSONS]
        fit = [key for key in held if (key.role == named if named else key.role in roles)]
        if len(fit) == 1:
            return fit[0]
        has = ", ".join(f"{person}:{key.role}" for key in held)
        if not held:
            raise CommandError(f"{person} is not enrolled", "mythos person list", Exit.REFUSED)
        if not fit:
            raise CommandError(f"{who} cannot sign this; enrolled: {has}", "mythos person list", Exit.REFUSED)
        raise CommandError(f"{person} has several roles", f"name one: {has}", Exit.USAGE)

    def tier(self, family: str, tier: str) -> tuple[Family, str]:
        """The family as it stands and the root of its built tier."""
        found = standing(self.records, load_family(family)).family
        declared = next((one for one in found.tiers if one.name == tier), None)
        if declared is None or declared.root is None:
            cure = f"mythos build {tier} --family {family}" if declared else f"mythos models {family}"
            raise CommandError(f"{tier} is not a built tier of {family}", cure, Exit.NOT_BUILT)
        return found, declared.root


def open_desk() -> Desk:
    records = open_records()
    return Desk(records, load_state(records.store))


def profile_named(home: Home, root: str, given: str) -> str:
    """The identity (`name@digest`) of the profile `given` by name or identity; CommandError.

    A bare name stands for the one stored profile of that name made for the weights `root`.
    """
    if given == NO_PROFILE or identity_parts(given):
        return given
    found = [p for p in stored_profiles(home) if (p.name, p.root) == (given, root)]
    if len(found) == 1:
        return found[0].identity
    names = ", ".join(p.identity for p in found)
    cure = f"name one: {names}" if names else "mythos profile list; mythos profile train TIER makes some"
    raise CommandError(f"{given} is not one stored profile of these weights", cure, Exit.REFUSED)


def hand_in(
    desk: Desk, record: Any, keys: "Sequence[Ed25519PrivateKey]", draft: Path | None, done: str
) -> int:
    """Sign `record` and submit it; with `draft`, write it there instead, for others to sign."""
    outer = {
        "payload": base64.b64encode(payload(record)).decode(),
        "payloadType": payload_type(NAMES[type(record)]),
    }
    envelope = canonical({**outer, "signatures": []})
    for key in keys:
        envelope = dsse.add_signature(envelope, key)
    if draft is None:
        submit(*desk.acting, envelope)
        return said(desk, done, record)
    draft.write_bytes(envelope)
    note(f"draft with {len(keys)} signatures; then: mythos sign FILE --as PERSON, mythos submit FILE")
    return said(desk, f"{draft}", record)


def said(desk: Desk, text: str, record: Any = None, **values: Any) -> int:
    """Say what was done, with the record; a rehearsal is always called one."""
    drill = load_state(desk.records.store).drill
    if json_wanted():
        emit({"drill": drill, **({"record": to_plain(record)} if record is not None else {}), **values})
    else:
        show(f"{mark(drill)}{text}")
    return 0


def listing(desk: Desk, name: str, rows: Sequence[dict[str, Any]], empty: str) -> int:
    """Rows as one JSON object or as a table with the keys of the first row as its headings."""
    if json_wanted():
        emit({"drill": desk.state.drill, name: list(rows)})
    elif not rows:
        note(f"{mark(desk.state.drill)}{empty}")
    else:
        table(rows, f"{mark(desk.state.drill)}{name}")
    return 0


def table(rows: Sequence[dict[str, Any]], title: str) -> None:
    heads = [heading.replace("_", " ") for heading in rows[0]]
    output.table(heads, [[shown(value) for value in row.values()] for row in rows], title)


def shown(value: Any) -> str:
    """A value of a row for a person: a float as a time or a rate, a list with commas."""
    if isinstance(value, float):
        return date(value) if value > 1e6 else f"{value:.3f}"
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def mark(drill: bool) -> str:
    return "DRILL: " if drill else ""


def pairs(given: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` options as a table."""
    split = [item.partition("=") for item in given]
    if wrong := [
        item for item, (name, sign, value) in zip(given, split, strict=True) if not (name and sign and value)
    ]:
        raise CommandError(f"{wrong[0]!r} is not NAME=VALUE", "for example jurisdiction=DE", Exit.USAGE)
    return {name: value for name, _, value in split}
