"""What `mythos doctor` says of the vault, and what an audit leaves for it."""

import json
from pathlib import Path

import pytest

from mythos.cli import doctor_vault
from mythos.cli.findings import FAIL, OK, WARN
from mythos.cli.main import run
from mythos.ledger.log import audit
from mythos.store.listeners import announced
from mythos.vault.errors import VaultError
from mythos.vault.keys import vault_of
from tests.gate.town import DAY
from tests.vault.weakened import Facts, weakened
from tests.vault.world import VaultTown, listening


def test_contents_that_open_and_one_that_is_gone(town: VaultTown) -> None:
    town.put(b"one"), town.put(b"two")
    assert doctor_vault.sealed(town.store).status == OK
    next((vault_of(town.store).place / "blobs").iterdir()).unlink()
    found = doctor_vault.sealed(town.store)
    assert found.status == FAIL and found.detail.startswith("1 of 2 contents are gone")


def test_a_content_that_is_not_what_was_sealed(town: VaultTown) -> None:
    town.put(b"one")
    file = next((vault_of(town.store).place / "blobs").iterdir())
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(VaultError):
        doctor_vault.sealed(town.store)


def test_files_that_are_open_and_listeners(town: VaultTown) -> None:
    assert doctor_vault.private(town.store, town.clock).status == OK
    town.home.database.chmod(0o644)
    assert doctor_vault.private(town.store, town.clock).status == FAIL
    assert doctor_vault.listening(town.home).detail == "none runs"
    with announced(town.home, "assets", "http://127.0.0.1:1"):
        assert doctor_vault.listening(town.home).status == OK
    with announced(town.home, "assets", "http://192.0.2.1:80"):
        assert doctor_vault.listening(town.home).status == FAIL


def test_the_last_audit(town: VaultTown) -> None:
    def status() -> str:
        return doctor_vault.last_audit(town.store, town.clock).status

    assert status() == WARN
    audit(*town.place, "vault.audit", "clean", canary=["answers"], found={}, requests=9)
    assert status() == OK
    audit(*town.place, "vault.audit_other", "found", canary=[], found={"answers": 1}, requests=9)
    assert status() == OK  # of somebody else's store
    town.now += 8 * DAY
    assert status() == WARN
    audit(*town.place, "vault.audit", "void", canary=[], found={}, requests=0)
    assert status() == FAIL


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [("", 0), ("a status page", 1)])
def test_audit_of_listeners_that_run(
    town: VaultTown, tmp_path: Path, monkeypatch, capsysbinary, how: str, code: int
) -> None:
    """The command, with the listener for assets as it is and with one thing wrong; then doctor."""
    monkeypatch.setenv("MYTHOS_HOME", str(town.home.path))
    monkeypatch.setenv("MYTHOS_KEYS", str(town.home.keys))
    asset = town.put(b"a phrase of the draft", "Capybara launch plan").id
    monkeypatch.setattr("mythos.cli.local.Clock", lambda *_: town.clock)
    with (
        listening(town, weakened(how, Facts(asset))) as (base_url, _),
        announced(town.home, "assets", base_url),
    ):
        assert run(["vault", "audit", "--json"]) == code
    told = json.loads(capsysbinary.readouterr().out.splitlines()[-1])
    assert {f["what"] for f in told["findings"]} == ({"answers"} if code else set()) and not told["void"]
    assert doctor_vault.last_audit(town.store, town.clock).status == (FAIL if code else OK)
