"""The exposure audit finds each weakness of a weakened server of ours, and nothing in one as it is."""

from dataclasses import replace

import pytest

from mythos.records.principal import OPERATOR
from mythos.serve.apart import running
from mythos.serve.listening import bind
from mythos.serve.public_app import create_public_app
from mythos.vault import crawl, publications
from mythos.vault.assets import list_assets
from mythos.vault.exposure import AuditReport, audit_exposure
from mythos.vault.own_exposure import names_within, public_target, strays, vault_target
from tests.gate.town import DAY
from tests.vault.test_publication import published, requested, voted
from tests.vault.weakened import HEADERS, WEAK, Facts, weakened
from tests.vault.world import OTHER, VaultTown, client, listening

ALL = {"answers", "names", "differs"}
OF_ASSETS = {
    "the list without a key": ALL,
    "a search without a key": ALL,
    "HEAD without a key": ALL,  # the file's name stands in a header
    "ranges without a key": ALL,
    "conditions without a key": ALL,
    "another method counts as GET": ALL,
    "images without a key": ALL,
    "a header that says who asks": ALL,
    "a preview without a key": ALL,
    "a thumbnail without a key": ALL,
    "thumbnails in a folder": ALL,
    "an address by number": {"answers", "names"},
    "an address by title": {"answers", "names"},
    "an address by the file's name": {"answers", "names"},
    "two slashes pass the check": ALL,
    "an encoded path passes the check": ALL,
    "dots pass the check": ALL,
    "capitals pass the check": ALL,
    "an older version without a key": ALL,
    "an old address leads on": ALL,
    "an old address is gone, not unknown": {"differs"},
    "403 for what exists": {"differs"},
    "403 for what exists, with a key": {"differs"},
    "412 for what exists": {"differs"},
    "304 by the true tag": {"answers", "differs"},
    "404 in other words": {"differs"},
    "OPTIONS tells": {"answers", "differs"},
    "an error that names": {"names", "differs"},
    "an error that suggests": {"names"},
    "a sitemap": {"answers", "names"},
    "robots.txt": {"answers", "names"},
    "a count of the rest": {"differs"},
    "a status page": {"answers"},
    "a cache may keep it": {"header"},
    "nothing said to caches": {"header"},
    "pages of other origins may read": {"header"},
    "a header of the cache": {"differs"},
    "an entity tag on the refusal": {"differs"},
    "a cookie on the refusal": {"differs"},
}
OF_THE_PUBLIC_AREA = {
    "a listing of the public area": {"answers"},
    "any Host": {"answers"},
    "a cache may keep it": {"header"},
    "pages of other origins may read": {"header"},
    "a status page": {"answers"},
}


CLOSE = ("thumbnail", "//v1/", "/x/..", "%76", "/V1/", "search")
# What a quick look visits of all that the audit does: two forms of an address, and these guesses.
FEW = ("/drafts", "/status", "/sitemap.xml", "/robots.txt", "/v1/assets", "/v1/assets/1", "/p/", "/drafts/")
LOOKED_AT = {"a preview without a key": "/preview", "an older version without a key": "?version=1"}


def audited(town: VaultTown, how: str, quick: bool = True, timing: bool = False) -> AuditReport:
    """What the audit says of the listener for assets when `how` is wrong with it."""
    entry = list_assets(*town.place)[0]
    facts = Facts(entry.asset.id, tag=entry.tag)
    with listening(town, weakened(how, facts)) as (base_url, keys):
        target = vault_target(town.store, base_url, keys[OTHER])
        facts.owner = keys["local"]
        facts.old = next(path for path, _ in target.known if facts.asset not in path)[11:37]
        if quick:
            about = facts.old if "old address" in how else facts.asset
            wanted = f"/v1/assets/{about}{LOOKED_AT.get(how, '')}"
            known = tuple(pair for pair in target.known if pair[0] == wanted)
            also = tuple(pair for pair in target.also if any(form in pair[0] for form in CLOSE))
            seeds = tuple(seed for seed in target.seeds if "capybara" in seed)
            target = replace(target, known=known, also=also, seeds=seeds)
        return audit_exposure([target], names_within(town.store, OPERATOR), timing)


