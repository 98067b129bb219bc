"""Other stores as they start without a setting: what the audit says of them, and what the demo takes."""

import json
from pathlib import Path

import pytest

from mythos.cli.main import run
from mythos.cli.ordinary_store import PLAIN, fetched, serving
from mythos.vault.exposure import Target, audit_exposure


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYTHOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))


@pytest.fixture
def drafts(tmp_path: Path) -> Path:
    place = tmp_path / "store" / "2026" / "launch"
    place.mkdir(parents=True)
    (place / "plan-of-capybara.txt").write_text("Capybara launch plan, not for release")
    return tmp_path / "store"


def audited(store, folder: Path):
    path = "/2026/launch/plan-of-capybara.txt"
    with serving(store, folder) as base_url:
        target = Target("theirs", base_url, ((path, path.replace("plan", "plot")),))
        return audit_exposure([target], ["Capybara launch plan"], timing=False)


def found(report) -> set[tuple[str, str]]:
    assert not report.void and report.unreachable == ()
    return {(finding.what, finding.path) for finding in report.findings if finding.method == "GET"}


def test_pythons_own_server_gives_it_away(drafts: Path) -> None:
    path = "/2026/launch/plan-of-capybara.txt"
    assert {("answers", path), ("names", path), ("differs", path)} <= found(audited(PLAIN, drafts))


@pytest.mark.slow
def test_a_file_server_from_the_registry_gives_it_away(drafts: Path) -> None:
    """copyparty as it starts: a listing, the file, and a thumbnail or archive beside it."""
    path = "/2026/launch/plan-of-capybara.txt"
    told = found(audited(fetched(), drafts))
    assert {("answers", path), ("names", path), ("differs", path)} <= told
    assert ("answers", "/2026/launch/") in told


@pytest.mark.slow
def test_the_leak_of_a_real_store_and_not_of_the_vault(capsysbinary) -> None:
    assert run(["demo", "leak", "--drafts", "40", "--fetch", "--json"]) == 0
    told = json.loads(capsysbinary.readouterr().out.splitlines()[-1])
    assert (told["there"]["store"], told["there"]["drafts"]) == ("copyparty", 40)
    assert (told["here"]["drafts"], told["here"]["pages"], told["here"]["addresses"]) == (0, 0, 40)
