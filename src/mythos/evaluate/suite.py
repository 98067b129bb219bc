"""What a suite is: items with their digest, the code that grades them, and how they are put to a model."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mythos.data.chat import encode_chat
from mythos.engine.engine import Engine
from mythos.engine.loader import LoadedTier
from mythos.engine.request import Delta, Finish, InvalidRequest, Lane, Request, Sampling
from mythos.engine.score import loglikelihoods
from mythos.records.canonical import canonical
from mythos.records.evidence import Outcome, Sample
from mythos.records.permit import Permit

HERE = Path(__file__).parent
COMMON = ("suite.py", "run.py", "journal.py", "../engine/score.py")
STREAMS = 32  # twice what one pass decodes: while programs run in the sandbox, others are written

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Item:
    id: str
    cluster: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """A sample, and the transcript from which it can be graded again."""

    sample: Sample
    transcript: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Access:
    """Answers of one loaded tier. `permit` asks the gate, at most once a second: a revocation stops a run."""

    engine: Engine
    loaded: LoadedTier
    permit: Callable[[], Permit]

    def chat(self, *turns: str) -> tuple[int, ...]:
        """The prompt of a chat: the user's first turn, then answers and turns by turns."""
        roles = ("user", "assistant")
        said = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
        return tuple(encode_chat(self.loaded.tokenizer, self.loaded.chat_template, said))

    def plain(self, text: str) -> list[int]:
        return self.loaded.tokenizer.encode(text, special=False)

    def answer(
        self,
        prompt: tuple[int, ...],
        max_tokens: int,
        stop: tuple[str, ...] = (),
        enough: Callable[[str], bool] = lambda text: False,
    ) -> tuple[str, Finish]:
        """Greedy text, and why it ended: FAILED also for a prompt that the tier cannot take.

        What follows the first text that is `enough` is not waited for. PermissionError in the middle, too.
        """
        text = ""
        try:
            generation = self.engine.submit(
                self.permit(), Request(prompt, max_tokens, Sampling(0.0), stop=stop, lane=Lane.BATCH)
            )
        except InvalidRequest:
            return "", Finish.FAILED
        try:
            for event in generation:
                if not isinstance(event, Delta):
                    return text, event.finish
                text += event.text
                if enough(text):
                    return text, Finish.STOP_STRING
                self.permit()
            raise AssertionError("a generation ends with Done")
        finally:
            generation.cancel()

    def score(self, prefix: list[int], continuations: list[list[int]]) -> list[float] | None:
        """Log-likelihoods in nats; None when they do not fit into the tier's context."""
        try:
            return loglikelihoods(self.engine, self.permit(), prefix, continuations)
        except InvalidRequest:
            return None


@dataclass(frozen=True, slots=True)
class Suite:
    """`digest`: SHA-256 of items, templates and settings; `harness`: of the code that runs and grades.

    `rules_out` False: a figure of quality, no evidence against a capability. `tokens`: what an item takes,
    read and written, on average and roughly; for the expected time. `run` yields results in the
    order of the items that it is given, in one of `elicitations`.
    """

    name: str
    version: str
    items: tuple[Item, ...]
    digest: str
    harness: str
    elicitations: tuple[str, ...]
    tokens: int
    rules_out: bool
    run: Callable[[Access, str, Sequence[Item]], Iterator[Result]]


def make_suite(
    name: str,
    version: str,
    items: Sequence[Item],
    settings: Mapping[str, Any],
    files: tuple[str, ...],
    elicitations: tuple[str, ...],
    tokens: int,
    run: Callable[[Access, str, Sequence[Item]], Iterator[Result]],
    rules_out: bool = True,
) -> Suite:
    """`settings`: templates, stop strings, limits; `files`: modules of this package beyond COMMON."""
    rows = [[item.id, item.cluster, dict(item.data)] for item in items]
    if len({item.id for item in items}) != len(items):
        raise ValueError(f"{name}: an item is there twice")
    digest = hashlib.sha256(canonical({"suite": [name, version], "settings": dict(settings), "items": rows}))
    return Suite(
        name,
        version,
        tuple(items),
        digest.hexdigest(),
        harness_digest(COMMON + files),
        elicitations,
        tokens,
        rules_out,
        run,
    )


def harness_digest(files: tuple[str, ...]) -> str:
    hashed = [[file, hashlib.sha256((HERE / file).read_bytes()).hexdigest()] for file in files]
    return hashlib.sha256(canonical(hashed)).hexdigest()


def together(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """`work` of each item, STREAMS at once, in order. What has not begun when the reader leaves is left."""
    pool = ThreadPoolExecutor(STREAMS)
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)


def sample(item: Item, elicitation: str, outcome: Outcome, **transcript: Any) -> Result:
    return Result(Sample(item.id, item.cluster, outcome, elicitation), transcript)
