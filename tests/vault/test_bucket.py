"""Import from a bucket: all private, nothing lost, and what was public there is told.

Against `rclone serve s3`, a real server that checks signatures; ACLs, policies and versions, which it does
not have, against moto's server, which is a simulation.
"""

import logging
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mythos.cli.main import run
from mythos.records.principal import OPERATOR
from mythos.store.db import Store
from mythos.vault import import_bucket as importing_bucket
from mythos.vault import importing
from mythos.vault.assets import list_assets, read_asset
from mythos.vault.bucket import open_bucket, settings_of
from mythos.vault.errors import VaultError
from mythos.vault.import_bucket import import_bucket
from tests.gate.test_crash import run_child
from tests.gate.town import Town
from tests.vault.stores import KEY, SECRET, breaking_line, moto_s3, rclone_s3
from tests.vault.test_crash import base, whole  # noqa: F401
from tests.vault.world import OUTSIDER, VaultTown

FILES = {
    "plan.txt": b"launch plan",
    "2026/empty": b"",
    "2026/naïve 100% & more+.txt": b"an odd name",
    "2026/q?x#y.txt": b"another",
    "large.bin": bytes(range(256)) * 14_000,
}


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for file in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(file, str(tmp_path / "none"))


@pytest.fixture
def drafts(tmp_path: Path) -> Path:
    """A folder with the bucket `drafts` in it."""
    for name, data in FILES.items():
        file = tmp_path / "buckets" / "drafts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return tmp_path / "buckets"


@pytest.fixture(scope="module")
def simulated() -> Iterator[str]:
    with moto_s3() as url:
        yield url


def contents(town: VaultTown) -> dict[str, bytes]:
    found = list_assets(*town.place, limit=200)
    return {e.about.title: b"".join(read_asset(*town.place, e.asset.id).chunks) for e in found}


def test_every_object_is_taken_and_private_and_a_second_run_takes_none(town: VaultTown, drafts: Path) -> None:
    with rclone_s3(drafts) as url:
        bucket = open_bucket("s3://drafts", url)
        report = import_bucket(*town.place, bucket)
        again = import_bucket(*town.place, bucket)
        (drafts / "drafts" / "plan.txt").write_bytes(b"changed since")
        changed = import_bucket(*town.place, open_bucket("s3://drafts/plan", url))
    assert (report.taken, report.skipped, report.open_objects, report.listed) == (len(FILES), (), (), False)
    assert report.bytes == sum(map(len, FILES.values()))
    assert (again.taken, again.already, changed.taken) == (0, len(FILES), 1)
    found = contents(town)
    assert found == {**FILES, "plan.txt": found["plan.txt"]}
    assert list_assets(*town.as_(OUTSIDER)) == []


def test_a_store_that_asks_nobody_is_told_object_by_object(town: VaultTown, drafts: Path) -> None:
    with rclone_s3(drafts, public=True) as url:
        report = import_bucket(*town.place, open_bucket("s3://drafts", url))
    assert report.listed and report.skipped == ()
    assert dict(report.open_objects) == dict.fromkeys(FILES, "answers anybody")
    assert list_assets(*town.as_(OUTSIDER)) == []


def test_a_transfer_that_breaks_off_goes_on_where_it_was(town: VaultTown, drafts: Path) -> None:
    with rclone_s3(drafts) as url, breaking_line(urlsplit(url).port or 0, 1_500_000) as line:
        report = import_bucket(*town.place, open_bucket("s3://drafts/large", line))
    assert (report.taken, report.skipped) == (1, ())
    assert contents(town) == {"large.bin": FILES["large.bin"]}


def test_what_cannot_be_read_is_named_and_taken_the_next_time(town: VaultTown, drafts: Path) -> None:
    with rclone_s3(drafts) as url:
        with breaking_line(urlsplit(url).port or 0, 20_000) as line:
            report = import_bucket(*town.place, open_bucket("s3://drafts", line))
        assert [key for key, _ in report.skipped] == ["large.bin"] and report.taken == len(FILES) - 1
        # Another address is another store to the vault; the same one would take this one alone.
        assert import_bucket(*town.place, open_bucket("s3://drafts/large", url)).taken == 1


