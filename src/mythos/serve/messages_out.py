"""Answers in the Messages form: one JSON object, or server-sent events in their exact order.

message_start, then for each block content_block_start, its deltas and content_block_stop, then message_delta
with the final usage, then message_stop. Blocks never interleave, and none opens before its kind is known.
"""

from typing import Any

import orjson
from pydantic_core import from_json
from starlette.types import Receive, Send

from mythos.engine.request import Delta, Done, Finish
from mythos.records.ids import new_id
from mythos.serve import safeguards, streaming
from mythos.serve.answer import Answer
from mythos.serve.call import respond
from mythos.serve.calls import CallParser, Part
from mythos.serve.errors import Dialect
from mythos.serve.whole import read_whole

_STOP_REASONS = {
    Finish.END: "end_turn",
    Finish.MAX_TOKENS: "max_tokens",
    Finish.STOP_STRING: "stop_sequence",
    Finish.CONTEXT: "model_context_window_exceeded",
    Finish.REFUSED: "refusal",
}


def usage_of(prompt: int, cached: int, output: int) -> dict[str, Any]:
    """Usage with zeros where nothing was used: clients stumble over what is left out."""
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": 0},
        "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
        "service_tier": "standard",
        "inference_geo": None,
        "speed": "standard",
    }


def stop_reason(done: Done, called: bool, unfinished: bool) -> str:
    """Why the answer stopped. A turn whose tool calls are all complete stopped to have them run."""
    if called and not unfinished and done.finish is not Finish.REFUSED:
        return "tool_use"
    return _STOP_REASONS[done.finish]


async def answer_whole(answer: Answer, receive: Receive, send: Send) -> None:
    """The answer as one message."""
    whole = await read_whole(answer, receive)
    done, content = whole.done, _blocks(whole.parts)
    called = any(block["type"] == "tool_use" for block in content)
    message = _message(answer, content)
    message |= {
        "stop_reason": stop_reason(done, called, whole.unfinished),
        "stop_sequence": done.stop,
        "stop_details": safeguards.stop_details(answer),
        "usage": usage_of(done.prompt_tokens, done.cached_tokens, done.completion_tokens),
    }
    await respond(send, 200, orjson.dumps(message))


def _message(answer: Answer, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": answer.tier.name,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "diagnostics": None,
        "usage": usage_of(answer.prompt_tokens, 0, 1),
    }


def _blocks(parts: list[Part]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    text, arguments = "", ""
    for kind, piece in [*parts, ("call", "")]:
        if kind == "text":
            text += piece
        elif kind == "args":
            arguments += piece
        elif kind == "end":
            # Spliced in as the model wrote it: nothing of its numbers is lost.
            blocks[-1]["input"] = orjson.Fragment(arguments)
            arguments = ""
        else:
            if arguments:  # cut short
                blocks[-1]["input"] = from_json(arguments, allow_partial=True)
                arguments = ""
            if text:
                blocks.append({"type": "text", "text": text, "citations": None})
                text = ""
            if piece:
                blocks.append({"type": "tool_use", "id": new_id("toolu"), "name": piece, "input": {}})
    return blocks


async def answer_stream(answer: Answer, receive: Receive, send: Send) -> None:
    await streaming.answer_stream(answer, _Stream(answer), receive, send)


class _Stream:
    """The bytes of one stream's events."""

    idle = b'event: ping\ndata: {"type":"ping"}\n\n'
    error = b"event: error\ndata: "
    dialect = Dialect.ANTHROPIC

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._parser = CallParser() if answer.asked.calls_possible else None
        self._index = -1
        self._open = ""  # the kind of the open block
        self._called = False

    def start(self) -> bytes:
        return _event("message_start", {"message": _message(self._answer, [])})

    def delta(self, event: Delta) -> bytes:
        if self._parser is None:
            return self._text(event.text)
        return b"".join(self._part(part) for part in self._parser.feed(event.text))

    def _part(self, part: Part) -> bytes:
        kind, piece = part
        if kind == "text":
            return self._text(piece)
        if kind == "call":
            self._called = True
            block = {"type": "tool_use", "id": new_id("toolu"), "name": piece, "input": {}}
            return self._begin("tool_use", block)
        if kind == "args":
            return self._delta(b'"type":"input_json_delta","partial_json":' + orjson.dumps(piece))
        return self._end_block()

    def _text(self, text: str) -> bytes:
        begin = b""
        if self._open != "text":
            begin = self._begin("text", {"type": "text", "text": "", "citations": None})
        return begin + self._delta(b'"type":"text_delta","text":' + orjson.dumps(text))

    def _delta(self, delta: bytes) -> bytes:
        head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,' % self._index
        return head + b'"delta":{' + delta + b"}}\n\n"

    def _begin(self, kind: str, block: dict[str, Any]) -> bytes:
        before = self._end_block()
        self._index += 1
        self._open = kind
        return before + _event("content_block_start", {"index": self._index, "content_block": block})

    def _end_block(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _event("content_block_stop", {"index": self._index})

    def end(self) -> bytes:
        """What is held back, the last block's end, the final usage."""
        done = self._answer.done
        assert done is not None  # the stream ends when it is there
        out = b"".join(self._part(part) for part in self._parser.flush()) if self._parser else b""
        out += self._end_block()
        unfinished = self._parser is not None and self._parser.open
        delta = {
            "stop_reason": stop_reason(done, self._called, unfinished),
            "stop_sequence": done.stop,
            "stop_details": safeguards.stop_details(self._answer),
            "container": None,
        }
        usage = usage_of(done.prompt_tokens, done.cached_tokens, done.completion_tokens)
        return out + _event("message_delta", {"delta": delta, "usage": usage}) + _event("message_stop", {})


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **fields}) + b"\n\n"
