"""Counting an incident from the access logs: what was read, by how many, first and last. Nothing is guessed.

Logs: `asset_reads` (written before the first byte of a read goes out), the events of the public area and of
refusals in the ledger, and `usage` of the tiers. What an owner reads of their own is no exposure, unless it
is their key or organisation that the incident names.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from mythos.gate.incidents import Case
from mythos.gate.state import State
from mythos.gate.submit import load_state, submit
from mythos.ledger.log import head, ledger, now_in
from mythos.records.canonical import parse
from mythos.records.clock import Clock
from mythos.records.ids import new_id
from mythos.records.incident import IncidentContained, IncidentCounted, Source, Tally, Target
from mythos.records.principal import Principal
from mythos.records.signed import seal
from mythos.store.db import Store
from mythos.store.tables import asset_reads, asset_shares, assets, usage
from mythos.vault.documents import PENDING, file_document, rehearse
from mythos.vault.incidents import Hand, case_of

AT_ONCE = 500  # ids of one IN (...)
ROWS = 20_000  # of one part of the table; the tally counts all
PUBLIC_READ = "public.read"  # the action of the public area's events

KEYLESS = "requests without a key are refused before their path is looked at: not which asset they were for"
COPIES = "what caches and readers elsewhere have kept, and who read it there"
FLOOD = "single reads of the public area beyond 6,000 a minute: only their number"
RUNS = "whether one address read in two runs of the public listener: it counts twice"
PROFILES = "which answers ran under a profile: their receipts name it, this does not count them"
OWNERS = "what was read through the principal of its owner: such reads are not counted"


@dataclass(slots=True)
class Wanted:
    """What an incident is about, as the logs know it."""

    assets: set[str] = field(default_factory=set)
    publications: set[str] = field(default_factory=set)
    tiers: set[str] = field(default_factory=set)
    granted: set[tuple[str, str]] = field(default_factory=set)  # organisation and tier
    orgs: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    profiles: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Sum:
    """Reads by item and by caller: [reads, bytes, first, last]."""

    items: dict[str, list[float]] = field(default_factory=dict)
    callers: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    refused: int = 0

    def add(self, item: str, org: str, caller: str, reads: int, size: int, first: float, last: float) -> None:
        for table, key in ((self.items, item), (self.callers, (org, caller))):
            row = table.setdefault(key, [0, 0, first, last])  # type: ignore[arg-type]
            row[0], row[1] = row[0] + reads, row[1] + size
            row[2], row[3] = min(row[2], first), max(row[3], last)


def count_incident(
    store: Store,
    clock: Clock,
    principal: Principal,
    incident: str,
    hand: Hand,
    starts_at: float = 0.0,
    ends_at: float | None = None,
) -> IncidentCounted:
    """Count what the incident names, over [starts_at, ends_at) (default: all the log until now)."""
    with store.read() as conn:
        now, size = now_in(conn, clock), head(conn)[0]
    record = IncidentCounted(
        id=new_id("cnt"),
        deployment=load_state(store).deployment,
        incident=incident,
        starts_at=starts_at,
        ends_at=now if ends_at is None else ends_at,
        log_size=size,
        tallies=(),
        unknown=(),
        table=PENDING,
        by=hand.person,
    )
    rehearse(store, clock, principal, record, hand.gate, hand.secret)
    state = load_state(store)
    wanted = wanted_of(store, state, case_of(state, incident))
    with store.read() as conn:
        sums = _counted(conn, wanted, record.starts_at, record.ends_at, size)
    tallies = tuple(_tally(source, one) for source, one in sums.items())
    table = {str(source): _table(one) for source, one in sums.items()}
    document = file_document(store, clock, principal, f"{incident}: count", table)
    record = replace(record, tallies=tallies, unknown=_unknown(wanted, sums), table=document)
    return submit(store, clock, principal, seal(record, hand.gate, hand.secret))[0]


def wanted_of(store: Store, state: State, case: Case) -> Wanted:
    """What an incident names, when it was opened or in containing it, as the logs know it."""
    named = [(one.what, one.id) for one in case.opened.named]
    for act in case.acts:
        if isinstance(act.record, IncidentContained):
            named += [(one.what, one.id) for one in (*act.record.done, *act.record.failed)]
    wanted = Wanted()
    for what, name in named:
        match what:
            case Target.ASSET:
                wanted.assets.add(name)
                requests = {one.id for one in state.requests.values() if one.asset == name}
                wanted.publications |= {p.id for p in state.publications.values() if p.request in requests}
            case Target.PUBLICATION:
                found = [p.id for p in state.publications.values() if name in (p.id, p.request)]
                wanted.publications |= set(found)
            case Target.SHARE:
                wanted.assets |= _asset_of_share(store, name)
            case Target.KEY:
                wanted.keys.add(name)
            case Target.ORGANISATION:
                wanted.orgs.add(name)
            case Target.GRANT if name in state.grants:
                wanted.granted.add((state.grants[name].org, state.grants[name].tier))
            case Target.RELEASE if name in state.releases:
                wanted.tiers.add(state.releases[name].subject.tier)
            case Target.TIER:
                wanted.tiers.add(name)
            case Target.PROFILE:
                wanted.profiles.add(name)
    return wanted


def _counted(
    conn: sa.Connection, wanted: Wanted, starts_at: float, ends_at: float, size: int
) -> dict[Source, _Sum]:
    """One sum for each log that the incident concerns."""
    sums: dict[Source, _Sum] = {}
    if wanted.assets or wanted.orgs or wanted.keys:
        sums[Source.ASSETS] = _asset_reads(conn, wanted, starts_at, ends_at)
    if wanted.publications:
        sums[Source.PUBLICATIONS] = _Sum()
    if wanted.tiers or wanted.orgs or wanted.keys or wanted.granted:
        sums[Source.TIERS] = _usage(conn, wanted, starts_at, ends_at)
    for seq, at, event in _events(conn, starts_at, ends_at):
        facts = event.get("facts") or {}
        if seq >= size or not isinstance(facts, dict):
            continue
        if event["action"] == PUBLIC_READ and facts.get("publication") in wanted.publications:
            caller = str(facts.get("address", ""))
            row = (str(facts["publication"]), "", caller, 1, int(facts.get("bytes", 0)), at, at)
            sums[Source.PUBLICATIONS].add(*row)
        elif event.get("outcome") == "refused":
            theirs = event.get("org") in wanted.orgs or event.get("principal") in wanted.keys
            if facts.get("asset") in wanted.assets or theirs and "asset" in facts:
                sums[Source.ASSETS].refused += 1
            elif facts.get("tier") in wanted.tiers or theirs:
                sums[Source.TIERS].refused += 1
    return sums


def _asset_reads(conn: sa.Connection, wanted: Wanted, starts_at: float, ends_at: float) -> _Sum:
    r, a, total = asset_reads.c, assets.c, _Sum()
    func = sa.func
    columns = (
        r.asset, r.org, r.principal, func.count(), func.sum(r.bytes), func.min(r.time), func.max(r.time)
    )  # fmt: skip
    base = sa.select(*columns).join(assets, a.id == r.asset)
    base = base.where(r.time >= starts_at, r.time < ends_at)
    others = base.where(sa.not_(sa.and_(a.owner == r.principal, a.org == r.org)))
    seen = set()
    for some in _parts(wanted.assets):
        for row in conn.execute(others.where(r.asset.in_(some)).group_by(r.asset, r.org, r.principal)):
            seen.add(row[:3])
            total.add(*row)
    theirs = sa.or_(r.org.in_(wanted.orgs), r.principal.in_(wanted.keys))
    for row in conn.execute(base.where(theirs).group_by(r.asset, r.org, r.principal)):
        if row[:3] not in seen:
            total.add(*row)
    return total


def _usage(conn: sa.Connection, wanted: Wanted, starts_at: float, ends_at: float) -> _Sum:
    u, total, func = usage.c, _Sum(), sa.func
    columns = (u.tier, u.org, u.principal, func.count(), sa.literal(0), func.min(u.time), func.max(u.time))
    any_of = [u.tier.in_(wanted.tiers), u.org.in_(wanted.orgs), u.principal.in_(wanted.keys)]
    any_of += [sa.and_(u.org == org, u.tier == tier) for org, tier in sorted(wanted.granted)]
    base = sa.select(*columns).where(u.time >= starts_at, u.time < ends_at, sa.or_(*any_of))
    for row in conn.execute(base.group_by(u.tier, u.org, u.principal)):
        total.add(*row)
    return total


def _events(
    conn: sa.Connection, starts_at: float, ends_at: float
) -> Iterator[tuple[int, float, dict[str, Any]]]:
    """Attempts in the ledger that were refused, or that read the public area."""
    c = ledger.c
    wanted = sa.select(c.seq, c.time, c.event).where(c.time >= starts_at, c.time < ends_at)
    hit = [sa.func.instr(c.event, text) > 0 for text in (b'"outcome":"refused"', PUBLIC_READ.encode())]
    for row in conn.execute(wanted.where(sa.or_(*hit)).order_by(c.seq)).yield_per(1000):
        event = parse(row.event)
        if event.get("kind") == "attempt":
            yield row.seq, row.time, event


def _asset_of_share(store: Store, share: str) -> set[str]:
    with store.read() as conn:
        found = conn.execute(sa.select(asset_shares.c.asset).where(asset_shares.c.id == share)).scalars()
        return set(found)


def _tally(source: Source, one: _Sum) -> Tally:
    rows = list(one.items.values())
    return Tally(
        source=source,
        items=len(rows),
        reads=int(sum(row[0] for row in rows)),
        callers=len(one.callers),
        organisations=len({org for org, _ in one.callers if org}),
        bytes=int(sum(row[1] for row in rows)),
        refused=one.refused,
        first=min((row[2] for row in rows), default=0.0),
        last=max((row[3] for row in rows), default=0.0),
    )


def _table(one: _Sum) -> dict[str, Any]:
    """Each item and each caller, the most read first; so many at most."""
    tables: dict[str, list[Any]] = defaultdict(list)
    for name, found in (("items", one.items), ("callers", one.callers)):
        ordered = sorted(found.items(), key=lambda pair: (-pair[1][0], str(pair[0])))
        tables[name] = [[key, *row] for key, row in ordered[:ROWS]]
    return {"items": tables["items"], "callers": tables["callers"]}


def _unknown(wanted: Wanted, sums: dict[Source, _Sum]) -> tuple[str, ...]:
    """What these logs cannot tell."""
    found = [KEYLESS, OWNERS] if Source.ASSETS in sums else []
    found += [COPIES, FLOOD, RUNS] if wanted.publications else []
    return (*found, *[PROFILES] * bool(wanted.profiles))


def _parts(names: Iterable[str]) -> Iterator[Sequence[str]]:
    ordered = sorted(names)
    for at in range(0, len(ordered), AT_ONCE):
        yield ordered[at : at + AT_ONCE]
