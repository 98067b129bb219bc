"""`mythos org` and `mythos grant`: which organisation may use which tier for what, and until when."""

from collections.abc import Sequence

from mythos.cli.desk import DAY, listing, open_desk, pairs, profile_named, said
from mythos.cli.releases import PERSONS
from mythos.gate import acts
from mythos.gate.grants import ended, live_until
from mythos.records.profile import NO_PROFILE
from mythos.records.release import Stage
from mythos.records.trust import VOTERS
from mythos.spec.load import load_family


def add_org(name: str, audience: str, attributes: Sequence[str], contractor_of: str, who: str) -> int:
    desk = open_desk()
    person, secret = desk.key(who, VOTERS)
    record = acts.add_organisation(
        *desk.acting, name, audience, pairs(attributes), contractor_of, person, secret
    )
    return said(desk, f"{name} is known, of the class {audience}", record)


def orgs() -> int:
    desk = open_desk()
    rows = [
        {
            "organisation": one.id,
            "audience": one.audience,
            "attributes": one.attributes,
            "contractor_of": one.contractor_of,
            "state": "ended" if ended(desk.state, one.id) else "live",
        }
        for one in desk.state.organisations.values()
    ]
    return listing(desk, "organisations", rows, "none yet: mythos org add NAME --audience CLASS --as PERSON")


def add_grant(
    org: str,
    family: str,
    tier: str,
    stage: Stage,
    purposes: Sequence[str],
    profile: str,
    days: float,
    jurisdictions: Sequence[str],
    parent: str,
    who: str,
) -> int:
    desk = open_desk()
    declared = load_family(family).name
    if profile != NO_PROFILE:
        profile = profile_named(desk.records.home, desk.tier(family, tier)[1], profile)
    person, secret = desk.key(who, VOTERS)
    now = desk.records.clock.now()
    until = now + days * DAY
    if parent in desk.state.grants:  # a contractor's grant ends with the one it hangs on, at the latest
        until = min(until, desk.state.grants[parent].expires_at)
    record = acts.add_grant(
        *desk.acting,
        org,
        declared,
        tier,
        profile,
        stage,
        purposes,
        jurisdictions,
        now,
        until,
        parent,
        person,
        secret,
    )
    return said(desk, f"{record.id}: {org} may use {tier} from {stage} on, for {', '.join(purposes)}", record)


def revoke(what: str, who: str, reason: str) -> int:
    desk = open_desk()
    person, secret = desk.key(who, PERSONS)
    return said(desk, f"{what} is ended", acts.revoke(*desk.acting, what, reason, person, secret))


def grants() -> int:
    desk = open_desk()
    now = desk.records.clock.now()
    rows = [
        {
            "id": one.id,
            "organisation": one.org,
            "tier": one.tier,
            "stage": str(one.stage),
            "purposes": one.purposes,
            "profile": one.profile,
            "jurisdictions": one.jurisdictions,
            "until": one.expires_at,
            "parent": one.parent,
            "state": "ended" if live_until(desk.state, one, now) is None else "live",
        }
        for one in desk.state.grants.values()
    ]
    return listing(
        desk, "grants", rows, "none yet: mythos grant add ORG TIER --stage S --purpose P --as PERSON"
    )
