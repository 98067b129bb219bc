"""Publication: it never changes an asset, it makes another object that is public for a time."""

import math
from dataclasses import dataclass

from mythos.records.canonical import RecordError
from mythos.records.decision import is_name, is_root
from mythos.records.release import Choice

PUBLIC = "public"  # the one audience of the public area: whoever asks


@dataclass(frozen=True, slots=True)
class PublicationRequest:
    """What is to be published, to whom, in [starts_at, ends_at), and why.

    `content` and `about` are salted digests (`vault.publications`): of the very bytes, and of title, media
    type and reason, which stand nowhere in clear before the time has come. `ends_at` 0 means without end.
    """

    id: str
    deployment: str
    asset: str
    version: int
    content: str
    about: str
    audience: str
    starts_at: float
    ends_at: float
    by: str

    def __post_init__(self) -> None:
        if (
            not is_name(self.id)
            or not is_name(self.asset)
            or not is_root(self.content)
            or not is_root(self.about)
        ):
            raise RecordError("publication request: a name or digest is malformed")
        if self.audience != PUBLIC:
            raise RecordError(
                "publication request: the audience is public; share with an organisation instead"
            )
        ends = self.ends_at or math.inf
        if not 0 <= self.starts_at < ends or self.version < 1 or not math.isfinite(self.ends_at):
            raise RecordError("publication request: it must end after it starts")


@dataclass(frozen=True, slots=True)
class PublicationVote:
    """One person's word on one request. `digest` is that of the request, so that both are the same."""

    id: str
    deployment: str
    person: str
    choice: Choice
    request: str
    digest: str


@dataclass(frozen=True, slots=True)
class Publication:
    """The gate's decision that a request holds; the public object carries it, with its `votes`."""

    id: str
    deployment: str
    request: str
    content: str
    starts_at: float
    ends_at: float
    votes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unpublication:
    """A request or publication is withdrawn, at once and for good. One enrolled person may."""

    id: str
    deployment: str
    request: str
    reason: str
    by: str
