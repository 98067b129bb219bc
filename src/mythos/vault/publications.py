"""Publication: a copy of an asset's bytes is made, sealed, and voted on; when its time comes it is laid out.

The asset stays as it is: editing or deleting it changes nothing that is public, and nothing public leads to
it. The public area (`MYTHOS_HOME/public`) is a projection of the signed records: `lay_out` may be run at any
time, by any process, as often as one likes, and always ends with exactly what is public now.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mythos.gate.apply import apply
from mythos.gate.publications import is_public, votes_for
from mythos.gate.state import Rejected, State
from mythos.gate.submit import load_state, submit
from mythos.ledger.log import append, audit, now_in
from mythos.records.asset import AssetAction
from mythos.records.canonical import RecordError, canonical
from mythos.records.clock import Clock
from mythos.records.ids import new_id
from mythos.records.principal import LOCAL_ORG, Principal
from mythos.records.publication import (
    PUBLIC,
    Publication,
    PublicationRequest,
    PublicationVote,
    Unpublication,
)
from mythos.records.release import Choice
from mythos.records.signed import digest, payload, seal
from mythos.store.db import Store
from mythos.store.home import private_directory
from mythos.store.tables import asset_blobs, publication_copies, records
from mythos.vault.assets import look_at, read_asset
from mythos.vault.blobs import Blob, discard, enter, read_range, settle, stage, writing
from mythos.vault.errors import BadField, NotAllowedHere, VaultError
from mythos.vault.keys import open_text, seal_text, vault_of
from mythos.vault.rights import attempt, permitted, restricted_now

COPIES = Principal(
    "publication", "service", LOCAL_ORG
)  # owns the copies, so that they share nothing with assets
_ADDRESS = re.compile(rb"ast_[A-Za-z0-9]{22}")
_OVERLAP = 25  # bytes: an address may lie across two pieces


@dataclass(frozen=True, slots=True)
class Copy:
    """What lies sealed beside a request. `parts` are the addresses of assets that its bytes refer to.

    `draft` is the request as it was laid before its signer (canonical JSON); `name` the file's, "" for none.
    """

    salt: str
    title: str
    media: str
    why: str
    size: int
    parts: tuple[str, ...]
    name: str = ""
    draft: str = ""


def request_publication(
    store: Store,
    clock: Clock,
    principal: Principal,
    asset: str,
    starts_at: float,
    ends_at: float,
    why: str,
    person: str,
    secret: Ed25519PrivateKey,
) -> PublicationRequest:
    """Ask for the newest version of one's own asset to be public in [starts_at, ends_at); 0 is without end.

    The copy that is voted on is made now. NotAllowedHere when it refers to an asset that nobody asked for.
    """

    def check(record: PublicationRequest) -> None:
        _tried(store, clock, principal, seal(record, secret))

    record = draft_publication(store, clock, principal, asset, starts_at, ends_at, why, person, check)
    return submit(store, clock, principal, seal(record, secret))[0]


def draft_publication(
    store: Store,
    clock: Clock,
    principal: Principal,
    asset: str,
    starts_at: float,
    ends_at: float,
    why: str,
    person: str,
    check: Callable[[PublicationRequest], None] = lambda _: None,
) -> PublicationRequest:
    """As `request_publication`, for `person` to sign elsewhere: the copy is made, nothing is asked yet.

    `check` sees the request before that, when its digests are not known yet. BadField for times or a person
    that cannot be.
    """
    with attempt(store, clock, principal, "publication.request", asset), store.read() as conn:
        permitted(store, conn, principal, asset, AssetAction.MANAGE, restricted_now(conn, clock))
    entry, number, _ = look_at(store, clock, principal, asset, "publication.request")
    salt, request = secrets.token_hex(16), new_id("pubreq")

    def made(content: str, about: str) -> PublicationRequest:
        try:
            return PublicationRequest(
                id=request,
                deployment=load_state(store).deployment,
                asset=asset,
                version=number,
                content=content,
                about=about,
                audience=PUBLIC,
                starts_at=starts_at,
                ends_at=ends_at,
                by=person,
            )
        except RecordError as error:
            raise BadField(error.message) from None

    check(made("0" * 64, "0" * 64))
    reading = read_asset(store, clock, principal, asset, number)
    content = hashlib.sha256(bytes.fromhex(salt))
    parts: dict[str, None] = {}

    def chunks() -> Iterator[bytes]:
        tail = b""
        for piece in reading.chunks:
            content.update(piece)
            for found in _ADDRESS.findall(tail + piece):
                parts[found.decode()] = None
            tail = piece[-_OVERLAP:]
            yield piece

    with writing(store):
        staged = stage(store, COPIES, chunks())
        try:
            state = load_state(store)
            asked = {r.asset for r in state.requests.values() if r.id not in state.unpublished}
            if missing := [part for part in parts if part not in asked and part != asset]:
                audit(store, clock, principal, "publication.request", "refused", asset=asset, reason="PARTS")
                message = f"it refers to assets that nobody asked to publish: {', '.join(missing[:5])}"
                raise NotAllowedHere(message, "Request their publication first, or take them out.")
            about = entry.about
            copy = Copy(salt, about.title, about.media, why[:2000], staged.size, tuple(parts), about.name)
            record = made(content.hexdigest(), _about_digest(copy))
            copy = replace(copy, draft=payload(record).decode())
            settle(store, [staged])
            with store.begin() as conn:
                sealed = seal_text(vault_of(store), f"publication {request}", asdict(copy))
                blob = enter(conn, COPIES, staged)
                conn.execute(publication_copies.insert().values(request=request, blob=blob, about=sealed))
        finally:
            discard(store, [staged])
    return record


def _tried(store: Store, clock: Clock, principal: Principal, envelope: bytes) -> None:
    """Rejected, as `submit` would be: before a copy is made that nobody would ever vote on."""
    state = load_state(store).clone()
    with store.read() as conn:
        now = now_in(conn, clock)
    try:
        apply(state, state.seq + 1, now, envelope)
    except Rejected as refused:
        audit(store, clock, principal, "submit", "refused", code=str(refused.code))
        raise


def vote_publication(
    store: Store,
    clock: Clock,
    principal: Principal,
    request: str,
    choice: Choice,
    person: str,
    secret: Ed25519PrivateKey,
) -> PublicationVote:
    """One person's vote on a request, as it is on record."""
    record = vote_on(load_state(store), request, choice, person)
    return submit(store, clock, principal, seal(record, secret))[0]


