"""`gate.grants.access` against Cedar: the same organisations, grants, releases and suspensions as policies.

Cedar (https://www.cedarpolicy.com) is the oracle: each pair of a grant and a release becomes a `permit` whose
conditions Cedar evaluates, contractors a hierarchy of entities, suspensions and revocations `forbid`.
"""

import json
import random

import cedarpy
import pytest

from mythos.gate.grants import Access, access
from mythos.gate.policy import load_pack, pack_digest
from mythos.gate.release import audience_id
from mythos.gate.state import State
from mythos.records.grant import Grant, Organisation
from mythos.records.reasons import Code
from mythos.records.release import STAGES, Release, Stage, Subject, Suspension
from tests.gate.town import hexdigest

PACK = load_pack("house")
CLASSES = [audience.name for audience in PACK.audiences]
PURPOSES = ["cyber_defence", "research", "general"]
PLACES = ["fr", "de", "us"]
TIERS = ["opus", "capybara"]
ROOTS = {tier: [hexdigest(f"{tier}{n}") for n in range(2)] for tier in TIERS}
ORGS = [f"org-{n}" for n in range(6)]
END = 100  # times lie in [0, END)


def random_state(rng: random.Random) -> State:
    """Few names and short times, so that near misses are as frequent as hits."""
    state = State(seq=1, policy=pack_digest(PACK), packs={pack_digest(PACK): PACK})
    if rng.random() < 0.03:
        state.fault = "damaged"
    for n, org in enumerate(ORGS[: rng.randint(2, 6)]):
        attributes = {"jurisdiction": rng.choice(PLACES)} if rng.random() < 0.7 else {}
        if rng.random() < 0.3:
            attributes["vetted"] = rng.choice(["yes", "no"])
        principal = rng.choice(ORGS[:n]) if n and rng.random() < 0.4 else ""
        state.organisations[org] = Organisation(org, "d", rng.choice(CLASSES), attributes, principal, "rso-1")
    for n in range(rng.randint(1, 10)):
        org = rng.choice(sorted(state.organisations))
        principal = state.organisations[org].contractor_of
        parents = state.granted.get(principal, ())
        start = rng.randrange(60)
        grant = Grant(
            id=f"grant-{n}",
            deployment="d",
            org=org,
            family="fam",
            tier=rng.choice(TIERS),
            profile=rng.choice(["none", "guarded"]),
            stage=rng.choice(STAGES[:3]),
            purposes=tuple(rng.sample(PURPOSES, rng.randint(1, 3))),
            jurisdictions=tuple(rng.sample(PLACES, rng.choice([0, 0, 1, 2]))),
            starts_at=float(start),
            expires_at=float(start + rng.randint(1, 80)),
            parent=rng.choice(parents) if parents else "",
            by="rso-1",
        )
        state.grants[grant.id] = grant
        state.granted[org] = (*state.granted.get(org, ()), grant.id)
    for n in range(rng.randint(2, 9)):
        like = rng.choice(list(state.grants.values()))  # often one that fits a grant
        fits = rng.random() < 0.7
        tier = like.tier if fits else rng.choice(TIERS)
        start = max(0.0, like.starts_at - 20) if fits else float(rng.randrange(60))
        subject = Subject(
            family="fam",
            tier=tier,
            root=rng.choice(ROOTS[tier]),
            profile=like.profile if fits else rng.choice(["none", "guarded"]),
            stage=rng.choice(STAGES[1:]),
            audience=audience_id(rng.choice(PACK.audiences)),
            purposes=tuple(sorted(rng.sample(PURPOSES, 3 if fits else rng.randint(1, 3)))),
            evidence=hexdigest("evidence"),
            policy=state.policy if rng.random() < 0.9 else hexdigest("older"),
        )
        name, until = f"rel-{n}", start + rng.randint(30, 90)
        state.at[name] = start
        state.releases[name] = Release(name, "d", subject, "staged", (), (), {}, "requester-1", False, until)
        if rng.random() < 0.1:
            state.fallen[name] = (1.0, Code.HALTED)
    for n in range(rng.choice([0, 0, 1, 2])):
        where = {}
        if rng.random() < 0.8:
            known = {"jurisdiction": PLACES, "vetted": ["yes", "no"], "purpose": PURPOSES, "org": ORGS}
            for name in rng.sample([*known, "audience"], rng.randint(1, 2)):
                where[name] = rng.choice(CLASSES if name == "audience" else known[name])
        suspension = Suspension(f"susp-{n}", "d", rng.choice(["", *TIERS]), where, "test", "safety-1")
        state.suspensions[suspension.id] = suspension
    for name in [*state.grants, *state.organisations]:
        if rng.random() < 0.06:
            state.revoked[name] = 1.0
    return state


