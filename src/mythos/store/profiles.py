"""Safeguard profiles on disk, by content: MYTHOS_HOME/profiles/<digest>.json."""

import hashlib
from pathlib import Path

from mythos.records.canonical import RecordError
from mythos.records.decision import is_root
from mythos.records.profile import Profile, identity_parts, open_profile
from mythos.store.home import Home, private_directory, read_private, write_private


def put_profile(home: Home, profile: Profile) -> str:
    """Store it; returns its digest. What lies there already under this digest is replaced by the same."""
    private_directory(_place(home))
    write_private(_place(home) / f"{profile.digest}.json", profile.data, replace=True)
    return profile.digest


def get_profile(home: Home, digest: str) -> Profile | None:
    """The profile with this digest, or None. RecordError when the file is not what its name says."""
    if not is_root(digest):
        raise RecordError("a profile's digest is 64 hex digits")
    try:
        data = read_private(_place(home) / f"{digest}.json")
    except FileNotFoundError:
        return None
    if hashlib.sha256(data).hexdigest() != digest:
        raise RecordError(f"the profile {digest[:16]} has been changed", "Make it again.")
    return open_profile(data)


def find_profile(home: Home, identity: str) -> Profile | None:
    """The one profile of this identity (`name@` and 16 hex digits), or None. RecordError as `get_profile`."""
    parts = identity_parts(identity)
    if parts is None:
        return None
    found = [get_profile(home, path.stem) for path in _place(home).glob(f"{parts[1]}*.json")]
    return found[0] if len(found) == 1 and found[0] is not None and found[0].name == parts[0] else None


def stored_profiles(home: Home) -> list[Profile]:
    """Every stored profile, by identity. RecordError as `get_profile`."""
    found = [get_profile(home, path.stem) for path in _place(home).glob("*.json")]
    return sorted((one for one in found if one is not None), key=lambda one: one.identity)


def _place(home: Home) -> Path:
    return home.path / "profiles"
