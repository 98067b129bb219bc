"""What is asked of the gate and decided: votes, releases, halts, suspensions, incidents."""

import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate import acts
from mythos.gate.release import GateAnswer
from mythos.gate.submit import submit
from mythos.records.canonical import canonical
from mythos.records.ids import new_id
from mythos.records.release import Choice, Release, Stage, Vote, Withdrawal
from mythos.records.signed import seal
from tests.attacks.said import Said
from tests.gate.town import DAY, VOTERS, hexdigest

if TYPE_CHECKING:
    from tests.attacks.adapter import Adapter

AUDIENCES = {"early_access": "researchers", "expanded": "enterprises", "general": "public"}


def op_gate(adapter: "Adapter", **about: Any) -> Said:
    about, strategy, requester = _asked(adapter, about)
    return said(adapter.town.check(about, strategy, requester))


def op_vote(
    adapter: "Adapter",
    signer: str,
    veto: bool = False,
    name: str = "vote",
    key: str = "",
    deployment: str = "",
    claiming: str = "",
    **about: Any,
) -> None:
    subject, _, _ = _asked(adapter, about)
    choice = Choice.VETO if veto else Choice.APPROVE
    secret = adapter.kept[key] if key else adapter.secret(signer)
    where = hexdigest(deployment) if deployment else adapter.town.state.deployment
    record = Vote(new_id("vote"), where, claiming or signer, choice, subject, "")
    submit(*adapter.place, seal(record, secret))
    adapter.kept[name] = record


def op_votes(adapter: "Adapter", signers: list[str] | None = None, **about: Any) -> None:
    for who in signers or VOTERS:
        op_vote(adapter, who, name=f"vote of {who}", **about)


def op_vote_tampered(adapter: "Adapter", how: str, signer: str = "rso-1", **about: Any) -> None:
    """A good vote, with its envelope damaged in one way."""
    subject, _, _ = _asked(adapter, about)
    record = Vote(new_id("vote"), adapter.town.state.deployment, signer, Choice.APPROVE, subject, "")
    envelope = json.loads(seal(record, adapter.town.keys[signer]))
    one = envelope["signatures"][0]
    if how == "payload":
        data = base64.b64decode(envelope["payload"]).replace(b'"note":""', b'"note":"x"')
        envelope["payload"] = base64.b64encode(data).decode()
    elif how == "type":
        envelope["payloadType"] = envelope["payloadType"].replace("vote", "withdrawal")
    elif how == "signature":
        one["sig"] = base64.b64encode(bytes(64)).decode()
    elif how == "keyid":
        one["keyid"] = next(i for i in adapter.town.state.keys if i != one["keyid"])
    elif how == "malleable":  # S + L is congruent to S
        raw = base64.b64decode(one["sig"])
        order = 2**252 + 27742317777372353535851937790883648493
        one["sig"] = base64.b64encode(
            raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
        ).decode()
    elif how == "padded":  # other bytes that decode to the same
        one["sig"] = one["sig"] + "\n"
    elif how == "unsigned":
        envelope["signatures"] = []
    elif how == "twice":
        envelope["signatures"] = [one, one]
    submit(*adapter.place, canonical(envelope))


def op_withdraw(
    adapter: "Adapter",
    vote: str = "vote",
    signer: str = "safety-1",
    claiming: str = "",
    name: str = "withdrawal",
) -> None:
    target = adapter.kept[vote].id if vote in adapter.kept else vote
    record = Withdrawal(new_id("wd"), adapter.town.state.deployment, claiming or signer, target)
    submit(*adapter.place, seal(record, adapter.town.keys[signer]))
    adapter.kept[name] = record


def op_release(
    adapter: "Adapter", name: str = "release", rollback: bool = False, signer: str = "", **about: Any
) -> Said:
    subject, strategy, requester = _asked(adapter, about)
    release, answer = adapter.town.open(subject, strategy, requester, rollback)
    if release is not None:
        adapter.kept[name] = release
    return said(answer)


def op_release_forged(adapter: "Adapter", signer: str = "requester-1", **about: Any) -> None:
    """A release made without asking the gate, signed by its requester and a key of theirs."""
    subject, strategy, requester = _asked(adapter, about)
    record = Release(
        new_id("rel"), adapter.town.state.deployment, subject, strategy, (), (), {}, requester, False,
        adapter.town.now + DAY,
    )  # fmt: skip
    submit(*adapter.place, seal(record, Ed25519PrivateKey.generate(), adapter.town.keys[signer]))


def op_halt(adapter: "Adapter", signer: str = "safety-1", release: str = "release") -> None:
    acts.halt(*adapter.place, adapter.kept[release].id, "drill", signer, adapter.secret(signer))


def op_suspend(
    adapter: "Adapter",
    where: dict[str, str],
    signer: str = "safety-1",
    name: str = "suspension",
    tier: str = "",
) -> None:
    adapter.kept[name] = acts.suspend(*adapter.place, tier, where, "drill", signer, adapter.secret(signer))


def op_resume(adapter: "Adapter", signers: list[str], suspension: str = "suspension") -> None:
    keys = [adapter.secret(who) for who in signers]
    acts.resume(*adapter.place, adapter.kept[suspension].id, keys)


def op_incident(adapter: "Adapter", profile: str = "none", signer: str = "safety-1") -> None:
    acts.report_incident(*adapter.place, profile, "universal jailbreak", signer, adapter.town.keys[signer])


def _asked(adapter: "Adapter", about: dict[str, Any]) -> tuple[Any, str, str]:
    """Subject, strategy and requester of a step."""
    stage = about.get("stage", "early_access")
    purposes = tuple(about.get("purposes", ["cyber_defence"]))
    profile = about.get("profile", "none")
    subject = acts.subject(
        adapter.town.state,
        adapter.family,
        about.get("tier", "capybara"),
        adapter.roots[about.get("root", "W1")],
        adapter.kept.get(profile, profile),
        Stage(stage),
        about.get("audience", AUDIENCES[stage]),
        purposes,
    )
    changed = {k: hexdigest(v) for k, v in about.get("instead", {}).items()}
    return (
        replace(subject, **changed),
        about.get("strategy", "staged"),
        about.get("requester", "requester-1"),
    )


def said(answer: GateAnswer) -> Said:
    codes = {str(because.code) for because in answer.reasons} | {str(d.code) for d in answer.domains}
    return Said(str(answer.verdict), frozenset(codes))
