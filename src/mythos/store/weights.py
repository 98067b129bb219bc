"""The registry of weights, by root, and the decisions about them.

A row here makes nothing loadable: the signed decision does, and whoever reads it verifies it again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from mythos.ledger.log import append, append_restriction
from mythos.records.canonical import canonical, parse
from mythos.records.clock import Clock
from mythos.records.decision import open_handling
from mythos.records.principal import Principal, require_operator
from mythos.store.copies import add_copy, weights_place
from mythos.store.db import Store, StoreError
from mythos.store.operator_key import trusted_keys
from mythos.store.tables import decisions, weights


@dataclass(frozen=True, slots=True)
class Registered:
    """Weights in the store. `lineage` says what they were made from; `created` is POSIX seconds."""

    family: str
    tier: str
    root: str
    lineage: Mapping[str, Any]
    created: float


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision that is not revoked, still in its envelope."""

    tier: str
    root: str
    envelope: bytes


def register(
    store: Store,
    clock: Clock,
    principal: Principal,
    family: str,
    tier: str,
    root: str,
    lineage: Mapping[str, Any],
    handling_envelope: bytes,
) -> None:
    """Make `root` the weights of `family`'s `tier`, with its handling decision and the copy that lies in the
    store: rows and ledger leaves at once.

    Call it when the weights directory is complete on disk. Registering a root again makes it the tier's
    current one and adds the decision. StoreError when the decision is about something else; RecordError when
    it is malformed or not signed by this operator; NotAllowed for anyone but the operator.
    """
    require_operator(principal)
    handling = open_handling(handling_envelope, trusted_keys(store.home))
    if (handling.family, handling.tier, handling.root) != (family, tier, root):
        raise StoreError(f"the decision is about other weights than {family}/{tier} {root[:12]}")
    now = clock.now()
    with store.begin() as conn:
        seq = append(
            conn,
            clock,
            {
                "kind": "weights.registered",
                "principal": principal.id,
                "family": family,
                "tier": tier,
                "root": root,
                "decision": handling.id,
            },
        )
        same = (weights.c.family == family, weights.c.tier == tier, weights.c.root == root)
        found = conn.execute(sa.select(weights.c.id).where(*same)).scalar()
        values = {"lineage": canonical(lineage), "registered": seq}
        if found is None:
            new = weights.insert().values(family=family, tier=tier, root=root, created=now, **values)
            found = conn.execute(new.returning(weights.c.id)).scalar_one()
        else:
            conn.execute(weights.update().where(weights.c.id == found).values(**values))
        conn.execute(
            decisions.insert().values(id=handling.id, weights=found, envelope=handling_envelope, logged=seq)
        )
        add_copy(conn, clock, principal, root, weights_place(root), "encrypted")


def record_measured(
    store: Store,
    clock: Clock,
    principal: Principal,
    family: str,
    tier: str,
    root: str,
    measured: Mapping[str, Any],
) -> None:
    """Puts what was measured of registered weights into their lineage, in place of what stood there; logs it.

    It decides nothing: the gate looks at evidence only. StoreError for weights that are not registered.
    """
    require_operator(principal)
    same = (weights.c.family == family, weights.c.tier == tier, weights.c.root == root)
    with store.begin() as conn:
        lineage = conn.execute(sa.select(weights.c.lineage).where(*same)).scalar()
        if lineage is None:
            raise StoreError(f"no weights {root[:12]} of {family}/{tier} are registered")
        event = {"kind": "weights.measured", "principal": principal.id, "family": family, "tier": tier}
        append(conn, clock, {**event, "root": root, "measured": measured})
        changed = canonical({**parse(lineage), "measured": measured})
        conn.execute(weights.update().where(*same).values(lineage=changed))


def registered(store: Store) -> list[Registered]:
    """All registered weights, in order of (last) registration: the last of a tier is the one in use."""
    with store.read() as conn:
        return registered_in(conn)


def registered_in(conn: sa.Connection, family: str | None = None) -> list[Registered]:
    """As `registered`, in a transaction of the caller's, of one family if given."""
    c = weights.c
    wanted = sa.select(c.family, c.tier, c.root, c.lineage, c.created).order_by(c.registered)
    if family is not None:
        wanted = wanted.where(c.family == family)
    return [
        Registered(row.family, row.tier, row.root, parse(row.lineage), row.created)
        for row in conn.execute(wanted)
    ]


def decisions_for(store: Store, family: str, tier: str) -> list[bytes]:
    """The envelopes of the decisions on this tier that are not revoked, oldest first. Not verified."""
    with store.read() as conn:
        return [found.envelope for found in decisions_in(conn, family) if found.tier == tier]


def decisions_in(conn: sa.Connection, family: str) -> list[StoredDecision]:
    """Every decision on `family` that is not revoked, oldest first, in a transaction of the caller's."""
    wanted = (
        sa.select(weights.c.tier, weights.c.root, decisions.c.envelope)
        .join(weights, decisions.c.weights == weights.c.id)
        .where(weights.c.family == family, decisions.c.revoked.is_(None))
        .order_by(decisions.c.logged)
    )
    return [StoredDecision(*row) for row in conn.execute(wanted)]


def revoke_decision(store: Store, clock: Clock, principal: Principal, decision_id: str, reason: str) -> None:
    """End a decision, from the next request on. It stays so; revoking it again changes nothing."""
    require_operator(principal)
    with store.begin() as conn:
        found = conn.execute(sa.select(decisions.c.revoked).where(decisions.c.id == decision_id)).first()
        if found is None:
            raise StoreError(f"no decision {decision_id[:80]!r}")
        if found.revoked is None:
            event = {"kind": "decision.revoked", "principal": principal.id, "decision": decision_id}
            now = append_restriction(conn, clock, {**event, "reason": reason[:200]})
            conn.execute(decisions.update().where(decisions.c.id == decision_id).values(revoked=now))
