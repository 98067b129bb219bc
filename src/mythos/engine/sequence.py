"""One request on its way through the engine."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from llguidance import LLMatcher

from mythos.engine.cache import CHUNK
from mythos.engine.drafting import Drafts
from mythos.engine.generation import Generation
from mythos.engine.guard import Watch
from mythos.engine.request import Delta, Done, Finish, Lane, Request, TokenLogprob
from mythos.engine.schedule import ANSWER_COST, PROMPT_COST
from mythos.engine.text import TextStream


@dataclass(slots=True, eq=False)
class Sequence:
    """State of one request. The engine's thread alone touches it."""

    request: Request
    generation: Generation
    org: str
    root: str
    decision: str  # id
    text: TextStream
    generator: torch.Generator | None
    limit: int  # tokens it may generate: max_tokens, or what is left of the context
    on_end: Callable[["Sequence"], None]
    keys: list[bytes] = field(default_factory=list)  # prefix-cache keys of its whole chunks
    table: list[int] = field(default_factory=list)  # its blocks
    held: list[bytes] = field(default_factory=list)  # shared chunks it uses or has published
    computed: int = 0  # prompt positions in the cache
    cached: int = 0  # of which taken from the prefix cache
    tokens: list[int] = field(default_factory=list)  # generated
    matcher: LLMatcher | None = None  # llguidance matcher, when the request has a grammar
    unsent: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    backend: str = ""
    watch: Watch | None = None  # the safeguards, when the permit names a profile
    unreleased: deque[tuple[int, Delta]] = field(default_factory=deque)  # each with its last token's number
    ending: Finish | None = None  # how it ends once the watch has read the last token
    drafts: Drafts | None = None  # None: nothing is drafted for it
    finished: bool = False
    arrived: int = 0  # its number among those of its tier
    kept: bool = False  # let in because the batch lane had waited long: not to be put aside
    saved: list[torch.Tensor] = field(default_factory=list)  # its cache while it is put aside

    @property
    def lane(self) -> Lane:
        return self.request.lane

    @property
    def prompt_cost(self) -> int:
        return PROMPT_COST * len(self.request.prompt)

    @property
    def remaining_cost(self) -> int:
        """At most: an answer may end before its limit."""
        rest = len(self.request.prompt) - self.computed
        return PROMPT_COST * rest + ANSWER_COST * (self.limit - len(self.tokens))

    @property
    def prefilling(self) -> bool:
        return self.computed < len(self.request.prompt)

    @property
    def positions(self) -> int:
        """How many are in the cache: the newest token gets there with the pass after it."""
        return self.computed + max(0, len(self.tokens) - 1)

    @property
    def opening(self) -> int:
        """The position that has read the whole prompt and nothing of the answer: the input check is there."""
        return len(self.request.prompt) - self.request.prefill - 1

    def next_chunk(self) -> tuple[int, int]:
        """(start, count) of the next prompt chunk: borders lie at multiples of CHUNK whatever else runs."""
        start = self.computed
        return start, min(CHUNK - start % CHUNK, len(self.request.prompt) - start)

    def emit(self, piece: bytes, token: int) -> None:
        """Show what a new token adds; text held back travels with a later token."""
        self.unsent.append(token)
        text = self.text.feed(piece)
        if text:
            self._send(text)

    def finish(self, finish: Finish, error: str | None = None) -> None:
        """Send what is held back, then the one `Done`."""
        if finish in (Finish.END, Finish.MAX_TOKENS, Finish.CONTEXT) and self.text.stopped is None:
            rest = self.text.feed(b"", final=True)
            if rest or self.logprobs:
                self._send(rest)
        if finish not in (Finish.REFUSED, Finish.CANCELLED, Finish.FAILED):
            self.release(len(self.tokens))
        self.finished = True
        self.on_end(self)
        tripped = self.watch.tripped if self.watch is not None else None
        self.generation.put(
            Done(
                finish=finish,
                prompt_tokens=len(self.request.prompt),
                cached_tokens=self.cached,
                completion_tokens=len(self.tokens),
                stop=self.text.stopped,
                error=error,
                category=tripped[0] if tripped else None,
                score=tripped[1] if tripped else None,
                backend=self.backend,
            )
        )

    def _send(self, text: str) -> None:
        delta = Delta(text, tuple(self.unsent), tuple(self.logprobs), time.perf_counter())
        if self.watch is None:
            self.generation.put(delta)
        else:
            self.unreleased.append((len(self.tokens), delta))
        self.unsent.clear()
        self.logprobs.clear()

    def release(self, tokens: int) -> None:
        """Show what the first `tokens` generated tokens say."""
        while self.unreleased and self.unreleased[0][0] <= tokens:
            self.generation.put(self.unreleased.popleft()[1])
