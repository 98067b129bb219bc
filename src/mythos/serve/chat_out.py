"""Answers in the chat completions form: one JSON object, or data-only chunks that end with [DONE]."""

import time
from typing import Any

import orjson
from starlette.types import Receive, Send

from mythos.engine.request import Delta, Done, Finish, Lane, TokenLogprob
from mythos.records.ids import new_id
from mythos.serve import safeguards, streaming
from mythos.serve.answer import Answer
from mythos.serve.call import respond
from mythos.serve.calls import CallParser, Part
from mythos.serve.errors import Dialect
from mythos.serve.whole import read_whole

_FINISH_REASONS = {
    Finish.END: "stop",
    Finish.STOP_STRING: "stop",
    Finish.MAX_TOKENS: "length",
    Finish.CONTEXT: "length",
    Finish.REFUSED: "content_filter",
}


def _usage(done: Done) -> dict[str, Any]:
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _finish_reason(done: Done, called: bool, unfinished: bool) -> str:
    tools = called and not unfinished and done.finish is not Finish.REFUSED
    return "tool_calls" if tools else _FINISH_REASONS[done.finish]


def _service_tier(answer: Answer) -> str:
    return "flex" if answer.asked.lane is Lane.BATCH else "default"


def _logprobs(rows: tuple[TokenLogprob, ...] | list[TokenLogprob]) -> dict[str, Any]:
    content = [
        {**_row(row.text, row.logprob), "top_logprobs": [_row(text, p) for _, text, p in row.top]}
        for row in rows
    ]
    return {"content": content, "refusal": None}


def _row(text: bytes, logprob: float) -> dict[str, Any]:
    shown = text.decode("utf-8", "replace")
    return {"token": shown, "logprob": max(logprob, -9999.0), "bytes": list(text)}


async def answer_whole(answer: Answer, receive: Receive, send: Send) -> None:
    """The answer as one completion."""
    whole = await read_whole(answer, receive)
    refusal = safeguards.refusal_text(answer)
    text = "".join(piece for kind, piece in whole.parts if kind == "text")
    calls = _calls(whole.parts)
    message: dict[str, Any] = {"role": "assistant", "content": text or None if calls or refusal else text}
    message |= {"refusal": refusal, "annotations": []}
    if calls:
        message["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None if answer.asked.logprobs is None else _logprobs(whole.logprobs),
        "finish_reason": _finish_reason(whole.done, bool(calls), whole.unfinished),
    }
    body = {
        "id": new_id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.tier.name,
        "choices": [choice],
        "usage": _usage(whole.done),
        "service_tier": _service_tier(answer),
        "system_fingerprint": None,
    }
    await respond(send, 200, orjson.dumps(body))


def _calls(parts: list[Part]) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    for kind, piece in parts:
        if kind == "call":
            function = {"name": piece, "arguments": ""}
            calls.append({"id": new_id("call"), "type": "function", "function": function})
        elif kind == "args":
            calls[-1]["function"]["arguments"] += piece
    return calls


async def answer_stream(answer: Answer, receive: Receive, send: Send) -> None:
    await streaming.answer_stream(answer, _Stream(answer), receive, send)


class _Stream:
    """The bytes of one stream's chunks."""

    idle = b": waiting\n\n"
    error = b"data: "
    dialect = Dialect.OPENAI

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._parser = CallParser() if answer.asked.calls_possible else None
        self._calls = 0
        head = {
            "id": new_id("chatcmpl"),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": answer.tier.name,
            "service_tier": _service_tier(answer),
            "system_fingerprint": None,
        }
        if answer.asked.include_usage:
            head["usage"] = None
        self._fields = head
        # Every chunk begins with the same bytes; what changes follows.
        self._head = b"data: " + orjson.dumps(head)[:-1] + b',"choices":[{"index":0,"delta":'

    def start(self) -> bytes:
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def delta(self, event: Delta) -> bytes:
        logprobs = b"null" if self._answer.asked.logprobs is None else orjson.dumps(_logprobs(event.logprobs))
        if self._parser is None:
            return self._text(event.text, logprobs)
        out = b""
        for part in self._parser.feed(event.text):
            out += self._part(part, logprobs)
            logprobs = b"null"  # they belong to the event: once is enough
        return out

    def _part(self, part: Part, logprobs: bytes) -> bytes:
        kind, piece = part
        if kind == "text":
            return self._text(piece, logprobs)
        if kind == "call":
            self._calls += 1
            call: dict[str, Any] = {"index": self._calls - 1, "id": new_id("call"), "type": "function"}
            call["function"] = {"name": piece, "arguments": ""}
            return self._chunk({"tool_calls": [call]}, logprobs)
        if kind == "args":
            call = {"index": self._calls - 1, "function": {"arguments": piece}}
            return self._chunk({"tool_calls": [call]}, logprobs)
        return b""

    def _text(self, text: str, logprobs: bytes) -> bytes:
        tail = b'},"logprobs":' + logprobs + b',"finish_reason":null}]}\n\n'
        return self._head + b'{"content":' + orjson.dumps(text) + tail

    def _chunk(self, delta: dict[str, Any], logprobs: bytes = b"null", finish: bytes = b"null") -> bytes:
        tail = b',"logprobs":' + logprobs + b',"finish_reason":' + finish + b"}]}\n\n"
        return self._head + orjson.dumps(delta) + tail

    def end(self) -> bytes:
        """What is held back, the reason of the end, the usage when asked for, and [DONE]."""
        done = self._answer.done
        assert done is not None  # the stream ends when it is there
        out = b"".join(self._part(p, b"null") for p in self._parser.flush()) if self._parser else b""
        unfinished = self._parser is not None and self._parser.open
        reason = _finish_reason(done, self._calls > 0, unfinished)
        refusal = safeguards.refusal_text(self._answer)
        out += self._chunk({"refusal": refusal}) if refusal is not None else b""
        out += self._chunk({}, finish=orjson.dumps(reason))
        if self._answer.asked.include_usage:
            out += b"data: " + orjson.dumps({**self._fields, "choices": [], "usage": _usage(done)}) + b"\n\n"
        return out + b"data: [DONE]\n\n"
