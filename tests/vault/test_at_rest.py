"""A thief of the data directory: titles, phrases, names and reasons are nowhere in it, in any file."""

from pathlib import Path

import pytest

from mythos.ledger.log import leaf_hash, ledger
from mythos.records.asset import Kind
from mythos.records.principal import OPERATOR
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.vault import publications
from mythos.vault.assets import (
    delete_asset,
    hold_asset,
    list_assets,
    put_asset,
    put_version,
    read_asset,
)
from mythos.vault.errors import VaultError
from mythos.vault.importing import import_folder
from mythos.vault.search import search_assets
from tests.vault.world import READER

PLANTED = 1000


@pytest.fixture
def planted(town, tmp_path: Path) -> tuple[list[bytes], dict[str, bytes]]:
    """1,000 titles and phrases; and every file of the data directory, also of one moment within an upload.

    They have gone through import, preview, list, search index, version, hold, share, publication request and
    deletion, and the database is still open.
    """
    folder = tmp_path / "folder"
    folder.mkdir()
    texts = []
    for n in range(PLANTED // 2):
        (folder / f"planted-title-{n:04d}.txt").write_text(f"the planted phrase {n:04d} of a draft")
        texts += [f"planted-title-{n:04d}", f"planted phrase {n:04d}"]
    import_folder(*town.place, folder)
    newest = list_assets(*town.place, limit=3)
    town.share(newest[0].asset.id)
    hold_asset(*town.place, newest[0].asset.id, "planted reason")
    put_version(*town.place, newest[1].asset.id, [b"planted second version"], "planted new title")
    assert search_assets(*town.place, "planted phrase 0007")
    assert search_assets(*town.as_(READER), "planted")
    b"".join(read_asset(*town.place, newest[2].asset.id).chunks)
    meanwhile: dict[str, bytes] = {}

    def chunks():
        yield b"planted stream " * 1_000_000  # parts of it are on disk now
        meanwhile.update((f"meanwhile {name}", data) for name, data in snapshot(town.home.path).items())
        yield b"planted end"

    put_asset(*town.place, chunks(), "planted streamed title", Kind.DRAFT)
    assert any("/new/" in name and len(data) >= 1 << 20 for name, data in meanwhile.items())
    publications.request_publication(
        *town.place, newest[0].asset.id, town.now, 0.0, "planted why", "requester-1", town.keys["requester-1"]
    )
    delete_asset(*town.place, newest[2].asset.id)
    texts += ["planted reason", "planted second version", "planted new title", "planted"]
    files = {**meanwhile, **snapshot(town.home.path)}
    assert any(name.endswith("-wal") and data for name, data in files.items())
    return [text.encode() for text in texts], files


def snapshot(place: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in place.rglob("*") if p.is_file()}


def test_of_a_thousand_planted_texts_none_is_found_in_a_copy(planted) -> None:
    texts, files = planted
    assert len(texts) >= PLANTED
    for name, data in files.items():
        lower = data.lower()
        found = [text for text in texts if text in lower or text.decode().encode("utf-16-le") in lower]
        assert not found, (name, found[:3])
        assert "planted" not in Path(name).name


def test_the_same_look_finds_what_is_in_clear(planted, town) -> None:
    texts, _ = planted
    (town.home.path / "cache").mkdir(exist_ok=True)
    file = town.home.path / "cache" / "x"
    file.write_bytes(b"PLANTED-title-0007")
    assert any(text in file.read_bytes().lower() for text in texts)


def test_without_the_keys_a_copy_opens_nothing(town, tmp_path: Path) -> None:
    import shutil

    asset = town.put(b"text", "title").id
    copy = tmp_path / "copy"
    shutil.copytree(town.home.path, copy)
    other = tmp_path / "other-keys"
    other.mkdir(mode=0o700)
    store = Store.open(Home(copy, other))
    for ask in (
        lambda: list_assets(store, town.clock, OPERATOR),
        lambda: b"".join(read_asset(store, town.clock, OPERATOR, asset).chunks),
        lambda: search_assets(store, town.clock, OPERATOR, "title"),
    ):
        with pytest.raises(VaultError):
            ask()
    store.close()


def test_a_sealed_text_or_content_moved_to_another_row_does_not_open(town) -> None:
    one, two = town.put(b"one", "One").id, town.put(b"two", "Two").id
    with town.store.begin() as conn:
        conn.exec_driver_sql("DROP TRIGGER versions_same")
        conn.exec_driver_sql(
            "UPDATE asset_versions SET about ="
            " (SELECT about FROM asset_versions WHERE asset = ?) WHERE asset = ?",
            (two, one),
        )
        conn.exec_driver_sql("DROP TRIGGER blobs_only_destroy")
        conn.exec_driver_sql("UPDATE asset_blobs SET sealed_key = (SELECT max(sealed_key) FROM asset_blobs)")
    with pytest.raises(VaultError):
        list_assets(*town.place)


def test_a_leaf_is_salted_so_that_it_cannot_be_guessed(town) -> None:
    town.put(b"text", "title")
    with town.store.read() as conn:
        row = conn.execute(ledger.select().order_by(ledger.c.seq.desc()).limit(1)).one()
    assert leaf_hash(row.salt, row.event) == row.leaf != leaf_hash(b"", row.event) and len(row.salt) == 16
