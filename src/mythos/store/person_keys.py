"""The private keys of the persons who work at this machine: one Ed25519 file for each person and role.

In practice each person has their own machine and key directory; a rehearsal (DRILL) keeps several in one.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.records.errors import MythosError
from mythos.records.trust import Role
from mythos.store.home import Home, private_directory
from mythos.store.operator_key import make_key, read_key


def person_key(home: Home, person: str, role: Role) -> Ed25519PrivateKey:
    """The key `person` signs with as `role`. MythosError naming the cure when it is not on this machine."""
    key = read_key(_path(home, person, role))
    if key is None:
        raise MythosError(
            f"the key of {person} as {role} is not in {home.keys / 'persons'}",
            "Sign on that person's machine: mythos sign FILE --as PERSON:ROLE",
        )
    return key


def new_person_key(home: Home, person: str, role: Role) -> Ed25519PrivateKey:
    """The person's key for a role, made when there is none yet."""
    return make_key(_path(home, person, role))


def _path(home: Home, person: str, role: Role) -> Path:
    directory = home.keys_dir / "persons"
    private_directory(directory)
    return directory / f"{person.replace('/', '_')}.{role}.key"
