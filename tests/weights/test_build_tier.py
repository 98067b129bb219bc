"""Building a tier: once, whole or not at all, by one process at a time."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from test_at_rest import make_plain
from tiny_gguf import family_toml, write_package

from mythos.data.fetch import FetchError
from mythos.gate.authorize import Permit, authorize
from mythos.gate.standing import load_standing
from mythos.ledger.log import ledger
from mythos.model.errors import PlainWeights, WeightsError
from mythos.model.quant import load_served
from mythos.model.weights_dir import read_weights
from mythos.records.canonical import parse
from mythos.records.clock import Clock
from mythos.records.decision import open_handling
from mythos.records.errors import MythosError
from mythos.records.permit import Action
from mythos.records.principal import OPERATOR, Principal
from mythos.spec.family import Family
from mythos.spec.load import load_family, parse_family
from mythos.store.copies import add_copy, list_copies, reconcile, remove_copy
from mythos.store.db import Store, StoreError
from mythos.store.home import Home
from mythos.store.operator_key import trusted_keys
from mythos.store.weights import decisions_for, registered, revoke_decision
from mythos.store.weights_key import weights_keyring
from mythos.train import build
from mythos.train.build import BuildError, build_tier


def quiet(*_: object) -> None:
    pass


@pytest.fixture
def family(tmp_path: Path, monkeypatch) -> Family:
    spec = write_package(tmp_path / "index")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("MYTHOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))
    return parse_family(family_toml(spec).encode(), "tiny.toml")


def make(family: Family, tier: str = "small", progress=quiet, principal: Principal = OPERATOR) -> str:
    home = Home.open()
    return build_tier(home, Store.open(home), Clock(), principal, family, family.tier(tier), progress)


def state(family: Family) -> tuple[int, int]:
    """How many registered weights and decisions there are."""
    store = Store.open(Home.open())
    return len(registered(store)), len(decisions_for(store, family.name, "small"))


def test_a_tier_is_built_registered_and_permitted(family: Family) -> None:
    phases: dict[str, tuple[int, int]] = {}
    root = make(family, progress=lambda phase, done, total: phases.update({phase: (done, total)}))
    assert list(phases) == ["download", "unpack", "convert", "store"]
    assert all(done == total for done, total in phases.values())
    home = Home.open()
    store = Store.open(home)
    files = read_weights(home.weights_dir(root), weights_keyring(home))
    assert files.config == family.tier("small").config
    load_served(files.config, files.tensors)
    (row,) = registered(store)
    assert (row.family, row.tier, row.root) == ("tiny", "small", root)
    assert row.lineage["source"] == "tiny-weights==1.0" and row.lineage["form"] == "int8-channel"
    (envelope,) = decisions_for(store, "tiny", "small")
    handling = open_handling(envelope, trusted_keys(home))
    assert (handling.root, handling.principals) == (root, ("operator",))
    standing = load_standing(home, store, family)
    for action in (Action.LOAD, Action.ANSWER):
        permit = authorize(standing, OPERATOR, action, "small", "local_tryout", Clock().now())
        assert isinstance(permit, Permit)


def test_building_again_changes_nothing(family: Family, monkeypatch) -> None:
    root = make(family)
    inode = Home.open().weights_dir(root).stat().st_ino
    monkeypatch.setenv("PIP_FIND_LINKS", os.devnull)
    assert make(family) == root
    assert Home.open().weights_dir(root).stat().st_ino == inode
    assert state(family) == (1, 1)


@pytest.mark.parametrize(
    "file", ["model.safetensors.enc", "config.json.enc", "manifest.json.enc", "key.json", None]
)
def test_damaged_weights_are_made_again(family: Family, file: str | None) -> None:
    root = make(family)
    directory = Home.open().weights_dir(root)
    if file is None:
        directory.rename(directory.parent.parent / "gone")
    else:
        (directory / file).write_bytes((directory / file).read_bytes()[:-1])
    assert make(family) == root
    read_weights(directory, weights_keyring(Home.open()))
    assert state(family) == (1, 1)
    assert os.listdir(directory.parent) == [root]


SERVER = multiprocessing.get_context("forkserver")  # forks from a process in which torch has no threads yet
SERVER.set_forkserver_preload(["mythos.train.build"])
VARIABLES = ("PIP_CONFIG_FILE", "PIP_NO_INDEX", "PIP_FIND_LINKS", "MYTHOS_HOME", "MYTHOS_KEYS")


def make_elsewhere(family: Family, variables: dict[str, str], step: str = "", when: str = "") -> None:
    """In a process of its own; killed, so that no clean-up runs, before or after `step` of the build."""
    os.environ |= variables
    if step:
        real = getattr(build, step)

        def killed(*args: object, **options: object) -> object:
            if when == "after":
                real(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        setattr(build, step, killed)
    make(family)


def started(family: Family, *how: str) -> Any:
    variables = {name: os.environ[name] for name in VARIABLES}
    process = SERVER.Process(target=make_elsewhere, args=(family, variables, *how))
    process.start()
    return process


def exit_code(process: Any) -> int | None:
    process.join(100)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def test_processes_at_once_build_once(family: Family) -> None:
    processes = [started(family) for _ in range(3)]
    assert [exit_code(process) for process in processes] == [0, 0, 0]
    assert state(family) == (1, 1)


STEPS = ["fetch_package_file", "served_form", "write_weights", "issue_handling", "register"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_process_killed_at_any_step_leaves_nothing_half_done(family: Family, step: str, when: str) -> None:
    """The next build succeeds, and what was acknowledged is there."""
    assert exit_code(started(family, step, when)) == -signal.SIGKILL
    home = Home.open()
    assert state(family) == ((1, 1) if (step, when) == ("register", "after") else (0, 0))
    for directory in (home.path / "weights").iterdir():
        assert read_weights(directory, weights_keyring(home))
    root = make(family)
    assert state(family) == (1, 1)
    assert os.listdir(home.path / "weights") == [root]


def test_a_full_disk_leaves_nothing(family: Family, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mythos.model.weights_dir.os.fsync", full)
        with pytest.raises(MythosError):
            make(family)
    assert state(family) == (0, 0)
    make(family)


def test_a_revoked_decision_is_not_renewed_by_building(family: Family) -> None:
    make(family)
    home = Home.open()
    store = Store.open(home)
    (envelope,) = decisions_for(store, "tiny", "small")
    handling = open_handling(envelope, trusted_keys(home))
    revoke_decision(store, Clock(), OPERATOR, handling.id, "a finding")
    with pytest.raises(BuildError, match="revoked"):
        make(family)
    assert state(family) == (1, 0)


def test_a_new_operator_key_needs_a_new_decision(family: Family) -> None:
    root = make(family)
    home = Home.open()
    (home.keys_dir / "operator.key").unlink()
    assert make(family) == root
    (newest,) = [e for e in decisions_for(Store.open(home), "tiny", "small") if _opens(e, trusted_keys(home))]
    assert newest


def _opens(envelope: bytes, trusted: dict) -> bool:
    try:
        return bool(open_handling(envelope, trusted))
    except MythosError:
        return False


def test_tiers_of_other_kinds_say_that_they_are_not_built_yet(family: Family) -> None:
    make(family)
    with pytest.raises(BuildError, match="smaller is trained, and how long was not said"):
        make(family, "smaller")
    with pytest.raises(BuildError, match="hub is not there yet") as error:
        make(load_family("qwen3"), "qwen3-0.6b")
    assert "pinned revision of Qwen/Qwen3-0.6B" in error.value.cure


def test_only_the_operator_builds(family: Family) -> None:
    with pytest.raises(MythosError):
        make(family, principal=Principal("key_1", "key", "acme"))
    assert state(family) == (0, 0)


def test_errors_of_the_source_reach_the_user(family: Family, tmp_path: Path, monkeypatch) -> None:
    text = family_toml(write_package(tmp_path / "index")).replace("ffn = 96", "ffn = 128")
    with pytest.raises(WeightsError, match="another model than the family file declares"):
        make(parse_family(text.encode(), "other.toml"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    monkeypatch.setenv("MYTHOS_HOME", str(tmp_path / "home2"))
    with pytest.raises(FetchError):
        make(family)
    assert state(family) == (0, 0)


EXPERTS = """
[[tiers]]
name = "big"
description = "copied"
parents = ["small"]
made_by = { kind = "experts", copies = 4, share = 0.5, optimiser = "adamw", learning_rate = 2e-4 }
price = { input = 1, output = 2 }
context = 256
max_output = 64
config = { moe = { routed = 4, top_k = 2, width = 96 } }
"""


def test_experts_are_copied_from_a_built_parent_that_may_be_used(family: Family, tmp_path: Path) -> None:
    text = family_toml(write_package(tmp_path / "index")) + EXPERTS
    family = parse_family(text.encode(), "tiny.toml")
    with pytest.raises(BuildError, match="big is made from small, which cannot be used") as error:
        make(family, "big")
    assert error.value.cure == "mythos build small --family tiny"
    parent = make(family)
    root = make(family, "big")
    assert make(family, "big") == root != parent
    home = Home.open()
    store = Store.open(home)
    row = next(row for row in registered(store) if row.tier == "big")
    assert row.root == root and row.lineage["parents"] == {"small": parent} and row.lineage["copies"] == 4
    files = read_weights(home.weights_dir(root), weights_keyring(home))
    assert files.config == family.tier("big").config
    (envelope,) = decisions_for(store, "tiny", "small")
    revoke_decision(store, Clock(), OPERATOR, open_handling(envelope, trusted_keys(home)).id, "a finding")
    with pytest.raises(BuildError, match="cannot be used"):
        make(family, "big")
    wrong = parse_family(text.replace("width = 96 } }", "width = 64 } }").encode(), "tiny.toml")
    with pytest.raises(BuildError):
        make(wrong, "big")


def test_building_encrypts_what_an_earlier_version_left_and_enters_the_copies(family: Family) -> None:
    root = make(family)
    home = Home.open()
    store, directory = Store.open(home), home.weights_dir(root)
    make_plain(directory, weights_keyring(home))
    with pytest.raises(PlainWeights):
        read_weights(directory, weights_keyring(home))
    (home.path / "weights" / "foreign").mkdir()
    assert make(family) == root
    read_weights(directory, weights_keyring(home))
    forms = {copy.place: copy.form for copy in list_copies(store) if copy.removed is None}
    (source,) = home.cache.glob("*.gguf")
    assert forms == {f"weights/{root}": "encrypted", f"cache/{source.name}": "plain"}
    assert reconcile(home, store) == ([home.path / "weights" / "foreign"], [])
    source.unlink()
    assert [copy.place for copy in reconcile(home, store)[1]] == [f"cache/{source.name}"]
    make(family)
    assert reconcile(home, store)[1] == [] and len(list_copies(store)) == 2
    kinds = [parse(row.event)["kind"] for row in store_events(store)]
    assert kinds.count("copy.added") == 2 and kinds.count("copy.removed") == 1


def store_events(store: Store) -> list:
    with store.read() as conn:
        return list(conn.execute(ledger.select()))


def test_a_copy_and_its_leaf_are_written_together(family: Family) -> None:
    make(family)
    store = Store.open(Home.open())
    before = len(list_copies(store)), len(store_events(store))
    with pytest.raises(ZeroDivisionError), store.begin() as conn:
        add_copy(conn, Clock(), OPERATOR, "ab" * 32, "/backup", "plain")
        raise ZeroDivisionError
    assert (len(list_copies(store)), len(store_events(store))) == before
    with store.begin() as conn:
        first = add_copy(conn, Clock(), OPERATOR, "ab" * 32, "/backup", "plain")
        assert add_copy(conn, Clock(), OPERATOR, "ab" * 32, "/backup", "plain") == first
        second = add_copy(conn, Clock(), OPERATOR, "ab" * 32, "/backup", "encrypted")
    state_of = {copy.id: copy.removed for copy in list_copies(store)}
    assert state_of[first] is not None and state_of[second] is None
    with pytest.raises(StoreError), store.begin() as conn:
        remove_copy(conn, Clock(), OPERATOR, "cpy_none")
