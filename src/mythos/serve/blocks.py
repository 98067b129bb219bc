"""Content blocks of a Messages request: what each role may send, and the text a model reads of it."""

from dataclasses import dataclass
from typing import Any

from mythos.serve.asked import ASSISTANT, SYSTEM, USER, arguments_text, call_text, result_text
from mythos.serve.errors import bad, clean
from mythos.serve.fields import Ignored, as_bool, as_list, as_object, as_str, one_of, required
from mythos.serve.tools_in import tool_name

# Sent by a coding client as the first system block; it changes with every prompt and would defeat the
# prefix cache. It is addressed to the gateway, not to the model.
BILLING_HEADER = "x-anthropic-billing-header:"

_ID_CHARS = 256
_MEDIA = {"image", "document", "search_result", "container_upload"}
_NEW_VERSION = "2026-10-21"


@dataclass(frozen=True, slots=True)
class Block:
    """`kind` is text, tool_use or tool_result; `id` that of the tool call."""

    kind: str
    text: str
    id: str = ""


def content_blocks(value: Any, role: str, path: str, version: str, ignored: Ignored) -> list[Block]:
    """The blocks of one message. ApiError 400."""
    if isinstance(value, str):
        return [Block("text", value)] if value else []
    rows = as_list(value, path)
    blocks = (_block(row, role, f"{path}.{i}", version, ignored) for i, row in enumerate(rows))
    return [block for block in blocks if block is not None]


def _block(row: Any, role: str, path: str, version: str, ignored: Ignored) -> Block | None:
    as_object(row, path)
    kind = as_str(required(row, "type", path), f"{path}.type")
    if kind == "text":
        return _text(row, role, path, version, ignored)
    if role == SYSTEM:
        raise bad(path, "a system message holds text only")
    if kind in _MEDIA:
        raise bad(path, f"this model reads text only: `{kind}` content is not supported", code="text_only")
    if role == USER and kind == "tool_result":
        return _result(row, path, ignored)
    if role == ASSISTANT and kind == "tool_use":
        return _use(row, path, ignored)
    if role == ASSISTANT and kind in ("thinking", "redacted_thinking"):
        return None  # earlier thoughts are not shown to the model again
    raise bad(f"{path}.type", f"`{clean(kind)}` is not supported in a message of role `{role}`")


def _text(row: dict[str, Any], role: str, path: str, version: str, ignored: Ignored) -> Block:
    ignored.unknown(row, {"type", "text", "cache_control", "citations"}, path)
    text = as_str(required(row, "text", path), f"{path}.text")
    if not text and role != ASSISTANT:
        raise bad(path, "text content blocks must be non-empty")
    if row.get("citations"):
        as_list(row["citations"], f"{path}.citations")
        if role == USER and version == _NEW_VERSION:
            raise bad(f"{path}.citations", "Extra inputs are not permitted")
        ignored.name("citations")
    return Block("text", text)


def _use(row: dict[str, Any], path: str, ignored: Ignored) -> Block:
    ignored.unknown(row, {"type", "id", "name", "input", "cache_control", "caller"}, path)
    name = tool_name(row, path)
    given = as_object(required(row, "input", path), f"{path}.input")
    return Block("tool_use", call_text(name, arguments_text(given)), _id(row, "id", path))


def _result(row: dict[str, Any], path: str, ignored: Ignored) -> Block:
    ignored.unknown(row, {"type", "tool_use_id", "content", "is_error", "cache_control"}, path)
    failed = row.get("is_error")
    content = row.get("content")
    if content is None:
        text = ""
    elif isinstance(content, str):
        text = content
    else:
        parts = []
        for i, part in enumerate(as_list(content, f"{path}.content")):
            where = f"{path}.content.{i}"
            as_object(part, where)
            kind = as_str(required(part, "type", where), f"{where}.type")
            if kind != "text":
                reason = f"this model reads text only: `{clean(kind)}` is not supported"
                raise bad(where, reason, code="text_only")
            parts.append(as_str(required(part, "text", where), f"{where}.text"))
        text = "\n\n".join(parts)
    error = failed is not None and as_bool(failed, f"{path}.is_error")
    return Block("tool_result", result_text(text, error), _id(row, "tool_use_id", path))


def _id(row: dict[str, Any], name: str, path: str) -> str:
    value = as_str(required(row, name, path), f"{path}.{name}")
    if not 1 <= len(value) <= _ID_CHARS or not value.isprintable():
        raise bad(f"{path}.{name}", f"String should have 1 to {_ID_CHARS} printable characters")
    return value


def block_texts(blocks: list[Block]) -> str:
    """The text of one turn; blocks are told apart by an empty line, tool calls by a line break."""
    parts: list[str] = []
    before = ""
    for block in blocks:
        if before:
            parts.append("\n\n" if block.kind == before == "text" else "\n")
        parts.append(block.text)
        before = block.kind
    return "".join(parts)


def system_text(value: Any, ignored: Ignored) -> str:
    """The system prompt: a string, or text blocks joined by an empty line."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.partition("\n")[2] if value.startswith(BILLING_HEADER) else value
    parts = []
    for i, row in enumerate(as_list(value, "system")):
        path = f"system.{i}"
        as_object(row, path)
        one_of(required(row, "type", path), f"{path}.type", {"text"})
        ignored.unknown(row, {"type", "text", "cache_control", "citations"}, path)
        text = as_str(required(row, "text", path), f"{path}.text")
        if not text.startswith(BILLING_HEADER):
            parts.append(text)
    return "\n\n".join(part for part in parts if part)


def count_cache_control(body: dict[str, Any]) -> int:
    """How many cache breakpoints a request sets. ApiError 400 for a malformed one."""
    points = _point(body, "")
    for field in ("system", "tools"):
        rows = body.get(field)
        if isinstance(rows, list):
            points += sum(_point(row, f"{field}.{i}") for i, row in enumerate(rows))
    messages = body.get("messages")
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for j, block in enumerate(content if isinstance(content, list) else ()):
            path = f"messages.{i}.content.{j}"
            points += _point(block, path)
            inner = block.get("content") if isinstance(block, dict) else None
            if isinstance(inner, list):
                points += sum(_point(part, f"{path}.content.{k}") for k, part in enumerate(inner))
    return points


def _point(row: Any, path: str) -> int:
    given = row.get("cache_control") if isinstance(row, dict) else None
    if given is None:
        return 0
    where = f"{path}.cache_control" if path else "cache_control"
    as_object(given, where)
    one_of(required(given, "type", where), f"{where}.type", {"ephemeral"})
    if given.get("ttl") is not None:
        one_of(given["ttl"], f"{where}.ttl", {"5m", "1h"})
    return 1