def quoted(text: str) -> str:
    return json.dumps(text)


def policies(state: State) -> str:
    """The state as Cedar policies."""
    if state.fault:
        return "forbid(principal, action, resource);"
    found = []
    for grant in state.grants.values():
        chain, link = [grant], grant
        while link.parent:
            link = state.grants[link.parent]
            chain.append(link)
        base = [f"context.now >= {int(g.starts_at)} && context.now < {int(g.expires_at)}" for g in chain]
        base += [f"!(Grant::{quoted(g.id)} in Grant::{quoted(r)})" for g in chain for r in state.revoked]
        base += [f"!(Org::{quoted(g.org)} in Org::{quoted(r)})" for g in chain for r in state.revoked]
        base.append(f"[{', '.join(map(quoted, grant.purposes))}].contains(context.purpose)")
        if grant.jurisdictions:
            places = ", ".join(map(quoted, grant.jurisdictions))
            base.append(f"principal has jurisdiction && [{places}].contains(principal.jurisdiction)")
        for g in chain[1:]:  # its principal must fit as well
            place = state.organisations[g.org].attributes.get("jurisdiction", "")
            if g.jurisdictions:
                base.append(f"[{', '.join(map(quoted, g.jurisdictions))}].contains({quoted(place)})")
        for release in state.releases.values():
            about = release.subject
            rank = CLASSES.index(about.audience.split("@")[0])
            terms = [
                *base,
                f"resource == Weights::{quoted(about.root)}",
                f"resource.tier == {quoted(grant.tier)} && resource.tier == {quoted(about.tier)}",
                f"{quoted(grant.profile)} == {quoted(about.profile)}",
                f"[{', '.join(map(quoted, about.purposes))}].contains(context.purpose)",
                f"{STAGES.index(about.stage)} >= {STAGES.index(grant.stage)}",
                f"principal.rank <= {rank}",
                *[f"{CLASSES.index(state.organisations[g.org].audience)} <= {rank}" for g in chain],
                f"context.policy == {quoted(about.policy)}",
                f"context.now >= {int(state.at[release.id])} && context.now < {int(release.expires_at)}",
                f"![{', '.join(map(quoted, [*state.fallen, '']))}].contains({quoted(release.id)})",
            ]
            when = " && ".join(f"({term})" for term in terms)
            found.append(
                f"permit(principal == Org::{quoted(grant.org)}, action, resource) when {{ {when} }};"
            )
    for suspension in state.suspensions.values():
        terms = ["true"] if not suspension.tier else [f"resource.tier == {quoted(suspension.tier)}"]
        for name, value in suspension.where.items():
            holder = "context" if name == "purpose" else "principal"
            terms.append(f"!({holder} has {name}) || {holder}.{name} == {quoted(value)}")
        when = " && ".join(f"({term})" for term in terms)
        found.append(f"forbid(principal, action, resource) when {{ {when} }};")
        for org in state.organisations.values():  # with its principal
            above = org.contractor_of
            while above:
                who = state.organisations[above]
                has = {**who.attributes, "org": who.id, "audience": who.audience}
                terms = ["true"] if not suspension.tier else [f"resource.tier == {quoted(suspension.tier)}"]
                for name, value in suspension.where.items():
                    known = "context.purpose" if name == "purpose" else quoted(has.get(name, value))
                    terms.append(f"{known} == {quoted(value)}")
                when = " && ".join(f"({term})" for term in terms)
                found.append(
                    f"forbid(principal == Org::{quoted(org.id)}, action, resource) when {{ {when} }};"
                )
                above = who.contractor_of
    for name in state.revoked:
        found.append(f"forbid(principal in Org::{quoted(name)}, action, resource);")
    return "\n".join(found) or "forbid(principal, action, resource);"


