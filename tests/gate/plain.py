"""A state of the gate made by hand: no database, no signatures, a clock that is a number."""

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate.policy import load_pack, pack_digest
from mythos.gate.release import audience_id, evidence_root
from mythos.gate.state import Cast, State
from mythos.records.grant import Grant, Organisation
from mythos.records.release import Choice, Release, Stage, Subject, Vote
from mythos.records.trust import Key, Person, TrustRoot
from tests.gate.town import DAY, STAFF, T0, VOTERS, W1

HOUSE = load_pack("house")
SECRETS = {who: Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n, who in enumerate(STAFF, 1)}
KEYS = tuple(
    Key(SECRETS[who].public_key().public_bytes_raw().hex(), who, role) for who, role in STAFF.items()
)
AUDIENCE = {Stage.EARLY_ACCESS: 0, Stage.EXPANDED: 1, Stage.GENERAL: 2}
DEPLOYMENT = "d" * 64


def enrolled_state(pack=HOUSE) -> State:  # noqa: ANN001
    persons = tuple(Person(who, "town") for who in STAFF)
    state = State(trust=TrustRoot(1, "town", True, 3, persons, KEYS, ""), deployment=DEPLOYMENT)
    state.policy = pack_digest(pack)
    state.packs[state.policy] = pack
    state.orgs_of = dict.fromkeys(STAFF, "town")
    state.bound = {key.id: (key.holder, key.role) for key in KEYS}
    state.keys = state.trust.public_keys()
    return state


def a_subject(state: State, stage: Stage = Stage.EARLY_ACCESS, **other: object) -> Subject:
    assert state.pack is not None
    audience = audience_id(state.pack.audiences[AUDIENCE[stage]])
    about = Subject(
        "fam", "capybara", W1, "none", stage, audience, ("cyber_defence",), evidence_root(()), state.policy
    )
    return replace(about, **other)  # type: ignore[arg-type]


def cast(
    state: State, about: Subject, *persons: str, at: float = T0, choice: Choice = Choice.APPROVE
) -> None:
    for person in persons or VOTERS:
        vote = Vote(f"vote{len(state.votes):03}", DEPLOYMENT, person, choice, about, "")
        key = next(key.id for key in KEYS if key.holder == person)
        state.votes[vote.id] = Cast(vote, STAFF[person], key, at, False)
        state.at[vote.id] = at


def opened(state: State, about: Subject, at: float = T0, days: float = 90, votes=()) -> Release:  # noqa: ANN001
    found = Release(
        f"rel{len(state.releases)}", DEPLOYMENT, about, "staged", tuple(votes), (), {}, "requester-1",
        False, at + days * DAY,
    )  # fmt: skip
    state.releases[found.id] = found
    state.at[found.id] = at
    return found


def organisation(state: State, name: str = "acme", audience: str = "researchers", of: str = "", **has: str):  # noqa: ANN201
    state.organisations[name] = Organisation(name, DEPLOYMENT, audience, has, of, "rso-1")


def granted(state: State, org: str = "acme", **other: object) -> Grant:
    plain = Grant(
        f"grant{len(state.grants)}", DEPLOYMENT, org, "fam", "capybara", "none", Stage.EARLY_ACCESS,
        ("cyber_defence",), (), T0, T0 + 10 * DAY, "", "rso-1",
    )  # fmt: skip
    found = replace(plain, **other)  # type: ignore[arg-type]
    state.grants[found.id] = found
    state.granted[org] = (*state.granted.get(org, ()), found.id)
    return found
