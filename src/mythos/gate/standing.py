"""How things stand: the family with its registered weights, and the decisions that hold."""

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mythos.gate.state import State
from mythos.gate.submit import state_in
from mythos.records.canonical import RecordError
from mythos.records.decision import Handling, open_handling
from mythos.spec.family import Family, Tier, TierState
from mythos.store.home import Home, HomeError
from mythos.store.operator_key import key_stamp, trusted_keys

if TYPE_CHECKING:
    from mythos.store.db import Store


@dataclass(frozen=True, slots=True)
class Standing:
    """What `authorize` decides from.

    `family`: its tiers carry the root and state of the registry. `decisions`: for a tier, the newest decision
    on its current root that verified. `faults`: for a tier whose decisions did not verify, why.
    """

    family: Family
    decisions: Mapping[str, Handling]
    faults: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    state: State = field(default_factory=State)  # what the signed records add up to; never changed


@dataclass(frozen=True, slots=True)
class _Cached:
    declared: Family
    stamp: tuple[Any, ...]
    standing: Standing


_cache: "weakref.WeakKeyDictionary[Store, dict[str, _Cached]]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def load_standing(home: Home, store: "Store", family: Family) -> Standing:
    """How `family` stands now. Cheap: one read and two `stat`s unless a key, weight or decision has changed.

    A decision that is malformed or not signed by the operator's key does not count (see `faults`); when that
    key cannot be trusted, none does.
    """
    from mythos.store.weights import decisions_in, registered_in  # here: deciding alone needs no database

    # The stamp is taken before what it stands for is read: a change in between is seen next time.
    stamp = (home.keys, key_stamp(home), store.glance()[0])
    with _lock:
        cached = _cache.setdefault(store, {}).get(family.name)
    if cached is not None and cached.stamp == stamp and cached.declared == family:
        return cached.standing
    with store.read() as conn:
        roots = {row.tier: row.root for row in registered_in(conn, family.name)}
        stored = decisions_in(conn, family.name)
        state = state_in(store, conn)
    try:
        trusted, no_key = trusted_keys(home), ""
    except HomeError as error:
        trusted, no_key = {}, f"{error.message} (cure: {error.cure})"
    decisions: dict[str, Handling] = {}
    faults: dict[str, str] = {}
    for entry in stored:  # oldest first: the newest that verifies counts
        if entry.root != roots[entry.tier]:
            continue
        try:
            handling = open_handling(entry.envelope, trusted)
        except RecordError as error:
            faults[entry.tier] = no_key or error.message
            continue
        if (handling.family, handling.tier, handling.root) == (family.name, entry.tier, entry.root):
            decisions[entry.tier] = handling
        else:
            faults[entry.tier] = "the decision is about other weights"
    tiers = tuple(_with_root(tier, roots.get(tier.name)) for tier in family.tiers)
    standing = Standing(
        replace(family, tiers=tiers), MappingProxyType(decisions), MappingProxyType(faults), state
    )
    with _lock:
        _cache.setdefault(store, {})[family.name] = _Cached(family, stamp, standing)
    return standing


def _with_root(tier: Tier, root: str | None) -> Tier:
    """Only the registry says what is built; a root or state in the family file counts for nothing."""
    state = tier.state if tier.state is not TierState.BUILT else TierState.DECLARED
    return replace(tier, root=root, state=state if root is None else TierState.BUILT)
