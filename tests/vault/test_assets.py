"""Who may read an asset, and that nobody else learns that it is there."""

import dataclasses

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from mythos.gate import acts
from mythos.records.asset import Asset, AssetAction, Kind, Retention
from mythos.records.clock import ClockError
from mythos.records.principal import OPERATOR, Principal
from mythos.store.tables import asset_reads, metadata
from mythos.vault.assets import (
    delete_asset,
    hold_asset,
    list_assets,
    put_asset,
    put_version,
    read_asset,
    release_hold,
    show_asset,
)
from mythos.vault.blobs import PART
from mythos.vault.egress import Egress, set_limit
from mythos.vault.errors import BadField, NoAsset, NotAllowedHere, OverLimit, VaultError
from mythos.vault.keys import vault_of
from mythos.vault.search import search_assets
from mythos.vault.shares import readers_of, revoke_all, revoke_share, share_asset
from tests.gate.town import DAY
from tests.vault.world import ACME, CONTRACTOR, OTHER, OUTSIDER, READER, STRANGER, VENDOR, VaultTown

EVERYBODY_ELSE = [READER, CONTRACTOR, OUTSIDER, STRANGER, Principal("operator", "key", ACME)]


def content(town: VaultTown, who: Principal, asset: str, **more) -> bytes:
    return b"".join(read_asset(*town.as_(who), asset, **more).chunks)


def refusals(town: VaultTown, who: Principal, asset: str) -> list[str]:
    """What each way to an asset says to `who`, with the address taken out."""
    said = []
    for ask in (
        lambda: content(town, who, asset),
        lambda: content(town, who, asset, head=True),
        lambda: show_asset(*town.as_(who), asset),
        lambda: put_version(*town.as_(who), asset, [b"x"]),
        lambda: readers_of(*town.as_(who), asset),
        lambda: share_asset(*town.as_(who), asset, OTHER, town.now + DAY),
        lambda: hold_asset(*town.as_(who), asset, "why"),
        lambda: delete_asset(*town.as_(who), asset),
        lambda: revoke_all(*town.as_(who), asset),
    ):
        with pytest.raises(NoAsset) as refused:
            ask()
        said.append(str(refused.value).replace(asset, "ID"))
    return said


@pytest.mark.parametrize("who", EVERYBODY_ELSE, ids=lambda who: f"{who.id}@{who.org}")
def test_to_everybody_but_its_owner_an_asset_does_not_exist(town, who):
    asset = town.put(b"zanzibar", "Capybara launch").id
    made_up = "ast_" + "x" * 22
    assert refusals(town, who, asset) == refusals(town, who, made_up)
    assert list_assets(*town.as_(who)) == search_assets(*town.as_(who), "zanzibar capybara") == []
    assert list_assets(*town.as_(who), after=asset) == list_assets(*town.as_(who), after=made_up)
    assert content(town, OPERATOR, asset) == b"zanzibar"


def test_no_field_could_say_that_an_asset_is_public():
    named = {field.name for field in dataclasses.fields(Asset)}
    named |= {c.name for table in metadata.tables.values() if "asset" in table.name for c in table.columns}
    assert not [name for name in named if "public" in name or "visib" in name or "acl" in name]


def test_an_address_is_random_and_not_made_from_the_content(town):
    one, two = town.put().id, town.put().id
    assert one != two and len(one) == 26


def test_a_share_is_read_until_it_ends_and_not_a_moment_longer(town):
    asset = town.put(b"text").id
    town.share(asset, days=1)
    town.now += DAY - 0.001
    assert content(town, READER, asset) == b"text"
    assert [e.asset.id for e in list_assets(*town.as_(READER))] == [asset]
    town.now += 0.001
    with pytest.raises(NoAsset):
        content(town, READER, asset)
    assert list_assets(*town.as_(READER)) == search_assets(*town.as_(READER), "text") == []


def test_a_share_before_it_begins_and_of_one_key_only(town):
    asset = town.put().id
    town.share(asset, starts_at=town.now + 60, who=READER.id)
    with pytest.raises(NoAsset):
        content(town, READER, asset)
    town.now += 60
    assert content(town, READER, asset)
    with pytest.raises(NoAsset):
        content(town, Principal("key_colleague", "key", ACME), asset)


