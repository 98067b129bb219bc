"""Search finds what its caller may read, and follows every change, by whichever process."""

from mythos.store.db import Store
from mythos.vault.assets import delete_asset, put_version
from mythos.vault.search import search_assets
from mythos.vault.shares import revoke_share
from tests.vault.world import READER


def found(town, query, who=None):
    place = town.as_(who) if who else town.place
    return [entry.about.title for entry in search_assets(*place, query)]


def test_words_of_title_and_text_titles_first_newest_first(town):
    town.put(b"about the capybara tier", "Pricing")
    town.put(b"nothing", "Capybara risks")
    town.put(b"capybara again", "Retreat")
    assert found(town, "CAPYBARA") == ["Capybara risks", "Retreat", "Pricing"]
    assert found(town, "capybara tier") == ["Pricing"]
    assert found(town, "capyb") == found(town, "") == found(town, "no such word") == []


def test_forms_of_a_letter_are_one(town):
    town.put("der Größe nach".encode(), "Straße")
    assert found(town, "GRÖSSE strasse") == ["Straße"]


def test_it_follows_versions_deletions_shares_and_other_processes(town):
    asset = town.put(b"alpha word", "One").id
    assert found(town, "alpha") == ["One"]
    other = Store.open(town.home)
    put_version(other, town.clock, town.place[2], asset, [b"beta word"])
    other.close()
    assert found(town, "beta") == ["One"] and found(town, "alpha") == []
    share = town.share(asset)
    assert found(town, "beta", READER) == ["One"]
    revoke_share(*town.place, share)
    assert found(town, "beta", READER) == []
    delete_asset(*town.place, asset)
    assert found(town, "beta") == []


def test_what_is_not_text_is_found_by_its_title_only(town):
    town.put(b"\x89PNG\r\n\x00\x01 capybara", "Picture")
    assert found(town, "picture") == ["Picture"] and found(town, "capybara") == []
