"""What both surfaces reduce a request to, and the text that a model sees of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import orjson

from mythos.engine.grammar import CALL_CLOSE, CALL_OPEN
from mythos.engine.request import Lane

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of the caller's: the model may ask for it, the caller runs it."""

    name: str
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    text: str


@dataclass(slots=True)
class Asked:
    """One checked request. Sampling fields are None when left out: the tier's defaults apply.

    `choice` is auto, any, none or "=NAME". `schema` constrains the text. `prefill` is the beginning of the
    answer. `ignored` names what was accepted and not acted upon.
    """

    model: str
    turns: list[Turn]
    max_tokens: int | None = None
    prefill: str = ""
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    parallel: bool = True
    schema: dict[str, Any] | None = None
    schema_path: str = ""
    logprobs: int | None = None
    include_usage: bool = False
    lane: Lane = Lane.INTERACTIVE
    ignored: list[str] = field(default_factory=list)

    @property
    def calls_possible(self) -> bool:
        return bool(self.tools) and self.choice != "none"


def messages_of(asked: Asked) -> list[dict[str, str]]:
    """What the chat template renders: the tools join the system text, which comes first."""
    turns = merged(asked.turns)
    if asked.tools:
        described = describe_tools(asked.tools)
        if turns and turns[0].role == SYSTEM:
            turns = [Turn(SYSTEM, f"{described}\n\n{turns[0].text}"), *turns[1:]]
        else:
            turns = [Turn(SYSTEM, described), *turns]
    return [{"role": turn.role, "content": turn.text} for turn in turns]


def merged(turns: Sequence[Turn]) -> list[Turn]:
    """Neighbours of one role become one turn."""
    groups = groupby(turns, key=lambda turn: turn.role)
    return [Turn(role, "\n\n".join(turn.text for turn in group if turn.text)) for role, group in groups]


def describe_tools(tools: Sequence[Tool]) -> str:
    """How the model is told of its tools; the grammar of `mythos.engine.grammar` holds it to this form."""
    rows = [
        orjson.dumps({"name": t.name, "description": t.description, "input_schema": t.schema}).decode()
        for t in tools
    ]
    form = call_text("NAME", b"{...}")
    return (
        "You can call tools. To call one, end your answer with\n"
        f"{form}\n"
        "and you will be given its result. The tools are:\n" + "\n".join(rows)
    )


def call_text(name: str, arguments: bytes) -> str:
    """A tool call as the model writes it."""
    return f'{CALL_OPEN}{{"name": "{name}", "input": {arguments.decode()}}}{CALL_CLOSE}'


def result_text(content: str, is_error: bool) -> str:
    """A tool's result as the model reads it."""
    return f"<tool_response>\n{'Error: ' if is_error else ''}{content}\n</tool_response>"


def arguments_text(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
