"""How many tokens to draft: as many as make the most tokens a second, by what was measured here. No torch.

A draft's token is taken to hold with probability a, whatever its place, once those before it do. A pass that
checks k of them then gives (1 - a^(k+1)) / (1 - a) tokens (Leviathan et al., arXiv 2211.17192, section 3).
What a pass of so many rows takes, and a token of the drafter, is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

DEEPEST = 8  # tokens of one draft
PROBE_EVERY = 64  # passes without a draft after which one is checked all the same
PROBE = 4  # tokens of such a draft
OWN, ALL = 0.9, 0.98  # what an observation counts after one more: of one answer, of all answers
TRUST = 4.0  # observations of its own that weigh as much as those of all other answers
UNKNOWN = 0.5  # acceptance before any observation
STEP = 0.2  # weight of a new time
STALE = 64  # passes after which the next time replaces the old one


@dataclass(slots=True, eq=False)
class Acceptance:
    """Tokens that were compared with what the tier chose, older ones counting less."""

    tried: float = 0.0
    held: float = 0.0

    def add(self, tried: int, held: int, keep: float) -> None:
        if tried:
            self.tried = keep * self.tried + tried
            self.held = keep * self.held + held

    def rate(self, prior: float) -> float:
        return (self.held + TRUST * prior) / (self.tried + TRUST)


@dataclass(slots=True, eq=False)
class Costs:
    """Seconds of a pass by its number of rows.

    What was not measured lies on the line between its neighbours; more rows than were ever measured are taken
    to cost no more than the most that were, so that they are tried. Fewer rows never take longer than more
    did: where they seem to, something else had the processor.
    """

    known: dict[int, float] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)  # the pass in which it was measured last
    passes: int = 0

    def add(self, rows: int, seconds: float) -> None:
        self.passes += 1
        seconds = max(seconds, 1e-9)  # a clock that stands still makes no infinite speed
        old, age = self.known.get(rows, seconds), self.passes - self.last.get(rows, 0)
        self.known[rows] = old + min(1.0, STEP + age / STALE) * (seconds - old)
        self.last[rows] = self.passes

    def seconds(self, rows: int) -> float:
        return min([self._seconds(rows), *(s for r, s in self.known.items() if r > rows)])

    def _seconds(self, rows: int) -> float:
        if rows in self.known:
            return self.known[rows]
        below = max((r for r in self.known if r < rows), default=None)
        above = min((r for r in self.known if r > rows), default=None)
        if below is None or above is None:
            nearest = above if below is None else below
            return 1.0 if nearest is None else self.known[nearest]
        part = (rows - below) / (above - below)
        return self.known[below] + part * (self.known[above] - self.known[below])


@dataclass(slots=True, eq=False)
class Counts:
    """What was drafted in one way since the start, by place in the draft."""

    passes: int = 0  # drafts that were checked
    drafted: list[int] = field(default_factory=lambda: [0] * DEEPEST)
    held: list[int] = field(default_factory=lambda: [0] * DEEPEST)

    def add(self, drafted: int, held: int) -> None:
        self.passes += 1
        for place in range(drafted):
            self.drafted[place] += 1
            self.held[place] += place < held


@dataclass(frozen=True, slots=True)
class Offer:
    """What one sequence could have checked: `depth` tokens at most, at `seconds` each to make them."""

    rate: float  # acceptance, 0 to 1
    depth: int
    seconds: float = 0.0


def allot(offers: Sequence[Offer], rows: int, seconds: Callable[[int], float]) -> list[int]:
    """How many tokens of each offer to check in one pass of at most `rows` rows, one row each included.

    The split with the most expected tokens a second; zeros when none beats a pass without drafts. Where the
    offers' `seconds` differ it may miss the best by a little: tokens are taken in the order of their chances.
    """
    chances = [(offer.rate**place, -place, i) for i, offer in enumerate(offers) for place in _places(offer)]
    chances.sort(reverse=True)
    tokens, making = float(len(offers)), 0.0
    best, taken = tokens / seconds(len(offers)), 0
    spare = max(0, rows - len(offers))
    for count, (chance, _, i) in enumerate(chances[:spare], 1):
        tokens, making = tokens + chance, making + offers[i].seconds
        speed = tokens / (seconds(len(offers) + count) + making)
        if speed > best:
            best, taken = speed, count
    depths = [0] * len(offers)
    for _, _, i in chances[:taken]:
        depths[i] += 1
    return depths


def _places(offer: Offer) -> range:
    return range(1, offer.depth + 1)


def worth(offer: Offer, seconds: Callable[[int], float]) -> float:
    """The most tokens a second that one sequence alone could have from this offer, none of it included."""
    best, tokens = 1 / seconds(1), 1.0
    for depth in _places(offer):
        tokens += offer.rate**depth
        best = max(best, tokens / (seconds(1 + depth) + depth * offer.seconds))
    return best


def speed_up(rate: float, depth: int, draft: float, check: float) -> float:
    """Tokens a second with drafts over without: `draft` is the cost of a draft's token, `check` what checking
    adds to a pass, both over the cost of a pass without (arXiv 2211.17192, theorem 3.8, with `check`)."""
    return sum(rate**place for place in range(depth + 1)) / (1 + depth * draft + check)


def break_even(depth: int, draft: float, check: float) -> float:
    """The acceptance from which drafts of `depth` tokens pay; above 1 when none does."""
    low, high = 0.0, 1.0
    if speed_up(high, depth, draft, check) <= 1:
        return float("inf")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if speed_up(middle, depth, draft, check) < 1 else (low, middle)
    return high


def compared(draft: Sequence[int], chosen: Sequence[int]) -> tuple[int, int]:
    """(tried, held): tokens of `draft` that `chosen` tells right or wrong, and those that are right."""
    held = 0
    while held < min(len(draft), len(chosen)) and draft[held] == chosen[held]:
        held += 1
    return min(held + 1, len(draft), len(chosen)), held


@dataclass(slots=True, eq=False)
class Speculation:
    """What a tier has learnt of drafts, and counted. Belongs to the engine's thread."""

    costs: Costs = field(default_factory=Costs)
    acceptance: dict[tuple[str, str], Acceptance] = field(
        default_factory=dict
    )  # by kind and class of request
    counts: dict[str, Counts] = field(default_factory=dict)  # by kind
    drafter_seconds: float = 0.0  # of one token of the drafter
    idle: int = 0  # passes since a draft was checked

    def acceptance_of(self, kind: str, asked: str) -> Acceptance:
        return self.acceptance.setdefault((kind, asked), Acceptance())

    def counts_of(self, kind: str) -> Counts:
        return self.counts.setdefault(kind, Counts())
