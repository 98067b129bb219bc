"""Assets, and who may read them. There is no public state: no field here could say it."""

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from mythos.records.canonical import RecordError
from mythos.records.decision import is_name

YEAR = 365.25 * 86_400.0
ID = re.compile(r"ast_[A-Za-z0-9]{22}")  # as `new_id` makes them: random, never a hash of anything


class Kind(StrEnum):
    DOCUMENT = "document"
    DRAFT = "draft"
    IMAGE = "image"
    WEIGHTS = "weights"
    EVALUATION_LOG = "evaluation_log"
    REPORT = "report"


class Retention(StrEnum):
    """How long an asset must be kept before anybody may delete it."""

    WORKING = "working"
    FIVE_YEARS = "five_years"
    TEN_YEARS = "ten_years"


KEPT = {Retention.WORKING: 0.0, Retention.FIVE_YEARS: 5 * YEAR, Retention.TEN_YEARS: 10 * YEAR}
# The least that a kind is kept: evidence and what is reported from it (EU Code of Practice, measure 10.1).
LEAST = {Kind.EVALUATION_LOG: Retention.TEN_YEARS, Kind.REPORT: Retention.TEN_YEARS}


class AssetAction(StrEnum):
    READ = "read"  # content, title, preview, its place in lists and searches
    WRITE = "write"  # a new version
    MANAGE = "manage"  # share, delete, hold: the owner's alone


SHAREABLE = (AssetAction.READ, AssetAction.WRITE)


@dataclass(frozen=True, slots=True)
class Asset:
    """What is known of an asset without its key: nothing that names what is in it.

    `owner` is a principal's id, of `org`. Times are POSIX seconds. `held`: under a legal hold.
    """

    id: str
    owner: str
    org: str
    kind: Kind
    retention: Retention
    created: float
    version: int  # of the newest
    size: int  # bytes of the newest version
    held: bool
    deleted: bool

    @property
    def keep_until(self) -> float:
        return self.created + KEPT[self.retention]


@dataclass(frozen=True, slots=True)
class Share:
    """Leave for an organisation, or one principal of it, in [starts_at, expires_at).

    `principal` "" means any key of `org`. `parent` is the share that a contractor's hangs on ("" for none):
    it may only narrow it and ends with it.
    """

    id: str
    asset: str
    org: str
    principal: str
    actions: tuple[AssetAction, ...]
    starts_at: float
    expires_at: float
    parent: str
    by: str
    revoked: bool

    def __post_init__(self) -> None:
        if not is_name(self.org) or self.principal and not is_name(self.principal):
            raise RecordError("share: organisation or principal is not a name")
        if not self.actions or not set(self.actions) <= set(SHAREABLE):
            raise RecordError("share: it may allow to read and to write, nothing else")
        if not 0 <= self.starts_at < self.expires_at < math.inf:
            raise RecordError("share: it must end after it starts")


@dataclass(frozen=True, slots=True)
class AssetPermit:
    """Leave for one principal to do one action on one asset. `share` is "" for the owner."""

    asset: str
    action: AssetAction
    share: str
    until: float  # POSIX seconds; math.inf for the owner


class AssetReason(StrEnum):
    """Why not. Written to the log; to whoever may not know the asset it is never said."""

    UNKNOWN_ASSET = "UNKNOWN_ASSET"
    DELETED = "DELETED"
    NOT_SHARED = "NOT_SHARED"
    SHARE_ENDED = "SHARE_ENDED"
    NOT_OWNER = "NOT_OWNER"
    ORGANISATION_UNKNOWN = "ORGANISATION_UNKNOWN"
    SUSPENDED = "SUSPENDED"
    STATE_DAMAGED = "STATE_DAMAGED"
    CLOCK = "CLOCK"


@dataclass(frozen=True, slots=True)
class AssetRefusal:
    """`may_know` False: to this caller the asset does not exist."""

    reason: AssetReason
    may_know: bool
