"""A strict reader of Messages streams: any departure from the event order is an AssertionError (M40-M46)."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

USAGE_FIELDS = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_creation",
    "output_tokens_details",
    "server_tool_use",
    "service_tier",
)
STOP_REASONS = {"end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"}


@dataclass
class Heard:
    """What a stream said."""

    message: dict[str, Any] = field(default_factory=dict)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    stop_reason: str = ""
    stop_sequence: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    pings: int = 0
    error: dict[str, Any] | None = None
    deltas: int = 0

    @property
    def text(self) -> str:
        return "".join(b["text"] for b in self.blocks if b["type"] == "text")


def events_of(body: str) -> list[tuple[str, dict[str, Any]]]:
    """(event name, data) of every event; every one has both and nothing else."""
    assert body.endswith("\n\n"), "the stream ends inside an event"
    events = []
    for chunk in body[:-2].split("\n\n"):
        lines = chunk.split("\n")
        assert len(lines) == 2, chunk
        assert lines[0].startswith("event: ") and lines[1].startswith("data: "), chunk
        events.append((lines[0][7:], json.loads(lines[1][6:])))
    return events


def check_stream(body: str | Iterable[tuple[str, dict[str, Any]]]) -> Heard:
    """Walk a whole stream through the state machine."""
    heard = Heard()
    state = "before"  # before, between, text, tool, stopping, over
    raw = ""
    for name, data in events_of(body) if isinstance(body, str) else body:
        assert data["type"] == name
        assert state != "over", f"{name} after the end"
        if name == "ping":
            assert state != "before"
            heard.pings += 1
        elif name == "error":
            assert state != "before", "an error before the first event is an HTTP status"
            assert set(data) == {"type", "error", "request_id"}
            heard.error = data["error"]
            state = "over"
        elif name == "message_start":
            assert state == "before"
            _check_start(data["message"])
            heard.message = data["message"]
            state = "between"
        elif name == "content_block_start":
            assert state == "between" and data["index"] == len(heard.blocks)
            block = dict(data["content_block"])
            if block["type"] == "text":
                assert block["text"] == ""
                state = "text"
            else:
                assert block["type"] == "tool_use" and block["input"] == {} and block["name"]
                assert block["id"].startswith("toolu_")
                state, raw = "tool", ""
            heard.blocks.append(block)
        elif name == "content_block_delta":
            assert data["index"] == len(heard.blocks) - 1
            heard.deltas += 1
            delta = data["delta"]
            if state == "text":
                assert delta["type"] == "text_delta" and delta["text"]
                heard.blocks[-1]["text"] += delta["text"]
            else:
                assert state == "tool" and delta["type"] == "input_json_delta"
                raw += delta["partial_json"]
        elif name == "content_block_stop":
            assert state in ("text", "tool") and data["index"] == len(heard.blocks) - 1
            if state == "tool":
                heard.blocks[-1]["raw"] = raw
            state = "between"
        elif name == "message_delta":
            assert state == "between"
            heard.stop_reason = data["delta"]["stop_reason"]
            heard.stop_sequence = data["delta"]["stop_sequence"]
            heard.usage = data["usage"]
            _check_usage(heard.usage)
            state = "stopping"
        elif name == "message_stop":
            assert state == "stopping" and set(data) == {"type"}
            state = "over"
        else:
            raise AssertionError(f"unknown event {name}")
    assert state == "over", f"the stream ends in the state {state}"
    if heard.error is None:
        _check_end(heard)
    return heard


def _check_start(message: dict[str, Any]) -> None:
    assert message["id"].startswith("msg_") and message["type"] == "message"
    assert message["role"] == "assistant" and message["content"] == []
    assert message["stop_reason"] is None and message["stop_sequence"] is None
    assert message["usage"]["output_tokens"] >= 1
    _check_usage(message["usage"])


def _check_usage(usage: dict[str, Any]) -> None:
    for name in USAGE_FIELDS:
        assert usage[name] is not None, f"{name} is absent"


def _check_end(heard: Heard) -> None:
    assert heard.stop_reason in STOP_REASONS
    tools = [b for b in heard.blocks if b["type"] == "tool_use"]
    if heard.stop_reason == "tool_use":
        assert tools
    for block in tools if heard.stop_reason == "tool_use" else tools[:-1]:
        block["input"] = json.loads(block["raw"])
    assert heard.stop_reason != "end_turn" or not tools
    assert (heard.stop_sequence is not None) == (heard.stop_reason == "stop_sequence")
