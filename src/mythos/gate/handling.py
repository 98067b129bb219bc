"""Issuing handling decisions: the operator lets themself work with weights on this machine."""

from mythos.records.clock import Clock
from mythos.records.decision import HANDLING_PURPOSES, Handling, sign_handling
from mythos.records.dsse import key_id
from mythos.records.ids import new_id
from mythos.records.permit import Action
from mythos.records.principal import OPERATOR
from mythos.store.home import Home
from mythos.store.operator_key import operator_keys

__all__ = ["POLICY", "issue_handling", "operator_keys"]

POLICY = "local-handling.v1"


def issue_handling(home: Home, clock: Clock, family: str, tier: str, root: str) -> bytes:
    """A signed handling decision for exactly this root, in its envelope. It names the operator, nobody else.

    The operator's key is made on first use. It counts once `store.weights.register` has stored it.
    """
    key = operator_keys(home)
    handling = Handling(
        id=new_id("dec"),
        family=family,
        tier=tier,
        root=root,
        principals=(OPERATOR.id,),
        actions=tuple(Action),
        purposes=HANDLING_PURPOSES,
        policy=POLICY,
        issued_at=clock.now(),
        issued_by=key_id(key.public_key()),
    )
    return sign_handling(handling, key)