def test_a_reader_may_not_write_share_or_delete_and_hears_so(town):
    asset = town.put().id
    town.share(asset)
    for ask in (
        lambda: put_version(*town.as_(READER), asset, [b"x"]),
        lambda: share_asset(*town.as_(READER), asset, OTHER, town.now + DAY),
        lambda: delete_asset(*town.as_(READER), asset),
        lambda: readers_of(*town.as_(READER), asset),
    ):
        with pytest.raises(NotAllowedHere):
            ask()


def test_a_contractors_share_hangs_on_that_of_the_one_it_works_for(town):
    asset = town.put(b"text").id
    with pytest.raises(NotAllowedHere):
        town.share(asset, VENDOR)
    parent = town.share(asset, ACME, days=2)
    for more in ({"days": 3.0}, {"actions": (AssetAction.READ, AssetAction.WRITE)}):
        with pytest.raises(NotAllowedHere):
            town.share(asset, VENDOR, parent=parent, **more)
    with pytest.raises(NotAllowedHere):
        town.share(asset, OTHER, parent=parent)
    town.share(asset, VENDOR, days=1, parent=parent)
    assert content(town, CONTRACTOR, asset) == b"text"
    revoke_share(*town.place, parent)
    for who in (READER, CONTRACTOR):
        with pytest.raises(NoAsset):
            content(town, who, asset)


@pytest.mark.parametrize("how", ["revoked", "suspended", "principal suspended"])
def test_an_organisation_that_ended_or_is_suspended_reads_nothing(town, how):
    asset = town.put().id
    parent = town.share(asset)
    town.share(asset, VENDOR, days=0.5, parent=parent)
    assert content(town, CONTRACTOR, asset)
    by = ("why not", "rso-1", town.keys["rso-1"])
    if how == "revoked":
        acts.revoke(*town.place, ACME, *by)
    else:
        acts.suspend(*town.place, "", {"org": VENDOR if how == "suspended" else ACME}, *by)
    with pytest.raises(NoAsset):
        content(town, CONTRACTOR, asset)
    if how != "suspended":
        with pytest.raises(NoAsset):
            content(town, READER, asset)


def test_revoking_ends_a_reading_that_is_under_way(town):
    asset = town.put(bytes(12 * PART)).id
    share = town.share(asset)
    reading = read_asset(*town.as_(READER), asset)
    assert len(next(reading.chunks)) == PART
    revoke_share(*town.place, share)
    with pytest.raises(NoAsset):
        list(reading.chunks)


def test_a_clock_set_back_revives_no_share_and_prevents_no_restriction(town):
    asset = town.put().id
    share = town.share(asset, days=1)
    town.now += 2 * DAY
    town.put()
    town.now -= 2 * DAY
    town.clock = type(town.clock)(lambda: town.now + 2 * DAY, lambda: town.now)
    with pytest.raises(ClockError):
        content(town, READER, asset)
    revoke_share(*town.place, share)
    hold_asset(*town.place, asset, "why")


def test_older_versions_are_for_those_who_write(town):
    asset = town.put(b"first").id
    town.share(asset)
    town.share(asset, OTHER, actions=(AssetAction.READ, AssetAction.WRITE))
    assert put_version(*town.as_(OUTSIDER), asset, [b"second"]) == 2
    assert content(town, READER, asset) == b"second"
    with pytest.raises(NoAsset):
        content(town, READER, asset, version=1)
    assert content(town, OUTSIDER, asset, version=1) == content(town, OPERATOR, asset, version=1) == b"first"
    with pytest.raises(NoAsset):
        content(town, OPERATOR, asset, version=3)


def test_equal_contents_are_kept_once_for_one_owner_and_never_for_two(town):
    put_asset(*town.as_(READER), [b"same"], "theirs", Kind.DRAFT)
    first, second = town.put(b"same"), town.put(b"same")
    blobs = sorted((vault_of(town.store).place / "blobs").iterdir())
    assert len(blobs) == 2
    delete_asset(*town.place, first.id)
    assert content(town, OPERATOR, second.id) == b"same"
    delete_asset(*town.place, second.id)
    assert len(list((vault_of(town.store).place / "blobs").iterdir())) == 1