def entities(state: State) -> list[dict]:
    found = []
    for org in state.organisations.values():
        attributes = {**org.attributes, "org": org.id, "audience": org.audience}
        found.append(
            {
                "uid": {"type": "Org", "id": org.id},
                "attrs": {**attributes, "rank": CLASSES.index(org.audience)},
                "parents": [{"type": "Org", "id": org.contractor_of}] if org.contractor_of else [],
            }
        )
    for grant in state.grants.values():
        parents = [{"type": "Grant", "id": grant.parent}] if grant.parent else []
        found.append({"uid": {"type": "Grant", "id": grant.id}, "attrs": {}, "parents": parents})
    for tier, roots in ROOTS.items():
        found += [
            {"uid": {"type": "Weights", "id": r}, "attrs": {"tier": tier}, "parents": []} for r in roots
        ]
    return found


def compare(seed: int, states: int, each: int = 50) -> tuple[int, int]:
    """Requests compared and granted; fails at the first difference."""
    rng = random.Random(seed)
    asked = granted = 0
    for _ in range(states):
        state = random_state(rng)
        requests, ours = [], []
        for _ in range(each):
            org, tier = rng.choice(ORGS), rng.choice(TIERS)
            root, purpose, now = rng.choice(ROOTS[tier]), rng.choice(PURPOSES), rng.randrange(END)
            if state.grants and rng.random() < 0.7:  # near a grant, and near its ends
                grant = rng.choice(list(state.grants.values()))
                org, tier, purpose = grant.org, grant.tier, rng.choice(grant.purposes)
                near = [rel.subject.root for rel in state.releases.values() if rel.subject.tier == tier]
                root = rng.choice(near or ROOTS[tier])
                ends = [int(grant.starts_at), int(grant.expires_at)]
                now = rng.choice([*ends, ends[0] - 1, ends[1] - 1, rng.randint(*ends)])
            ours.append(isinstance(access(state, org, "fam", tier, root, purpose, float(now)), Access))
            requests.append(
                {
                    "principal": f'Org::"{org}"',
                    "action": 'Action::"answer"',
                    "resource": f'Weights::"{root}"',
                    "context": {"now": now, "purpose": purpose, "policy": state.policy},
                }
            )
        answers = cedarpy.is_authorized_batch(requests, policies(state), entities(state))
        for request, mine, theirs in zip(requests, ours, answers, strict=True):
            assert not theirs.diagnostics.errors, theirs.diagnostics.errors
            assert mine is theirs.allowed, (request, mine, state)
        asked, granted = asked + len(ours), granted + sum(ours)
    return asked, granted


def test_a_thousand_requests_are_decided_as_cedar_decides_them():
    asked, granted = compare(seed=1, states=40, each=25)
    assert asked == 1_000 and 50 < granted < 700  # neither answer is a rarity


@pytest.mark.slow
def test_ten_thousand_requests_are_decided_as_cedar_decides_them():
    asked, granted = compare(seed=22, states=400, each=25)
    assert asked == 10_000 and 500 < granted < 7_000


def test_the_oracle_sees_a_difference():
    """The comparison is no empty one: an access that forgets suspensions or ends is caught."""
    import mythos.gate.grants as grants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grants, "suspended", lambda *args: None)
        with pytest.raises(AssertionError):
            compare(seed=1, states=40, each=25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grants, "ended", lambda *args: False)
        with pytest.raises(AssertionError):
            compare(seed=1, states=40, each=25)


def test_stages_and_classes_are_in_the_order_assumed_here():
    assert tuple(Stage) == STAGES and CLASSES == ["researchers", "enterprises", "public"]
