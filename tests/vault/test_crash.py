"""kill -9 at every write of the vault, a full disk, an import that dies: nothing is there by half.

As in tests/gate/test_crash: a fork ends itself at its n-th step, here also at each step of the file system.
"""

import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import sqlalchemy as sa

from mythos.records.asset import Kind
from mythos.records.principal import OPERATOR
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.tables import asset_blobs, asset_versions
from mythos.vault import blobs, importing
from mythos.vault.assets import delete_asset, list_assets, put_asset, put_version, read_asset
from mythos.vault.blobs import sweep
from mythos.vault.errors import VaultError
from mythos.vault.importing import import_folder
from mythos.vault.keys import vault_of
from mythos.vault.shares import revoke_share, share_asset
from tests.gate.test_crash import check, run_child
from tests.gate.town import DAY, Town

TEXT = b"text of a draft"


@pytest.fixture
def base(tmp_path: Path) -> Town:
    town = Town(tmp_path / "base", pack=None)
    put_asset(town.store, town.clock, OPERATOR, [b"first"], "first", Kind.DRAFT)
    town.store.close()
    return town


def moved(town: Town, to: Path) -> Home:
    shutil.copytree(town.home.path, to)
    return Home(to, town.home.keys)


def whole(home: Home, town: Town) -> dict[str, bytes]:
    """What can be read after a restart, by title. Every file has its row, every row its file."""
    store = Store.open(home)
    try:
        check(store)
        sweep(store)
        place = (store, town.clock, OPERATOR)
        with store.read() as conn:
            live = sa.select(asset_blobs.c.id).where(asset_blobs.c.sealed_key.is_not(None))
            named = set(conn.execute(live).scalars())
            versions = conn.execute(sa.select(asset_versions.c.blob)).scalars().all()
        vault = vault_of(store)
        assert {p.name for p in (vault.place / "blobs").iterdir()} == named <= set(versions)
        assert list((vault.place / "new").iterdir()) == []
        found = list_assets(*place, limit=200)
        return {e.about.title: b"".join(read_asset(*place, e.asset.id).chunks) for e in found}
    finally:
        store.close()


def life(town: Town, home: Home, say: Callable[[str], None], die: Callable[[], None]) -> None:
    """An asset, a share, its end, a version, a deletion: each said once it returned."""
    real = {name: getattr(os, name) for name in ("fsync", "rename", "unlink")}

    def stepped(name: str) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            die()
            return real[name](*arguments, **more)

        return call

    with mock.patch.multiple(os, **{name: stepped(name) for name in real}):
        store = Store.open(home)
        place = (store, town.clock, OPERATOR)
        asset = put_asset(*place, [TEXT], "second", Kind.DRAFT).id
        say("put")
        share = share_asset(*place, asset, "local", town.now + DAY, "somebody").id
        say("shared")
        revoke_share(*place, share)
        say("revoked")
        put_version(*place, asset, [TEXT * 2])
        say("version")
        delete_asset(*place, asset)
        say("deleted")
        store.close()


def dying(at: int) -> Callable[[], None]:
    """Kills this process the `at`-th time it is called; never when `at` is negative."""
    steps = iter(range(10**6))

    def step() -> None:
        if next(steps) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return step


EVERY = [pytest.param(where, 1, marks=pytest.mark.slow) for where in ("database", "files")]


@pytest.mark.parametrize(("where", "stride"), [("database", 23), ("files", 4), *EVERY])
def test_killed_at_any_write_nothing_acknowledged_is_lost(
    base: Town, tmp_path: Path, where: str, stride: int
) -> None:
    for n in range(0, 10**6, stride):
        home = moved(base, tmp_path / f"run{n}")

        def work(say: Callable[[str], None], home: Home = home, n: int = n) -> None:
            life(base, home, say, dying(n if where == "files" else -1))

        survived, said = run_child(work, n if where == "database" else None)
        found = whole(home, base)
        assert found["first"] == b"first"
        second = found.get("second")
        if "deleted" in said:
            assert second is None
        elif "version" in said:
            assert second in (TEXT * 2, None)
        elif "put" in said:
            assert second in (TEXT, TEXT * 2)
        else:
            assert second in (None, TEXT)
        shutil.rmtree(home.path)
        if survived:
            assert said[-1] == "deleted" and n > stride
            return


def test_a_full_disk_refuses_and_leaves_nothing(base: Town, tmp_path: Path) -> None:
    home = moved(base, tmp_path / "full")

    def work(say: Callable[[str], None]) -> None:
        store = Store.open(home)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            put_asset(store, base.clock, OPERATOR, [bytes(1 << 20)] * 5, "large", Kind.IMAGE)
        except VaultError as error:
            say(f"refused:{'Make' in error.cure}")
        put_asset(store, base.clock, OPERATOR, [b"small"], "small", Kind.IMAGE)
        store.close()

    assert run_child(work, None) == (True, ["refused:True"])
    assert whole(home, base) == {"first": b"first", "small": b"small"}


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_a_disk_that_fails_when_flushed_refuses_and_leaves_nothing(
    base: Town, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(base.home)

    def failing(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(blobs.os, name, failing)
        with pytest.raises(VaultError):
            put_asset(store, base.clock, OPERATOR, [TEXT], "second", Kind.DRAFT)
    store.close()
    assert whole(base.home, base) == {"first": b"first"}


def test_an_import_that_is_killed_goes_on_and_loses_nothing(
    base: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    wanted = {}
    for n in range(40):
        file = folder / str(n % 4) / f"{n}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"file {n}")
        wanted[f"{n % 4}/{n}.txt"] = f"file {n}".encode()
    monkeypatch.setattr(importing, "BATCH", 8)

    def work(say: Callable[[str], None]) -> None:
        store = Store.open(base.home)
        import_folder(store, base.clock, OPERATOR, folder)
        store.close()

    for n in (50, 100, 150):
        survived, _ = run_child(work, n)
        assert not survived
    store = Store.open(base.home)
    report = import_folder(store, base.clock, OPERATOR, folder)
    store.close()
    assert report.already >= 8 and report.taken + report.already == 40
    found = whole(base.home, base)
    del found["first"]
    assert found == wanted
