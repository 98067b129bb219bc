"""How an answer is streamed in either form: when it begins, what fills a pause, how it fails, how it ends."""

from typing import Protocol

from starlette.types import Receive, Send

from mythos.engine.request import Delta, joined
from mythos.serve.answer import Answer, attended, failure, paced, start_stream, within, written
from mythos.serve.errors import ApiError, Dialect, envelope


class Form(Protocol):
    """The bytes of one stream. `idle` fills a pause, `error` stands before the envelope of a late error."""

    idle: bytes
    error: bytes
    dialect: Dialect

    def start(self) -> bytes: ...
    def delta(self, event: Delta) -> bytes: ...
    def end(self) -> bytes: ...


async def answer_stream(answer: Answer, form: Form, receive: Receive, send: Send) -> None:
    """The answer as server-sent events. An error before the first one is raised; a later one is an event."""
    begun = False
    async with attended(answer, receive):
        await written(answer)
        async for events in paced(answer):
            delta = joined(events or ())
            out = form.idle if events is None else b"" if delta is None else form.delta(delta)
            if not begun:
                if events and delta is None and (error := failure(answer)) is not None:
                    raise error
                await start_stream(send)
                begun = True
                out = form.start() + out
            if out:
                await within(answer, send({"type": "http.response.body", "body": out, "more_body": True}))
    try:
        error = failure(answer)
        await written(answer)
    except ApiError as raised:
        error = raised
    if error is None:
        out = form.end()
    else:
        out = form.error + envelope(error, form.dialect, answer.call.request_id) + b"\n\n"
    await within(answer, send({"type": "http.response.body", "body": out, "more_body": False}))