def vote_on(state: State, request: str, choice: Choice, person: str) -> PublicationVote:
    """A vote, not yet signed, on exactly the request that is on record."""
    about = digest(state.requests[request]) if request in state.requests else "0" * 64
    return PublicationVote(new_id("pubvote"), state.deployment, person, choice, request, about)


def publish(
    store: Store, clock: Clock, principal: Principal, request: str, gate: Ed25519PrivateKey
) -> Publication:
    """Decide on a request that has its votes; it becomes public by itself when its time comes.

    Rejected when the votes do not suffice; NotAllowedHere when a part it refers to is not published.
    """
    state = load_state(store)
    asked = state.requests.get(request)
    if asked is not None:
        public = {state.requests[p.request].asset for p in state.publications.values()}
        missing = [part for part in copy_of(store, request).parts if part not in {*public, asked.asset}]
        if missing:
            audit(store, clock, principal, "publish", "refused", request=request, reason="PARTS")
            message = f"it refers to assets that are not published: {', '.join(missing[:5])}"
            raise NotAllowedHere(message, "Publish them first.")
    record = Publication(
        id=new_id("pub"),
        deployment=state.deployment,
        request=request,
        content=asked.content if asked else "0" * 64,
        starts_at=asked.starts_at if asked else 0.0,
        ends_at=asked.ends_at if asked else 0.0,
        votes=votes_for(state, asked) if asked else (),
    )
    made = submit(store, clock, principal, seal(record, gate))[0]
    lay_out(store, clock, principal)
    return made


def withdraw(
    store: Store,
    clock: Clock,
    principal: Principal,
    request: str,
    reason: str,
    person: str,
    secret: Ed25519PrivateKey,
) -> str:
    """Withdraw a request or what it published, at once and for good; says what may lie elsewhere."""
    record = Unpublication(new_id("unpub"), load_state(store).deployment, request, reason, person)
    return take_withdrawal(store, clock, principal, request, seal(record, secret))


def take_withdrawal(store: Store, clock: Clock, principal: Principal, request: str, envelope: bytes) -> str:
    """As `withdraw`, with what was signed elsewhere about `request`."""
    made = load_state(store).publications.values()
    was = [p for p in made if p.request == request and (place(store) / p.id).exists()]
    submit(store, clock, principal, envelope)
    lay_out(store, clock, principal)
    if not was:
        return "It never was public."
    return (
        "It is answered no more from now on. It was sent with no-store, which well-behaved caches keep to; "
        "whoever read it may have kept a copy."
    )


