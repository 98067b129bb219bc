"""The turns of a Messages request: which may follow which, and which tool calls they answer."""

from dataclasses import dataclass
from typing import Any

from mythos.serve.asked import ASSISTANT, SYSTEM, USER, Turn
from mythos.serve.blocks import Block, block_texts, content_blocks
from mythos.serve.errors import ApiError, bad
from mythos.serve.fields import Ignored, as_list, as_object, one_of, required

MAX_MESSAGES = 100_000


@dataclass(slots=True)
class _Group:
    """Neighbouring messages of one role. `places` holds each block's path in the request."""

    role: str
    index: int  # of its last message
    blocks: list[Block]
    places: list[str]


def read_turns(given: Any, version: str, ignored: Ignored) -> tuple[list[Turn], str]:
    """The turns in `messages`, and the beginning of the answer when an assistant message is last.

    ApiError 400.
    """
    rows = as_list(given, "messages")
    if not rows:
        raise bad("messages", "at least one message is required")
    if len(rows) > MAX_MESSAGES:
        raise bad("messages", f"at most {MAX_MESSAGES} messages are allowed")
    roles = [_role(row, i, ignored) for i, row in enumerate(rows)]
    if roles[0] == ASSISTANT:
        raise bad("messages", 'first message must use the "user" role')
    groups: list[_Group] = []
    for i, (row, role) in enumerate(zip(rows, roles, strict=True)):
        path = f"messages.{i}"
        blocks = content_blocks(required(row, "content", path), role, f"{path}.content", version, ignored)
        if role == SYSTEM:
            _check_system(roles, i)
        if not blocks and not (role == ASSISTANT and i == len(rows) - 1):
            raise bad(path, f"{role} messages must have non-empty content")
        places = [f"{path}.content.{j}" for j in range(len(blocks))]
        if groups and groups[-1].role == role:
            groups[-1].blocks += blocks
            groups[-1].places += places
            groups[-1].index = i
        else:
            groups.append(_Group(role, i, list(blocks), places))
    _check_calls(groups)
    prefill = ""
    if groups[-1].role == ASSISTANT:
        last = groups.pop()
        prefill = block_texts(last.blocks)
        if prefill != prefill.rstrip():
            raise bad(f"messages.{last.index}", "final assistant content cannot end with trailing whitespace")
    return [Turn(group.role, block_texts(group.blocks)) for group in groups], prefill


def _role(row: Any, i: int, ignored: Ignored) -> str:
    path = f"messages.{i}"
    as_object(row, path)
    ignored.unknown(row, {"role", "content"}, path)
    return one_of(required(row, "role", path), f"{path}.role", {USER, ASSISTANT, SYSTEM})


def _check_system(roles: list[str], i: int) -> None:
    path = f"messages.{i}.role"
    if i == 0 or roles[i - 1] != USER:
        raise bad(path, 'a "system" message must follow a "user" message; use the top-level `system` field')
    if i + 1 < len(roles) and roles[i + 1] != ASSISTANT:
        raise bad(path, 'a "system" message must be last or be followed by an "assistant" message')


def _check_calls(groups: list[_Group]) -> None:
    """Every tool call is answered first thing in the next user turn, and nothing else is answered."""
    used: set[str] = set()
    asked: dict[str, None] = {}  # ids called in the turn before, in order
    for k, group in enumerate(groups):
        answered: set[str] = set()
        for block, place, earlier in zip(group.blocks, group.places, [None, *group.blocks], strict=False):
            if block.kind == "tool_use":
                if block.id in used:
                    raise bad(place, "`tool_use` ids must be unique")
                used.add(block.id)
            if block.kind != "tool_result":
                continue
            if block.id not in asked or block.id in answered:
                raise bad(
                    place,
                    f"unexpected `tool_use_id` found in `tool_result` blocks: {block.id}. Each `tool_result` "
                    "block must have a corresponding `tool_use` block in the previous message.",
                )
            if earlier is not None and earlier.kind != "tool_result":
                raise bad(place, "`tool_result` blocks must come first in the message")
            answered.add(block.id)
        if missing := [i for i in asked if i not in answered]:
            raise _unanswered(groups[k - 1].index, missing)
        asked = {block.id: None for block in group.blocks if block.kind == "tool_use"}
    if asked:
        raise _unanswered(groups[-1].index, list(asked))


def _unanswered(index: int, ids: list[str]) -> ApiError:
    return bad(
        f"messages.{index}",
        "`tool_use` ids were found without `tool_result` blocks immediately after: "
        f"{', '.join(ids[:10])}. Each `tool_use` block must have a corresponding `tool_result` block in the "
        "next message.",
    )
