"""An answer read to its end before a byte of it is sent: what both forms make one JSON object of."""

from dataclasses import dataclass, field

from starlette.types import Receive

from mythos.engine.request import Done, Finish, TokenLogprob, joined
from mythos.serve.answer import Answer, attended, failure, written
from mythos.serve.calls import CallParser, Part


@dataclass(slots=True)
class Whole:
    """`unfinished` says that the arguments of a tool call were cut short."""

    done: Done
    unfinished: bool
    parts: list[Part] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


async def read_whole(answer: Answer, receive: Receive) -> Whole:
    """The answer, once it is on record; no text of one that was refused. ApiError when it failed."""
    parser = CallParser() if answer.asked.calls_possible else None
    parts: list[Part] = []
    logprobs: list[TokenLogprob] = []
    async with attended(answer, receive):
        await written(answer)
        async for events in answer.batches():
            if (delta := joined(events)) is not None:
                logprobs += delta.logprobs
                parts += parser.feed(delta.text) if parser else [("text", delta.text)]
    error = failure(answer)
    if error is not None:
        raise error
    if parser:
        parts += parser.flush()
    await written(answer)
    done, unfinished = answer.done, parser is not None and parser.open
    assert done is not None  # `failure` has seen to it
    if done.finish is Finish.REFUSED:  # nothing has left, so nothing does
        return Whole(done, unfinished)
    return Whole(done, unfinished, parts, logprobs)
