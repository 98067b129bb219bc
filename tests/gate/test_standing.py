"""load_standing: what the registry and the signed decisions add up to, and that no change is missed."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from mythos.gate.authorize import authorize, known_tiers, load_standing
from mythos.gate.handling import issue_handling, operator_keys
from mythos.records.decision import sign_handling
from mythos.records.dsse import key_id
from mythos.records.permit import Action, Permit, Reason, Refusal
from mythos.records.principal import OPERATOR
from mythos.spec.family import TierState
from mythos.store.db import Store
from mythos.store.keys import create_key, principal_for_secret
from mythos.store.tables import decisions
from mythos.store.weights import register, revoke_decision
from tests.gate.world import ROOT, T0

OTHER = "cd" * 32


def answer(home, store, family, who=OPERATOR, tier="opus"):
    return authorize(load_standing(home, store, family), who, Action.ANSWER, tier, "local_tryout", T0 + 1)


def reason(home, store, family) -> Reason:
    refusal = answer(home, store, family)
    assert isinstance(refusal, Refusal)
    return refusal.reason


def add(home, store, clock, root, tier="opus"):
    register(
        store, clock, OPERATOR, "pocket", tier, root, {}, issue_handling(home, clock, "pocket", tier, root)
    )


def decision_ids(store) -> list[str]:
    with store.read() as conn:
        return list(conn.execute(sa.select(decisions.c.id).order_by(decisions.c.logged)).scalars())


def test_nothing_is_built_at_first(home, store, family):
    standing = load_standing(home, store, family)
    assert standing.family == family
    assert (dict(standing.decisions), dict(standing.faults)) == ({}, {})
    assert reason(home, store, family) is Reason.NOT_BUILT
    assert not home.keys.exists()  # asking makes no key


def test_the_registry_says_what_is_built(home, store, family, built):
    claimed = replace(
        family, tiers=tuple(replace(tier, root=OTHER, state=TierState.BUILT) for tier in family.tiers)
    )
    for declared in (family, claimed):  # a family file cannot declare a root
        standing = load_standing(home, store, declared)
        assert [(tier.root, tier.state) for tier in standing.family.tiers] == [
            (None, TierState.DECLARED),
            (None, TierState.DECLARED),
            (ROOT, TierState.BUILT),
            (None, TierState.DECLARED),
        ]
        assert [tier.name for tier in known_tiers(standing, OPERATOR, T0)] == ["opus"]
    permit = answer(home, store, family)
    assert isinstance(permit, Permit) and permit.decision == decision_ids(store)[0]


def test_weights_of_another_family_do_not_count(home, store, family, built):
    other = replace(family, name="qwen3")
    standing = load_standing(home, store, other)
    assert all(tier.root is None for tier in standing.family.tiers)
    assert not standing.decisions
    assert isinstance(answer(home, store, family), Permit)  # control: both families in one cache
    assert isinstance(answer(home, store, other), Refusal)


def test_keys_of_the_operator_and_of_others(home, store, clock, family, built):
    own = principal_for_secret(store, create_key(store, clock, OPERATOR, "laptop")[1])
    theirs = principal_for_secret(store, create_key(store, clock, OPERATOR, "partner", "acme")[1])
    assert own is not None and theirs is not None
    assert isinstance(answer(home, store, family, own), Permit)
    refusal = answer(home, store, family, theirs)
    unknown = answer(home, store, family, theirs, "mythos-9")
    assert isinstance(refusal, Refusal) and isinstance(unknown, Refusal)
    assert refusal == replace(unknown, message=unknown.message.replace("mythos-9", "opus"))
    assert known_tiers(load_standing(home, store, family), theirs, T0) == []


def test_it_is_not_read_again_without_need(home, store, family, built):
    standing = load_standing(home, store, family)
    assert load_standing(home, store, family) is standing
    assert load_standing(home, store, replace(family)) is standing  # an equal family
    renamed = replace(family, description="another")
    assert load_standing(home, store, renamed).family.description == "another"


def test_a_revoked_decision_is_seen_at_once_also_from_another_process(home, store, clock, family, built):
    assert isinstance(answer(home, store, family), Permit)
    code = (
        "import sys; from mythos.store.home import Home; from mythos.store.db import Store\n"
        "from mythos.records.clock import Clock; from mythos.records.principal import OPERATOR\n"
        "from mythos.store.weights import revoke_decision\n"
        f"store = Store.open(Home.open({str(home.path)!r}))\n"
        f"clock = Clock(system=lambda: {T0})\n"
        f"revoke_decision(store, clock, OPERATOR, {decision_ids(store)[0]!r}, 'a critical finding')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert reason(home, store, family) is Reason.NO_DECISION
    add(home, store, clock, ROOT)  # a new decision on the same weights
    assert isinstance(answer(home, store, family), Permit)


def test_a_new_root_replaces_the_old_one(home, store, clock, family, built):
    add(home, store, clock, OTHER)
    permit = answer(home, store, family)
    assert isinstance(permit, Permit) and permit.root == OTHER
    add(home, store, clock, ROOT)
    permit = answer(home, store, family)
    assert isinstance(permit, Permit) and permit.root == ROOT
    # Revoking both decisions on the current root does not fall back to the other's.
    for one in (2, 0):
        assert isinstance(answer(home, store, family), Permit)
        revoke_decision(store, clock, OPERATOR, decision_ids(store)[one], "")
    assert reason(home, store, family) is Reason.NO_DECISION


def test_the_newest_decision_counts(home, store, clock, family, built):
    key = operator_keys(home)
    old = load_standing(home, store, family).decisions["opus"]
    narrow = replace(old, id="dec_narrow", actions=(Action.KNOW,))
    register(store, clock, OPERATOR, "pocket", "opus", ROOT, {}, sign_handling(narrow, key))
    assert reason(home, store, family) is Reason.ACTION_NOT_GRANTED


def test_edited_and_foreign_decisions_do_not_count(home, store, clock, family, built, tmp_path):
    """Whoever writes to the database without the key gets nothing loaded."""
    key = operator_keys(home)
    mine = load_standing(home, store, family).decisions["opus"]
    good = sign_handling(mine, key)
    (home.keys / "operator.key").rename(tmp_path / "own.key")
    stranger = operator_keys(home)
    theirs = sign_handling(replace(mine, issued_by=key_id(stranger.public_key())), stranger)
    (home.keys / "operator.key").unlink()
    (tmp_path / "own.key").rename(home.keys / "operator.key")
    elsewhere = sign_handling(replace(mine, root=OTHER), key)  # ours, about other weights
    bad = {
        "flipped": good[:-60] + bytes([good[-60] ^ 1]) + good[-59:],
        "foreign": theirs,
        "elsewhere": elsewhere,
        "empty": b"",
        "text": b"{}",
    }
    revoke_decision(store, clock, OPERATOR, mine.id, "test")
    for name, envelope in bad.items():
        with store.begin() as conn:
            conn.execute(decisions.insert().values(id=name, weights=1, envelope=envelope, logged=0))
        assert reason(home, store, family) is Reason.BAD_SIGNATURE, name
    for name, envelope in (("good", good), ("later", elsewhere)):  # control; and nothing bad hides a good one
        with store.begin() as conn:
            conn.execute(decisions.insert().values(id=name, weights=1, envelope=envelope, logged=0))
        assert isinstance(answer(home, store, family), Permit), name


def test_without_the_key_no_decision_holds(home, store, family, built, tmp_path):
    path = home.keys / "operator.key"
    assert isinstance(answer(home, store, family), Permit)
    path.rename(tmp_path / "away")
    assert reason(home, store, family) is Reason.BAD_SIGNATURE
    (tmp_path / "away").rename(path)
    assert isinstance(answer(home, store, family), Permit)
    path.chmod(0o644)
    refusal = answer(home, store, family)
    assert isinstance(refusal, Refusal) and f"chmod 600 {path}" in refusal.message
    path.chmod(0o600)
    assert isinstance(answer(home, store, family), Permit)
    home.keys.chmod(0o755)
    assert reason(home, store, family) is Reason.BAD_SIGNATURE
    home.keys.chmod(0o700)
    assert isinstance(answer(home, store, family), Permit)


def test_a_copy_of_the_home_without_the_keys_opens_nothing(home, store, family, built, tmp_path, monkeypatch):
    import shutil

    store.close()
    shutil.copytree(home.path, tmp_path / "copy")
    (tmp_path / "copy").chmod(0o700)
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "thief"))
    copied = type(home).open(tmp_path / "copy")
    other = Store.open(copied)
    assert reason(copied, other, family) is Reason.BAD_SIGNATURE
    operator_keys(copied)  # a key of their own does not help
    assert reason(copied, other, family) is Reason.BAD_SIGNATURE
    other.close()


def test_many_threads_while_the_registry_changes(home, store, clock, family, built):
    """Once a revocation has returned, no thread is answered under that decision."""
    revoked: set[str] = set()

    def reader(_: int) -> None:
        for _ in range(20):
            before = set(revoked)
            found = answer(home, store, family)
            assert not (isinstance(found, Permit) and found.decision in before)

    def writer() -> None:
        for _ in range(8):
            add(home, store, clock, ROOT)
            newest = decision_ids(store)[-1]
            revoke_decision(store, clock, OPERATOR, newest, "")
            revoked.add(newest)

    with ThreadPoolExecutor(9) as pool:
        jobs = [pool.submit(reader, n) for n in range(8)]
        pool.submit(writer).result()
        for job in jobs:
            job.result()
    permit = answer(home, store, family)
    assert isinstance(permit, Permit) and permit.decision == decision_ids(store)[0]


@pytest.mark.parametrize(
    "module", ["mythos.gate", "mythos.gate.authorize", "mythos.store.home", "mythos.store.session"]
)
def test_deciding_needs_no_database(module):
    heavy = {"sqlalchemy", "alembic", "torch", "numpy"}
    code = f"import {module}, sys; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