def lay_out(store: Store, clock: Clock, principal: Principal, open_new: bool = True) -> list[str]:
    """Make the public area what it must be now; the ids of what was laid out. `open_new` False only removes.

    What was laid out by a process that died is finished or removed. A clock that is behind opens nothing.
    """
    with _alone(store):
        return _laid_out(store, clock, principal, open_new)


def _laid_out(store: Store, clock: Clock, principal: Principal, open_new: bool) -> list[str]:
    area = place(store)
    private_directory(area)
    state = load_state(store)
    with store.read() as conn:
        now = restricted_now(conn, clock)
    for found in area.iterdir():
        known = state.publications.get(found.name)
        if known is None or not is_public(state, known, now) or not _is_plain(found):
            _remove(found)
    opened = []
    for one in state.publications.values() if open_new else ():
        if is_public(state, one, now) and not (area / one.id).exists():
            clock_now = clock.now()  # ClockError: unknown means no
            if not is_public(state, one, clock_now):
                continue
            _lay(store, one, area)
            with store.begin() as conn:
                event = {"kind": "publication.opened", "principal": principal.id, "publication": one.id}
                append(conn, clock, event)
            opened.append(one.id)
    return opened


@contextlib.contextmanager
def _alone(store: Store) -> Iterator[None]:
    """While the public area is changed: another process would take a draft of this one for a stray."""
    lock = os.open(store.home.path / "public.lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _is_plain(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    """Whatever somebody laid there; a link itself, never what it leads to."""
    shutil.rmtree(path) if _is_plain(path) else path.unlink()


def public_now(store: Store, clock: Clock, publication: str) -> Path | None:
    """The directory of a publication that may be read now by anybody; None for every other name."""
    state: State = load_state(store)
    known = state.publications.get(publication)
    found = place(store) / publication if known else None
    if known is None or found is None or not is_public(state, known, clock.now()) or not _is_plain(found):
        return None
    return found


def copy_of(store: Store, request: str) -> Copy:
    """What lies sealed beside a request. For the persons who vote on it."""
    c = publication_copies.c
    with store.read() as conn:
        row = conn.execute(sa.select(c.about).where(c.request == request)).first()
    if row is None:
        raise VaultError(f"nothing was requested under {request[:80]!r}")
    table = open_text(vault_of(store), f"publication {request}", row.about)
    return Copy(**{**table, "parts": tuple(table["parts"])})


def read_copy(store: Store, request: str) -> Iterator[bytes]:
    """The bytes that are voted on, and that become public."""
    c, b = publication_copies.c, asset_blobs.c
    with store.read() as conn:
        wanted = sa.select(b.id, b.size, b.sealed_key).join(publication_copies, b.id == c.blob)
        row = conn.execute(wanted.where(c.request == request)).first()
    if row is None:
        raise VaultError(f"nothing was requested under {request[:80]!r}")
    yield from read_range(store, Blob(*row), 0, row.size)


def place(store: Store) -> Path:
    return store.home.path / "public"


def _lay(store: Store, publication: Publication, area: Path) -> None:
    """The object: its bytes, and beside them the signed record with what opens its digests."""
    copy = copy_of(store, publication.request)
    draft = area / f".{publication.id}.{secrets.token_hex(6)}"
    private_directory(draft)
    digest = hashlib.sha256(bytes.fromhex(copy.salt))
    with open(draft / "content", "wb") as out:
        for piece in read_copy(store, publication.request):
            digest.update(piece)
            out.write(piece)
    if digest.hexdigest() != publication.content:
        shutil.rmtree(draft)
        raise VaultError("the copy is not what was voted on", "Withdraw it, and request it anew.")
    with store.read() as conn:
        wanted = sa.select(records.c.envelope).where(records.c.kind == "publication").order_by(records.c.seq)
        envelopes = conn.execute(wanted).scalars().all()
    own = next(e for e in envelopes if publication.id in _payload(e))
    about = {"title": copy.title, "media": copy.media, "size": copy.size, "salt": copy.salt}
    (draft / "record.json").write_bytes(canonical({**about, "envelope": own.decode()}))
    for file in draft.iterdir():
        file.chmod(0o600)
    draft.rename(area / publication.id)


def _payload(envelope: bytes) -> str:
    from mythos.records.dsse import peek

    return str(peek(envelope).get("id"))


def _about_digest(copy: Copy) -> str:
    salted = {"salt": copy.salt, "title": copy.title, "media": copy.media, "why": copy.why}
    return hashlib.sha256(canonical(salted)).hexdigest()