def test_a_hold_and_a_retention_class_stand_against_deletion(town):
    draft = town.put()
    hold = hold_asset(*town.place, draft.id, "case 7")
    with pytest.raises(NotAllowedHere):
        delete_asset(*town.place, draft.id)
    with pytest.raises(exc.IntegrityError), town.store.begin() as conn:
        conn.exec_driver_sql(f"UPDATE assets SET deleted = 1 WHERE id = '{draft.id}'")
    release_hold(*town.place, hold)
    delete_asset(*town.place, draft.id)
    log = town.put(kind=Kind.EVALUATION_LOG)
    with pytest.raises(BadField):
        town.put(kind=Kind.REPORT, retention=Retention.FIVE_YEARS)
    town.now = log.keep_until - 1
    with pytest.raises(NotAllowedHere):
        delete_asset(*town.place, log.id)
    town.now += 1
    delete_asset(*town.place, log.id)
    with pytest.raises(NoAsset):
        show_asset(*town.place, log.id)


def test_egress_is_limited_and_counted(town):
    asset = town.put(b"0123456789").id
    town.share(asset)
    set_limit(*town.place, ACME, READER.id, Egress(3, 25))
    assert content(town, READER, asset) and content(town, READER, asset)
    with pytest.raises(OverLimit):
        content(town, READER, asset)  # 30 bytes
    assert content(town, READER, asset, end=5) == b"01234"
    with pytest.raises(OverLimit):
        content(town, READER, asset, end=0)  # the fourth
    town.now += DAY + 1
    town.share(asset)
    assert content(town, READER, asset)
    with town.store.read() as conn:
        wanted = sa.select(asset_reads.c.bytes).order_by(asset_reads.c.seq)
        assert conn.execute(wanted).scalars().all() == [10, 10, 5, 10]


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART])
def test_contents_of_every_size_come_back_whole_and_in_parts(town, size):
    data = bytes(n * 7 % 251 for n in range(min(size, 4096))) * (size // 4096 + 1)
    asset = put_asset(
        *town.place, (data[:size][at : at + 5000] for at in range(0, size, 5000)), "t", Kind.IMAGE
    )
    assert asset.size == size and content(town, OPERATOR, asset.id) == data[:size]
    for start, end in ((0, 0), (1, size - 1), (PART - 1, PART + 1), (size, size), (2, 10**9)):
        assert content(town, OPERATOR, asset.id, start=start, end=end) == data[:size][start : max(start, end)]


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "another's"])
def test_a_changed_content_is_never_given_out(town, damage):
    place = vault_of(town.store).place / "blobs"
    asset = town.put(bytes(2 * PART) + b"end")
    (mine,) = place.iterdir()
    town.put(bytes(2 * PART) + b"END")
    (other,) = (path for path in place.iterdir() if path != mine)
    if damage == "flipped":
        data = bytearray(mine.read_bytes())
        data[-5] ^= 1
        mine.write_bytes(data)
    elif damage == "short":
        mine.write_bytes(mine.read_bytes()[:-1])
    elif damage == "gone":
        mine.unlink()
    else:
        mine.write_bytes(other.read_bytes())
    with pytest.raises(VaultError):
        content(town, OPERATOR, asset.id, start=2 * PART)


def test_every_attempt_leaves_one_entry_that_says_why_and_names_nothing(town):
    asset = town.put(b"phrase", "Title of the launch").id
    asks = [
        (lambda: content(town, READER, asset), "NOT_SHARED"),
        (lambda: content(town, READER, "ast_none"), "UNKNOWN_ASSET"),
        (lambda: content(town, STRANGER, asset), "ORGANISATION_UNKNOWN"),
    ]
    for ask, reason in asks:
        before = len(town.events())
        with pytest.raises(NoAsset):
            ask()
        (event,) = town.events()[before:]
        assert (event["outcome"], event["facts"]["reason"]) == ("refused", reason)
    before = len(town.events())
    content(town, OPERATOR, asset)
    (event,) = town.events()[before:]
    assert event["facts"]["asset"] == asset
    assert "launch" not in str(town.events()) and "phrase" not in str(town.events())


@pytest.mark.parametrize("title", ["", " ", "x" * 301, "two\nlines", "\x00"])
def test_titles_out_of_range_are_refused(town, title):
    with pytest.raises(BadField):
        town.put(title=title)


def test_a_page_goes_on_behind_the_last_of_the_one_before(town):
    made = [town.put(title=f"t{n}").id for n in range(7)]
    first = [e.asset.id for e in list_assets(*town.place, limit=3)]
    rest = [e.asset.id for e in list_assets(*town.place, limit=10, after=first[-1])]
    assert first + rest == made[::-1]
