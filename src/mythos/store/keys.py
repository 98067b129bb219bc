"""API keys. Only the SHA-256 of a secret is kept: with 256 random bits, a slow hash would add nothing."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from types import MappingProxyType

import sqlalchemy as sa

from mythos.ledger.log import append, append_restriction
from mythos.records.clock import Clock
from mythos.records.decision import LOCAL_PURPOSE, is_name
from mythos.records.ids import new_id
from mythos.records.principal import LOCAL_ORG, OPERATOR, Principal, require_operator
from mythos.store.db import Store, StoreError
from mythos.store.tables import api_keys

PREFIX = "sk-mythos-"
MAX_SECRET = 512  # characters; longer ones are not looked up

_ORG = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One API key, without its secret. Times are POSIX seconds."""

    id: str
    name: str
    org: str
    created: float
    revoked: float | None
    purpose: str


def create_key(
    store: Store,
    clock: Clock,
    principal: Principal,
    name: str,
    org: str | None = None,
    purpose: str = LOCAL_PURPOSE,
) -> tuple[KeyRow, str]:
    """A new key and its secret, which is shown this once and kept nowhere.

    Without `org` the key is the operator's own. A key of another organisation sees no tier until a release
    and a grant admit it for `purpose`, which is the key's for good: no request can name another.
    NotAllowed for anyone but the operator, StoreError for a bad name, organisation or purpose.
    """
    require_operator(principal)
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise StoreError("a key's name has 1 to 100 printable characters", "mythos key new NAME")
    org = LOCAL_ORG if org is None else org
    if not _ORG.fullmatch(org):
        raise StoreError(
            f"{org[:80]!r} is not an organisation's name",
            "Use lower-case letters, digits, '.', '_' and '-', at most 63.",
        )
    if not is_name(purpose) or (org == LOCAL_ORG and purpose != LOCAL_PURPOSE):
        raise StoreError(f"{purpose[:80]!r} is no purpose such a key can have", "mythos key new --help")
    secret = new_secret()
    now = clock.now()
    row = KeyRow(new_id("key"), name, org, now, None, purpose)
    with store.begin() as conn:
        new = api_keys.insert().values(id=row.id, name=name, org=org, created=now, purpose=purpose)
        conn.execute(new.values(secret_hash=secret_hash(secret)))
        append(conn, clock, {"kind": "key.created", "principal": principal.id, "key": row.id, "org": org})
    return row, secret


def list_keys(store: Store) -> list[KeyRow]:
    """Every key ever made, oldest first, revoked ones included."""
    c = api_keys.c
    wanted = sa.select(c.id, c.name, c.org, c.created, c.revoked, c.purpose).order_by(c.created, c.id)
    with store.read() as conn:
        return [KeyRow(*row) for row in conn.execute(wanted)]


def revoke_key(store: Store, clock: Clock, principal: Principal, key_id: str) -> None:
    """End a key, from the next request on. A revoked key stays so; revoking it again changes nothing."""
    require_operator(principal)
    with store.begin() as conn:
        found = conn.execute(sa.select(api_keys.c.revoked).where(api_keys.c.id == key_id)).first()
        if found is None:
            raise StoreError(f"no key {key_id[:80]!r}", "`mythos key list` names them.")
        if found.revoked is None:
            event = {"kind": "key.revoked", "principal": principal.id, "key": key_id}
            now = append_restriction(conn, clock, event)
            conn.execute(api_keys.update().where(api_keys.c.id == key_id).values(revoked=now))


def revoked_keys(store: Store) -> frozenset[str]:
    """Ids of the keys that have ended."""
    with store.read() as conn:
        return frozenset(conn.scalars(sa.select(api_keys.c.id).where(api_keys.c.revoked.is_not(None))))


def principal_for_secret(store: Store, secret: str) -> Principal | None:
    """Who holds this secret; None when no live key has it.

    The look-up is by the secret's hash, so its timing tells nothing of the secret itself.
    """
    try:
        return principal_for_hash(store, secret_hash(secret)) if len(secret) <= MAX_SECRET else None
    except UnicodeEncodeError:
        return None


def principal_for_hash(store: Store, digest: bytes) -> Principal | None:
    """Who holds the secret with this SHA-256; None when no live key has it."""
    wanted = sa.select(api_keys.c.id, api_keys.c.org, api_keys.c.secret_hash, api_keys.c.purpose)
    wanted = wanted.where(api_keys.c.secret_hash == digest, api_keys.c.revoked.is_(None))
    with store.read() as conn:
        row = conn.execute(wanted).first()
    if row is None or not hmac.compare_digest(row.secret_hash, digest):
        return None
    if row.org == LOCAL_ORG:
        return Principal(OPERATOR.id, "key", LOCAL_ORG)
    return Principal(row.id, "key", row.org, MappingProxyType({"purpose": row.purpose}))


def new_secret() -> str:
    """`sk-mythos-` and 43 URL-safe characters (256 bits); `mythos up` mints its own with it."""
    return PREFIX + secrets.token_urlsafe(32)


def secret_hash(secret: str) -> bytes:
    """What is stored of a secret: SHA-256, 32 bytes. UnicodeEncodeError for text that is no UTF-8."""
    return hashlib.sha256(secret.encode()).digest()