def kinds(report: AuditReport) -> set[str]:
    assert not report.void and report.requests > 80
    return {finding.what for finding in report.findings}


def test_the_listener_for_assets_as_it_is(filled: VaultTown) -> None:
    with listening(filled) as (base_url, keys):
        target = vault_target(filled.store, base_url, keys[OTHER])
        report = audit_exposure([target], names_within(filled.store, OPERATOR), timing=False)
    assert report.findings == () and not report.void and report.canary == ("answers", "differs", "names")
    assert len(target.known) == 9 and len(target.also) > 50 and target.tags


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawl, "GUESSES", FEW)


@pytest.mark.parametrize("how", ["", *OF_ASSETS])
def test_each_weakness_of_the_listener_for_assets_is_found(filled: VaultTown, few: None, how: str) -> None:
    assert kinds(audited(filled, how)) == OF_ASSETS.get(how, set())


@pytest.mark.slow
@pytest.mark.parametrize("how", OF_ASSETS)
def test_the_whole_audit_finds_each_as_well(filled: VaultTown, how: str) -> None:
    assert kinds(audited(filled, how, quick=False)) >= OF_ASSETS[how]


def test_every_weakness_is_tried() -> None:
    assert {*WEAK, *HEADERS} <= {*OF_ASSETS, *OF_THE_PUBLIC_AREA}


def test_a_slower_refusal_is_found(filled: VaultTown, few: None) -> None:
    assert "times" in kinds(audited(filled, "a slower refusal", timing=True))


def public_report(town: VaultTown, how: str = "") -> AuditReport:
    """The public area with one object in it, one before its time, and one withdrawn after it was read."""
    facts = Facts("", public=published(town, town.put(b"for all to read", "Announcement").id))
    published(town, town.put(b"not yet", "Embargoed announcement").id, days=1, ends=2)
    request = requested(town, town.put(b"a mistake", "Withdrawn announcement").id)
    voted(town, request, "rso-1", "board-1")
    gone = publications.publish(*town.place, request, town.gate).id
    facts.asset = gone
    with (
        bind("127.0.0.1", 0) as listener,
        running(weakened(how, facts)(create_public_app(town.store, town.clock)), listener) as base_url,
    ):
        with client(base_url) as reader:
            assert reader.get(f"/p/{gone}").content == b"a mistake"
        publications.withdraw(*town.place, request, "why", "board-2", town.keys["board-2"])
        target = public_target(town.store, town.clock, base_url)
        assert len(target.known) == 4 and len(target.allowed) == 2
        return audit_exposure([target], names_within(town.store, OPERATOR), timing=False)


def test_the_public_area_as_it_is(town: VaultTown) -> None:
    report = public_report(town)
    assert report.findings == () and not report.void and strays(town.store, town.clock) == []


@pytest.mark.parametrize("how", [*OF_THE_PUBLIC_AREA, "a cache in front"])
def test_each_weakness_of_the_public_area_is_found(town: VaultTown, few: None, how: str) -> None:
    wanted = ALL if how == "a cache in front" else OF_THE_PUBLIC_AREA[how]
    assert kinds(public_report(town, how)) == wanted


def test_what_lies_in_the_public_area_before_its_time_is_found(town: VaultTown) -> None:
    made = published(town, town.put(b"not yet", "Embargoed announcement").id, days=1)
    (publications.place(town.store) / made).mkdir(mode=0o700, parents=True)
    assert [found.what for found in strays(town.store, town.clock)] == ["stray"]
    town.now += 2 * DAY
    assert strays(town.store, town.clock) == []  # the control
