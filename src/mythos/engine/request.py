"""What goes into the engine and what comes out of it. No torch here: serve and cli import this file."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Lane(StrEnum):
    """INTERACTIVE goes first; BATCH gets what it leaves, and may be put aside while it runs."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Sampling:
    """temperature 0 is greedy; top_p 1 and top_k 0 switch those filters off."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One generation.

    `grammar` is an llguidance grammar (serialised); every emitted token keeps the text within it.
    `stop` strings end the answer and are not part of it. `max_tokens` 0 only fills the prefix cache.
    `logprobs` None: none; n: the chosen token's and the n likeliest tokens' log-probabilities.
    `stop_at_eos` False forbids end-of-turn tokens, so that benchmarks get the length they ask for.
    `speculate` False computes every token by itself, for benchmarks: the answer is the same.
    The last `prefill` tokens of the prompt begin the answer: safeguards judge them as part of it.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    logprobs: int | None = None
    stop_at_eos: bool = True
    prefill: int = 0
    speculate: bool = True
    lane: Lane = Lane.INTERACTIVE


class Finish(StrEnum):
    END = "end"  # the model ended its turn, or the grammar is complete
    MAX_TOKENS = "max_tokens"
    STOP_STRING = "stop_string"
    CONTEXT = "context"  # the tier's context window is full
    REFUSED = "refused"  # a safeguard of the profile tripped
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: int
    text: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """Some more text. Text is held back while it may be the start of a stop string or half a character.

    `moment`: when the engine had it, in `time.perf_counter` seconds; it may be read later.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    moment: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of every generation. `error` is set only with Finish.FAILED, `category` (what tripped)
    and `score` only with Finish.REFUSED; the score is for the operator, not for clients."""

    finish: Finish
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    stop: str | None = None
    error: str | None = None
    category: str | None = None
    score: float | None = None
    backend: str = "eager-int8"
    mode: str = "exact"


Event = Delta | Done


def joined(events: Iterable[Event]) -> Delta | None:
    """All text of these events as one; None where there is none."""
    deltas = [event for event in events if isinstance(event, Delta)]
    if len(deltas) <= 1:
        return deltas[0] if deltas else None
    return Delta(
        "".join(delta.text for delta in deltas),
        tuple(token for delta in deltas for token in delta.tokens),
        tuple(row for delta in deltas for row in delta.logprobs),
        deltas[-1].moment,
    )


class EngineError(Exception):
    """Base of what `Engine.submit` raises."""


class Overloaded(EngineError):
    """The queue, or an organisation's part of it, is full; try again after `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the engine's queue is full; retry after {retry_after:.0f} s")
        self.retry_after = retry_after


class InvalidRequest(EngineError):
    """The request cannot be run on this tier; the message says why."""


class Stopping(EngineError):
    """The engine is shutting down and takes no new requests."""