def test_killed_it_goes_on_and_loses_nothing(
    base: Town,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = {f"{n % 4}/{n}.txt": f"object {n}".encode() for n in range(40)}
    for name, data in wanted.items():
        file = tmp_path / "buckets" / "drafts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    monkeypatch.setattr(importing, "BATCH", 8)
    with rclone_s3(tmp_path / "buckets") as url:

        def work(say: Callable[[str], None]) -> None:
            store = Store.open(base.home)
            import_bucket(store, base.clock, OPERATOR, open_bucket("s3://drafts", url))
            store.close()

        for n in (60, 150):
            assert not run_child(work, n)[0]
        store = Store.open(base.home)
        report = import_bucket(store, base.clock, OPERATOR, open_bucket("s3://drafts", url))
        store.close()
    assert report.already >= 8 and report.taken + report.already == 40
    found = whole(base.home, base)
    del found["first"]
    assert found == wanted


def test_a_large_object_is_never_whole_in_memory(town: VaultTown, tmp_path: Path) -> None:
    size = 192 << 20
    place = tmp_path / "buckets" / "drafts"
    place.mkdir(parents=True)
    with open(place / "large", "wb") as file:
        file.truncate(size)
    (place / "first").write_bytes(bytes(48 << 20))  # as many parts as are sealed at a time, and more
    town.store.close()
    with rclone_s3(tmp_path / "buckets") as url:

        def work(say: Callable[[str], None]) -> None:
            store = Store.open(town.home)
            place = (store, town.clock, town.place[2])
            import_bucket(*place, open_bucket("s3://drafts/first", url))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            report = import_bucket(*place, open_bucket("s3://drafts/large", url))
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
            say(f"{report.bytes == size} {grown < size // 6}")
            store.close()

        assert run_child(work, None) == (True, ["True", "True"])
    town.store = Store.open(town.home)


def test_what_was_public_is_told_by_acl_policy_and_answer(town: VaultTown, simulated: str) -> None:
    bucket = open_bucket("s3://house", simulated)
    owner, name = bucket.owner, {"Bucket": "house"}
    owner.create_bucket(**name)
    owner.put_bucket_versioning(**name, VersioningConfiguration={"Status": "Enabled"})
    for key in ("open.txt", "closed.txt", "members.txt", "closed.txt"):
        owner.put_object(**name, Key=key, Body=key.encode())
    owner.put_object_acl(**name, Key="open.txt", ACL="public-read")
    owner.put_object_acl(**name, Key="members.txt", ACL="authenticated-read")
    policy = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:GetObject",'
        '"Resource":"arn:aws:s3:::house/shown/*"},{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::1:root"},'
        '"Action":"s3:*","Resource":"arn:aws:s3:::house/staff/*"}]}'
    )
    owner.put_bucket_policy(**name, Policy=policy)
    report = import_bucket(*town.place, bucket)
    owner.put_bucket_acl(**name, ACL="public-read")  # to moto, who may list may read every object too
    assert report.taken == 3 and report.older == 1
    why = dict(report.open_objects)
    assert why["open.txt"] == "answers anybody"
    assert why["members.txt"] == "its ACL lets anybody with an account read"
    assert "closed.txt" not in why
    assert "ACL: named accounts only" in report.settings
    assert "ACL: anybody read" in settings_of(bucket)
    assert "policy: anybody may s3:GetObject" in report.settings
    assert "public access block: none" in report.settings and "website: none" in report.settings


def test_credentials_are_nowhere(
    town: VaultTown, drafts: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    with rclone_s3(drafts) as url:
        report = import_bucket(*town.place, open_bucket("s3://drafts", url))
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" + SECRET)
        with pytest.raises(VaultError) as refused:
            import_bucket(*town.place, open_bucket("s3://drafts", url))
    said = [caplog.text, repr(report), refused.value.message, refused.value.cure]
    said += [p.read_bytes().decode("latin-1") for p in town.home.path.rglob("*") if p.is_file()]
    assert len(said) > 5 and not any(word in text for text in said for word in (KEY, SECRET, "Signature="))


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://example.org/x", ""),
        ("s3://", ""),
        ("s3://user@drafts/x", ""),
        ("s3://drafts?acl", ""),
        ("s3://drafts", "http://s3.example.org"),
        ("s3://drafts", "https://user:secret@s3.example.org"),
        ("s3://drafts", "ftp://s3.example.org"),
    ],
)
def test_addresses_that_are_refused(url: str, endpoint: str) -> None:
    with pytest.raises(VaultError) as refused:
        open_bucket(url, endpoint)
    assert "secret" not in refused.value.message


def test_a_store_that_is_not_there_is_one_clear_error(town: VaultTown) -> None:
    with pytest.raises(VaultError, match="does not answer"):
        import_bucket(*town.place, open_bucket("s3://drafts", "http://127.0.0.1:9"))
    assert importing_bucket.taken_before(town.store) == set()


def test_at_the_command_line(tmp_path: Path, drafts: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MYTHOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    with rclone_s3(drafts, public=True) as url:
        assert run(["vault", "import", "s3://drafts/2026/", "--endpoint", url]) == 0
    told = capsys.readouterr().out
    assert "3 objects taken" in told and "others could read 3 of the objects" in told
    assert "anybody gets the list" in told
    assert run(["vault", "import", str(drafts), "--endpoint", "http://127.0.0.1:1"]) == 2
