"""Who may use what: an organisation's live grant, on a release in force, and no suspension. Default deny."""

from collections.abc import Iterator
from dataclasses import dataclass

from mythos.gate.release import in_force
from mythos.gate.state import State, known_attributes, later, suspended
from mythos.records.grant import Grant
from mythos.records.reasons import Code
from mythos.records.release import Release


@dataclass(frozen=True, slots=True)
class Access:
    """The release and the grant under which a caller is served. `until`: when the first of them ends."""

    release: Release
    grant: Grant
    until: float


def access(
    state: State, org: str, family: str, tier: str, root: str, purpose: str, now: float
) -> Access | Code:
    """What lets `org` use exactly these weights for `purpose` at `now`; else why not. Pure.

    Of several ways the one that lasts longest is taken. Intervals are half-open: a grant that ends at `now`
    has ended.
    """
    if state.fault:
        return Code.STATE_DAMAGED
    if org not in state.organisations or ended(state, org):
        return Code.ORGANISATION_UNKNOWN
    releases = [
        release
        for release in state.releases.values()
        if release.subject.root == root and in_force(state, release, now)
    ]
    ways: list[Access] = []
    lasting = float("-inf")  # the end of the best way so far
    for grant_id in state.granted.get(org, ()) if releases else ():
        grant = state.grants[grant_id]
        if grant.expires_at <= lasting:
            continue  # an organisation may have hundreds, most of them no better
        if (grant.family, grant.tier) != (family, tier) or purpose not in grant.purposes:
            continue
        until = live_until(state, grant, now)
        if until is None or not all(_jurisdiction_fits(state, link) for link in links(state, grant)):
            continue
        for release in releases:
            if _admits(state, release, grant, root, purpose):
                ways.append(Access(release, grant, min(until, release.expires_at)))
                lasting = max(lasting, ways[-1].until)
    if not ways:
        return Code.NOT_GRANTED
    for one in principals(state, org):
        if suspended(state, tier, {**known_attributes(state, one), "purpose": purpose}) is not None:
            return Code.SUSPENDED
    return max(ways, key=lambda way: way.until)


def principals(state: State, org: str) -> Iterator[str]:
    """An organisation, the one it works for, and so on."""
    while org:
        yield org
        org = state.organisations[org].contractor_of


def links(state: State, grant: Grant) -> Iterator[Grant]:
    """A grant, the one it hangs on, and so on."""
    yield grant
    while grant.parent:
        grant = state.grants[grant.parent]
        yield grant


def live_until(state: State, grant: Grant, now: float) -> float | None:
    """When a grant ends, with all it hangs on; None when it is not live now."""
    for link in links(state, grant):
        if link.id in state.revoked or ended(state, link.org):
            return None
        if not link.starts_at <= now < link.expires_at:
            return None
    return min(link.expires_at for link in links(state, grant))


def ended(state: State, org: str) -> bool:
    """Whether an organisation, or one it works for, was revoked."""
    return any(one in state.revoked for one in principals(state, org))


def widens(grant: Grant, parent: Grant) -> bool:
    """Whether `grant` allows anything that `parent` does not."""
    return (
        (grant.family, grant.tier, grant.profile) != (parent.family, parent.tier, parent.profile)
        or later(parent.stage, grant.stage)
        or not set(grant.purposes) <= set(parent.purposes)
        or bool(parent.jurisdictions)
        and not (grant.jurisdictions and set(grant.jurisdictions) <= set(parent.jurisdictions))
        or grant.starts_at < parent.starts_at
        or grant.expires_at > parent.expires_at
    )


def _jurisdiction_fits(state: State, grant: Grant) -> bool:
    """An organisation whose jurisdiction is unknown fits only a grant that names none."""
    known = state.organisations[grant.org].attributes.get("jurisdiction")
    return not grant.jurisdictions or known in grant.jurisdictions


def _admits(state: State, release: Release, grant: Grant, root: str, purpose: str) -> bool:
    """Whether a release, once in force, serves the holder of this grant: a grant names the earliest stage.

    A contractor is served where its principal would be, and nowhere else.
    """
    subject = release.subject
    return (
        (subject.root, subject.profile) == (root, grant.profile)
        and (subject.family, subject.tier) == (grant.family, grant.tier)
        and purpose in subject.purposes
        and not later(grant.stage, subject.stage)
        and all(
            _class_admitted(state, release, state.organisations[x.org].audience) for x in links(state, grant)
        )
    )


def _class_admitted(state: State, release: Release, audience: str) -> bool:
    """Classes open in order: who is admitted to a later one is not thereby admitted to an earlier."""
    pack = state.packs.get(release.subject.policy)
    names = [a.name for a in pack.audiences] if pack else []
    opened = release.subject.audience.split("@")[0]
    return audience in names and opened in names and names.index(audience) <= names.index(opened)
