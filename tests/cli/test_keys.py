"""`mythos key` and what it leaves on disk."""

import json
import os
import stat
from pathlib import Path


def test_secret_is_shown_once_and_not_stored(mythos, home):
    done = mythos("key", "new", "laptop")
    secret = done.stdout.strip()
    assert done.returncode == 0 and secret.startswith("sk-mythos-") and len(secret) == 53
    assert secret not in mythos("key", "list", "--json").stdout
    for path in Path(home["MYTHOS_HOME"]).rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes(), path


def test_another_organisation_is_told_that_it_sees_nothing(mythos):
    done = mythos("key", "new", "guest", "--org", "acme", "--json")
    assert json.loads(done.stdout)["org"] == "acme"
    assert "no tier until a release" in done.stderr
    assert "no tier" not in mythos("key", "new", "own").stderr


def test_revoked_keys_stay_listed(mythos):
    made = json.loads(mythos("key", "new", "a", "--json").stdout)
    assert mythos("key", "revoke", made["id"]).returncode == 0
    (row,) = json.loads(mythos("key", "list", "--json").stdout)["keys"]
    assert row["id"] == made["id"] and row["revoked"]
    assert made["id"] in mythos("key", "list").stdout


def test_everything_is_private(mythos, home):
    mythos("key", "new", "laptop")
    for root in home.values():
        for place, _, files in os.walk(root):
            assert stat.S_IMODE(os.stat(place).st_mode) == 0o700
            for name in files:
                assert stat.S_IMODE(os.stat(os.path.join(place, name)).st_mode) == 0o600, name


def test_keys_inside_the_home_are_refused(mythos, home):
    done = mythos("key", "new", "laptop", env={"MYTHOS_KEYS": home["MYTHOS_HOME"] + "/keys"})
    assert done.returncode == 1 and "cure: " in done.stderr
